"""How far away every pixel is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgevit.artifact.manifest import Array, Role, TensorSpec
from edgevit.precisions import error_of
from edgevit.tasks.base import Apart, Asked, Row, is_flat, named, unfit


@dataclass(frozen=True)
class Distances:
    """(h, w) float32 over what the model saw, in the model's own unit."""

    depth: Array
    asked: Asked

    def record(self) -> dict[str, Any]:
        return {
            "size": list(self.depth.shape),
            "min": float(self.depth.min()),
            "median": float(np.median(self.depth)),
            "max": float(self.depth.max()),
        }

    def words(self) -> str:
        return f"from {self.depth.min():.4g} to {self.depth.max():.4g}, the median {np.median(self.depth):.4g}"

    def rows(self) -> Sequence[Mapping[str, Any]]:
        height, width = self.depth.shape
        return [{**self.record(), "height": height, "width": width}]

    def drawn(self, image: Array) -> Array | None:
        """Large values bright, in the size of the image."""
        least, most = float(self.depth.min()), float(self.depth.max())
        return self._in_image((self.depth - least) / max(most - least, 1e-12))

    def apart(self, other: Distances, image: Array) -> Apart:
        """The differences, the largest of them as bright as can be."""
        far, gap = error_of(other.depth, self.depth), np.abs(self.depth - other.depth)
        words = f"at most {far:.1e} of the largest value apart" if far else "the same at every pixel"
        return Apart(far, words, self._in_image(gap / max(float(gap.max()), 1e-30)))

    def _in_image(self, shares: Array) -> Array:
        """(h, w) shares of 0 to 1 as grey where the model saw the image, in the size of that."""
        from PIL import Image

        grey = np.round(shares * 255).astype(np.uint8)
        top, left, bottom, right = (round(side) for side in self.asked.steps.window(*self.asked.size))
        seen = Image.fromarray(grey).resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.BILINEAR)
        whole = Image.new("L", self.asked.size[::-1])
        whole.paste(seen, (left, top))
        return np.asarray(whole.convert("RGB"))


class Depth:
    """(B, H, W) or (B, 1, H, W) distances or disparities."""

    name = "depth"
    alone = "depth"
    draws = True
    meters: ClassVar[Mapping[str, str]] = {"depth": "edgevit.tasks.metrics.distances:RelativeError"}

    def roles(self, outputs: Sequence[TensorSpec]) -> dict[str, Role]:
        """The last output that can be a map: heads that refine give the finest last."""
        maps = [spec for spec in outputs if is_flat(spec) and spec.dtype.startswith("float")]
        if not maps:
            raise unfit(self.name, outputs, "a map of (batch, height, width) floats")
        return named(outputs, {maps[-1].name: "depth"})

    def decode(self, row: Row, asked: Asked) -> Distances:
        depth = asked.need(self.name, row, "depth")
        return Distances(np.asarray(depth.reshape(depth.shape[-2:]), np.float32), asked)

    def columns(self, outputs: Sequence[TensorSpec], top: int) -> tuple[str, ...]:
        return "height", "width", "min", "median", "max"
