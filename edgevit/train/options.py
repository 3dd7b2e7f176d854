"""What a training run is asked for, and the command line that asks for the same."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgevit.errors import UsageError

_NOT_THE_RECIPE = frozenset({"device", "threads", "resume", "force"})  # where and how it runs, not what comes out

_IMAGES_SHOWN = 29_000


@dataclass(frozen=True)
class TrainOptions:
    """Recipe and circumstances of one run. The defaults made the checkpoints shipped with the package.

    task          what is learned: classify, segment, restore; None is what the data teaches
    epochs        None fits it to the data: about 29,000 images are shown, in 10 to 100 epochs (20 for digits); to learn
                  masks 64,000, pictures 40,000
    lr            peak learning rate, reached after ``warmup`` (a fraction of all steps), then a cosine down to zero
    weight_decay  on weights of convolutions and linear layers only
    smoothing     label smoothing
    ema           decay of the averaged weights, which are what is saved
    clip          largest norm of the gradient
    mixup         largest share of a second image in each image; 0 switches it off
    hflip         mirror half of the images; off by default, since a mirrored digit or letter is another sign
    weights       start from these (a file, or "digits") instead of random ones
    device        auto (the GPU if there is one), cpu, cuda
    """

    task: str | None = None
    epochs: int | None = None
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    smoothing: float = 0.1
    ema: float = 0.99
    clip: float = 1.0
    mixup: float = 0.0
    hflip: bool = False
    augment: bool = True
    seed: int = 0
    image_size: int | tuple[int, int] | None = None
    weights: str | None = None
    device: str = "auto"
    threads: int | None = None
    resume: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        ranges = {
            "epochs": self.epochs is None or self.epochs >= 1,
            "batch_size": self.batch_size >= 2,  # BatchNorm cannot learn from single images
            "lr": 0 < self.lr < math.inf,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "warmup": 0 <= self.warmup < 1,
            "smoothing": 0 <= self.smoothing < 1,
            "ema": 0 <= self.ema < 1,
            "clip": self.clip > 0,
            "mixup": 0 <= self.mixup <= 0.5,
            "seed": 0 <= self.seed < 2**32,
            "threads": self.threads is None or self.threads >= 1,
        }
        for name, fine in ranges.items():
            if not fine:
                raise UsageError(f"{flag(name)} {getattr(self, name)} is out of range", hint="see edgevit train --help")

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the resulting weights, as plain JSON values."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_THE_RECIPE}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def epochs_for(self, images: int) -> int:
        """The number of epochs for a training set of this size."""
        return self.epochs or fitted(_IMAGES_SHOWN, images, 10, 100)


def fitted(shown: int, images: int, least: int, most: int) -> int:
    """How often so many images are shown to make about ``shown`` in all, from ``least`` to ``most`` times."""
    return min(most, max(least, round(shown / max(images, 1))))


def flag(field: str) -> str:
    """The option of ``edgevit train`` that sets a field."""
    return "--" + field.replace("_", "-")


def command_line(model: str, data: str, out: Path, options: TrainOptions) -> str:
    """The shell command that trains the same weights; options at their defaults are left out."""
    words = ["edgevit", "train", model, "--data", data, "-o", out.name]
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in _NOT_THE_RECIPE or value == field.default:
            continue
        if isinstance(value, bool):
            words.append(flag(field.name) if value else flag(f"no_{field.name}"))
        else:
            words += [flag(field.name), str(value)]
    return shlex.join(words)
