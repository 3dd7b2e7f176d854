"""Videos as they are: turned, odd, uneven, mute, cut, hostile; each a right answer or a sentence."""

from __future__ import annotations

import itertools
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest
from video_files import CLOCKWISE, COUNTER, HALF, MIRRORED, plain, turned, write_sound, write_video

from edgevit.errors import MissingDependency, UsageError
from edgevit.prediction import pyav
from edgevit.prediction.picture import Picture
from edgevit.prediction.results import Failure
from edgevit.prediction.videos import READERS, Sampling, frames
from edgevit.registry import pip_line

HERE = [package for package in READERS if find_spec(package)]  # each that is installed reads the same


def read(path: Path | str, package: str | None = None, **asked: float) -> list[Picture | Failure]:
    return list(frames(str(path), Sampling(**asked), package))


def places(found: list[Picture | Failure]) -> list[tuple[int | None, float | None]]:
    return [(one.frame, None if one.seconds is None else round(one.seconds, 3)) for one in found]


@pytest.mark.parametrize("package", HERE)
def test_every_frame_comes_with_its_number_and_its_time(tmp_path: Path, package: str) -> None:
    found = read(write_video(tmp_path / "a.mp4", plain(5)), package)
    assert places(found) == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    for one, level in zip(found, (10, 60, 110, 160, 210), strict=True):
        assert abs(int(one.source[5, 5, 0]) - level) <= 4
    assert {one.source.shape for one in found} == {(24, 32, 3)}


@pytest.mark.parametrize("package", HERE)
@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        (CLOCKWISE, lambda it: np.rot90(it, -1)),
        (COUNTER, np.rot90),
        (HALF, lambda it: it[::-1, ::-1]),
    ],
    ids=["clockwise", "counter", "half"],
)
def test_a_turned_video_is_seen_upright(tmp_path: Path, package: str, matrix: tuple[int, ...], turn) -> None:
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :16] = 240  # the upper left corner
    path = turned(write_video(tmp_path / "a.mp4", [picture] * 3), matrix)
    first = read(path, package)[0]
    assert np.abs(first.source.astype(int) - turn(picture)).mean() < 5


def test_a_mirrored_video_is_seen_as_it_was_meant(tmp_path: Path) -> None:
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :16] = 240
    path = turned(write_video(tmp_path / "a.mp4", [picture] * 3), MIRRORED)
    assert np.abs(read(path)[0].source.astype(int) - picture[:, ::-1]).mean() < 5


def test_odd_sides_and_lossless_colours_are_kept_to_the_pixel(tmp_path: Path) -> None:
    made = [np.random.default_rng(index).integers(0, 256, (17, 33, 3), dtype=np.uint8) for index in range(3)]
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 33, 17, "bgr0"
        for pixels in made:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    for one, pixels in zip(read(path), made, strict=True):
        np.testing.assert_array_equal(one.source, pixels)


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", plain(2), ratio=Fraction(2, 1))
    assert read(path)[0].source.shape == (24, 64, 3)


@pytest.mark.parametrize("package", HERE)
def test_an_uneven_frame_rate_keeps_its_own_times(tmp_path: Path, package: str) -> None:
    path = write_video(tmp_path / "a.mp4", plain(6), times=[0, 40, 500, 510, 1000, 2600])
    assert [round(one.seconds, 2) for one in read(path, package)] == [0, 0.04, 0.5, 0.51, 1.0, 2.6]
    assert [one.frame for one in read(path, package, fps=2)] == [0, 2, 4, 5]
    assert [one.frame for one in read(path, package, fps=1000)] == [0, 1, 2, 3, 4, 5]  # none is made up


