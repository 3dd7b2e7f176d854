"""Where a picture lies in what a model sees: resized to which size, cut or padded at which edges. Numbers only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edgevit.sizes import Size, SizeRange

Crop = Literal["center", "squash", "letterbox", "pad"]
Place = Literal["center", "top-left"]
PADDING: tuple[Crop, ...] = ("letterbox", "pad")  # of whose frame a picture may fill only a part


@dataclass(frozen=True)
class Framing:
    """A picture in the frame that a model sees; all in pixels.

    picture    its size, as it is
    resized    its size in the frame
    frame      that of the frame
    top, left  where its corner lies in the frame; negative where its edges are cut off
    """

    picture: Size
    resized: Size
    frame: Size
    top: int
    left: int

    def window(self) -> tuple[float, float, float, float]:
        """(top, left, bottom, right) of the frame in the picture's pixels; outside the picture where it is padded."""
        down, across = (side / resized for side, resized in zip(self.picture, self.resized, strict=True))
        height, width = self.frame
        return -self.top * down, -self.left * across, (height - self.top) * down, (width - self.left) * across

    def shown(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of the picture in the frame, as far as it lies inside."""
        bottom, right = self.top + self.resized[0], self.left + self.resized[1]
        return max(0, self.top), max(0, self.left), min(self.frame[0], bottom), min(self.frame[1], right)


def framed(picture: Size, frame: Size, crop: Crop, crop_pct: float, place: Place) -> Framing:
    """How a picture of that size is put into the frame.

    center     the shorter side becomes frame / crop_pct, the middle is cut out
    squash     both sides become the frame's
    letterbox  the whole picture, as large as it fits
    pad        the same, but never enlarged: what fits keeps its pixels
    """
    if crop == "squash":
        return Framing(picture, frame, frame, 0, 0)
    if crop == "center":
        resized = _covering(picture, frame, crop_pct)
        # round() halves to even, as torchvision's centre crop does
        top, left = (-round((have - want) / 2) for have, want in zip(resized, frame, strict=True))
        return Framing(picture, resized, frame, top, left)
    resized = _fitting(picture, frame, enlarge=crop == "letterbox")
    top, left = (0, 0) if place == "top-left" else ((frame[0] - resized[0]) // 2, (frame[1] - resized[1]) // 2)
    return Framing(picture, resized, frame, top, left)


def frame_for(picture: Size, sizes: SizeRange, own: Size, crop: Crop) -> Size:
    """The frame, out of a range of them, in which a picture of that size is seen; ``own`` where its middle is cut out.

    squash          the nearest to its own
    letterbox, pad  the smallest that holds it: as large as it fits into the largest frame, or as it is
    """
    if crop == "center":
        return own
    if crop == "squash":
        return sizes.nearest(picture)
    return sizes.holding(_fitting(picture, sizes.highest, enlarge=crop == "letterbox"))


def _covering(picture: Size, frame: Size, crop_pct: float) -> Size:
    """The shorter side becomes frame / crop_pct, the other follows, rounded down as torchvision does; for a frame that
    is not square, the smallest scale that covers it."""
    height, width = picture
    goal_height, goal_width = (math.floor(side / crop_pct) for side in frame)
    if goal_height == goal_width:
        short = min(width, height)
        return int(goal_height * height / short), int(goal_width * width / short)
    scale = max(goal_height / height, goal_width / width)
    return max(frame[0], round(height * scale)), max(frame[1], round(width * scale))


def _fitting(picture: Size, frame: Size, *, enlarge: bool) -> Size:
    scale = min(frame[0] / picture[0], frame[1] / picture[1])
    if scale >= 1 and not enlarge:
        return picture
    height, width = (min(side, max(1, round(have * scale))) for have, side in zip(picture, frame, strict=True))
    return height, width
