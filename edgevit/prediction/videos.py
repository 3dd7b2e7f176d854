"""Frames of a video file or a camera, one at a time: which are looked at, and what is wrong with the file.

Two packages can read them, and each has a file here: PyAV, and OpenCV where only that is installed (as on a Jetson).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol

from edgevit.artifact.manifest import Array
from edgevit.errors import MissingDependency, UsageError
from edgevit.images import MAX_PIXELS, ImageError
from edgevit.prediction.picture import Picture
from edgevit.prediction.results import Failure, failed
from edgevit.registry import pip_line

ENDINGS = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".3g2", ".wmv",
    ".asf", ".flv", ".ogv", ".h264", ".264", ".h265", ".265", ".hevc", ".y4m", ".mjpg", ".mjpeg",
})  # fmt: skip
READERS = {"av": "edgevit.prediction.pyav", "cv2": "edgevit.prediction.opencv"}  # package -> its file, preferred first
# What a file may be, by its content: others of libav's formats are lists of other files and addresses.
FORMATS = (
    "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,h264,hevc,m4v,mjpeg,mjpeg_2000,yuv4mpegpipe,ivf,obu"
)
_CAMERA = re.compile(r"camera:(.*)", re.DOTALL)
_DEVICE = re.compile(r"/dev/video\d+")
_LATE = 1e-6  # s: a time stamp is a fraction that was rounded


class Shot(NamedTuple):
    """One frame, not yet turned into pixels. ``seconds`` is the file's own time, None where it has none."""

    seconds: float | None
    pixels: Callable[[], Array]


class Clip(Protocol):
    """An opened video or camera."""

    def shots(self) -> Iterator[Shot]:
        """Every frame in the order it is shown; ImageError where nothing more can be decoded."""
        ...

    def complaint(self) -> str | None:
        """After the last frame: what of the file was missing or broken."""
        ...


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are looked at: each ``every``-th, or at most ``fps`` a second of its own time; of each
    video no more than ``frames``."""

    every: int | None = None
    fps: float | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.fps is not None:
            raise UsageError("--every and --fps contradict each other", hint="give one of them")
        if any(count is not None and count < 1 for count in (self.every, self.frames)):
            raise UsageError("--every and --frames count frames: 1 or more")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise UsageError(f"--fps must be more than 0, got {self.fps:g}")

    @property
    def asked(self) -> bool:
        """Whether anything is said of videos."""
        return self != Sampling()


def is_camera(name: str) -> bool:
    """``camera:0``, or a device such as /dev/video0."""
    if _CAMERA.fullmatch(name) or _DEVICE.fullmatch(name):
        return True
    return name.startswith("/dev/") and _DEVICE.fullmatch(os.path.realpath(name)) is not None  # /dev/v4l/by-id/…


def is_video(name: str) -> bool:
    """Whether it is read as a video or a camera."""
    return is_camera(name) or Path(name).suffix.lower() in ENDINGS


def require_reader() -> str:
    """The package that reads videos here; MissingDependency where there is none."""
    found = next((package for package in READERS if find_spec(package) is not None), None)
    if found is None:
        raise MissingDependency(
            "videos and cameras need PyAV or OpenCV, neither of which is installed here",
            hint=pip_line("edgevit[video]"),
        )
    return found


def opened(name: str, package: str) -> AbstractContextManager[Clip]:
    """The video or camera of that name, opened by one of ``READERS``; ImageError where it is none."""
    reader = import_module(READERS[package])
    device = camera[1] if (camera := _CAMERA.fullmatch(name)) else name
    clip: AbstractContextManager[Clip] = reader.camera(device) if is_camera(name) else reader.video(Path(name))
    return clip


def frames(name: str, sampling: Sampling, package: str | None = None) -> Iterator[Picture | Failure]:
    """The frames of a video or a camera that ``sampling`` takes, then a Failure for what is missing or broken."""
    try:
        with opened(name, package or require_reader()) as clip:
            for count, (index, shot, seconds) in enumerate(_taken(clip, sampling), start=1):
                yield Picture(name, shot.pixels(), frame=index, seconds=seconds)
                if count == sampling.frames:
                    return
            if said := clip.complaint():
                yield failed(name, said)
    except ImageError as error:
        yield failed(name, error)


def _taken(clip: Clip, sampling: Sampling) -> Iterator[tuple[int, Shot, float | None]]:
    """(index, frame, seconds since the first) of those that are looked at."""
    first: float | None = None
    due = 0.0
    for index, shot in enumerate(clip.shots()):
        first = shot.seconds if first is None else first
        seconds = None if shot.seconds is None or first is None else max(0.0, shot.seconds - first)
        if sampling.fps is not None:
            if seconds is None:
                raise ImageError("its frames have no time stamps, which --fps goes by", hint="use --every")
            if seconds < due - _LATE:
                continue
            due = (math.floor((seconds + _LATE) * sampling.fps) + 1) / sampling.fps
        elif index % (sampling.every or 1):
            continue
        yield index, shot, seconds


def check_size(width: int, height: int) -> None:
    """ImageError for a frame of no pixels, or of more than are decoded safely."""
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"frames of {width}×{height} pixels are too large", hint="scale the video down first")
