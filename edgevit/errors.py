"""Every error edgevit raises on purpose, with the exit code the command line ends with.

    EdgeVitError                 1   anything below, or a run that failed
    ├── UsageError               2   an argument that cannot be right
    │   └── UnknownName          2   no such model, target, runtime or option; carries the nearest names
    ├── MissingDependency        3   a package is not installed; carries the pip line
    ├── Unsupported              4   this target cannot do that; carries the alternative
    ├── ExportFailed             5   the build itself failed
    ├── BadArtifact              6   missing, altered, or written by a newer edgevit
    ├── ParityFailed             7   the artifact does not compute what its model computes
    ├── PlacementImpossible      8   a sub-model fits on no node; carries needed and free bytes
    ├── FleetError               9   no node answers, or fewer than asked for
    ├── GateMissed              10   a measured figure missed what --fail-if or --require asks
    ├── WorkerFailed             1   a worker process crashed, hung or was killed
    └── Interrupted            130   Ctrl-C; the message says what is kept

Only ``edgevit.cli`` catches these. A message is one sentence; ``hint`` is the next step.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgeVitError(Exception):
    """Base of all. ``str(error)`` is the sentence; ``error.hint`` the next step, or None."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def one_line(exc: Exception) -> str:
    """What an exception says, as one line: one of ours its sentence, any other its type as well."""
    said = str(exc) if isinstance(exc, EdgeVitError) else f"{type(exc).__name__}: {exc}"
    return (said.splitlines() or [type(exc).__name__])[0]


def first_line(exc: BaseException) -> str:
    """The first line of a foreign error that says something, at most 300 characters of it; its type where none does."""
    lines = [line.strip() for line in str(exc).splitlines() if any(char.isalnum() for char in line)]
    return lines[0][:300] if lines else type(exc).__name__


class UsageError(EdgeVitError):
    """The request itself cannot be right: a bad value, a contradiction between options."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that nothing answers to. The hint offers the nearest known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str | None = None) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        shown = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
        super().__init__(f"unknown {kind} {name!r}", hint=hint or shown)
        self.nearest = tuple(near)


class MissingDependency(EdgeVitError):
    """A package that this feature needs is not installed."""

    exit_code = 3


class Unsupported(EdgeVitError):
    """The target, runtime or machine cannot do what was asked; the hint says what can."""

    exit_code = 4


class ExportFailed(EdgeVitError):
    """The conversion raised; the cause is chained."""

    exit_code = 5


class BadArtifact(EdgeVitError):
    """The artifact directory is missing something, was altered, or is from a newer schema."""

    exit_code = 6


class ParityFailed(EdgeVitError):
    """Outputs differ from the reference by more than the tolerance."""

    exit_code = 7


class PlacementImpossible(EdgeVitError):
    """No node has room for a sub-model: its name, its need, and the node that comes nearest with its free bytes."""

    exit_code = 8

    def __init__(
        self, message: str, *, hint: str | None = None, part: str, node: str, needed_bytes: int, free_bytes: int
    ) -> None:
        super().__init__(message, hint=hint)
        self.part, self.node = part, node
        self.needed_bytes, self.free_bytes = needed_bytes, free_bytes


class FleetError(EdgeVitError):
    """The fleet cannot do it: no node is found, one refuses, or not all sub-models answered where all must."""

    exit_code = 9


class GateMissed(EdgeVitError):
    """What was measured is not what ``--fail-if`` or ``--require`` asks for."""

    exit_code = 10


class WorkerFailed(EdgeVitError):
    """A worker process died (signal, out of memory) or ran past its time limit."""


class Interrupted(EdgeVitError):
    """Ctrl-C during work that keeps what it has; the hint says how to go on."""

    exit_code = 130
