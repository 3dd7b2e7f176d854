"""The metric of every task: recorded of the source model at export, repeated by verify, and judged."""

from __future__ import annotations

import shutil
from pathlib import Path

import judged_models
import numpy as np
import pytest
from judged_models import CASES, SIDE, STEPS, Brightness, masks, saved

from edgevit.artifact.opened import Artifact
from edgevit.artifact.seal import sealed
from edgevit.build import export
from edgevit.errors import ParityFailed, UsageError
from edgevit.info import describe
from edgevit.models.loading.source import load
from edgevit.models.spec import ModelSpec, attach_spec
from edgevit.proof.verify import verify
from edgevit.request import ModelChoice


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    """A function that exports the model of a task once: (artifact, data)."""
    return judged_models.exporter(tmp_path_factory)


@pytest.mark.parametrize("task", CASES)
def test_the_source_models_figure_is_recorded_and_verify_repeats_it(exported, task: str) -> None:
    path, data = exported(task)
    recorded = Artifact.open(path).manifest.quality
    assert recorded is not None
    assert (recorded.metric, recorded.value) == (CASES[task].metric, pytest.approx(CASES[task].value, abs=1e-4))
    found = verify(path, data=data, threads=1)
    assert found.accuracy is None
    assert found.quality is not None
    assert found.quality.value == pytest.approx(recorded.value, abs=1e-3)
    assert found.quality.recorded == recorded.value
    said = next(check for check in found.checks if check.startswith(recorded.metric))
    assert f"(the same {recorded.images} images as at export); the source model had" in said
    assert found.record()["quality"]["metric"] == recorded.metric
    assert dict(describe(Artifact.open(path)))["quality"] == recorded.sentence("source model")


def test_a_figure_that_is_not_measured_again_is_said_to_be_what_was_recorded(exported) -> None:
    path, data = exported("segment")
    doubts = verify(path, threads=1).unchecked
    assert any(doubt.endswith(f"is what was recorded: --data {data} measures it again") for doubt in doubts)


def claiming(path: Path, copy: Path, **changes) -> Path:
    """A copy of the artifact whose recorded quality was another, sealed and not signed."""
    shutil.copytree(path, copy)
    manifest = Artifact.open(copy).manifest
    quality = manifest.quality.model_copy(update=changes)
    altered = sealed(manifest.model_copy(update={"quality": quality}))
    (copy / "edgevit.sig").unlink(missing_ok=True)
    (copy / "edgevit.json").write_text(altered.model_dump_json())
    return copy


@pytest.mark.parametrize("off", [0.02, -0.02])
def test_an_artifact_that_is_worse_or_better_than_its_model_fails(exported, tmp_path: Path, off: float) -> None:
    path, data = exported("segment")
    claims = claiming(path, tmp_path / "copy", value=(6 / 8 + 8 / 10) / 2 + off)
    with pytest.raises(ParityFailed, match=r"mIoU 0\.775 .* from which it may be 0\.01 away"):
        verify(claims, data=data, threads=1)
    near = claiming(path, tmp_path / "near", value=(6 / 8 + 8 / 10) / 2 + off / 4)
    assert verify(near, data=data, threads=1).quality.recorded is not None


def test_data_is_the_recorded_one_at_another_path_and_is_not_judged_where_it_differs(exported, tmp_path: Path) -> None:
    path, data = exported("segment")
    moved = Path(shutil.copytree(data.removeprefix("masks:"), tmp_path / "moved"))
    assert verify(path, data=f"masks:{moved}", threads=1).quality.recorded is not None
    for mask in (moved / "masks").iterdir():
        saved(mask, np.zeros((SIDE, SIDE), np.uint8))
    found = verify(path, data=f"masks:{moved}", threads=1)
    assert found.quality.recorded is None
    assert any("is not judged on other images" in check for check in found.checks)


