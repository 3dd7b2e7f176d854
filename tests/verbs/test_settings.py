"""edgevit.toml: where it is found, what it may say, and that the command line wins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from edgevit import render
from edgevit.cli import app
from edgevit.errors import UsageError
from edgevit.verbs import settings

EXPORT = ("export", "vit_nano", "--dry-run", "--json")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    folder = tmp_path / "repository" / "below"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    yield folder
    render.speak("")


def write(folder: Path, text: str) -> Path:
    (folder / "edgevit.toml").write_text(text)
    return folder / "edgevit.toml"


def planned(*words: str) -> dict[str, str]:
    """Target -> precision of what would be exported."""
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, (ran.output, ran.exception)
    return {one["target"]: one["precision"] for one in json.loads(ran.stdout)}


def refused(*words: str) -> UsageError:
    ran = CliRunner().invoke(app, words)
    assert isinstance(ran.exception, UsageError), ran.output
    return ran.exception


BOTH = '[export]\ntarget = ["onnx", "coreml"]\nprecision = "fp16"\nbatch = 1\n'


def test_its_values_are_defaults_and_the_command_line_wins(here: Path) -> None:
    write(here, BOTH)
    assert planned(*EXPORT) == {"onnx": "fp16", "coreml": "fp16"}
    assert planned(*EXPORT, "-t", "onnx", "--precision", "fp32") == {"onnx": "fp32"}


def test_one_value_does_where_several_may_stand_and_a_dash_is_an_underscore(here: Path) -> None:
    write(here, '[export]\ntarget = "onnx"\nimage-size = 64\n')
    assert planned(*EXPORT) == {"onnx": "fp32"}


def test_it_is_found_upwards_within_a_repository_and_nowhere_above(here: Path) -> None:
    write(here.parent, BOTH)
    assert settings.found() is None
    (here.parent / ".git").mkdir()
    assert settings.found() == here.parent / "edgevit.toml"
    nearer = write(here, BOTH)
    assert settings.found() == nearer
    nearer.unlink()
    (here.parent / "edgevit.toml").unlink()
    write(here.parent.parent, BOTH)
    assert settings.found() is None


def test_another_file_can_be_named_or_none_read(here: Path, tmp_path: Path) -> None:
    write(here, '[export]\ntarget = ["no such"]\n')
    other = write(tmp_path, BOTH)
    assert planned("--config", str(other), *EXPORT) == {"onnx": "fp16", "coreml": "fp16"}
    assert planned("--no-config", *EXPORT, "-t", "onnx") == {"onnx": "fp32"}
    assert "contradict" in str(refused("--no-config", "--config", str(other), "models"))
    assert "no such file" in str(refused("--config", "nowhere.toml", "models"))


def test_which_was_read_is_said_in_a_dry_run_and_if_verbose(here: Path) -> None:
    file = write(here, BOTH + '[profile]\ntier = "quick"\n')
    sentence = f"defaults from {file} (export, profile)"
    assert sentence in CliRunner().invoke(app, EXPORT).stderr
    assert sentence in CliRunner().invoke(app, ["models", "-v"]).stderr
    assert sentence not in CliRunner().invoke(app, ["models"]).stderr


@pytest.mark.parametrize(
    ("text", "line", "sentence", "hint"),
    [
        ("# mine\n[exprot]\n", 2, "unknown verb", "export"),
        ('[export]\n\ntargt = "onnx"\n', 3, "unknown option of export", "target"),
        ('[export]\nmodel = "vit_nano"\n', 2, "unknown option of export", None),
        ('precision = "fp16"\n', 1, "unknown verb", "below a verb"),
        ("export = 3\n", 1, "takes a table", None),
        ("[fleet.statis]\n", 1, "unknown verb", "status"),
        ('[export]\nthreads = "many"\n', 2, "export threads is a whole number, not 'many'", None),
        ("[export]\nthreads = 0\n", 2, "export threads is at least 1, not 0", None),
        ("[export]\nthreads = true\n", 2, "export threads is a whole number, not True", None),
        ("[export]\nprecision = [1]\n", 2, "export precision is a text", None),
        ("[export]\npretrained = 1\n", 2, "export pretrained is true or false, not 1", None),
        ("[export]\ntarget = [true]\n", 2, "export target is a text, or a list of them", None),
        ('[train]\nlr = "x"\n', 2, "train lr is a number", None),
        ("[export]\nout = 3\n[verify]\ntrust = true\n", 4, "trust is not taken from a file", "command line"),
        ("[profile\n", 1, "not TOML", None),
    ],
    ids=lambda value: value.replace("\n", " ") if isinstance(value, str) and "\n" in value else "",
)
def test_what_cannot_be_meant_is_one_sentence_with_its_line(
    here: Path, text: str, line: int, sentence: str, hint: str | None
) -> None:
    file = write(here, text)
    error = refused("models")
    assert f"{file}:{line}" in str(error)
    assert sentence in str(error)
    assert hint is None or hint in str(error.hint)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x"])
def test_it_writes_nowhere_but_in_the_working_folder(name: str, here: Path) -> None:
    write(here, f'[export]\nout = "{name}"\n')
    assert "leads out of the working folder" in str(refused("models"))


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        (verb, option)
        for verb, command in sorted(get_command(app).commands.items())
        for option in sorted(one.name for one in command.params if one.param_type_name == "option")
        if option in settings.REFUSED and verb not in settings.REFUSED_VERBS
    ],
    ids=lambda word: word,
)
def test_what_would_surprise_is_given_by_hand_only(verb: str, option: str, here: Path) -> None:
    write(here, f"[{verb}]\n{option} = true\n")
    assert f"{verb} {option} is not taken from a file: it " in str(refused("models"))


@pytest.mark.parametrize("table", ["keys.trust", "enroll", "fleet.ca.init", "node", "serve", "fleet.up"])
def test_a_strangers_file_makes_nobody_trusted_and_offers_nothing(table: str, here: Path) -> None:
    write(here, f'[{table}]\nname = "x"\n')
    assert "is not taken from a file" in str(refused("models"))


def test_help_is_shown_whatever_the_file_says(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here, "[nonsense")
    monkeypatch.setattr("sys.argv", ["edgevit", "export", "--help"])
    assert CliRunner().invoke(app, ["export", "--help"]).exit_code == 0
