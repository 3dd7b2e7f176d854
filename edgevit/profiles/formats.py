"""How kept measurements are read: JSON of a numbered format, checked field by field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from edgevit.errors import BadArtifact, first_line

Checked = TypeVar("Checked", bound=BaseModel)


def parsed(file: Path, raw: bytes) -> object:
    """What the JSON in ``raw``, the bytes of ``file``, says; BadArtifact for what is none."""
    try:
        found: object = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise BadArtifact(f"{file} cannot be read: {first_line(exc)}") from exc
    return found


def checked(found: object, schema: type[Checked], number: int, whose: str, kind: str, again: str) -> Checked:
    """The ``schema`` in parsed JSON, ``number`` being its format's; BadArtifact in one sentence for anything else.

    ``whose`` names it in sentences, ``kind`` says what it should be, ``again`` how to make it anew.
    """
    if not isinstance(found, dict) or "format" not in found:
        raise BadArtifact(f"{whose} is not a {kind} of edgevit")
    if found["format"] != number:
        raise BadArtifact(f"{whose} is in {kind} format {found['format']!r}; this edgevit reads {number}: {again}")
    try:
        return schema.model_validate(found)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadArtifact(f"{whose} is damaged: {where}: {first['msg'].lower()}") from exc
