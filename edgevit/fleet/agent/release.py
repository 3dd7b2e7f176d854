"""The release record: every file of every part that is to be deployed, with its hash and size.

It is itself a blob, and its SHA-256 is in the signed placement, so that one signature covers every byte. Its parts are
normal artifacts. Paths are checked here, before anything is written: relative, inside, in one spelling, no file twice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from edgevit.artifact.files import sha256_of
from edgevit.artifact.manifest import MANIFEST, SIGNATURE, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.bundle.assign import Part, memory_need
from edgevit.errors import BadArtifact, Unsupported, UsageError
from edgevit.fleet.bus.messages import (
    MAX_OUTPUTS,
    MAX_PAYLOAD,
    MAX_RECORD,
    MAX_SIDES,
    BadMessage,
    Count,
    Message,
    Name,
    Placement,
    Sha256,
    parse,
)

RELEASE_SCHEMA: Literal[1] = 1
MODEL = "model"  # the one part of a deployed artifact
MAX_PATH = 240
MAX_FILE = 1 << 40


def _plain(path: str) -> str:
    pure = PurePosixPath(path)
    if (
        len(path) > MAX_PATH
        or pure.is_absolute()
        or ".." in pure.parts
        or pure.as_posix() != path
        or not pure.parts
        or any(sign in '\\:<>|?*"' or not sign.isprintable() for sign in path)
        or any(step[-1] in ". " for step in pure.parts)
    ):
        raise ValueError("a path that is not plain, relative and inside the artifact")
    return path


FilePath = Annotated[str, AfterValidator(_plain)]


class ReleaseFile(Message):
    path: FilePath
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0, le=MAX_FILE)]


class ReleasePart(Message):
    """One artifact. ``macs`` and ``feature_bytes`` are of one image, for whoever places it anew."""

    macs: Count
    feature_bytes: Count
    files: Annotated[tuple[ReleaseFile, ...], Field(min_length=1)]

    @property
    def model_bytes(self) -> int:
        """Of what a runtime opens: everything but the manifest and the golden pair."""
        return sum(
            file.bytes
            for file in self.files
            if not file.path.startswith("golden") and file.path not in (MANIFEST, SIGNATURE)
        )

    @property
    def memory_bytes(self) -> int:
        """That a node must have free."""
        return memory_need(self.model_bytes)

    @property
    def laid(self) -> dict[str, str]:
        """Path -> sha256."""
        return {file.path: file.sha256 for file in self.files}

    @model_validator(mode="after")
    def _distinct(self) -> ReleasePart:
        paths = {PurePosixPath(file.path.casefold()) for file in self.files}
        if len(paths) != len(self.files) or any(parent in paths for path in paths for parent in path.parents):
            raise ValueError("two files of the same place")
        if not any(file.path == MANIFEST for file in self.files):
            raise ValueError(f"a part without {MANIFEST}")
        return self


class Release(Message):
    """release.json. ``revision`` is the SHA-256 of bundle.json, or the artifact's content digest."""

    schema_version: Literal[1] = RELEASE_SCHEMA
    kind: Literal["bundle", "artifact"]
    revision: Sha256
    target: Annotated[str, Field(max_length=64)]
    parts: Annotated[dict[Name, ReleasePart], Field(min_length=1)]

    def sizes(self, parts: Mapping[str, object] | tuple[str, ...] | None = None) -> dict[str, int]:
        """sha256 -> bytes of the files of these parts; of all by default."""
        wanted = self.parts if parts is None else parts
        return {file.sha256: file.bytes for part in wanted for file in self.parts[part].files}

    def placement_parts(self) -> list[Part]:
        """The parts as placement sees them."""
        return [
            Part(
                name=name,
                bytes=part.model_bytes,
                memory_bytes=part.memory_bytes,
                macs=part.macs,
                feature_bytes=part.feature_bytes,
            )
            for name, part in self.parts.items()
        ]


