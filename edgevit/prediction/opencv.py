"""Videos and cameras through OpenCV, where it is there and PyAV is not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.foreign import opened
from edgevit.images import ImageError
from edgevit.prediction.videos import FORMATS, Shot, check_size

_FILES_ONLY = f"protocol_whitelist;file|format_whitelist;{FORMATS}"
_GAP = 0.05  # of the frames that a file says it has, which for some formats is an estimate


class Capture:
    """An opened video; ``whole`` where it says how many frames it has."""

    def __init__(self, capture: Any, *, whole: bool) -> None:
        self.capture, self.whole, self.count = capture, whole, 0

    def shots(self) -> Iterator[Shot]:
        check_size(*(int(self.capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)))
        while self.capture.grab():
            self.count += 1
            yield Shot(self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3, self._pixels)
        if not self.count:
            raise ImageError("no frame of it can be decoded", hint="is the file complete?")

    def _pixels(self) -> Array:
        """(H, W, 3) uint8 RGB, turned upright by OpenCV."""
        given, pixels = self.capture.retrieve()
        if not given:
            raise ImageError(f"frame {self.count - 1} cannot be decoded", hint="is the file complete?")
        return np.ascontiguousarray(pixels[..., ::-1])

    def complaint(self) -> str | None:
        said = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)) if self.whole else 0
        if said - self.count > max(2, _GAP * said):
            return f"ends after {self.count} of about {said} frames; is the file complete?"
        return None


@contextmanager
def video(path: Path) -> Iterator[Capture]:
    """A video file; ImageError in one sentence for what is none."""
    with opened(path, "a video", error=ImageError):
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", _FILES_ONLY)
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    with _released(capture, "no video that can be read", "is the file complete, and a video?") as found:
        yield Capture(found, whole=True)


@contextmanager
def camera(device: str) -> Iterator[Capture]:
    """A camera by its number, or its path."""
    capture = cv2.VideoCapture(int(device) if re.fullmatch(r"\d+", device) else device)
    with _released(capture, "cannot be opened", "name another: camera:0, camera:1, …") as found:
        yield Capture(found, whole=False)


@contextmanager
def _released(capture: Any, refusal: str, hint: str) -> Iterator[Any]:
    try:
        if not capture.isOpened():
            raise ImageError(refusal, hint=hint)
        yield capture
    finally:
        capture.release()
