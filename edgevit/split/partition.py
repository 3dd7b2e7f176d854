"""Which classes each part is an expert in: disjoint subsets whose sizes differ by at most one. Needs numpy alone.

balanced     at random
similar      classes whose images the trunk's features place near each other
confusable   classes that the trunk takes for one another: the part then spends its units on telling them apart

The last two maximise the affinity summed over all pairs within parts: minus the squared distance of two classes'
centroids, or the rate at which they are confused. Random starts are improved by swapping two classes, for each class
in turn the swap that gains most, until none gains; the best of them is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgevit.errors import UnknownName, UsageError
from edgevit.foreign import read_json
from edgevit.split.options import PARTITIONS

Array = npt.NDArray[np.float64]
Partition = tuple[tuple[int, ...], ...]
STARTS = 8


def partition(
    classes: int,
    parts: int,
    *,
    method: str = "balanced",
    seed: int = 0,
    centroids: npt.ArrayLike | None = None,
    confusion: npt.ArrayLike | None = None,
) -> Partition:
    """Class indices of every part, ascending; parts in the order of their first class. The same for the same seed.

    ``similar`` needs ``centroids`` (V, D), the mean feature of every class; ``confusable`` needs ``confusion`` (V, V),
    where row i says how images of class i were answered, as counts or summed probabilities. UsageError for more parts
    than classes, and for figures that are missing or not numbers; UnknownName for another method.
    """
    if classes < 1 or not 1 <= parts <= classes:
        raise UsageError(
            f"{classes} classes cannot be split into {parts} parts",
            hint=f"every part needs a class: --parts 1 to {max(1, classes)}",
        )
    random = np.random.default_rng(seed)
    if method == "balanced":
        return _ordered(np.array_split(random.permutation(classes), parts))
    if method == "similar":
        affinity = _nearness(_checked(centroids, classes, "similar", "centroids"))
    elif method == "confusable":
        affinity = _confusability(_checked(confusion, classes, "confusable", "confusion"))
    else:
        raise UnknownName("partition method", method, PARTITIONS)
    return _ordered(_best_grouping(affinity, parts, random))


def read_partition(path: Path | str, labels: Sequence[str]) -> Partition:
    """The user's own parts: JSON ``{"parts": [["cat", "dog"], ["car"]]}`` by class label; their order is kept.

    Sizes may differ. UsageError for a file that is not this, and for a class that is unknown, repeated or missing.
    """
    parts = _read_parts(Path(path))
    index = {str(label): number for number, label in enumerate(labels)}
    counts = Counter(name for part in parts for name in part)
    unknown = [name for name in counts if name not in index]
    repeated = [name for name, count in counts.items() if count > 1]
    missing = [name for name in index if name not in counts]
    for names, what in ((unknown, "names unknown"), (repeated, "repeats"), (missing, "leaves out")):
        if names:
            raise UsageError(
                f"{path} {what} classes: {shown(names)}", hint=f"the trunk's classes are {shown(list(index))}"
            )
    return tuple(tuple(index[name] for name in part) for part in parts)


def _read_parts(path: Path) -> list[list[str]]:
    content = read_json(path, "a partition")
    parts = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(parts, list) or not parts or not all(isinstance(part, list) and part for part in parts):
        raise UsageError(f"{path} holds no partition", hint='write {"parts": [["cat", "dog"], ["car"]]}')
    return [[str(name) for name in part] for part in parts]


def shown(names: Sequence[str], limit: int = 8) -> str:
    """The first ``limit`` names in words."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def _ordered(groups: Sequence[npt.NDArray[np.int64]]) -> Partition:
    return tuple(sorted(tuple(sorted(int(one) for one in group)) for group in groups))


def _checked(values: npt.ArrayLike | None, classes: int, method: str, what: str) -> Array:
    if values is None:
        raise UsageError(f"partition {method!r} needs {what}", hint="score the trunk on images of every class first")
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or len(table) != classes or (what == "confusion" and table.shape[1] != classes):
        raise UsageError(f"{what} have the shape {table.shape} for {classes} classes")
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise UsageError(
            f"{what} of classes {shown([str(one) for one in bad])} are not numbers",
            hint="does the data have images of every class?",
        )
    return table


def _nearness(centroids: Array) -> Array:
    """Minus the squared distances."""
    centred = centroids - centroids.mean(axis=0)
    squares = (centred**2).sum(axis=1)
    return np.asarray(2 * centred @ centred.T - squares[:, None] - squares[None, :])


def _confusability(confusion: Array) -> Array:
    """How often either of two classes is taken for the other, as rates."""
    rates = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1e-30)
    return np.asarray(rates + rates.T)


def _best_grouping(affinity: Array, parts: int, random: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """Classes by part. Parts of unequal size are filled up with empty seats, of which two never share a part, so that
    one kind of step, a swap, also moves a class."""
    classes = len(affinity)
    seats = -(-classes // parts) * parts
    padded = np.zeros((seats, seats))
    padded[:classes, :classes] = affinity
    padded[classes:, classes:] = -1 - 4 * np.abs(affinity).sum()
    np.fill_diagonal(padded, 0)
    found = [_improved(padded, _start(classes, seats, parts, random), parts) for _ in range(STARTS)]
    _, part = max(found, key=lambda each: each[0])
    return [np.flatnonzero(part[:classes] == one) for one in range(parts)]


def _start(classes: int, seats: int, parts: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """The part of every class and empty seat, at random."""
    part = np.empty(seats, np.int64)
    part[classes:] = np.arange(seats - classes)
    free = np.repeat(np.arange(parts), seats // parts)
    taken = np.searchsorted(free, part[classes:])
    part[:classes] = random.permutation(np.delete(free, taken))
    return part


def _improved(affinity: Array, part: npt.NDArray[np.int64], parts: int) -> tuple[float, npt.NDArray[np.int64]]:
    """For each class in turn the swap that gains most, again until none gains; the affinity (of ordered pairs)."""
    rows = np.arange(len(part))
    links = affinity @ np.eye(parts)[part]  # (seats, parts): a seat's affinity to each part
    least = 1e-9 * max(1e-30, float(np.abs(affinity).max()))
    unchanged, seat = 0, 0
    while unchanged < len(part):
        mine = part[seat]
        gain = links[seat, part] - links[seat, mine] + links[:, mine] - links[rows, part] - 2 * affinity[seat]
        gain[part == mine] = 0
        other = int(gain.argmax())
        unchanged = 0 if gain[other] > least else unchanged + 1
        if unchanged == 0:
            theirs = part[other]
            links[:, mine] += affinity[:, other] - affinity[:, seat]
            links[:, theirs] += affinity[:, seat] - affinity[:, other]
            part[seat], part[other] = theirs, mine
        seat = (seat + 1) % len(part)
    return float(links[rows, part].sum()), part
