"""How many of the labelled images the source model itself recognises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgevit.artifact.manifest import Accuracy, Array
from edgevit.data.classes import class_indices
from edgevit.data.source import open_data
from edgevit.errors import UsageError
from edgevit.images import Preprocess

ACCURACY_IMAGES = 2000
_CHUNK = 50


def measure_accuracy(
    logits_of: Callable[[Array], Array | None],
    data: str,
    preprocess: Preprocess,
    classes: int | None,
    labels: tuple[str, ...] | None = None,
) -> Accuracy | None:
    """Top-1 of the float32 source on the held-out part; None where the labels are not this model's classes, as those of
    a whole data set are not a sub-model's. ``logits_of`` runs rows of its input; None where it has no logits."""
    held = open_data(data, split="held-out")
    if held.labels is None or classes is None or len(held) == 0:
        return None
    if len(held) > ACCURACY_IMAGES:
        held = held.take(np.linspace(0, len(held) - 1, ACCURACY_IMAGES).round().astype(np.int64))
    try:
        wanted = class_indices(held, labels, classes)
    except UsageError:
        return None
    right = 0
    for start in range(0, len(held), _CHUNK):
        logits = logits_of(preprocess.batch(list(held.images[start : start + _CHUNK])))
        if logits is None:
            return None
        right += int((logits.argmax(1) == wanted[start : start + _CHUNK]).sum())
    return Accuracy(data=data, top1=right / len(held), images=len(held))
