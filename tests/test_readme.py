"""The commands on README's first screen print what README shows, numbers aside."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def session_of(text: str) -> list[tuple[str, list[str]]]:
    """(command, shown output lines) pairs of the console block that exports."""
    (block,) = (found for found in re.findall(r"```console\n(.*?)```", text, re.DOTALL) if "edgevit export" in found)
    pairs: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            pairs.append((line[2:], []))
        else:
            pairs[-1][1].append(line)
    return pairs


def masked(line: str) -> str:
    """Numbers and the widths that follow from them do not count."""
    return re.sub(r"\s+", " ", re.sub(r"\d+([.,]\d+)*(e[-+]\d+)?", "#", line)).replace("─", "").strip()


def test_the_first_screen_prints_what_it_shows(tmp_path: Path) -> None:
    pairs = session_of(README.read_text())
    assert len(pairs) == 3
    runpy.run_path(str(ROOT / ".ci/first_hour.py"))["furnish"](tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command, shown in pairs:
        ran = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "EDGEVIT_HOME": str(tmp_path / "home")},  # a newcomer's: no key signs yet
            capture_output=True,
            text=True,
            check=True,
        )
        printed = [line for line in ran.stdout.splitlines() if line.strip()]
        assert [masked(line) for line in printed] == [masked(line) for line in shown], command


def test_what_was_never_run_stands_before_what_it_does() -> None:
    text = README.read_text()
    assert 0 < text.index("Never run by us") < text.index("## What it does")
    for named in ("TensorRT", "Core ML", "CUDA", "Jetson", "fleet of real devices"):
        assert named in text[text.index("Never run by us") : text.index("## What it does")]
