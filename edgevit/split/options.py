"""What a split is asked for, and the part of it that decides what comes out."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgevit.errors import UnknownName, UsageError
from edgevit.sizes import Sides
from edgevit.train.options import TrainOptions, fitted

if TYPE_CHECKING:
    from edgevit.request import ModelChoice

Mode = Literal["negatives", "distil"]
Scoring = Literal["exact", "taylor", "random", "magnitude"]
Amp = Literal["no", "bf16", "fp16"]
PARTITIONS = ("balanced", "similar", "confusable")

_FEATURES_SHOWN, _FEATURES_OF = 750_000, 25_000  # to the fusion head; of so many images, their copies among them


@dataclass(frozen=True)
class FusionOptions:
    """How the fusion head is trained.

    epochs      None fits it to the data: about 750,000 images are shown, in 10 to 60 epochs (31 for digits)
    views       augmented copies of every image whose features it sees; None makes about 25,000 images of them, with 4
                to 16 copies each, and no more copies than ``epochs``, where that is given: none is shown more often
    missing     how many parts are left out of an image's prediction on average; 0 trains with all parts only
    """

    epochs: int | None = None
    lr: float = 2e-3
    batch_size: int = 128
    views: int | None = None
    missing: float = 1.0
    seed: int = 0

    def views_for(self, images: int) -> int:
        """Augmented copies of each of so many training images."""
        if self.views is not None:
            return self.views
        most = fitted(_FEATURES_OF, images, 5, 17) - 1
        return most if self.epochs is None else min(most, self.epochs)

    def epochs_for(self, images: int) -> int:
        """The number of epochs for so many images, their copies among them."""
        return self.epochs or fitted(_FEATURES_SHOWN, images, 10, 60)


@dataclass(frozen=True)
class SplitOptions:
    """Recipe and circumstances of one split.

    partition       balanced, similar, confusable, or a JSON file with the labels of every part
    heads_pruned    of every block of every sub-model; at most one of this, ``memory_budget`` (bytes of all sub-models'
                    weights together) and ``fleet`` (a fleet.toml that the sub-models must fit) is given. With none, it
                    is the smallest number at which all sub-models together take 55 % of the trunk
    importance      how units are scored: exact (one at a time), taylor; random and magnitude are there to compare with
    images          images of each class that scores are taken on
    negatives       images of other classes that an epoch of a part shows for each image of its own; never fewer than
                    EC-SNN shows
    retraining      recipe of every sub-model; epochs None shows each about 20,000 images; its seed, device and threads
                    are not looked at
    jobs            sub-models retrained at the same time, each in its own process; None: as many as there are cores,
                    or GPUs
    """

    parts: int
    partition: str = "confusable"
    heads_pruned: int | None = None
    memory_budget: int | None = None
    fleet: Path | None = None
    importance: Scoring = "taylor"
    images: int = 16
    mode: Mode = "distil"
    negatives: float = 0.5
    retraining: TrainOptions = field(default_factory=TrainOptions)
    fusion: FusionOptions = field(default_factory=FusionOptions)
    amp: Amp = "no"
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    jobs: int | None = None

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("importance", self.importance, get_args(Scoring)),
            ("way to retrain", self.mode, get_args(Mode)),
            ("mixed precision", self.amp, get_args(Amp)),
        ):
            if value not in known:
                raise UnknownName(kind, value, known)
        if self.partition not in PARTITIONS and not self.partition.endswith(".json"):
            raise UnknownName("partition", self.partition, PARTITIONS)
        given = [self.heads_pruned is not None, self.memory_budget is not None, self.fleet is not None]
        if sum(given) > 1:
            raise UsageError(
                "--heads-pruned, --memory-budget and --fleet each decide how much is pruned", hint="give one of them"
            )
        ranges = {"--parts": self.parts >= 1, "--images": self.images >= 1, "--seed": 0 <= self.seed < 2**32}
        ranges["negatives"] = 0 <= self.negatives < math.inf
        ranges["--jobs"] = self.jobs is None or self.jobs >= 1
        for name, fine in ranges.items():
            if not fine:
                raise UsageError(f"{name} is out of range", hint="see edgevit split --help")

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the sub-models and the fusion head, as plain JSON values."""
        kept = {name: value for name, value in asdict(self).items() if name not in _NOT_THE_RECIPE}
        kept["retraining"] = {
            name: value for name, value in self.retraining.recipe().items() if name not in ("seed", "weights")
        }
        kept["fleet"] = None if self.fleet is None else file_digest(self.fleet)
        if self.partition not in PARTITIONS:
            kept["partition"] = file_digest(Path(self.partition))
        return kept


_NOT_THE_RECIPE = frozenset({"device", "threads", "jobs", "retraining", "fleet"})


@dataclass(frozen=True)
class SplitJob:
    """What ``edgevit split`` was asked for."""

    model: ModelChoice
    data: str
    out: Path
    options: SplitOptions
    targets: tuple[str, ...] = ("onnx",)
    precision: str | None = None
    verify: bool = True
    resume: bool = False
    force: bool = False

    def work(self) -> Path:
        """Where finished sub-models wait until the bundle is whole: ``OUT.split``."""
        return self.out.with_name(self.out.name + ".split")


def file_digest(path: Path) -> str:
    """SHA-256 of a file that is part of the recipe; UsageError for what is no file, such as a pipe."""
    from edgevit.artifact.files import sha256_of_stream
    from edgevit.foreign import opened

    with opened(path, "a file of a split") as stream:
        return sha256_of_stream(stream)


def command_line(job: SplitJob) -> str:
    """The shell command that makes the same bundle; options at their defaults are left out."""
    model = job.model
    words = ["edgevit", "split", str(model.source), "--data", job.data, "--parts", str(job.options.parts)]
    plain = SplitOptions(parts=job.options.parts)
    if model.weights:
        words += ["--weights", model.weights]
    size = model.image_size and Sides(*model.image_size)
    for flag, value in (("--classes", model.classes), ("--image-size", size), ("--precision", job.precision)):
        if value is not None:
            words += [flag, str(value)]
    for target in job.targets:
        words += ["-t", target]
    for name, flag in (
        ("partition", "--partition"), ("heads_pruned", "--heads-pruned"), ("memory_budget", "--memory-budget"),
        ("fleet", "--fleet"), ("importance", "--importance"), ("images", "--images"), ("mode", "--retrain"),
        ("amp", "--amp"), ("seed", "--seed"),
    ):  # fmt: skip
        chosen = getattr(job.options, name)
        if chosen != getattr(plain, name):
            words += [flag, str(chosen)]
    for name in ("epochs", "lr", "batch_size"):
        chosen = getattr(job.options.retraining, name)
        if chosen != getattr(plain.retraining, name):
            words += ["--" + name.replace("_", "-"), str(chosen)]
    return shlex.join([*words, "-o", job.out.name])
