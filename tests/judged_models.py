"""A model of every task that data judges: 16×16 pictures whose truth is known, and the figure that follows from it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from edgevit.build import export
from edgevit.images import Preprocess
from edgevit.models.spec import ModelSpec, attach_spec

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
    data: Callable[[Path], str]
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


def exporter(folders: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str]]:
    """A function that exports the model of a task once: (artifact, data)."""
    return functools.cache(lambda task: exported(task, folders.mktemp(task)))


def exported(task: str, folder: Path) -> tuple[Path, str]:
    """The artifact of a task, and the data that it was judged on at export."""
    data = CASES[task].data(folder / "data")
    model = attach_spec(CASES[task].model(), ModelSpec(task, "module", (SIDE, SIDE), STEPS, None, task=task))
    return export(model, "onnx", out=folder / "out", data=data, threads=1).path, data
