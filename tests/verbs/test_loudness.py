"""How much is said on stderr: before or after the verb, less or more; never less of data and errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgevit import render
from edgevit.cli import app
from edgevit.errors import UsageError


@pytest.fixture(autouse=True)
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    yield
    render.speak("")


def run(*words: str):
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize("words", [("models",), ("targets",), ("keys", "show")])
def test_quiet_leaves_the_data_and_says_nothing_else(words: tuple[str, ...]) -> None:
    usual, before, after = run(*words), run("--quiet", *words), run(*words, "-q")
    assert usual.exit_code == before.exit_code == after.exit_code == 0
    assert before.stdout == after.stdout == usual.stdout
    assert before.stderr == after.stderr == ""


def test_advice_is_said_unless_quiet() -> None:
    assert "timm:NAME" in run("models").stderr


def test_errors_are_said_however_quiet(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    ran = run("export", "vit_nano", "-t", "onnx", "-o", str(tmp_path / "x"), "-q")
    assert ran.exit_code == 2
    assert "exists already" in ran.stderr
    assert "  next: " in ran.stderr


@pytest.mark.parametrize("words", [("--verbose", "models"), ("models", "-v")])
def test_verbose_says_versions_and_folders_with_the_time(words: tuple[str, ...], tmp_path: Path) -> None:
    ran = run(*words)
    assert re.search(r"^ *\d+\.\d s  edgevit \S+ on .*, Python 3", ran.stderr, flags=re.M)
    assert f"keys and caches are in {tmp_path / 'home'}" in ran.stderr
    assert ran.stdout == run("models").stdout


def test_both_at_once_contradict_each_other() -> None:
    for words in (("-q", "-v", "models"), ("models", "-q", "-v"), ("-q", "models", "-v")):
        with pytest.raises(UsageError, match="contradict"):
            app(list(words), standalone_mode=False)
        render.speak("")


def test_one_command_s_loudness_is_not_the_next_one_s() -> None:
    run("models", "-q")
    assert run("models").stderr


def stages(level: str, capsys: pytest.CaptureFixture[str]) -> str:
    render.speak(level)
    with render.progress("work") as shown:
        stage = render.Stages(shown, "vit → onnx")
        stage("trace")
        stage("trace", 0.5)
        stage("prove")
    render.detail("in detail")
    render.say("advice")
    render.fail("error: it failed")
    return capsys.readouterr().err


def test_stages_are_a_line_each_with_their_time_if_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    said = [line for line in stages("", capsys).splitlines() if line]
    assert said == ["vit → onnx: trace …", "vit → onnx: prove …", "advice", "error: it failed"]
    said = stages("quiet", capsys).splitlines()
    assert said == ["error: it failed"]
    said = [re.sub(r"^ *\d+\.\d s  ", "", line) for line in stages_verbose(capsys)]
    assert said == [
        "vit → onnx: trace …",
        "vit → onnx: prove …",
        "work: done",
        "in detail",
        "advice",
        "error: it failed",
    ]


def stages_verbose(capsys: pytest.CaptureFixture[str]) -> list[str]:
    render.speak("")
    return [line for line in stages("verbose", capsys).splitlines() if line][2:]
