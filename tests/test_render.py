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


def test_names_between_colons_stay_what_they_are_wherever_they_are_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rich would make a face of :smile:, also in a bar on a terminal and in a live table."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    name = "a:smile:[bold]b"
    with render.progress(name) as shown:
        render.Stages(shown, name)(name, 0.5)
        render.Rows(shown)(name, name, 0.5)
        render.Epochs(shown, name)(1, 1, 0.5, None)
        shown.refresh()
    render.say(name)
    render.table((name,), [(name,)], title=name)
    render.facts([(name, name)])
    render.line(name)
    render.live(iter([((name,), [(name,)], (name,))]))
    out, err = capsys.readouterr()
    assert "😄" not in out + err
    assert out.count(":smile:") >= 7
    assert err.count(":smile:") >= 5
