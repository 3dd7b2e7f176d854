"""Which class every pixel is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from edgevit.artifact.manifest import Array, Role, TensorSpec
from edgevit.data.rle import encoded
from edgevit.tasks.base import Apart, Asked, Row, is_flat, named, unfit
from edgevit.tasks.palette import blended, colours, marked
from edgevit.tasks.places import back_to_image
from edgevit.tasks.segments import Segments, classes_of, queries_among, segments_of

_NOTHING = frozenset({"background", "bg", "unlabeled", "unlabelled", "void"})


@dataclass(frozen=True)
class ClassMap:
    """A class for every pixel of the image.

    classes  (H, W) int64, -1 where the model saw nothing of the image
    """

    classes: Array
    asked: Asked

    @cached_property
    def shares(self) -> tuple[tuple[int, float], ...]:
        """(class, share of the pixels), the largest first."""
        found, counts = np.unique(self.classes[self.classes >= 0], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return tuple((int(found[i]), float(counts[i] / self.classes.size)) for i in order)

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """One for each class that is there."""
        return [{"label": self.asked.label(index), "index": index, "share": share} for index, share in self.shares]

    def record(self) -> dict[str, Any]:
        return {
            "size": list(self.classes.shape),
            "segments": [{**row, "mask": encoded(self.classes == row["index"])} for row in self.rows()],
        }

    def words(self) -> str:
        shown = [f"{self.asked.label(index)} {share:.1%}" for index, share in self.shares[: self.asked.top]]
        return ", ".join(shown) or "nothing of it was seen"

    def drawn(self, image: Array) -> Array | None:
        """The classes as colours over the image, which stays as it is where there is nothing of any."""
        nothing = [index for index, _ in self.shares if _is_nothing(self.asked.label(index))]
        return blended(image, colours(self.classes), (self.classes >= 0) & ~np.isin(self.classes, nothing))

    def apart(self, other: ClassMap, image: Array) -> Apart:
        """The pixels that have another class are marked."""
        differs = self.classes != other.classes
        count, share = int(differs.sum()), float(differs.mean())
        words = f"labels differ at {count:,} of {differs.size:,} pixels ({share:.4%})"
        return Apart(share, words if count else "every pixel has the same label", marked(image, differs))


class Segment:
    """Semantic segmentation: (B, classes, H, W) scores, or a (B, H, W) or (B, 1, H, W) map of whole numbers. Panoptic
    and instance segmentation: queries with scores (B, n, classes + 1), the last "nothing", and (B, n, H, W) masks."""

    name = "segment"
    alone = "masks"
    draws = True
    meters: ClassVar[Mapping[str, str]] = {
        "masks": "edgevit.tasks.metrics.overlap:MeanIoU",
        "objects": "edgevit.tasks.metrics.panoptic:PanopticQuality",
    }

    def roles(self, outputs: Sequence[TensorSpec]) -> dict[str, Role]:
        """A map of labels where there is one, else queries, else the first scores; the others are for training."""
        maps = [spec for spec in outputs if _is_map(spec)]
        if not maps and (queries := queries_among(outputs)):
            return named(outputs, queries)
        scores = [spec for spec in outputs if len(spec.shape) == 4 and spec.dtype.startswith("float")]
        if not maps and not scores:
            raise unfit(self.name, outputs, "(batch, classes, height, width) scores or a map of whole numbers")
        known: dict[str, Role] = {spec.name: "masks" for spec in scores[:1]}
        return named(outputs, known | {spec.name: "labels" for spec in maps[:1]})

    def decode(self, row: Row, asked: Asked) -> ClassMap | Segments:
        scores = asked.one(row, "logits")
        if scores is not None:
            return segments_of(scores, asked.need(self.name, row, "masks"), asked)
        return ClassMap(self.classes(row, asked), asked)

    def classes(self, row: Row, asked: Asked) -> Array:
        """(H, W) int64 classes over the image, whatever segments they are of; -1 where the model saw nothing."""
        decided, scores = asked.one(row, "labels"), asked.one(row, "logits")
        if decided is None:
            masks = asked.need(self.name, row, "masks", "scores or labels")
            decided = masks.argmax(axis=0) if scores is None else classes_of(scores, masks)
        decided = decided.reshape(decided.shape[-2:]).astype(np.int64)
        return back_to_image(decided, asked, outside=-1)

    def columns(self, outputs: Sequence[TensorSpec], top: int) -> tuple[str, ...]:
        queries = any(spec.role == "logits" for spec in outputs)
        return ("label", "index", "score", "share") if queries else ("label", "index", "share")


def _is_nothing(label: str) -> bool:
    """Whether a class is called what is left between the others."""
    return label.strip("_ ").casefold() in _NOTHING


def _is_map(spec: TensorSpec) -> bool:
    return is_flat(spec) and spec.dtype in ("uint8", "int32", "int64")
