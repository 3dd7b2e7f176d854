"""``edgevit export --dry-run``: what would be built, where, and how long it took last time. No model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgevit.errors import EdgeVitError
from edgevit.export.durations import Took, last
from edgevit.export.prepared import check
from edgevit.export.targets import Build, builds
from edgevit.request import ExportRequest

REHEARSED = ("artifact", "target", "precision", "options", "folder", "took last time")


@dataclass(frozen=True)
class Intent:
    """What would become of one target: a build, or the error that excludes it."""

    subject: str
    build: Build | None = None
    error: EdgeVitError | None = None
    took: Took | None = None

    def record(self) -> dict[str, Any]:
        """The object that ``edgevit export --dry-run --json`` lists, of a target that would be built."""
        build = _present(self.build)
        return {
            "artifact": str(build.out),
            "target": build.target.name,
            "precision": build.target.precision,
            "options": build.target.options.model_dump(mode="json"),
            "vacant": not build.out.exists(),
            "last_seconds": self.took.seconds if self.took else None,
            "last_built": self.took.when if self.took else None,
        }

    def row(self) -> tuple[str, ...]:
        """Cells of ``REHEARSED``; only options that are not the default are shown."""
        build, took = _present(self.build), self.took
        return (
            str(build.out),
            build.target.name,
            build.target.precision,
            ", ".join(f"{name}={value}" for name, value in build.target.chosen().items()) or "defaults",
            "is replaced" if build.out.exists() else "vacant",
            f"{took.seconds:.1f} s on {took.when[:10]}" if took else "—",
        )


def rehearse(request: ExportRequest) -> Iterator[Intent]:
    """Every target in turn. Raises what the export would of its model: an unknown name, files that are not there."""
    found = builds(request)
    if any(isinstance(one, Build) for one in found.values()):
        check(request)
    for target, one in found.items():
        if isinstance(one, EdgeVitError):
            yield Intent(target, error=one)
        else:
            yield Intent(target, one, took=last(request, one.target))


def _present(build: Build | None) -> Build:
    if build is None:
        raise ValueError("what cannot be built has no record")
    return build
