"""What is kept, as figures and arrays, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Generic, TypeVar

from edgevit.artifact.manifest import Array
from edgevit.artifact.shelf import Shelf
from edgevit.export.accuracy import Measured
from edgevit.export.cache.store import Entry
from edgevit.export.prepared import Answers, Levels, Noise, Run
from edgevit.models.reparam import ReparamReport

Found = TypeVar("Found")


@dataclass(frozen=True)
class Kind(Generic[Found]):
    """One kind of finding: ``name`` in sentences, and its two ways. What is written as None is not kept."""

    name: str
    write: Callable[[Found], Entry | None]
    read: Callable[[Entry], Found]


@dataclass(frozen=True)
class Fold:
    """The proof of a re-parameterisation, and the hash of the module that was proved, where it has one."""

    report: ReparamReport
    module: str | None


def _write_answers(value: Answers) -> Entry | None:
    arrays = {
        f"{rows}/{of}/{name}": array
        for rows, run in (("whole", value.whole), ("golden", value.golden))
        for of, found in (("outputs", run.outputs), ("margins", run.margins))
        for name, array in found.items()
    }
    held = {name: array for name, array in arrays.items() if not isinstance(array, Shelf)}
    if len(held) < len(arrays):
        return None  # rows that are too large for memory are too large to be kept
    facts = {"group": value.group, "computed": value.computed, "notes": list(value.notes), "inside": value.inside}
    return Entry(facts, held)


def _read_answers(entry: Entry) -> Answers:
    def part(prefix: str) -> dict[str, Array]:
        found = {name: array for name, array in entry.arrays.items() if name.startswith(prefix)}
        return {name.removeprefix(prefix): array for name, array in found.items()}

    whole, golden = (Run(part(f"{rows}/outputs/"), part(f"{rows}/margins/")) for rows in ("whole", "golden"))
    facts = entry.facts
    inside = bool(facts["inside"])
    return Answers(whole, golden, int(facts["group"]), str(facts["computed"]), tuple(facts["notes"]), inside)


def _write_noise(value: Levels) -> Entry | None:
    (hanging,) = value.hanging.values() or ({},)
    held = {name: rows for name, rows in hanging.items() if not isinstance(rows, Shelf)}
    if len(held) < len(hanging):
        return None
    return Entry({name: asdict(noise) for name, noise in value.outputs.items()}, held)


def _read_noise(entry: Entry) -> Levels:
    noises = {name: Noise(**noise) for name, noise in entry.facts.items()}
    return Levels(noises, {None: entry.arrays} if entry.arrays else {})


ANSWERS = Kind("the answers of the reference", _write_answers, _read_answers)
FOLD = Kind(
    "the proof of the re-parameterisation",
    lambda value: Entry(asdict(value), {}) if value.module else None,
    lambda entry: Fold(ReparamReport(**entry.facts["report"]), str(entry.facts["module"])),
)
ACCURACY = Kind(
    "held-out accuracy",
    lambda value: None if value.top1 is None else Entry(asdict(value), {}),
    lambda entry: Measured(float(entry.facts["top1"]), str(entry.facts["pixels"])),
)
MACS = Kind("multiply-accumulates", lambda value: Entry({"macs": value}, {}), lambda entry: int(entry.facts["macs"]))
NOISE = Kind("the noise of the precision", _write_noise, _read_noise)
