"""Of embeddings: whether classes that nobody taught can be told from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.tasks.base import Asked, Row
from edgevit.tasks.embed import Embed
from edgevit.tasks.metrics.base import DROP, nothing

_RIDGE = 1e-3  # of the mean eigenvalue: what keeps directions of mere noise out
_NEIGHBOURS = 5


class Probe:
    """Linear probe: ridge regression on the classes, and the share of images that it names rightly when it is fitted
    to all of them but the one it is asked about. k nearest neighbours by cosine beside it, likewise.

    Left out one at a time, the images need no part of their own to be fitted to; both have closed forms.
    """

    name = "linear probe"
    better: Literal["higher", "lower"] = "higher"

    def __init__(self) -> None:
        self._vectors: list[Array] = []
        self._classes: list[int] = []

    def take(self, row: Row, target: int, asked: Asked) -> None:
        self._vectors.append(Embed().decode(row, asked).vector)
        self._classes.append(int(target))

    def value(self) -> float:
        vectors, classes = self._taken()
        return float((probed(vectors, classes) == classes).mean())

    def others(self) -> Mapping[str, float]:
        vectors, classes = self._taken()
        return {f"{_NEIGHBOURS} nearest": float((nearest(vectors, classes) == classes).mean())}

    def allowed(self) -> float:
        return max(DROP, 1 / len(self._classes))

    def _taken(self) -> tuple[Array, Array]:
        """All vectors (n, d) float64 and classes (n,), in an order that is theirs and not the images'."""
        if len(set(self._classes)) < 2:
            raise nothing("more than one class")
        vectors, classes = np.stack(self._vectors).astype(np.float64), np.asarray(self._classes)
        order = np.lexsort((*vectors.T, classes))
        return vectors[order], classes[order]


def probed(vectors: Array, classes: Array) -> Array:
    """(n,) the class that ridge regression gives each row when it is fitted to all others.

    In the space of the rows, n × n whatever the vectors' length: with ``hat`` the matrix that makes fitted values of
    given ones, the value that was fitted without row i is (fitted − hat_ii · given) ÷ (1 − hat_ii).
    """
    known, count = np.unique(classes), len(classes)
    given = (classes[:, None] == known).astype(np.float64)
    centred = vectors - vectors.mean(axis=0)
    products = centred @ centred.T
    ridge = _RIDGE * (float(np.trace(products)) / count or 1.0)
    hat = np.linalg.solve(products + ridge * np.eye(count), products) + 1 / count  # with a constant, which is free
    own = np.diagonal(hat)[:, None]
    left_out = (hat @ given - own * given) / np.maximum(1 - own, 1e-12)
    found: Array = known[left_out.argmax(axis=1)]
    return found


def nearest(vectors: Array, classes: Array) -> Array:
    """(n,) the class that most of the nearest others have, by cosine; of as many each, the likest's."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, np.finfo(np.float64).tiny)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    known = np.unique(classes)
    count = min(_NEIGHBOURS, len(classes) - 1)
    order = np.argsort(-likeness, axis=1, kind="stable")[:, :count]
    votes = np.zeros((len(classes), len(known)))
    places = np.searchsorted(known, classes)
    for rank in range(count):  # a vote is worth a little more the nearer it is, which only decides between equals
        votes[np.arange(len(classes)), places[order[:, rank]]] += 1 + 1e-3 / (1 + rank)
    found: Array = known[votes.argmax(axis=1)]
    return found
