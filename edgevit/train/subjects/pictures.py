"""What a picture should be: larger, or without noise."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgevit.data.labelled import Images, LabelledData
from edgevit.data.targets import Targets
from edgevit.errors import UsageError
from edgevit.train.options import TrainOptions
from edgevit.train.subjects.answers import answer_of
from edgevit.train.subjects.base import Array, Truth

Place = tuple[int, int, int]  # which picture, and the first row and column of a tile of it


class Pictures:
    """The mean absolute error; tiles are turned and mirrored, which makes pictures of pictures."""

    shown: ClassVar[int] = 40_000

    def __init__(self, targets: Targets, options: TrainOptions) -> None:
        self.options = options
        self.truth = Truth(targets, lambda picture: picture.transpose(2, 0, 1))

    def view(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pictures = self.truth[rows].to(images) / 255
        if not self.options.augment:
            return images, pictures
        square = images.shape[2] == images.shape[3]
        which = int(torch.randint(8 if square else 4, (1,), generator=generator))
        return _turned(images, which), _turned(pictures, which)

    def loss(self, model: nn.Module, images: Tensor, truth: Tensor, rows: Tensor) -> Tensor:
        made = answer_of(model(images), "restore")
        if made.shape != truth.shape:
            raise UsageError(
                f"the model makes pictures of {_size(made)}, the data says {_size(truth)}",
                hint="use pairs of the model's own scale",
            )
        return F.l1_loss(made, truth)


def _turned(pictures: Tensor, which: int) -> Tensor:
    """One of the 8 ways that a square can lie; of any rectangle the first 4."""
    pictures = pictures.flip(3) if which & 1 else pictures
    pictures = pictures.flip(2) if which & 2 else pictures
    return pictures.transpose(2, 3) if which & 4 else pictures


def _size(pictures: Tensor) -> str:
    return f"{pictures.shape[3]}×{pictures.shape[2]} pixels"


def tiled(data: LabelledData, size: tuple[int, int]) -> LabelledData:
    """The pairs cut into tiles of what the model takes, and of what is true there; the rest at the edges is left out.

    UsageError for a picture that is smaller than a tile, and for pairs that are not all of one scale.
    """
    targets = data.targets
    if targets is None or not len(data):
        return data
    scale = _scale(data.images[0], targets[0], data.name)
    places: list[Place] = []
    for index in range(len(data)):
        image = data.images[index]
        if _scale(image, targets[index], data.name) != scale:
            raise UsageError(f"{data.name} holds pairs of several scales", hint="train on pairs of one")
        places += _places(index, image.shape[:2], size)
    if not places:
        raise UsageError(
            f"no picture of {data.name} has the {size[1]}×{size[0]} pixels that the model takes",
            hint="give larger pictures, or a smaller --image-size",
        )
    high = size[0] * scale, size[1] * scale
    images = Images(partial(_tile, data.images, places, size, 1), range(len(places)))
    cut = Targets("pictures", partial(_tile, targets, places, high, scale), range(len(places)))
    return LabelledData(data.name, images, targets=cut)


def _scale(low: Array, high: Array, name: str) -> int:
    scale = int(high.shape[0] // low.shape[0])
    if scale < 1 or high.shape[:2] != (scale * low.shape[0], scale * low.shape[1]):
        raise UsageError(
            f"{name}: a picture of {low.shape[1]}×{low.shape[0]} pixels is paired with one of "
            f"{high.shape[1]}×{high.shape[0]}",
            hint="the sides of the second must be the first's, or two, three or four times those",
        )
    return scale


def _places(index: int, sides: tuple[int, ...], size: tuple[int, int]) -> list[Place]:
    rows, columns = (range(0, side - tile + 1, tile) for side, tile in zip(sides, size, strict=True))
    return [(index, row, column) for row in rows for column in columns]


def _tile(pictures: Images | Targets, places: list[Place], size: tuple[int, int], scale: int, which: int) -> Array:
    index, row, column = places[which]
    picture: Array = pictures[index]
    return picture[row * scale : row * scale + size[0], column * scale : column * scale + size[1]]
