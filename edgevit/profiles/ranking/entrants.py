"""Who takes part in a race: artifacts on runtimes, checked before a process is started, and named in few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit import registry
from edgevit.artifact.manifest import TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.errors import ParityFailed, Unsupported, UsageError
from edgevit.profiles.ranking.record import MOST, Entrant, content_of
from edgevit.runtimes.base import default_runtime
from edgevit.runtimes.feeds import GOLDEN_FEEDS, Given

ALL = "all"


@dataclass(frozen=True)
class Runner:
    """An artifact on one runtime. ``known`` replaces what the manifest says of its proof and quality, where they were
    found on this very runtime."""

    artifact: Artifact
    runtime: str
    known: Mapping[str, Any] | None = None

    def entrant(self) -> Entrant:
        """What is known of it before it is opened. BadArtifact where a model file is missing."""
        manifest = self.artifact.manifest
        packages = registry.row("runtime", self.runtime).packages
        facts: dict[str, Any] = {
            "artifact": str(self.artifact.path),
            "content": content_of(manifest.files),
            "model": manifest.model.name,
            "target": manifest.target,
            "precision": manifest.precision,
            "runtime": self.runtime,
            "version": registry.version_of(packages[0]) if packages else None,
            "size": self.artifact.size_bytes(),
            "parity": manifest.parity.status,
            "why": manifest.parity.reason,
            "max_rel": manifest.parity.max_rel,
            "tolerance": manifest.parity.tolerance,
        }
        if good := manifest.how_good():
            facts["quality"] = good.model_dump(mode="json")
        return Entrant(**(facts | dict(self.known or {})))


def runtimes_here(artifact: Artifact) -> list[str]:
    """Every runtime that can open and time the artifact on this machine; Unsupported where none can."""
    rows, target = registry.rows("runtime"), artifact.manifest.target
    found = [
        name
        for name in registry.runtimes_for(target)
        if name != "torch" and rows[name].can_profile and rows[name].on_this_machine().able
    ]
    return found or [default_runtime(artifact, timed=True)]


def runners(paths: Sequence[Path | str], runtimes: Sequence[str]) -> list[Runner]:
    """Each artifact on its own runtime (none named), on the one or on all that are named, or each on the one at its
    place; "all" is every runtime that opens it here.

    UsageError when nothing is left to compare, or for more than ``MOST``; ParityFailed; Unsupported; BadArtifact.
    """
    opened = [Artifact.open(path) for path in paths]
    found = [Runner(artifact, name) for artifact, names in _paired(opened, runtimes) for name in names]
    if len(found) < 2 or (len(opened) == 1 and len({one.runtime for one in found}) < 2):
        raise UsageError(
            "there is nothing to compare with", hint="give two artifacts, or --runtime twice, or --runtime all"
        )
    if len(found) > MOST:
        raise UsageError(f"{len(found)} are too many: {MOST} are held open at once at most", hint="give fewer")
    for one in found:
        _check(one)
    return found


def _paired(opened: Sequence[Artifact], runtimes: Sequence[str]) -> list[tuple[Artifact, Sequence[str]]]:
    """Each artifact with the runtimes that it runs on."""
    if ALL in runtimes:
        return [(artifact, runtimes_here(artifact)) for artifact in opened]
    if len(opened) == 1 and runtimes:
        return [(opened[0], runtimes)]
    if len(runtimes) > 1 and len(runtimes) != len(opened):
        raise UsageError(
            f"{len(opened)} artifacts and {len(runtimes)} runtimes do not pair",
            hint="give one --runtime for all, one for each in their order, or --runtime all",
        )
    names: list[str | None] = list(runtimes) or [None]
    each = names if len(names) > 1 else names * len(opened)
    return [
        (artifact, [name or default_runtime(artifact, timed=True)]) for artifact, name in zip(opened, each, strict=True)
    ]


def _check(one: Runner) -> None:
    parity, path = one.artifact.manifest.parity, one.artifact.path
    if parity.status == "failed":
        raise ParityFailed(
            f"{path} failed verification ({parity.reason}), so its speed means nothing", hint="export it again"
        )
    if not registry.row("runtime", one.runtime).can_profile:
        raise Unsupported(
            f"{one.runtime} is a reference, not an engine: its time means nothing", hint="use another --runtime"
        )


def common_batch(found: Sequence[Runner], asked: int | None, given: Given = GOLDEN_FEEDS) -> int:
    """Rows per call that all take. UsageError when there are none, or the inputs that are fed are not the same."""
    first, *others = [one.artifact for one in found]
    rows = asked or max(one.artifact.manifest.batch.min for one in found)
    for other in others:
        one, two = given.manifest(first), given.manifest(other)
        shown = [inputs_of(manifest.inputs) for manifest in (one, two)]
        if shown[0] != shown[1]:
            raise UsageError(
                f"{first.path} takes {shown[0]}, {other.path} takes {shown[1]}: their times are of different work",
                hint="choose a size that both take with --image-size"
                if one.image_sizes or two.image_sizes
                else "export both with the same image size and preprocessing",
            )
        if not all(batch.min <= rows <= batch.max for batch in (one.batch, two.batch)):
            wanted = "" if asked is None else f", not {asked}"
            raise UsageError(
                f"{first.path} takes a batch of {one.batch}, {other.path} of {two.batch}{wanted}",
                hint="export both with the same --batch",
            )
    return rows


def inputs_of(specs: Sequence[TensorSpec]) -> str:
    """Inputs as words, without their batch."""
    return ", ".join(
        sorted(f"{spec.name} {'×'.join(str(side) for side in spec.shape[1:])} {spec.dtype}" for spec in specs)
    )


def labels_of(found: Sequence[Entrant]) -> tuple[str, ...]:
    """The shortest names that tell the entrants apart."""
    paths = [Path(one.artifact) for one in found]
    names = [path.name or str(path) for path in paths]
    if len(set(names)) < len({path.resolve() for path in paths}):
        names = [str(path) for path in paths]
    return told_apart(names, [one.runtime for one in found])


def told_apart(names: Sequence[str], runtimes: Sequence[str]) -> tuple[str, ...]:
    """Names with their runtimes where these are not all the same, and with their places where they still are alike."""
    if len(set(runtimes)) > 1:
        names = [f"{name} on {runtime}" for name, runtime in zip(names, runtimes, strict=True)]
    words = ("first", "second", "third")
    counts = [list(names[:place]).count(name) for place, name in enumerate(names)]
    return tuple(
        f"{name} ({words[count] if count < len(words) else f'{count + 1}th'})" if names.count(name) > 1 else name
        for name, count in zip(names, counts, strict=True)
    )
