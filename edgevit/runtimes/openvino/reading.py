"""A model file, read: one that OpenVINO would try every format on, or of another version of IR, is told apart first."""

from __future__ import annotations

import re
from typing import Any

from edgevit.artifact.manifest import Manifest
from edgevit.artifact.opened import Artifact
from edgevit.engines.intel import bound, ov, said_by
from edgevit.errors import BadArtifact
from edgevit.foreign import opened

_NET = re.compile(rb'<net\b[^>]*?\bversion="(?P<version>\d+)"')
_HEAD = 4096  # bytes that begin an IR file, in which it says its version
_VERSIONS = ("10", "11")  # of IR, that OpenVINO reads; others it tries as the formats of other libraries
IR = "openvino"  # the target whose artifacts are IR


def read_model(core: Any, artifact: Artifact) -> Any:
    """BadArtifact for a file that OpenVINO refuses or that is not the manifest's."""
    if artifact.manifest.target == IR:
        _require_ir(artifact)
    try:
        model = core.read_model(str(artifact.entry))
    except Exception as exc:
        raise BadArtifact(
            f"OpenVINO {ov.__version__} cannot open {artifact.named}: {said_by(exc)}", hint=_way_out(artifact)
        ) from exc
    _check_names(artifact, model)
    if artifact.manifest.target != IR:
        bound(model, _free_sides(artifact.manifest))
    return model


def _free_sides(manifest: Manifest) -> dict[str, list[tuple[int, int]]]:
    batch = manifest.batch.min, manifest.batch.max
    free = [spec for spec in manifest.inputs if "batch" in spec.shape or spec.sides]
    return {spec.name: spec.spans(batch, manifest.image_sizes) for spec in free}


def _require_ir(artifact: Artifact) -> None:
    with opened(artifact.entry, "a model file", error=BadArtifact, hint="export anew") as stream:
        match = _NET.search(stream.read(_HEAD))
    if match is None:
        raise BadArtifact(f"{artifact.named} is no OpenVINO IR", hint="copy the folder again, or export anew")
    version = match["version"].decode()
    if version not in _VERSIONS:
        raise BadArtifact(
            f"{artifact.named} is IR version {version}; OpenVINO reads {' and '.join(_VERSIONS)}",
            hint=_way_out(artifact),
        )


def _way_out(artifact: Artifact) -> str:
    """An older OpenVINO lacks operators of a newer one's files."""
    written = artifact.manifest.versions.get(IR)
    if written is None or str(ov.__version__).startswith(written):
        return "export anew"
    return f"export anew, or install openvino {written}, which wrote it"


def _check_names(artifact: Artifact, model: Any) -> None:
    """BadArtifact unless every input and output of the file goes by a name of the manifest's, and none is left."""
    manifest = artifact.manifest
    for kind, specs, ports in (("inputs", manifest.inputs, model.inputs), ("outputs", manifest.outputs, model.outputs)):
        ours, theirs = sorted(spec.name for spec in specs), [port.get_names() for port in ports]
        if len(ours) != len(theirs) or not all(any(name in names for names in theirs) for name in ours):
            shown = ", ".join(sorted(" = ".join(sorted(names)) or "unnamed" for names in theirs))
            raise BadArtifact(
                f"the {kind} of {artifact.named} are {shown}; the manifest says {', '.join(ours)}", hint="export anew"
            )
