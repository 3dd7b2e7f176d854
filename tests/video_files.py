"""Small videos, written with libav itself."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ONE = 1 << 16  # of a display matrix
UPRIGHT = (ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
CLOCKWISE = (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30)  # what a phone held upright writes
COUNTER = (0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30)
HALF = (-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30)
MIRRORED = (-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    times: Sequence[int] | None = None,
    sound: bool = False,
    ratio: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """(H, W, 3) uint8 frames of even or odd sides at 10 a second, or at ``times`` in ms."""
    frames = list(frames)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264rgb" if path.suffix == ".mkv" else "mpeg4", rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24" if path.suffix == ".mkv" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if path.suffix != ".mkv":
            stream.codec_context.options = {"qscale": "1"}
            stream.codec_context.bit_rate = 4_000_000
        if ratio:
            stream.codec_context.sample_aspect_ratio = ratio
        heard = container.add_stream("aac", rate=8000) if sound else None
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = times[index] if times else index * 100, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if heard is not None:
            write_sound(container, heard)
    return path


def write_sound(container: av.container.OutputContainer, stream: av.AudioStream) -> None:
    samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
    samples.sample_rate, samples.pts = 8000, 0
    container.mux(stream.encode(samples))
    container.mux(stream.encode())


def turned(path: Path, matrix: tuple[int, ...]) -> Path:
    """The MP4 with another display matrix in its track's header."""
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44  # behind version, dates, number, duration, layer and volume
    assert struct.unpack(">9i", data[at : at + 36]) == UPRIGHT
    data[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path


def plain(count: int, size: tuple[int, int] = (24, 32)) -> list[np.ndarray]:
    """Frames of one grey each, each brighter than the one before."""
    return [np.full((*size, 3), 10 + 200 * index // max(1, count - 1), np.uint8) for index in range(count)]
