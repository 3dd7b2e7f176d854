"""The metric of every task: recorded of the source model at export, repeated by verify, and judged."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from edgevit.artifact.opened import Artifact
from edgevit.artifact.seal import sealed
from edgevit.build import export
from edgevit.errors import ParityFailed, UsageError
from edgevit.images import Preprocess
from edgevit.info import describe
from edgevit.models.spec import ModelSpec, attach_spec
from edgevit.proof.verify import verify

SIDE = 16
STEPS = Preprocess(size=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3, crop="squash")


class Brightness(nn.Module):
    """Class 1 where a pixel is bright."""

    def forward(self, image: Tensor) -> Tensor:
        light = image.mean(dim=1)
        return torch.stack([0.5 - light, light - 0.5], dim=1)


class Twice(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.interpolate(image, scale_factor=2.0, mode="nearest")


class Shade(nn.Module):
    """Bright is far: from 1 m to 2 m."""

    def forward(self, image: Tensor) -> Tensor:
        return image.mean(dim=1) + 1.0


class Colour(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.mean(dim=(2, 3))


class OneBox(nn.Module):
    """One object of class 0 on the left half, and nothing else (DETR's form)."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        light = image.mean(dim=(1, 2, 3))[:, None, None]
        box = torch.tensor([[[0.25, 0.5, 0.5, 1.0]]]) + 0.0 * light
        return {"logits": torch.tensor([[[4.0, 0.0, -4.0]]]) + 0.0 * light, "pred_boxes": box}


def split_picture(index: int) -> np.ndarray:
    """Left half dark, right half bright, of grey levels that depend on the index."""
    pixels = np.full((SIDE, SIDE, 3), 20 + index, np.uint8)
    pixels[:, SIDE // 2 :] = 230 - index
    return pixels


def saved(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def masks(folder: Path) -> str:
    for index in range(20):
        saved(folder / f"images/{index}.png", split_picture(index))
        truth = np.zeros((SIDE, SIDE), np.uint8)
        truth[:, SIDE // 2 - 2 :] = 1  # two columns more than are bright: IoU 6/8 and 8/10
        truth[0] = 255
        saved(folder / f"masks/{index}.png", truth)
    (folder / "classes.txt").write_text("dark\nbright\n")
    return f"masks:{folder}"


def pairs(folder: Path) -> str:
    for index in range(20):
        saved(folder / f"low/{index}.png", split_picture(index))
        saved(folder / f"high/{index}.png", np.repeat(np.repeat(split_picture(index), 2, 0), 2, 1) + np.uint8(3))
    return f"pairs:{folder}"


def depth(folder: Path) -> str:
    (folder / "depth").mkdir(parents=True)
    for index in range(20):
        saved(folder / f"images/{index}.png", split_picture(index))
        metres = split_picture(index).mean(axis=2) / 255 + 1
        np.save(folder / f"depth/{index}.npy", (metres * 1.1).astype(np.float32))
    return f"depth:{folder}"


def colours(folder: Path) -> str:
    for which, name in enumerate(("red", "blue")):
        for index in range(20):
            pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
            pixels[..., which] = 200 + index
            saved(folder / name / f"{index}.png", pixels)
    return f"folder:{folder}"


def boxes(folder: Path) -> str:
    images, notes = [], []
    for index in range(20):
        saved(folder / f"images/{index}.png", split_picture(index))
        images.append({"id": index, "file_name": f"{index}.png", "width": SIDE, "height": SIDE})
        notes.append({"image_id": index, "category_id": 1, "bbox": [0, 0, SIDE // 2, SIDE]})
    whole = {
        "images": images,
        "annotations": notes,
        "categories": [{"id": 1, "name": "left"}, {"id": 2, "name": "other"}],
    }
    (folder / "all.json").write_text(json.dumps(whole))
    return f"coco:{folder}"


@dataclass(frozen=True)
class Case:
    model: type[nn.Module]
    data: object
    metric: str
    value: float


# A noise of 3 grey levels is 3 * 219 / 255 of Y.
CASES = {
    "segment": Case(Brightness, masks, "mIoU", (6 / 8 + 8 / 10) / 2),
    "restore": Case(Twice, pairs, "PSNR", 20 * float(np.log10(255 / (3 * 219 / 255)))),
    "depth": Case(Shade, depth, "AbsRel", 1 - 1 / 1.1),
    "embed": Case(Colour, colours, "linear probe", 1.0),
    "detect": Case(OneBox, boxes, "AP", 1.0),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    """A function that exports the model of a task once: (artifact, data)."""
    done: dict[str, tuple[Path, str]] = {}

    def of(task: str) -> tuple[Path, str]:
        if task not in done:
            folder = tmp_path_factory.mktemp(task)
            data = CASES[task].data(folder / "data")
            spec = ModelSpec(task, "module", (SIDE, SIDE), STEPS, None, task=task)
            model = attach_spec(CASES[task].model(), spec)
            done[task] = export(model, "onnx", out=folder / "out", data=data, threads=1).path, data
        return done[task]

    return of


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
