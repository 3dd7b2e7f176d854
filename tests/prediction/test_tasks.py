"""What predict says and draws for every task, by real artifacts."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from task_models import TASKS, all_exported
from typer.testing import CliRunner
from video_files import plain, write_video

import edgevit
from edgevit.artifact.opened import Artifact
from edgevit.cli import app
from edgevit.data.rle import decoded
from edgevit.errors import Unsupported, UsageError
from edgevit.prediction import album
from edgevit.prediction.results import Prediction

DARK, BRIGHT = (0, 0, 0), (250, 240, 230)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return all_exported(tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """64×32: dark on the left, bright on the right."""
    (tmp_path / "in").mkdir()
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, 32:] = BRIGHT
    Image.fromarray(pixels).save(tmp_path / "in/photo.png")
    return tmp_path / "in/photo.png"


def run(*args: object) -> tuple[int, str, str]:
    ran = CliRunner().invoke(app, ["predict", *map(str, args), "--threads", "1"])
    if isinstance(ran.exception, edgevit.errors.EdgeVitError):
        return ran.exception.exit_code, ran.stdout, f"{ran.exception}; {ran.exception.hint}"
    return ran.exit_code, ran.stdout, ran.stderr


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


WORDS = {
    "segment": "dark 50.0%, bright 50.0%",
    "detect": "bright 90.0% at 16 8 64 32, dark 50.0% at 4 4 36 20",
    "restore": "a picture of 32×32 pixels",
    "depth": "from 0 to 9.412, the median 4.706",
    "embed": "3 numbers of length 0.8156: 0.49 0.471 0.451",
    "tensors": "sum 1 from 120.5 to 120.5; rows 16 from 0.4706 to 0.4706",
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_says_its_answer_in_words(artifacts: Mapping[str, Path], photo: Path, task: str) -> None:
    code, said, _ = run(artifacts[task], photo)
    assert (code, said) == (0, f"{photo}: {WORDS[task]}\n")


@pytest.mark.parametrize("task", TASKS)
def test_json_is_the_record_of_the_answer(artifacts: Mapping[str, Path], photo: Path, task: str) -> None:
    (found,) = json.loads(run(artifacts[task], photo, "--json")[1])
    (result,) = edgevit.predict(artifacts[task], [photo], threads=1)
    assert found.pop("image") == str(photo)
    assert found == json.loads(json.dumps(result.answer.record()))
    if task == "segment":
        bright = next(one for one in found["segments"] if one["label"] == "bright")
        assert (decoded(bright["mask"]) == (np.arange(64) >= 32)).all()


COLUMNS = {
    "segment": ["label", "index", "share"],
    "detect": ["label", "index", "score", "x0", "y0", "x1", "y1"],
    "restore": ["height", "width"],
    "depth": ["height", "width", "min", "median", "max"],
    "embed": ["value_1", "value_2", "value_3"],
    "tensors": ["output", "shape", "dtype", "min", "mean", "max"],
}
LINES = {"segment": 2, "detect": 2, "tensors": 2}


@pytest.mark.parametrize("task", TASKS)
def test_csv_has_a_line_for_each_thing_and_json_lines_one_for_each_picture(
    artifacts: Mapping[str, Path], photo: Path, tmp_path: Path, task: str
) -> None:
    (photo.parent / "bad.png").write_text("no picture")
    out, lines = tmp_path / "x.csv", tmp_path / "x.jsonl"
    assert run(artifacts[task], photo.parent, "-o", out, "--jsonl", lines)[0] == 1
    header, bad, *rows = csv.reader(out.open(newline=""))
    assert header == ["image", "frame", "seconds", *COLUMNS[task], "error"]
    assert bad[0].endswith("bad.png")
    assert bad[-1]
    assert len(rows) == LINES.get(task, 1)
    assert all(row[0] == str(photo) and "" not in row[3:-1] for row in rows)
    assert [json.loads(line)["image"] for line in lines.read_text().splitlines()] == [bad[0], str(photo)]


DRAWN = {"segment": (32, 64), "detect": (32, 64), "restore": (32, 32), "depth": (32, 64)}


@pytest.mark.parametrize("task", DRAWN)
def test_a_picture_is_drawn_into_a_folder_and_into_a_file(
    artifacts: Mapping[str, Path], photo: Path, tmp_path: Path, task: str
) -> None:
    code, said, told = run(artifacts[task], photo, "-o", tmp_path / "out")
    written = tmp_path / "out/photo.png"
    assert (code, said) == (0, f"{photo}: {WORDS[task]}; picture {written}\n")
    assert told.endswith(f"1 answer in {tmp_path / 'out'}\n")
    picture = pixels_of(written)
    assert (picture.shape, picture.dtype) == ((*DRAWN[task], 3), np.uint8)
    (result,) = edgevit.predict(artifacts[task], photo, threads=1)
    assert (picture == result.drawn()).all()
    (found,) = json.loads(run(artifacts[task], photo, "-o", tmp_path / "one.png", "--json")[1])
    assert found["picture"] == str(tmp_path / "one.png")
    assert (pixels_of(tmp_path / "one.png") == picture).all()


def test_what_is_drawn_is_what_was_answered(artifacts: Mapping[str, Path], photo: Path, tmp_path: Path) -> None:
    drawn = {}
    for task in DRAWN:
        run(artifacts[task], photo, "-o", tmp_path / f"{task}.png")
        drawn[task] = pixels_of(tmp_path / f"{task}.png").astype(int)
    over, boxes, depth, restored = (drawn[task] for task in ("segment", "detect", "depth", "restore"))
    assert len(np.unique(over.reshape(-1, 3), axis=0)) == 2
    assert (over[0, 0] != over[0, 63]).any()
    assert (boxes[0] == pixels_of(photo)[0]).all()  # no box is there
    assert (boxes[8, 20:60] != pixels_of(photo)[8, 20:60]).any(axis=1).all()  # the surest one's upper side
    assert (depth[:, 0] == 0).all()
    assert (depth[:, 63] == 255).all()
    assert (restored[:, 0] == DARK).all()
    assert (restored[:, 31] == BRIGHT).all()


@pytest.mark.parametrize("task", ["embed", "tensors"])
def test_answers_that_cannot_be_seen_are_not_drawn(
    artifacts: Mapping[str, Path], photo: Path, tmp_path: Path, task: str
) -> None:
    code, _, said = run(artifacts[task], photo, "-o", tmp_path / "out")
    assert code == 2
    assert "cannot be drawn" in said
    assert not (tmp_path / "out").exists()


def test_a_classifier_is_not_drawn_either(make_artifact, photo: Path, tmp_path: Path) -> None:
    assert run(make_artifact(), photo, "-o", tmp_path / "out.png")[0] == 2


def test_pictures_of_one_name_are_told_apart(artifacts: Mapping[str, Path], photo: Path, tmp_path: Path) -> None:
    for name in ("a/photo.jpg", "a/PHOTO.png", "b/photo.png", "b/photo-2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.open(photo).save(tmp_path / name)
    out = tmp_path / "out"
    found = json.loads(run(artifacts["depth"], photo, tmp_path / "a", tmp_path / "b", "-o", out, "--json")[1])
    names = [Path(one["picture"]).name for one in found]
    assert names == ["photo.png", "PHOTO-2.png", "photo-3.png", "photo-2-2.png", "photo-4.png"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)


def test_what_exists_is_kept_without_force(artifacts: Mapping[str, Path], photo: Path, tmp_path: Path) -> None:
    out, one = tmp_path / "out", tmp_path / "one.png"
    out.mkdir()
    assert run(artifacts["depth"], photo, "-o", out)[0] == 0  # it was empty
    one.write_text("mine")
    for place in (out, one):
        code, _, said = run(artifacts["depth"], photo, "-o", place)
        assert code == 2
        assert "--force" in said
    assert one.read_text() == "mine"
    (out / "other.txt").write_text("mine")
    for place in (out, one):
        assert run(artifacts["segment"], photo, "-o", place, "--force")[0] == 0
    assert (pixels_of(out / "photo.png") == pixels_of(one)).all()
    assert (out / "other.txt").read_text() == "mine"


def test_no_input_is_written_over(artifacts: Mapping[str, Path], photo: Path, tmp_path: Path, monkeypatch) -> None:
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    monkeypatch.chdir(photo.parent)
    for inputs, out in (
        ([photo], photo),
        ([photo], tmp_path / "link.png"),
        ([photo], photo.parent),
        ([photo.parent], photo.parent),
        (["photo.png"], "."),
        (["*.png"], photo.parent),
        ([photo.parent], photo.parent / "new"),
        (["-"], photo.parent),
    ):
        code, _, said = run(artifacts["depth"], *inputs, "-o", out, "--force")
        assert code == 2, (inputs, out)
        assert said
        assert photo.read_bytes() == before
    assert [path.name for path in photo.parent.iterdir()] == ["photo.png"]


@pytest.mark.parametrize("inputs", [["in", "in"], ["in"], ["in/*.png"], ["-"], ["clip.mp4"]], ids=" ".join)
def test_one_file_takes_one_picture(artifacts: Mapping[str, Path], photo: Path, monkeypatch, inputs) -> None:
    monkeypatch.chdir(photo.parent.parent)
    code, _, said = run(artifacts["depth"], *inputs, "-o", "one.png")
    assert (code, "takes one picture" in said) == (2, True)


@pytest.mark.parametrize("name", ["out.jpg", "out.xlsx"])
def test_an_ending_that_is_not_written_is_said(artifacts: Mapping[str, Path], photo: Path, tmp_path, name: str) -> None:
    code, _, said = run(artifacts["depth"], photo, "-o", tmp_path / name)
    assert code == 2
    assert "OUT.png or a folder" in said


def test_every_frame_that_is_looked_at_is_a_picture(artifacts: Mapping[str, Path], tmp_path: Path, monkeypatch) -> None:
    clip = write_video(tmp_path / "clip.mp4", plain(6))
    out = tmp_path / "out"
    assert run(artifacts["segment"], clip, "--every", 2, "-o", out)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == [f"clip-{frame:06d}.png" for frame in (0, 2, 4)]
    monkeypatch.setattr(album, "MAX_FRAMES", 2)
    code, _, said = run(artifacts["segment"], clip, "-o", tmp_path / "less")
    assert code == 1
    assert "2 pictures are drawn" in said
    assert len(list((tmp_path / "less").iterdir())) == 2


def test_a_list_of_frames_keeps_no_pixels_and_a_stream_does(artifacts: Mapping[str, Path], tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", plain(2))
    listed = edgevit.predict(artifacts["depth"], clip, threads=1)
    with pytest.raises(Unsupported, match="kept by nobody"):
        listed[0].drawn()
    with edgevit.open_predictor(artifacts["depth"], threads=1) as predictor:
        for result in predictor.stream(clip):
            assert isinstance(result, Prediction)
            assert result.drawn() is not None
    assert edgevit.predict(artifacts["depth"], np.zeros((5, 6, 3), np.uint8), threads=1)[0].drawn().shape == (5, 6, 3)


def test_an_answer_that_names_no_classes_has_no_top_and_takes_no_labels(
    artifacts: Mapping[str, Path], photo: Path
) -> None:
    (result,) = edgevit.predict(artifacts["depth"], photo, threads=1)
    with pytest.raises(Unsupported, match="no answer of classes"):
        _ = result.top
    with pytest.raises(UsageError, match="name no classes"):
        edgevit.predict(artifacts["depth"], photo, labels=["a"])
    with pytest.raises(UsageError, match="3 labels for 2 classes"):
        edgevit.predict(artifacts["segment"], photo, labels=["a", "b", "c"])
    (renamed,) = edgevit.predict(artifacts["segment"], photo, labels=["night", "day"], threads=1)
    assert renamed.answer.words() == "night 50.0%, day 50.0%"


def test_a_manifest_of_schema_1_still_predicts(make_artifact, photo: Path) -> None:
    folder = make_artifact()
    said = json.loads((folder / "edgevit.json").read_text())
    said["schema_version"], said["model"]["task"] = 1, "classifier"
    (folder / "edgevit.json").write_text(json.dumps(said))
    assert Artifact.open(folder).manifest.model.task == "classify"
    (found,) = json.loads(run(folder, photo, "--json")[1])
    assert len(found["top"]) == 4


def test_large_outputs_are_made_a_few_at_a_time(artifacts: Mapping[str, Path], photo: Path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr("edgevit.prediction.predictor.BYTES_AT_ONCE", 2 * 3 * 32 * 32 * 4)
    with edgevit.open_predictor(artifacts["restore"], threads=1) as predictor:
        real = predictor.session.infer
        monkeypatch.setattr(
            predictor.session, "infer", lambda feeds: seen.append(len(next(iter(feeds.values())))) or real(feeds)
        )
        assert len(predictor.predict([photo] * 5)) == 5
    assert seen == [2, 2, 1]
