"""Pictures of a Python program: all that a path, an array or a PIL image can be gives the same answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import plain, write_video

import edgevit
from edgevit.errors import UsageError
from edgevit.prediction.predictor import Predictor
from edgevit.prediction.results import Failure, Prediction
from edgevit.prediction.videos import Sampling


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    return tmp_path / "photo.png"


def test_a_path_a_picture_of_pil_and_its_pixels_get_the_same_answer(make_artifact, photo: Path) -> None:
    upright = np.rot90(np.asarray(Image.open(photo)), -1)
    results = edgevit.predict(make_artifact(batch=(1, 4)), [photo, str(photo), Image.open(photo), upright], threads=1)
    assert [one.image for one in results] == [str(photo)] * 3 + ["images[3]"]
    assert len({one.top for one in results}) == 1
    assert all(isinstance(one, Prediction) for one in results)


def test_one_picture_needs_no_list_and_a_stack_is_as_many(make_artifact, photo: Path) -> None:
    folder = make_artifact(batch=(1, 4))
    for one in (photo, str(photo), Image.open(photo), np.zeros((9, 9, 3), np.uint8)):
        assert len(edgevit.predict(folder, one, threads=1)) == 1
    assert len(edgevit.predict(folder, np.zeros((7, 9, 9, 3), np.uint8), threads=1)) == 7
    assert len(edgevit.predict(folder, f"{photo.parent}/*.png", threads=1)) == 1
    assert edgevit.predict(folder, [], threads=1) == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "LA", "CMYK", "I;16", "F"])
def test_every_mode_of_pil_is_taken_as_the_file_of_it_is(make_artifact, tmp_path: Path, mode: str) -> None:
    ramp = Image.fromarray(np.linspace(0, 255, 144, dtype=np.uint8).reshape(12, 12))
    unit = np.linspace(0, 1, 144, dtype=np.float32).reshape(12, 12)
    picture = Image.fromarray(unit) if mode == "F" else ramp.convert(mode)
    picture.save(tmp_path / "x.tiff")
    first, second = edgevit.predict(make_artifact(), [tmp_path / "x.tiff", picture], threads=1)
    assert first.top == second.top


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((4, 4, 3), np.float32), "an array of float32, where bytes of 0 to 255 are needed"),
        (np.zeros((4, 4, 3), np.int64), "an array of int64"),
        (np.zeros((3, 4, 4), np.uint8), "an array of 3×4×4, where height × width × 3 is needed"),
        (np.zeros((4, 4), np.uint8), "an array of 4×4"),
        (np.zeros((4, 4, 5), np.uint8), "an array of 4×4×5"),
        (np.zeros((0, 4, 3), np.uint8), "an array of 0×4×3"),
        (np.zeros((), np.uint8), "an array of a single number"),
        (b"bytes", "cannot be bytes"),
        (7, "cannot be int"),
        (None, "cannot be NoneType"),
    ],
    ids=["float", "int64", "planes", "grey", "five", "empty", "scalar", "bytes", "number", "none"],
)
def test_what_is_no_picture_is_one_sentence(make_artifact, wrong, said: str) -> None:
    folder = make_artifact()
    with pytest.raises(UsageError) as alone:
        edgevit.predict(folder, wrong, threads=1)
    with pytest.raises(UsageError) as listed:
        edgevit.predict(folder, [wrong], threads=1)
    assert said in str(alone.value)
    assert said in str(listed.value)
    assert str(listed.value).count("\n") == 0
    assert listed.value.hint


def test_a_predictor_is_opened_once_and_streams_whatever_comes(make_artifact, photo: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", plain(6))
    seen: list[int] = []

    def arrays():
        for index in range(1000):
            seen.append(index)
            yield np.full((8, 8, 3), index % 256, np.uint8)

    with edgevit.open_predictor(make_artifact(batch=(1, 4)), threads=1, top=2) as predictor:
        assert isinstance(predictor, Predictor)
        results = predictor.stream(arrays())
        assert len(next(results).top) == 2
        assert len(seen) == 4  # no more than one batch is held
        again = predictor.predict([tmp_path / "a.mp4", tmp_path / "none.png"], sampling=Sampling(every=3))
        assert [(one.frame, one.seconds) for one in again] == [(0, 0.0), (3, pytest.approx(0.3)), (None, None)]
        assert isinstance(again[-1], Failure)


def test_a_batch_gives_what_single_pictures_give_failures_in_their_places(make_artifact, tmp_path: Path) -> None:
    images: list[object] = [np.random.default_rng(row).integers(0, 256, (9, 9, 3), dtype=np.uint8) for row in range(11)]
    images[4:4] = [tmp_path / "none.png"]
    many = edgevit.predict(make_artifact("many", batch=(1, 8)), images, threads=1)
    single = edgevit.predict(make_artifact("single"), images, threads=1)
    fixed = edgevit.predict(make_artifact("fixed", batch=(3, 3)), images, threads=1)
    assert isinstance(many[4], Failure)
    for one, other, third in zip(many, single, fixed, strict=True):
        assert one.image == other.image == third.image
        if isinstance(one, Prediction):
            assert [guess.index for guess in one.top] == [guess.index for guess in other.top]
            probabilities = [[guess.probability for guess in result.top] for result in (one, other, third)]
            np.testing.assert_allclose(probabilities[0], probabilities[1], rtol=1e-5)
            np.testing.assert_allclose(probabilities[0], probabilities[2], rtol=1e-5)
