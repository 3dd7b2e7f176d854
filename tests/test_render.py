from __future__ import annotations

import json

import pytest

from edgevit import render


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "—"), (0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (25_400_000, "25.4 MB"), (3.2e9, "3.2 GB")],
)
def test_sizes_have_decimal_prefixes(value: float | None, shown: str) -> None:
    assert render.si(value, "B") == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "—"), (0.20649, "0.206 ms"), (12.345, "12.3 ms"), (1234.5, "1,234 ms")]
)
def test_milliseconds_have_three_digits(value: float | None, shown: str) -> None:
    assert render.ms(value) == shown


def test_json_has_null_where_a_number_is_not_one(capsys: pytest.CaptureFixture[str]) -> None:
    render.emit_json({"a": [float("nan"), float("inf"), 1.5], "b": {"c": -float("inf")}})
    assert json.loads(capsys.readouterr().out) == {"a": [None, None, 1.5], "b": {"c": None}}


def test_facts_are_aligned_and_markup_is_not_interpreted(capsys: pytest.CaptureFixture[str]) -> None:
    render.facts([("a", "[red]x"), ("long", "y")])
    assert capsys.readouterr().out == "a     [red]x\nlong  y\n"
    render.say("[bold]b[/bold]")
    assert "[bold]b[/bold]" in capsys.readouterr().err


def test_a_table_shows_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(("name", "size"), [("x[0]", "1")])
    assert "x[0]" in capsys.readouterr().out
