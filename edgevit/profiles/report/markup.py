"""HTML that cannot be injected into: every string is escaped unless it was made by ``tag`` itself."""

from __future__ import annotations

import html
from typing import Final

VOID: Final = frozenset({"img", "input", "meta", "br", "col", "hr"})


class Markup(str):
    """Text that is HTML already. Only this module and constants of ours make one."""

    __slots__ = ()


def text(value: object) -> Markup:
    """``value`` as text: markup characters become entities, and control characters, which HTML forbids, a mark."""
    if isinstance(value, Markup):
        return value
    shown = "".join(char if char in "\n\t" or ord(char) >= 32 else "\N{REPLACEMENT CHARACTER}" for char in str(value))
    return Markup(html.escape(shown, quote=True))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """``<name attributes>children</name>``. None and False leave an attribute or child out, True is a bare attribute.

    Attribute names are written class_, for_, aria_label, data_sort.
    """
    opened = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        written = key.rstrip("_").replace("_", "-")
        opened.append(written if value is True else f'{written}="{text(value)}"')
    if name in VOID:
        return Markup(f"<{' '.join(opened)}>")
    return Markup(f"<{' '.join(opened)}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    """The children one after another."""
    return Markup("".join(text(child) for child in children if child is not None and child is not False))
