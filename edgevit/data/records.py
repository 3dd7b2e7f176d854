"""Lists of objects in somebody's JSON, with the fields that are needed of the types that they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgevit.errors import UsageError

Record = dict[str, Any]


def records(file: Path, whole: Record, key: str, **fields: type) -> list[Record]:
    """``whole[key]``, each with the ``fields``. UsageError for the first that lacks one, or has it of another type."""
    found = whole.get(key)
    if not isinstance(found, list):
        raise UsageError(f"{file}: {key} is no list", hint="is the file complete?")
    for index, record in enumerate(found):
        for name, kind in fields.items():
            if not isinstance(record, dict) or type(record.get(name)) is not kind:
                words = {int: "a whole number", str: "text"}[kind]
                raise UsageError(f"{file}: {key} {index} has no {name} that is {words}", hint="is the file complete?")
    return found
