from __future__ import annotations

import json
import os

import pytest

from edgevit.printable import as_json, printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[2J", r"\x1b[31mred\x1b[2J"),
        ("\x9b31m and \x7f", r"\x9b31m and \x7f"),
        ("two\nlines\r\tand \u2028more", r"two\nlines\r\tand \u2028more"),
        ("gpj.\u202excod\u2069", r"gpj.\u202excod\u2069"),
        ("un\u200bseen\ufeff", r"un\u200bseen\ufeff"),
        ("tag\U000e0041", r"tag\U000e0041"),
        (os.fsdecode(b"\xff\x80.png"), r"\xff\x80.png"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_moves_a_terminal_or_is_not_seen_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["Bär", "日本語", "👩‍💻", "می‌خواهم", "a\u00a0b", r"C:\new", "×→—²", "[red]"])
def test_words_of_any_language_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


def test_the_ends_of_lines_stay_in_several_lines() -> None:
    assert printable_lines("a\nb\r\n\x1b[m\n") == "a\nb\\r\n\\x1b[m\n"


@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_of_any_text_is_utf_8_that_moves_no_terminal_and_reads_back(ascii_only: bool) -> None:
    value = {
        "name": "".join(map(chr, range(0x250))) + "日\u202e\U000e0041👩‍💻" + os.fsdecode(b"\xff"),
        "b": [1.5, None],
    }
    written = as_json(value, ascii_only=ascii_only)
    assert json.loads(written.encode("utf-8")) == value
    assert printable_lines(written) == written
    assert written.isascii() == ascii_only
