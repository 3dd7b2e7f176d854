"""The seal: a hash of everything that a manifest says, in the manifest itself.

It makes careless edits and damage show in what no other hash covers: labels, accuracy, tolerance, preprocessing. It is
no signature. Whoever can write the folder can seal it again; only a key can say who wrote it (signing.py).
Manifests written before there were seals have none, and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from edgevit.foreign import parse_json

Seal = Literal["kept", "broken", "none"]
Sealable = TypeVar("Sealable", bound=BaseModel)  # with a field ``seal``

_FIELD = "seal"
_DOMAIN = b"edgevit seal, version 1\n"


def sealed(manifest: Sealable) -> Sealable:
    """``manifest`` with the seal of what it says now."""
    return manifest.model_copy(update={_FIELD: _seal(parse_json(manifest.model_dump_json()))})


def seal_of(text: str) -> Seal:
    """Whether a manifest's text still says what was sealed, in whatever spelling."""
    found = parse_json(text)
    given = found.get(_FIELD) if isinstance(found, dict) else None
    if given is None:
        return "none"
    return "kept" if given == _seal(found) else "broken"


def canonical(content: Any) -> bytes:
    """JSON in one spelling."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _seal(content: dict[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != _FIELD}
    return hashlib.sha256(_DOMAIN + canonical(rest)).hexdigest()