@dataclass(frozen=True)
class Packed:
    """A release that is ready to be served: its record, and where every blob lies on this machine."""

    name: str
    release: Release
    data: bytes
    files: Mapping[str, Path] = field(repr=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def find(self, sha256: str) -> Path | bytes | None:
        """What the blob ``sha256`` is, or None."""
        return self.data if sha256 == self.sha256 else self.files.get(sha256)


def pack(path: Path | str, runtime: str | None = None) -> Packed:
    """The release of a bundle or artifact. ``runtime`` chooses the target of a bundle that has several.

    Every file is hashed, and checked against its manifest. Raises what ``Bundle.open`` and ``Artifact.open`` raise;
    BadArtifact for one that cannot be deployed.
    """
    from edgevit.bundle.opened import Bundle, content_sha256, opened  # here and below: a node does not need it

    model, path = opened(path), Path(path)
    members: dict[str, Artifact]
    kind: Literal["bundle", "artifact"]
    if isinstance(model, Bundle):
        from edgevit.bundle.embedded import target_for

        model.checked()
        target = target_for(model, runtime)
        members, kind = dict(zip(model.names, model.parts(target), strict=True)), "bundle"
        revision = model.sha256
    else:
        answered(model)
        members, kind = {MODEL: model}, "artifact"
        target = f"{model.manifest.target}-{model.manifest.precision}"
        revision = content_sha256(model)
    files: dict[str, Path] = {}
    parts = {name: _part(member, files) for name, member in members.items()}
    release = Release(kind=kind, revision=revision, target=target, parts=parts)
    packed = Packed(path.resolve().name, release, release.encode(), files)
    if len(packed.data) > MAX_RECORD:
        raise UsageError(f"{path} has too many files to be deployed: its record has {len(packed.data):,} bytes")
    return packed


def answered(artifact: Artifact) -> tuple[TensorSpec, ...]:
    """The outputs that a node sends of an artifact that is deployed alone: of a classifier its logits, else all.
    Unsupported where that is more than an answer can hold, or the artifact takes several inputs."""
    manifest, alone = artifact.manifest, "serve it in one process: edgevit serve … --where embedded"
    if len(manifest.inputs) != 1:
        raise Unsupported(f"{artifact.path} has {len(manifest.inputs)} inputs; a fleet takes one", hint=alone)
    logits = manifest.logits_output() if manifest.model.task == "classify" else None
    outputs = (logits,) if logits else manifest.outputs
    size = sum(math.prod(spec.rows(1)) * np.dtype(spec.dtype).itemsize for spec in outputs)
    if len(outputs) > MAX_OUTPUTS or size > MAX_PAYLOAD or any(len(spec.shape) > MAX_SIDES for spec in outputs):
        raise Unsupported(
            f"{artifact.path} answers an image with {size:,} bytes in {len(outputs)} outputs; a node sends at most "
            f"{MAX_PAYLOAD:,} in {MAX_OUTPUTS}, of {MAX_SIDES} axes each",
            hint=alone,
        )
    return outputs


def _part(artifact: Artifact, files: dict[str, Path]) -> ReleasePart:
    from edgevit.bundle.opened import features_output

    artifact.check_seal()
    artifact.check_files()
    spec = features_output(artifact) or artifact.manifest.logits_output() or artifact.manifest.outputs[0]
    values = math.prod(spec.rows(1))
    listed = [MANIFEST, *(name for name in (SIGNATURE,) if (artifact.path / name).is_file()), *artifact.manifest.files]
    found = []
    for name in dict.fromkeys(listed):
        file = artifact.path / name
        sha256 = artifact.manifest.files.get(name) or sha256_of(file)
        files[sha256] = file
        try:
            found.append(ReleaseFile(path=name, sha256=sha256, bytes=file.stat().st_size))
        except ValueError as exc:
            raise BadArtifact(f"{file} cannot be deployed: its name is not portable", hint="export anew") from exc
    return ReleasePart(macs=artifact.manifest.model.macs, feature_bytes=4 * values, files=tuple(found))


def read_release(data: bytes, placement: Placement) -> Release:
    """The record that ``placement`` is of; BadArtifact for another, and for one with a path that may not be."""
    try:
        release = parse(Release, data, MAX_RECORD)
    except BadMessage as exc:
        raise BadArtifact(f"the release record of {placement.name} cannot be read: {exc}") from exc
    if hashlib.sha256(data).hexdigest() != placement.release:
        raise BadArtifact(f"the release record of {placement.name} is not the one that was signed")
    if (release.kind, release.revision) != (placement.kind, placement.revision):
        raise BadArtifact(f"the release record of {placement.name} is of another revision than its placement")
    return release
