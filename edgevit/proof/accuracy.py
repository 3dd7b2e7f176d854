"""Top-1 of an artifact on labelled data, and how far it may lie below the one recorded at export."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from pydantic import ConfigDict

from edgevit.artifact.goodness import Accuracy, Quality
from edgevit.artifact.manifest import Array, Manifest

DROP = 0.01  # images on the border between two classes may change sides


class TopShares(Accuracy):
    """With the share of which the class is among the best five; None for five classes or fewer."""

    top5: float | None = None

    def as_quality(self) -> Quality:
        others = {} if self.top5 is None else {"top-5": self.top5}
        return super().as_quality().model_copy(update={"others": others})


class AccuracyCheck(TopShares):
    """The artifact's own, beside ``recorded``: the source model's top-1 on the same data, when known."""

    recorded: float | None


class FileAccuracy(TopShares):
    """That of exactly the model whose file has ``sha256``."""

    model_config = ConfigDict(extra="ignore")  # it is kept in profiles, which open whatever a later version adds

    sha256: str


class FileQuality(Quality):
    """The same of a task whose answers are no classes."""

    model_config = ConfigDict(extra="ignore")

    sha256: str


def model_sha256(manifest: Manifest) -> str:
    """Hash of the artifact's model: its entry's, or of the sorted ``hash  path`` lines where the entry is a folder."""
    if manifest.entry in manifest.files:
        return manifest.files[manifest.entry]
    inside = sorted(path for path in manifest.files if path.startswith(f"{manifest.entry}/"))
    lines = "".join(f"{manifest.files[path]}  {path}\n" for path in inside)
    return hashlib.sha256(lines.encode()).hexdigest()


def top_shares(parts: Iterable[Array], labels: Array) -> tuple[float, float | None]:
    """(top-1, top-5) of logits that come in parts (n, classes), for all labels (N,); top-5 is None for five classes or
    fewer."""
    first, among, few, start = 0, 0, False, 0
    for logits in parts:
        wanted = labels[start : start + len(logits)]
        first += int((logits.argmax(axis=-1) == wanted).sum())
        if not (few := logits.shape[-1] <= 5):
            among += int((np.argpartition(logits, -5, axis=-1)[:, -5:] == wanted[:, None]).sum())
        start += len(logits)
    return first / len(labels), None if few else among / len(labels)


def allowed_drop(recorded: Accuracy, count: int) -> float:
    """How far top-1 on ``count`` images may fall below the recorded one.

    As many images as at export are the same images: 1 %, or one image. Another number adds two standard errors of the
    difference of two binomial shares.
    """
    allowed = max(DROP, 1 / count)
    return allowed if count == recorded.images else allowed + _two_errors(recorded, count)


def too_far(recorded: Accuracy, top1: float, count: int, differing: float = 0.0) -> float | None:
    """How far ``top1`` on ``count`` images may lie from the recorded one, where it lies farther; else None.

    No artifact is better than its model by more than chance: a record that is too low is as wrong as an artifact is
    that is worse. Chance, two standard errors, is then allowed on the same images too; and ``differing``, the share of
    images that are others.
    """
    allowed = allowed_drop(recorded, count)
    if top1 > recorded.top1:
        allowed = max(DROP, 1 / count) + _two_errors(recorded, count)
    allowed += differing
    return allowed if abs(top1 - recorded.top1) > allowed else None


def _two_errors(recorded: Accuracy, count: int) -> float:
    variance = recorded.top1 * (1 - recorded.top1)
    return 2 * float(np.sqrt(variance * (1 / count + 1 / recorded.images)))
