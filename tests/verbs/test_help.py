"""Every verb's page: an example, headings where there are many options, and how loud it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from edgevit.cli import app
from edgevit.verbs.help import FLAT


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every verb, those of fleet and keys too."""
    if not hasattr(command, "commands"):
        yield path
        return
    for name, inner in command.commands.items():
        yield from verbs(inner, (*path, name))


VERBS = sorted(verbs(get_command(app)))
MANY = ("export", "train", "profile", "benchmark", "split", "node", "serve")


def page(*words: str) -> str:
    ran = CliRunner().invoke(app, [*words, "--help"], terminal_width=120, env={"COLUMNS": "120"})
    assert ran.exit_code == 0, ran.output
    return ran.output


def listed(text: str) -> dict[str, list[str]]:
    """Heading -> what is listed under it, by its first name."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if re.fullmatch(r"[A-Z][\w ]*:", line):
            found[line[:-1]] = []
        elif found and (row := re.match(r"  (?:-\w, )?(--?[\w-]+|[\w\[]\S*)", line)):
            found[list(found)[-1]].append(row[1])
    return found


def test_there_are_verbs_of_every_kind() -> None:
    assert {("export",), ("fleet", "status"), ("fleet", "ca", "init"), ("keys", "show")} <= set(VERBS)


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_verb_has_an_example_of_itself(words: tuple[str, ...]) -> None:
    assert f"Example: edgevit {' '.join(words)}" in page(*words)


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_many_options_stand_under_headings_and_a_few_in_one_list(words: tuple[str, ...]) -> None:
    found = listed(page(*words))
    found.pop("Arguments", None)
    options = sum(map(len, found.values())) - len(("quiet", "verbose", "help"))
    if options <= FLAT:
        assert list(found) == ["Options"]
    else:
        assert "Options" not in found, f"these have no heading: {found['Options']}"
        assert len(found) >= 3
        assert found["Everywhere"] == ["--quiet", "--verbose", "--help"]


def test_the_long_pages_are_those_of_the_long_verbs() -> None:
    assert {words[0] for words in VERBS if "Everywhere" in listed(page(*words))} >= set(MANY)


def test_an_export_s_options_are_where_one_looks_for_them() -> None:
    found = listed(page("export"))
    assert found["Model"] == [
        "--weights", "--pretrained", "--image-size", "--classes", "--labels", "--task", "--form",
        "--bake-preprocess", "--mean", "--std", "--crop", "--interpolation", "--range", "--color", "--pad-value",
        "--place",
    ]  # fmt: skip
    assert found["Target"] == ["--target", "--precision", "--batch", "--option", "--max-size"]
    assert found["Output"] == ["--out", "--force", "--json"]
    integers = ["--calibrate", "--calibration-images", "--max-drop", "--keep-float", "--observer", "--quantizer"]
    assert found["Integers"] == integers
    assert list(found) == [
        "Arguments", "Model", "Target", "Integers", "Data and proof", "Running", "Output", "Everywhere",
    ]  # fmt: skip


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_no_option_is_without_a_word_of_help(words: tuple[str, ...]) -> None:
    command = get_command(app)
    for word in words:
        command = command.commands[word]
    assert not [one.name for one in command.params if one.param_type_name == "option" and not one.help]