def test_classes_of_the_data_go_by_their_names(tmp_path: Path) -> None:
    data = masks(tmp_path / "data")
    spec = ModelSpec("segment", "module", (SIDE, SIDE), STEPS, None, task="segment", labels=("bright", "dark"))
    with_names = attach_spec(Brightness(), spec)
    quality = export(with_names, "onnx", out=tmp_path / "out", data=data, threads=1).manifest.quality
    assert quality is not None
    assert quality.value < 0.2  # it calls bright dark


def test_data_that_does_not_fit_is_refused_in_a_sentence(exported, tmp_path: Path) -> None:
    path, data = exported("segment")
    moved = Path(shutil.copytree(data.removeprefix("masks:"), tmp_path / "moved"))
    for mask in (moved / "masks").iterdir():
        saved(mask, np.zeros((3, 3), np.uint8))
    with pytest.raises(UsageError, match="a mask has 3×3 pixels, its image 16×16"):
        verify(path, data=f"masks:{moved}", threads=1)


def test_a_timm_model_without_its_head_is_probed_at_export_and_again_by_verify(tmp_path: Path) -> None:
    request = ModelChoice("timm:test_resnet", classes=0, image_size=(32, 32))
    artifact = export(load(request), "onnx", out=tmp_path / "out", data="digits", threads=1)
    manifest = artifact.manifest
    assert (manifest.model.task, manifest.model.classes, manifest.accuracy) == ("embed", None, None)
    assert manifest.quality is not None
    assert (manifest.quality.metric, manifest.quality.images) == ("linear probe", 360)
    assert list(manifest.quality.others) == ["5 nearest"]
    found = verify(artifact.path, data="digits", runtime="torch", threads=1).quality  # rebuilt without its head
    assert found is not None
    assert found.value == pytest.approx(manifest.quality.value, abs=0.01)
    with pytest.raises(ParityFailed, match="linear probe"):
        verify(
            claiming(artifact.path, tmp_path / "copy", value=manifest.quality.value - 0.05), data="digits", threads=1
        )


def test_data_that_says_other_things_than_a_task_is_judged_by_has_no_lack_of_labels(exported) -> None:
    found = verify(exported("depth")[0], data=exported("segment")[1], threads=1)
    assert found.quality is None
    assert any("their masks say nothing that depth is judged by" in sentence for sentence in found.checks)


def test_the_scores_of_many_objects_are_no_classes_of_an_image(exported) -> None:
    found = verify(exported("detect")[0], data=exported("embed")[1], threads=1)
    assert (found.accuracy, found.quality) == (None, None)
    assert any("their classes say nothing that detect is judged by" in sentence for sentence in found.checks)


def test_a_class_that_the_model_does_not_tell_apart_is_refused(exported, tmp_path: Path) -> None:
    path, data = exported("segment")
    moved = Path(shutil.copytree(data.removeprefix("masks:"), tmp_path / "moved"))
    (moved / "classes.txt").unlink()
    saved(moved / "masks/3.png", np.full((SIDE, SIDE), 77, np.uint8))
    with pytest.raises(UsageError, match="holds class 77; the model tells 2 apart, 0 to 1") as caught:
        verify(path, data=f"masks:{moved}", threads=1)
    assert caught.value.hint


@pytest.mark.parametrize("source", ["module", "file"])
def test_a_model_that_could_not_be_judged_says_why(exported, tmp_path: Path, source: str) -> None:
    data = masks(tmp_path / "data")
    for mask in (tmp_path / "data/masks").iterdir():
        saved(mask, np.full((SIDE, SIDE), 255, np.uint8))
    spec = ModelSpec("segment", "module", (SIDE, SIDE), STEPS, None, task="segment")
    model = attach_spec(Brightness(), spec) if source == "module" else str(exported("segment")[0] / "model.onnx")
    made = export(model, "onnx", out=tmp_path / "out", data=data, task="segment", threads=1).manifest
    assert made.quality is None
    assert f"how good it is on {data} was not measured: no image of the data holds a pixel with a class" in made.notes