def test_steps_and_counts_choose_frames_and_a_chosen_end_is_no_fault(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", plain(20))
    assert [one.frame for one in read(path, every=6)] == [0, 6, 12, 18]
    assert [one.frame for one in read(path, every=6, frames=2)] == [0, 6]
    assert [one.frame for one in read(path, fps=4)] == [0, 3, 5, 8, 10, 13, 15, 18]


@pytest.mark.parametrize("package", HERE)
def test_a_cut_video_gives_its_frames_and_says_that_it_is_cut(tmp_path: Path, package: str) -> None:
    whole = write_video(tmp_path / "a.mp4", plain(40, (240, 320)), options={"movflags": "faststart"})
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    *found, last = read(tmp_path / "cut.mp4", package)
    assert len(found) > 10
    assert all(isinstance(one, Picture) for one in found)
    assert isinstance(last, Failure)
    assert "cut.mp4: ends " in last.error
    assert last.error.endswith("is the file complete?")


@pytest.mark.parametrize("package", HERE)
@pytest.mark.parametrize("kind", ["headless", "empty", "text", "picture", "missing", "folder"])
def test_what_is_no_video_is_one_sentence(tmp_path: Path, package: str, kind: str) -> None:
    path = tmp_path / "x.mp4"
    data = write_video(tmp_path / "a.mp4", plain(9)).read_bytes()
    contents = {
        "headless": data[:-200],
        "empty": b"",
        "text": b"no video " * 99,
        "picture": b"\x89PNG\r\n\x1a\n" * 9,
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "folder":
        path.mkdir()
    (found,) = read(path, package)
    assert isinstance(found, Failure)
    assert found.error.startswith(f"{path}: ")
    assert "\n" not in found.error
    assert "Errno" not in found.error


def test_a_file_with_sound_alone_says_so(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        write_sound(container, container.add_stream("aac", rate=8000))
    (found,) = read(path)
    assert found.error == f"{path}: holds sound and no video"


def test_sound_beside_the_pictures_is_no_fault(tmp_path: Path) -> None:
    found = read(write_video(tmp_path / "a.mp4", plain(4), sound=True))
    assert [one.frame for one in found] == [0, 1, 2, 3]


@pytest.mark.parametrize("package", HERE)
def test_a_list_of_other_files_in_a_videos_clothes_opens_none_of_them(tmp_path: Path, package: str) -> None:
    secret = write_video(tmp_path / "secret.mp4", plain(3))
    for name, text in (
        ("hls.mp4", f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"),
        ("concat.mp4", f"ffconcat version 1.0\nfile {secret}\n"),
    ):
        (tmp_path / name).write_text(text)
        (found,) = read(tmp_path / name, package)
        assert isinstance(found, Failure)


def test_a_source_without_end_stops_at_the_frames_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "CAMERAS", dict.fromkeys(pyav.CAMERAS, "lavfi"))  # a test picture, made up for ever
    found = read("camera:testsrc=rate=20:size=64x48", frames=5)
    assert places(found) == [(0, 0.0), (1, 0.05), (2, 0.1), (3, 0.15), (4, 0.2)]
    endless = frames("camera:testsrc=rate=20:size=64x48", Sampling(fps=1))
    assert [one.frame for one in itertools.islice(endless, 3)] == [0, 20, 40]


@pytest.mark.parametrize("package", HERE)
def test_a_camera_that_is_not_there_is_one_sentence(package: str) -> None:
    (found,) = read("camera:93", package)
    assert found.error.startswith("camera:93: cannot be opened")
    assert "camera:0" in found.error


def test_a_sampling_that_means_nothing_is_refused() -> None:
    for wrong in ({"every": 2, "fps": 1.0}, {"every": 0}, {"fps": 0.0}, {"fps": float("nan")}, {"frames": -1}):
        with pytest.raises(UsageError):
            Sampling(**wrong)


def test_without_a_reader_the_pip_line_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevit.prediction.videos.find_spec", lambda package: None)
    with pytest.raises(MissingDependency) as caught:
        read(tmp_path / "a.mp4")
    assert caught.value.hint == pip_line("edgevit[video]")
