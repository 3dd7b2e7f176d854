"""Of restored pictures: PSNR and SSIM on brightness alone, as the field compares them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import UsageError
from edgevit.tasks.base import Asked, Row
from edgevit.tasks.metrics.base import nothing
from edgevit.tasks.restore import Restore

SAME = 100.0  # dB of pictures that are equal to the last bit, whose noise is 0
_WINDOW, _SIGMA = 11, 1.5  # of SSIM: Wang et al. 2004
_STEADY = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # what keeps its quotients from 0 / 0
_DECIBELS = 0.1
_BT601 = np.array([65.481, 128.553, 24.966])


class PeakNoise:
    """PSNR in dB on Y (BT.601, 16 to 235), the mean over the images, with SSIM beside it.

    A picture larger than what the model took loses as many pixels at each edge as it is times larger: there the model
    knew less. A true picture of another size is what the preprocessing makes of it.
    """

    name = "PSNR"
    better: Literal["higher", "lower"] = "higher"

    def __init__(self) -> None:
        self._noise: list[float] = []
        self._likeness: list[float] = []

    def take(self, row: Row, target: Array, asked: Asked) -> None:
        made = Restore().decode(row, asked).picture
        whole = next(row[spec.name] for spec in asked.outputs if spec.role == "picture")
        _require_scale(target, whole, asked)
        scale = max(1, round(whole.shape[1] / asked.steps.size[0]))
        border = scale if scale > 1 and min(made.shape[:2]) > 2 * scale else 0
        wanted = _as_seen(target, made.shape[:2], asked)
        one, other = (_inner(brightness(picture), border) for picture in (made, wanted))
        self._noise.append(psnr(one, other))
        if min(one.shape) >= _WINDOW:
            self._likeness.append(ssim(one, other))

    def value(self) -> float:
        if not self._noise:
            raise nothing("a picture")
        return float(np.mean(np.sort(self._noise)))  # sorted: the order of the images changes no bit of it

    def others(self) -> Mapping[str, float]:
        return {"SSIM": float(np.mean(np.sort(self._likeness)))} if self._likeness else {}

    def allowed(self) -> float:
        return _DECIBELS


def _require_scale(target: Array, whole: Array, asked: Asked) -> None:
    """UsageError for a truth that is other times as large as its image than the model makes one: resized to fit, it
    would be smoother than it is, and any model good."""
    wanted = [side / taken for side, taken in zip(whole.shape[1:], asked.steps.size, strict=True)]
    for true, side, times in zip(target.shape, asked.size, wanted, strict=False):
        if abs(true - times * side) > times:
            raise UsageError(
                f"a true picture has {target.shape[1]}×{target.shape[0]} pixels, its image "
                f"{asked.size[1]}×{asked.size[0]}; the model makes a picture {times:g} times as large",
                hint="use pairs of the model's own scale",
            )


def brightness(picture: Array) -> Array:
    """(H, W, 3) uint8 -> (H, W) float64 Y of 16 to 235."""
    found: Array = picture.astype(np.float64) @ _BT601 / 255 + 16
    return found


def psnr(one: Array, other: Array) -> float:
    """In dB, of values of 0 to 255."""
    noise = float(np.mean((one - other) ** 2))
    return SAME if noise == 0 else min(SAME, float(10 * np.log10(255**2 / noise)))


def ssim(one: Array, other: Array) -> float:
    """Structural similarity of two (H, W) pictures of 0 to 255: the mean over all whole windows of 11 × 11."""
    first, second = _smooth(one), _smooth(other)
    spread_one = _smooth(one * one) - first * first
    spread_other = _smooth(other * other) - second * second
    together = _smooth(one * other) - first * second
    low, high = _STEADY
    above = (2 * first * second + low) * (2 * together + high)
    below = (first**2 + second**2 + low) * (spread_one + spread_other + high)
    return float((above / below).mean())


def _smooth(values: Array) -> Array:
    """The Gaussian mean of every whole window, rows first and then columns."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    height, width = (side - _WINDOW + 1 for side in values.shape)
    down = sum(weight * values[start : start + height] for start, weight in enumerate(weights))
    across: Array = sum(weight * down[:, start : start + width] for start, weight in enumerate(weights))
    return across


def _inner(values: Array, border: int) -> Array:
    return values[border : values.shape[0] - border, border : values.shape[1] - border]


def _as_seen(target: Array, size: tuple[int, int], asked: Asked) -> Array:
    """The true picture of the part that the model saw, in ``size``."""
    if target.shape[:2] == size and asked.size == asked.steps.size:
        return target
    from PIL import Image

    down, across = target.shape[0] / asked.size[0], target.shape[1] / asked.size[1]
    top, left, bottom, right = asked.steps.window(*asked.size)
    box = (max(0.0, left * across), max(0.0, top * down), right * across, bottom * down)
    box = (*box[:2], min(box[2], float(target.shape[1])), min(box[3], float(target.shape[0])))
    how = Image.Resampling[asked.steps.interpolation.upper()]
    return np.asarray(Image.fromarray(target).resize(size[::-1], how, box=box))
