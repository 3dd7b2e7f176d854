"""Videos and cameras through PyAV (libav)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import first_line
from edgevit.foreign import opened
from edgevit.images import ImageError
from edgevit.prediction.videos import FORMATS, Shot, check_size

_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
CAMERAS = {"linux": "video4linux2", "darwin": "avfoundation", "win32": "dshow"}
_MICRO = 1_000_000  # the unit of a file's duration
_GAP_S, _GAP = 0.5, 0.05  # how much of a file may be missing at its end: its parts do not end at the same moment


class Stream:
    """The first video stream of a container; ``whole`` where the container says how long it is."""

    def __init__(self, container: Any, stream: Any, *, whole: bool) -> None:
        self.container, self.stream, self.whole = container, stream, whole
        self.count, self.broken = 0, 0
        self.reached: float | None = None  # s, of any of its streams: sound may be longer than what is seen

    def shots(self) -> Iterator[Shot]:
        """Packets that cannot be decoded are left out, and counted."""
        for packet in self._packets():
            try:
                frames = packet.decode() if packet.stream_index == self.stream.index else ()
            except av.FFmpegError:
                self.broken += 1
                continue
            for frame in frames:
                check_size(frame.width, frame.height)
                self.count += 1
                yield Shot(frame.time, _Pixels(frame, self.stream))
        if not self.count:
            raise ImageError("no frame of it can be decoded", hint="is the file complete?")

    def _packets(self) -> Iterator[Any]:
        try:
            for packet in self.container.demux():
                self.broken += packet.is_corrupt
                if packet.pts is not None and packet.time_base:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    self.reached = max(end, self.reached or end)
                yield packet
        except av.FFmpegError as exc:
            raise ImageError(f"it cannot be read after frame {self.count} ({first_line(exc)})") from exc

    def complaint(self) -> str | None:
        if self.whole and self.container.duration and self.reached is not None:
            length = self.container.duration / _MICRO
            passed = self.reached - (self.container.start_time or 0) / _MICRO
            if length - passed > max(_GAP_S, _GAP * length):
                return f"ends at {passed:.1f} s of {length:.1f} s, after {self.count} frames; is the file complete?"
        if self.broken:
            return f"{self.broken} of its packets are broken: what they show was left out or guessed"
        return None


class _Pixels:
    """Turns a frame into (H, W, 3) uint8 RGB as it is meant to be seen: upright, its pixels square."""

    def __init__(self, frame: Any, stream: Any) -> None:
        self.frame, self.stream = frame, stream

    def __call__(self) -> Array:
        ratio = self.stream.sample_aspect_ratio
        wide = round(self.frame.width * ratio) if ratio and ratio > 0 else self.frame.width
        check_size(wide, self.frame.height)
        pixels: Array = self.frame.to_ndarray(format="rgb24", width=wide, height=self.frame.height)
        turned = self.frame.side_data.get("DISPLAYMATRIX")
        return pixels if turned is None else upright(pixels, np.frombuffer(bytes(turned), np.int32))


def upright(pixels: Array, matrix: Array) -> Array:
    """(H, W, 3) as a display matrix of 9 numbers places them: x' = m0·x + m3·y and y' = m1·x + m4·y, to the nearest
    quarter of a turn."""
    if len(matrix) < 5 or not matrix[[0, 1, 3, 4]].any():
        return pixels
    swapped = abs(matrix[1]) > abs(matrix[0])
    across, down = (matrix[3], matrix[1]) if swapped else (matrix[0], matrix[4])
    placed = pixels.transpose(1, 0, 2) if swapped else pixels
    return np.ascontiguousarray(placed[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


@contextmanager
def video(path: Path) -> Iterator[Stream]:
    """A video file; ImageError in one sentence for what is none."""
    with opened(path, "a video", error=ImageError) as file:
        with _in_words():
            container = av.open(file, options=_OPTIONS)
        with closing(container):
            yield Stream(container, _shown(container), whole=True)


@contextmanager
def camera(device: str) -> Iterator[Stream]:
    """A camera by its number, path or name."""
    system = next((key for key in CAMERAS if sys.platform.startswith(key)), None)
    if system is None:
        raise ImageError(f"PyAV opens no camera on {sys.platform}", hint="pip install opencv-python")
    number = re.fullmatch(r"\d+", device)
    if system == "win32" and number:
        raise ImageError("cameras have names here, not numbers", hint="camera:NAME, as the device manager shows it")
    where = {"linux": f"/dev/video{device}" if number else device, "win32": f"video={device}"}.get(system, device)
    with _in_words("cannot be opened", "name another: camera:0, camera:1, …"):
        container = av.open(where, format=CAMERAS[system])
    with closing(container):
        yield Stream(container, _shown(container), whole=False)


def _shown(container: Any) -> Any:
    """The first stream that is a video, and no picture on a record's sleeve."""
    if not len(container.streams):
        raise ImageError("broken video: nothing in it can be read", hint="is the file complete?")
    sleeve = av.stream.Disposition.attached_pic
    found = next((one for one in container.streams.video if not one.disposition & sleeve), None)
    if found is None:
        raise ImageError("holds sound and no video" if container.streams.audio else "holds no video")
    if found.codec_context is None:
        raise ImageError("its video is of a kind that is not decoded here", hint="convert it to H.264 in MP4")
    return found


@contextmanager
def _in_words(what: str = "broken video", hint: str = "is the file complete, and a video?") -> Iterator[None]:
    """Whatever libav raises while it opens, as one ImageError."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError, IndexError) as exc:  # an error without a number is an IndexError
        said = (exc.strerror or "").lower() if isinstance(exc, OSError) else ""
        raise ImageError(f"{what} ({said})" if said else what, hint=hint) from exc
