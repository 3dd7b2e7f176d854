"""What the shell completes, by the means that edgevit --install-completion leaves there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MAIN = "import sys; sys.argv[0] = 'edgevit'; from edgevit.cli import main; main()"


def edgevit(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", MAIN, *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def completed(line: str) -> list[str]:
    words = line.split(" ")
    asked = {"_EDGEVIT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return edgevit(**asked).stdout.split()


def test_verbs_options_models_and_targets_are_completed() -> None:
    assert "export" in completed("edgevit exp")
    assert "--require-verified" in completed("edgevit export --requ")
    assert "vit_nano" in completed("edgevit export vit_n")
    assert completed("edgevit export vit_nano -t onn") == ["onnx"]
    assert completed("edgevit fleet st") == ["status"]


def test_the_script_for_a_shell_is_shown_and_installed(tmp_path: Path) -> None:
    inside = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = edgevit("--show-completion", "bash", **inside)
    assert shown.returncode == 0
    assert "_EDGEVIT_COMPLETE=complete_bash" in shown.stdout
    assert edgevit("--install-completion", "bash", **inside).returncode == 0
    assert "edgevit" in (tmp_path / ".bashrc").read_text()
