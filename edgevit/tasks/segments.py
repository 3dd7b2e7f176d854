"""Segments of queries: each a mask and the scores of its class, of which the last is "nothing" (MaskFormer's form)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array, Role, TensorSpec
from edgevit.data.rle import encoded
from edgevit.tasks.base import Apart, Asked
from edgevit.tasks.classify import probabilities_of
from edgevit.tasks.palette import blended, colours, marked
from edgevit.tasks.places import back_to_image

SURE = 0.5  # score: what lies below is no segment
LEFT = 0.8  # of a mask: one of which surer segments take more is none
EDGE = (255, 255, 255)


@dataclass(frozen=True)
class Part:
    """One segment: its class, how sure it is, and its pixels (H, W) of the image."""

    label: str
    index: int
    score: float
    mask: Array

    def row(self) -> dict[str, Any]:
        return {"label": self.label, "index": self.index, "score": self.score, "share": float(self.mask.mean())}


@dataclass(frozen=True)
class Segments:
    """Segments that share no pixel, the largest first; two of one class are two objects."""

    parts: tuple[Part, ...]
    asked: Asked

    @cached_property
    def places(self) -> Array:
        """(H, W) int64: which of the parts a pixel is of, -1 for none."""
        found = np.full(self.asked.size, -1, np.int64)
        for place, part in enumerate(self.parts):
            found[part.mask] = place
        return found

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """One for each segment."""
        return [part.row() for part in self.parts]

    def record(self) -> dict[str, Any]:
        return {
            "size": list(self.asked.size),
            "segments": [{**part.row(), "mask": encoded(part.mask)} for part in self.parts],
        }

    def words(self) -> str:
        shown = [f"{part.label} {part.score:.1%} on {part.mask.mean():.1%}" for part in self.parts[: self.asked.top]]
        left = len(self.parts) - len(shown)
        return ", ".join(shown) + (f", and {left} more" if left else "") or "no segment"

    def drawn(self, image: Array) -> Array | None:
        """The segments in the colours of their classes, with white edges between any two."""
        index = np.array([*(part.index for part in self.parts), -1])
        picture = blended(image, colours(index[self.places]), self.places >= 0)
        picture[_edges(self.places)] = EDGE
        return picture

    def apart(self, other: Segments, image: Array) -> Apart:
        """The pixels that are of another segment are marked: one of another class, or that lies elsewhere."""
        differs = self.places != self._places_of(other)
        count, share = int(differs.sum()), float(differs.mean())
        words = f"segments differ at {count:,} of {differs.size:,} pixels ({share:.4%})"
        return Apart(share, words if count else "every pixel is of the same segment", marked(image, differs))

    def _places_of(self, other: Segments) -> Array:
        """``other.places`` by the numbers that the same segments have here, -2 for those that are none of these."""
        found = np.full(len(other.parts) + 1, -2, np.int64)
        found[-1] = -1
        for place, part in enumerate(self.parts):
            for theirs, one in enumerate(other.parts):
                both = int((one.mask & part.mask).sum())
                if one.index == part.index and 2 * both > int((one.mask | part.mask).sum()):
                    found[theirs] = place
        named: Array = found[other.places]
        return named


def queries_among(outputs: Sequence[TensorSpec]) -> dict[str, Role]:
    """The roles of scores (B, queries, classes + 1) and masks (B, queries, h, w); empty where there are no such two, or
    several, and no names that tell."""
    floats = [spec for spec in outputs if spec.dtype.startswith("float")]
    pairs = [
        (scores.name, masks.name)
        for scores in floats
        for masks in floats
        if len(scores.shape) == 3 and len(masks.shape) == 4 and scores.shape[1] == masks.shape[1]
    ]
    told = [(scores, masks) for scores, masks in pairs if _tell(scores, masks)]
    alone = [pair for pair in pairs if len(pairs) == 1 and all(name.startswith("output_") for name in pair)]
    for scores, masks in told or alone:
        return {scores: "logits", masks: "masks"}
    return {}


def _tell(scores: str, masks: str) -> bool:
    return any(word in scores.lower() for word in ("class", "logits")) and "mask" in masks.lower()


def segments_of(scores: Array, masks: Array, asked: Asked) -> Segments:
    """(queries, classes + 1) scores and (queries, h, w) logits of masks -> what is sure, a pixel to the likeliest."""
    probabilities = probabilities_of(scores)[:, :-1]
    best, classes = probabilities.max(axis=1), probabilities.argmax(axis=1)
    kept = np.flatnonzero(best >= SURE)
    if not len(kept):
        return Segments((), asked)
    shares = np.stack([_share(masks[query], asked) for query in kept])
    whose = (shares * best[kept, None, None]).argmax(axis=0)
    parts = []
    for place, query in enumerate(kept):
        inside, taken = shares[place] >= 0.5, whose == place
        own = inside & taken
        mask = back_to_image(own.astype(np.int64), asked, outside=0) > 0
        if mask.any() and taken.sum() >= LEFT * inside.sum():  # what it takes, sure or not, as its authors count
            index = int(classes[query])
            parts.append(Part(asked.label(index), index, float(best[query]), mask))
    return Segments(tuple(sorted(parts, key=lambda part: -int(part.mask.sum()))), asked)


def classes_of(scores: Array, masks: Array) -> Array:
    """The same for which class each of (h, w) places is of, whatever segment it lies in: the class of which all queries
    together are surest."""
    weights = probabilities_of(scores)[:, :-1].astype(np.float32)
    votes: Array = np.tensordot(weights, _sigmoid(masks), axes=(0, 0))
    decided: Array = votes.argmax(axis=0).astype(np.int64)
    return decided


def _share(mask: Array, asked: Asked) -> Array:
    """(h, w) logits -> probabilities at the size of the model's image, linear in between."""
    from PIL import Image

    height, width = asked.steps.size
    whole = mask.astype(np.float32)
    if whole.shape[0] < height or whole.shape[1] < width:
        whole = np.asarray(Image.fromarray(whole).resize((width, height), Image.Resampling.BILINEAR))
    return _sigmoid(whole)


def _sigmoid(values: Array) -> Array:
    found: Array = 0.5 * (1 + np.tanh(values.astype(np.float32) / 2))  # which overflows nowhere
    return found


def _edges(places: Array) -> Array:
    """Where the pixel to the right or below is of another segment."""
    found = np.zeros(places.shape, bool)
    found[:, :-1] |= places[:, :-1] != places[:, 1:]
    found[:-1] |= places[:-1] != places[1:]
    return found
