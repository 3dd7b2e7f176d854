"""What a user names, and which pictures it leads to."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from video_files import plain, write_video

from edgevit.errors import UsageError
from edgevit.images import ImageError
from edgevit.prediction.inputs import Inputs, names_in
from edgevit.prediction.results import Failure
from edgevit.prediction.videos import Sampling


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / name, format="PNG")
    return folder


def found(inputs: Inputs, root: Path) -> list[str]:
    return [os.path.relpath(one.name, root) if not isinstance(one, Failure) else one.error for one in inputs]


def test_a_folder_gives_its_pictures_in_the_order_of_names_and_counts_the_rest(tmp_path: Path) -> None:
    touched(tmp_path, "b.png", "a/2.JPG", "a/1.webp", "a/.x.png", ".hidden/y.png", "c/d/e.avif", "z.txt", "f.mp4")
    (tmp_path / "round").symlink_to(tmp_path)
    inputs = Inputs([str(tmp_path)])
    assert found(inputs, tmp_path) == ["a/1.webp", "a/2.JPG", "b.png", "c/d/e.avif"]
    assert inputs.skips() == "5 files skipped: 2 hidden, 1 linked folder, 1 no picture, 1 video"


def test_a_folder_deeper_than_pythons_stack_is_searched_to_the_bottom(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        deep = tmp_path.joinpath(*["d"] * 1500)
        below = here
        for _ in range(1500):
            os.mkdir("d", dir_fd=below)
            below, before = os.open("d", os.O_RDONLY, dir_fd=below), below
            if before != here:
                os.close(before)
        os.close(os.open("x.png", os.O_CREAT, dir_fd=below))
        os.close(below)
        (one,) = Inputs([str(tmp_path)])
        assert one.name == str(deep / "x.png")
    finally:
        os.close(here)
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # what removes folders in Python is no deeper


def test_a_folder_without_pictures_is_a_failure_that_names_its_videos(tmp_path: Path) -> None:
    touched(tmp_path, "a.txt", "b.mkv")
    (one,) = Inputs([str(tmp_path)])
    assert one.error == f"{tmp_path}: no pictures in this folder; its 1 video can be named"


def test_a_glob_is_matched_in_order_and_a_file_with_such_a_name_comes_first(tmp_path: Path) -> None:
    touched(tmp_path, "b.png", "a.png", "c/d.png", "[a].png", "n.txt")
    assert found(Inputs([f"{tmp_path}/?.png"]), tmp_path) == ["a.png", "b.png"]
    assert found(Inputs([f"{tmp_path}/[a].png"]), tmp_path) == ["[a].png"]
    assert found(Inputs([f"{tmp_path}/[ab].png"]), tmp_path) == ["a.png", "b.png"]
    everything = ["[a].png", "a.png", "b.png", "c/d.png"]
    assert sorted(found(Inputs([f"{tmp_path}/**/*"]), tmp_path)) == everything
    assert sorted(found(Inputs([f"{tmp_path}/**"]), tmp_path)) == everything
    inputs = Inputs([f"{tmp_path}/*"])
    assert sorted(found(inputs, tmp_path)) == everything
    assert inputs.skips() == "1 file skipped: 1 no picture"
    assert found(Inputs([f"{tmp_path}/x*.png"]), tmp_path) == [f"{tmp_path}/x*.png: nothing matches"]


def test_a_glob_of_videos_gives_their_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "b.mp4", plain(2))
    write_video(tmp_path / "a.mp4", plain(3))
    inputs = Inputs([f"{tmp_path}/*.mp4"], Sampling(every=2))
    assert [(Path(one.name).name, one.frame) for one in inputs] == [("a.mp4", 0), ("a.mp4", 2), ("b.mp4", 0)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"], ids=["lines", "windows", "nul"])
def test_names_on_stdin_are_taken_as_they_are(tmp_path: Path, end: bytes) -> None:
    touched(tmp_path, "a*.png", "b c.png", "folder/d.png")
    names = [str(tmp_path / name).encode() for name in ("a*.png", "b c.png", "folder")]
    for text in (end.join(names) + end, end.join(names)):
        inputs = Inputs(["-"], listed=io.BufferedReader(io.BytesIO(text)))
        assert inputs.live
        assert found(inputs, tmp_path) == ["a*.png", "b c.png", "folder/d.png"]


def test_a_name_on_stdin_is_answered_before_the_next_is_written() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as other:
        other.write(b"one.png\ntw")
        names = names_in(stream)
        assert next(names) == b"one.png"
        other.write(b"o.png\n")
        assert next(names) == b"two.png"


def test_what_is_no_list_is_refused_in_words(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("L", (4, 4)).save(picture, "PNG")
    for data, said in ((picture.getvalue(), "holds a picture"), (b"x" * 200_000, "a line is too long")):
        (one,) = Inputs(["-"], listed=io.BufferedReader(io.BytesIO(data)))
        assert said in one.error


def test_an_address_is_refused_with_the_next_step_even_if_it_looks_like_a_glob_or_a_video() -> None:
    for address in ("https://a/b.jpg?size=1", "https://a/b.mp4", "rtsp://camera/1"):
        (one,) = Inputs([address])
        with pytest.raises(ImageError, match="an address, not a file") as caught:
            one.pixels()
        assert any(tool in caught.value.hint for tool in ("curl -O", "ffmpeg -i"))


def test_options_of_videos_without_a_video_are_refused() -> None:
    with pytest.raises(UsageError, match="are of videos and cameras"):
        Inputs(["a.png", "folder"], Sampling(fps=1)).check()
    Inputs(["*"], Sampling(fps=1)).check()
