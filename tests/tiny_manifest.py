"""The manifest of a test's artifact: what all of them have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevit.artifact.files import hash_tree
from edgevit.artifact.manifest import MANIFEST, Manifest, ModelInfo, WeightsInfo

WEIGHTS = WeightsInfo(origin="random (seed 0)", state_sha256="0" * 64)


def write_manifest(folder: Path, changes: Mapping[str, Any], *, model: Mapping[str, Any], **fields: Any) -> Path:
    """edgevit.json of what lies in ``folder``, and that folder. ``changes`` replace fields as they are, unchecked."""
    manifest = Manifest(
        edgevit="0",
        created="2026-01-01T00:00:00+00:00",
        precision="fp32",
        model=ModelInfo(**{"name": "tiny", "source": "module", "form": "deploy", "weights": WEIGHTS, **model}),
        files=hash_tree(folder),
        **fields,
    )
    (folder / MANIFEST).write_text(manifest.model_copy(update=dict(changes)).model_dump_json())
    return folder
