"""How many of the labelled images the source model itself recognises."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgevit.artifact.goodness import RecordedAccuracy
from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.data.classes import Indices, class_indices
from edgevit.data.content import content_of
from edgevit.data.labelled import LabelledData
from edgevit.data.source import open_data
from edgevit.data.split import spread
from edgevit.errors import UsageError
from edgevit.images import Preprocess

ACCURACY_IMAGES = 2000
_MOST, _PIXELS = 250, 50 * 224 * 224  # images handed over at once: more of small ones, of which each run costs most
Logits = Callable[[Array], Array | None]


@dataclass(frozen=True)
class Measured:
    """Top-1, None of a model that has no logits, and the hash of the pictures."""

    top1: float | None
    pixels: str


# What decided it, what measures it, whether an earlier one holds -> as it is measured, or was before.
Found = Callable[[tuple[Any, ...], Callable[[], Measured], Callable[[Measured], bool]], Measured]


def anew(decided: tuple[Any, ...], made: Callable[[], Measured], holds: Callable[[Measured], bool]) -> Measured:
    """Measured in any case."""
    return made()


def logits_among(outputs: Sequence[TensorSpec]) -> TensorSpec | None:
    """The scores of classes; None where answers are no classes. Those of an embedding, though it may be of as many
    numbers, and those of many objects are judged otherwise."""
    return next((output for output in outputs if output.role == "logits" and len(output.shape) == 2), None)


def measure_accuracy(
    logits_of: Logits,
    data: str,
    preprocess: Preprocess,
    classes: int | None,
    labels: tuple[str, ...] | None = None,
    found: Found = anew,
) -> RecordedAccuracy | None:
    """Top-1 of the float32 source on the held-out part; None where the labels are not this model's classes, as those of
    a whole data set are not a sub-model's. ``logits_of`` runs rows of its input; None where it has no logits. What was
    found before holds where every pixel of every picture is the same."""
    held = spread(open_data(data, split="held-out"), ACCURACY_IMAGES)
    if held.labels is None or classes is None or len(held) == 0:
        return None
    try:
        wanted = class_indices(held, labels, classes)
    except UsageError:
        return None
    top1 = found(
        (data, preprocess, wanted),
        lambda: _measured(logits_of, held, preprocess, wanted),
        lambda before: before.pixels == _hash_of(held.images),
    ).top1
    if top1 is None:
        return None
    return RecordedAccuracy(data=data, top1=top1, images=len(held), content=content_of(held))


def _measured(logits_of: Logits, held: LabelledData, preprocess: Preprocess, wanted: Indices) -> Measured:
    right, pixels = 0, hashlib.sha256()
    size = max(1, min(_MOST, _PIXELS // (preprocess.size[0] * preprocess.size[1])))
    for start in range(0, len(held), size):
        logits = logits_of(preprocess.batch(_hashing(held.images[start : start + size], pixels)))
        if logits is None:
            return Measured(None, "")
        right += int((logits.argmax(1) == wanted[start : start + size]).sum())
    return Measured(right / len(held), pixels.hexdigest())


def _hashing(images: Iterable[Array], digest: hashlib._Hash) -> Iterator[Array]:
    """The images, one at a time: a photo can be larger than all that a model makes of it."""
    for image in images:
        digest.update(f"{image.shape} {image.dtype}|".encode() + image.tobytes())
        yield image


def _hash_of(images: Iterable[Array]) -> str:
    digest = hashlib.sha256()
    for _ in _hashing(images, digest):
        pass
    return digest.hexdigest()
