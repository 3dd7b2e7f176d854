"""How long exports took on this machine: ``$EDGEVIT_HOME/durations.json``, the newest few hundred.

It is advice: a file that is lost, broken or not writable costs no export, and its estimates are of what was asked for
before in the same words.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgevit.artifact.files import write_durably
from edgevit.errors import EdgeVitError
from edgevit.export.targets import Target
from edgevit.foreign import read_json
from edgevit.home import home
from edgevit.request import ExportRequest

KEPT = 300


@dataclass(frozen=True)
class Took:
    """Seconds of a whole export, and when it ended (ISO 8601, UTC)."""

    seconds: float
    when: str


def remember(request: ExportRequest, target: Target, seconds: float) -> None:
    """Keep what one target took. Modules are not kept: they have no name to ask by."""
    if not isinstance(request.model.source, str):
        return
    took = Took(round(seconds, 1), datetime.now(timezone.utc).isoformat(timespec="seconds"))
    kept = {**_stored(), _key(request, target): asdict(took)}
    newest = dict(sorted(kept.items(), key=_when)[-KEPT:])
    with suppress(OSError):
        write_durably(_path(), json.dumps(newest, indent=1, ensure_ascii=False).encode())


def last(request: ExportRequest, target: Target) -> Took | None:
    """What the same export took last time here, or None."""
    try:
        found = _stored()[_key(request, target)]
        return Took(float(found["seconds"]), str(found["when"]))
    except (KeyError, TypeError, ValueError):
        return None


def _key(request: ExportRequest, target: Target) -> str:
    """What decides the time: model, size, target, options; and the host, since a home may be shared."""
    size, sizes = request.model.image_size, request.model.image_sizes
    return " ".join(
        (
            platform.node(),
            str(request.model.source),
            str(sizes) if sizes else "×".join(map(str, size)) if size else "own size",
            target.name,
            target.precision,
            *(f"{name}={value}" for name, value in sorted(target.chosen().items())),
        )
    )


def _when(item: tuple[str, Any]) -> str:
    found = item[1]
    return str(found.get("when", "")) if isinstance(found, Mapping) else ""


def _stored() -> dict[str, Any]:
    with suppress(EdgeVitError, ValueError):
        found = read_json(_path(), "a record of durations")
        if isinstance(found, dict):
            return found
    return {}


def _path() -> Path:
    return home() / "durations.json"
