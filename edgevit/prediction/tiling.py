"""Pictures larger than what a model takes, in tiles of that size: each overlaps the next, and seams are feathered.

Where a pixel of the result depends on fewer pixels around it than three eighths of the overlap, the result is that of a
model of the whole picture: what a tile makes of its inner edges is left out, and only what is right is mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np

from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.images import MAX_PIXELS, ImageError
from edgevit.prediction.answering import Looked, looked_at, outputs_of, read
from edgevit.prediction.picture import Picture
from edgevit.runtimes.base import Session
from edgevit.tasks.base import Answer, Row
from edgevit.tasks.reading import Reading

OVERLAP = 4  # a quarter of the shorter side
AT_ONCE = 8  # tiles, as far as the batch allows


class Span(NamedTuple):
    """A tile along one axis: of ``whole`` pixels, ``length`` from ``start`` on."""

    start: int
    length: int
    whole: int

    def weights(self, overlap: int, scale: int) -> Array:
        """(length × scale,) of its pixels: 0 beside an edge behind which there is more, rising to 1 within the
        overlap."""
        steps = np.arange(self.length * scale) + 0.5
        margin, feather = overlap * scale * 3 / 8, overlap * scale / 4
        rising = np.clip((steps - margin) / feather, 0, 1)
        before = rising if self.start else np.ones_like(steps)
        after = rising[::-1] if self.start + self.length < self.whole else np.ones_like(steps)
        return np.minimum(before, after).astype(np.float32)


def spans(whole: int, tile: int, overlap: int) -> list[Span]:
    """Tiles that cover ``whole`` pixels; the last ends where they end."""
    if whole <= tile:
        return [Span(0, whole, whole)]
    starts = [*range(0, whole - tile, tile - overlap), whole - tile]
    return [Span(start, tile, whole) for start in starts]


Ask = Callable[[Sequence[Looked]], Mapping[str, Array]]  # pictures that fit into one call -> outputs by name


@dataclass(frozen=True)
class Tiling:
    """A model of pictures of one size, asked about pictures of any, ``at_once`` tiles at a time."""

    ask: Ask
    reading: Reading
    at_once: int = 1

    @classmethod
    def of(cls, session: Session, reading: Reading) -> Tiling:
        """In this process."""
        at_once = min(session.artifact.manifest.batch.max, AT_ONCE)
        return cls(lambda looked: outputs_of(session, reading, looked), reading, at_once)

    @staticmethod
    def fits(reading: Reading) -> bool:
        """Whether it gives a picture of its input's size or a multiple, which keeps the size of what it sees."""
        return reading.steps.crop == "pad" and _scale(reading) is not None

    def answer(self, pixels: Array) -> Answer | None:
        """That about (H, W, C) uint8; None where it is no number. ImageError for one too large."""
        picture, size = _picture(self.reading), pixels.shape[:2]
        found = self.stitched(pixels)
        made = np.round(found).astype(np.uint8) if picture.dtype == "uint8" else found
        steps = self.reading.steps.model_copy(update={"size": size, "crop": "squash"})
        whole = replace(self.reading, steps=steps, outputs=(picture,))
        return whole.answer({picture.name: made}, (size[0], size[1]))

    def stitched(self, pixels: Array) -> Array:
        """The model's picture of all (H, W, C) pixels, (C, scale × H, scale × W) float32; ImageError for one too
        large."""
        height, width = pixels.shape[:2]
        scale, picture = _scale(self.reading) or 1, _picture(self.reading)
        overlap = min(self.reading.steps.size) // OVERLAP
        if height * width * scale**2 > MAX_PIXELS:
            raise ImageError(
                f"a picture of {width * scale}×{height * scale} pixels is more than can be made at once",
                hint="cut it into parts first",
            )
        down, across = (
            spans(whole, tile, overlap) for whole, tile in zip((height, width), self.reading.steps.size, strict=True)
        )
        total = np.zeros((picture.rows(1)[1], height * scale, width * scale), np.float32)
        weight = np.zeros(total.shape[1:], np.float32)
        for (rows, columns), made in self._made(pixels, [*product(down, across)], picture, scale):
            own = np.outer(rows.weights(overlap, scale), columns.weights(overlap, scale))
            at = tuple(slice(one.start * scale, (one.start + one.length) * scale) for one in (rows, columns))
            total[(slice(None), at[0], at[1])] += made * own
            weight[at] += own
        found: Array = total / weight
        return found

    def _made(
        self, pixels: Array, tiles: Sequence[tuple[Span, Span]], picture: TensorSpec, scale: int
    ) -> Iterator[tuple[tuple[Span, Span], Array]]:
        """Each tile, and the (C, height, width) that the model makes of it."""
        for first in range(0, len(tiles), self.at_once):
            some = tiles[first : first + self.at_once]
            parts = [pixels[r.start : r.start + r.length, c.start : c.start + c.length] for r, c in some]
            looked = [looked_at(self.reading, Picture("tile", np.ascontiguousarray(part))) for part in parts]
            made = self.ask(looked)[picture.name]
            for tile, part, one in zip(some, parts, made, strict=True):
                shown = self.reading.steps.framing(*part.shape[:2]).shown()
                top, left, bottom, right = (side * scale for side in shown)
                yield tile, one[:, top:bottom, left:right]


def answer_of(session: Session, reading: Reading, picture: Picture) -> Answer | None:
    """That about one picture, at its own size as far as the model takes that, in tiles where it takes them; None where
    it is no number. ImageError for what is no picture, or too large."""
    return answer_with_outputs(session, reading, picture)[0]


def answer_with_outputs(session: Session, reading: Reading, picture: Picture) -> tuple[Answer | None, Row | None]:
    """The same, and the outputs that say it; None of tiles."""
    if Tiling.fits(reading):
        pixels = picture.pixels(reading.steps.pixel_channels)
        return Tiling.of(session, reading.tiling((pixels.shape[0], pixels.shape[1]))).answer(pixels), None
    if reading.sizes is not None:
        pixels = picture.pixels(reading.steps.pixel_channels)
        reading = reading.seeing((pixels.shape[0], pixels.shape[1]))
    return next(iter(read(session, reading, [looked_at(reading, picture)])))


def _picture(reading: Reading) -> TensorSpec:
    return next(spec for spec in reading.outputs if spec.role == "picture")


def _scale(reading: Reading) -> int | None:
    """How many times as large the picture that it gives is; None where it gives none, or not a whole multiple."""
    if not any(spec.role == "picture" for spec in reading.outputs):
        return None
    height, width = _picture(reading).rows(1)[2:]
    times = {side / frame for side, frame in zip((height, width), reading.steps.size, strict=True)}
    scale = times.pop()
    return int(scale) if not times and scale == int(scale) and scale >= 1 else None
