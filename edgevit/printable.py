"""Text that others wrote, made safe to show: labels, names, notes, paths, and what devices and workers say.

A terminal obeys escape codes, and a line can be turned round or split by characters that are not seen.
"""

from __future__ import annotations

import json
import re
from typing import Any

# Controls (C0, DEL, C1), what turns the direction of text round, what is not seen, line ends, halves of characters.
_UNSEEN = "\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
_FIELD = re.compile(f"[{_UNSEEN}\U000e0000-\U000e007f]")
_LINES = re.compile(f"[{_UNSEEN}\U000e0000-\U000e007f](?<!\n)")


def printable(text: str) -> str:
    r"""One field of one line: what is not seen is shown as \n, \x1b, \u202e, and a byte of no text as \xff."""
    return _FIELD.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """The same of several lines, whose ends stay."""
    return _LINES.sub(_escaped, text)


def as_json(value: Any, *, ascii_only: bool = False, indent: int | None = 2) -> str:
    """``value`` as JSON that is valid UTF-8 and moves no terminal, on one line without ``indent``; NaN and infinity
    become null: JSON has neither."""
    text = json.dumps(_finite(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    return _LINES.sub(_json_escaped, text)


def _json_escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}" if found[0] <= "\uffff" else json.dumps(found[0])[1:-1]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    if "\udc80" <= char <= "\udcff":  # a byte of a file name that is no text
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode() if not "\ud800" <= char <= "\udfff" else f"\\u{ord(char):04x}"
