"""A better picture of the same: larger, or without noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgevit.artifact.manifest import Array, Role, TensorSpec
from edgevit.images import Preprocess
from edgevit.steps import range_of
from edgevit.tasks.base import Apart, Asked, Row, named, unfit


@dataclass(frozen=True)
class Restored:
    """The picture, (H, W, 3) uint8."""

    picture: Array

    def record(self) -> dict[str, Any]:
        return {"size": list(self.picture.shape[:2])}

    def words(self) -> str:
        height, width = self.picture.shape[:2]
        return f"a picture of {width}×{height} pixels"

    def rows(self) -> Sequence[Mapping[str, Any]]:
        height, width = self.picture.shape[:2]
        return [{"height": height, "width": width}]

    def drawn(self, image: Array) -> Array | None:
        return self.picture

    def apart(self, other: Restored, image: Array) -> Apart:
        """The differences, the largest of them as bright as can be."""
        gap = np.abs(self.picture.astype(np.int16) - other.picture.astype(np.int16))
        most, share = int(gap.max()), float((gap > 0).mean())
        words = (
            f"{share:.4%} of the bytes differ, by at most {most} of 255 levels" if most else "the same in every byte"
        )
        return Apart(most + share, words, (gap * (255 // max(1, most))).astype(np.uint8))


class Restore:
    """(B, 3, H, W) or (B, 1, H, W) pictures in the colours that the model takes: of 0 to 1, of its input's range where
    nothing but that is done to it (``--range``), or bytes."""

    name = "restore"
    alone = "picture"
    draws = True
    meters: ClassVar[Mapping[str, str]] = {"pictures": "edgevit.tasks.metrics.pictures:PeakNoise"}

    def roles(self, outputs: Sequence[TensorSpec]) -> dict[str, Role]:
        """The first output that can be a picture; others are for training."""
        pictures = [spec for spec in outputs if len(spec.shape) == 4 and spec.shape[1] in (1, 3)]
        if not pictures:
            raise unfit(self.name, outputs, "a picture of (batch, 1 or 3, height, width)")
        return named(outputs, {pictures[0].name: "picture"})

    def decode(self, row: Row, asked: Asked) -> Restored:
        picture = asked.need(self.name, row, "picture", "a picture")
        return Restored(pixels_of(_of_image(picture, asked), asked.steps))

    def columns(self, outputs: Sequence[TensorSpec], top: int) -> tuple[str, ...]:
        return "height", "width"


def _of_image(picture: Array, asked: Asked) -> Array:
    """The part of a (C, H, W) picture that shows the image, without what it was padded with."""
    shown = asked.steps.framing(*asked.size).shown()
    scale = [side / frame for side, frame in zip(picture.shape[1:], asked.steps.size, strict=True)] * 2
    top, left, bottom, right = (round(side * by) for side, by in zip(shown, scale, strict=True))
    return picture[:, top:bottom, left:right]


def pixels_of(picture: Array, steps: Preprocess) -> Array:
    """(1 or 3, H, W) floats or bytes -> (H, W, 3) uint8 RGB."""
    if picture.dtype != np.uint8:
        scale, offset = range_of(steps)
        unit = (picture.astype(np.float64) - offset) / scale
        picture = np.round(np.clip(unit, 0.0, 1.0) * 255).astype(np.uint8)
    colours = picture[::-1] if steps.color == "BGR" and len(picture) == 3 else picture
    found: Array = np.ascontiguousarray(np.broadcast_to(colours, (3, *colours.shape[1:])).transpose(1, 2, 0))
    return found
