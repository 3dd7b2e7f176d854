"""A tiny model of every task, exported: 16×16 images in, answers that a picture's own pixels decide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import edgevit
from edgevit.steps import Steps

SIDE = 16
LABELS = ("dark", "bright")


class Net(nn.Module):
    """A convolution that keeps the brightness of a pixel, 0 to 1, and one that keeps its colours."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        self.grey, self.colours = nn.Conv2d(3, 1, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
        with torch.no_grad():
            self.grey.weight.fill_(1 / 3)
            self.colours.weight.copy_(torch.eye(3)[:, :, None, None])
        self.register_buffer(
            "places", torch.tensor([[[1.0, 2.0, 9.0, 10.0], [4.0, 4.0, 16.0, 16.0], [0.0, 0.0, 3.0, 3.0]]])
        )

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        grey = self.grey(image)
        if self.task == "segment":
            return torch.cat([0.5 - grey, grey - 0.5], 1)
        if self.task == "restore":
            return nn.functional.interpolate(self.colours(image), scale_factor=2.0, mode="nearest")
        if self.task == "depth":
            return grey[:, 0] * 10
        if self.task == "detect":
            return self.found(grey)
        if self.task == "embed":
            return self.colours(image).mean((2, 3))
        return {"sum": grey.sum((1, 2, 3))[:, None], "rows": grey.mean((1, 3))}

    def found(self, grey: Tensor) -> dict[str, Tensor]:
        sure = grey.mean((1, 2, 3))[:, None]
        boxes = self.places * torch.ones_like(sure)[:, :, None]
        return {"boxes": boxes, "scores": torch.cat([sure * 0 + 0.5, sure * 0 + 0.9, sure * 0 + 0.01], 1),
                "labels": torch.tensor([[0, 1, 1]]) + (sure * 0).long()}  # fmt: skip


TASKS = ("segment", "detect", "restore", "depth", "embed", "tensors")


def exported(task: str, folder: Path) -> Path:
    """The artifact of a task, proved, in ``folder``."""
    labels = LABELS if task in ("segment", "detect") else None
    steps = Steps(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop="squash", interpolation="bilinear")
    edgevit.export(
        Net(task).eval(), "onnx", out=folder / task, image_size=SIDE, batch="1-4", task=task, labels=labels,
        preprocess=steps,
    )  # fmt: skip
    return folder / task


def all_exported(folder: Path) -> Mapping[str, Path]:
    return {task: exported(task, folder) for task in TASKS}
