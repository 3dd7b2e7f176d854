"""What reaches a terminal, a full disk and a closed pipe: the whole command, in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EVIL = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202egnp.\nRED"
COMMAND = (sys.executable, "-P", "-m", "edgevit.cli")


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *map(os.fsencode, map(str, arguments))], capture_output=True, **options)


def on_a_terminal(*arguments: object) -> str:
    """All that the command writes to a terminal that is its stdout and its stderr."""
    ours, its = pty.openpty()
    with subprocess.Popen([*COMMAND, *map(str, arguments)], stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        said = b""
        while True:
            try:
                more = os.read(ours, 1 << 16)
            except OSError:  # how a terminal says that nobody has it open
                break
            if not more:
                break
            said += more
        assert process.wait(60) in (0, 6)
    os.close(ours)
    return said.decode()


@pytest.fixture
def evil(make_artifact) -> Path:
    path: Path = make_artifact("evil", labels=tuple(f"{EVIL}{index}" for index in range(4)), notes=(EVIL,))
    return path


def test_escape_codes_of_labels_and_notes_are_shown_and_not_obeyed(evil: Path) -> None:
    for said in (on_a_terminal("predict", evil, evil / "golden/0.png"), on_a_terminal("info", evil)):
        assert "\x1b" not in said
        assert "\x9b" not in said
        assert "\u202e" not in said
        assert r"\x1b]0;pwned\x07\x1b[2J\x9b31m\u202egnp.\nRED" in said.replace("\r\n", "")


def test_escape_codes_of_an_error_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    for name in ("\x1b[31mnone", "no\nne", "\x9bnone"):
        said = on_a_terminal("info", tmp_path / name)
        assert not set(said) & {"\x1b", "\x9b"}
        assert len(said.strip().splitlines()) == 2
    assert "\x1b" not in run("\x1b[31mverb").stderr.decode()


def test_an_image_has_one_line_whatever_its_name(make_artifact, tmp_path: Path) -> None:
    artifact = make_artifact()
    names = ["two\nlines.png", os.fsdecode(b"\xff.png"), "\x1b[31m.png"]
    for name in names:
        shutil.copy(artifact / "golden/0.png", tmp_path / name)
    ran = run("predict", artifact, *(tmp_path / name for name in names))
    assert ran.returncode == 0, ran.stderr
    assert [line.partition(":")[0].rpartition("/")[2] for line in ran.stdout.decode().splitlines()] == [
        r"two\nlines.png", r"\xff.png", r"\x1b[31m.png"
    ]  # fmt: skip
    listed = run("predict", artifact, *(tmp_path / name for name in names), "--json").stdout.decode("utf-8")
    assert [Path(one["image"]).name for one in json.loads(listed)] == names


@pytest.mark.parametrize("verb", [("targets",), ("targets", "--json"), ("models",), ("--version",)])
def test_a_full_disk_behind_stdout_is_one_sentence(verb: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        ran = subprocess.run([*COMMAND, *verb], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 1
    said = [line for line in ran.stderr.splitlines() if line.startswith(("error", "Traceback", "Exception"))]
    assert said == ["error: standard output cannot be written: no space left on device"]


def test_a_closed_stdout_is_one_sentence_and_matters_only_to_who_writes() -> None:
    def closed(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *arguments]
        return subprocess.run(command, stderr=subprocess.PIPE, text=True)

    ran = closed("targets")
    assert ran.returncode == 1
    assert "error: standard output cannot be written: bad file descriptor" in ran.stderr
    assert closed("info", "nothing").returncode == 6


def test_a_full_disk_behind_stderr_loses_words_and_nothing_else(make_artifact) -> None:
    with open("/dev/full", "wb") as full:
        command = [*COMMAND, "predict", make_artifact(), make_artifact("b") / "golden/0.png"]
        assert subprocess.run(command, stdout=subprocess.PIPE, stderr=full).returncode == 0


def test_a_terminal_that_knows_only_ascii_gets_ascii(make_artifact, tmp_path: Path) -> None:
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    artifact = make_artifact(labels=("Bär", "日本", "c", "d"), notes=("a → b — c …",))
    shutil.copy(artifact / "golden/0.png", tmp_path / "ü.png")
    told = run("info", artifact, env=plain)
    assert told.returncode == 0
    assert b"a -> b - c ..." in told.stdout
    answered = run("predict", artifact, tmp_path / "ü.png", env=plain)
    assert answered.returncode == 0
    assert rb"B\xe4r" in answered.stdout
    listed = run("predict", artifact, tmp_path / "ü.png", "--json", env=plain)
    assert "日本" in {one["label"] for one in json.loads(listed.stdout.decode("ascii"))[0]["top"]}
