"""Retraining of a pruned sub-model, in one of two ways.

``negatives`` is EC-SNN's (IJCAI 2024), whose pipeline ED-ViT follows: all images of the part's classes with labels 1,
2, …, and a few of every other class as label 0. The few are drawn anew in each epoch, so that in time all are seen.
``distil`` adds the trunk as a teacher (``edgevit.split.distil``): the probabilities that it gives the part's
classes, those of all other classes summed into label 0, and its class token, which a linear map must find again in the
sub-model's features; the map is thrown away afterwards. ED-ViT's own recipe is not public.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgevit.models.families.edvit import SubModel
from edgevit.models.families.vit import VisionTransformer
from edgevit.split.distil import softened, taught
from edgevit.split.features import copies_of
from edgevit.split.options import Mode
from edgevit.train.batches import Batches
from edgevit.train.epochs import FullPrecision, Loss, Progress, Run, Steps, adamw, run_epochs
from edgevit.train.optim import Ema
from edgevit.train.options import TrainOptions, fitted

IMAGES_SHOWN = 20_000  # to each part, where the number of epochs is not given
TOKEN_VIEWS = 10  # augmented copies whose class tokens are computed beforehand
TOKEN_SEED = 1


@dataclass(frozen=True)
class Lesson:
    """What one part learns from.

    classes    the part's classes, as indices into all of them
    train      images with labels of all classes; ``held_out`` likewise, only ever measured on
    negatives  images of other classes that an epoch shows for each of its own, if that is more than EC-SNN's count
    tokens     ((1 + views) · N, D), the trunk's class tokens of the images and of augmented copies (``tokens_of`` with
               ``TOKEN_SEED``): then the copies are what is shown, and the trunk need not run again for every part. None
               augments anew in each epoch and asks the trunk each time
    """

    trunk: VisionTransformer
    classes: tuple[int, ...]
    train: Batches
    held_out: Batches
    mode: Mode
    options: TrainOptions
    device: torch.device
    negatives: float = 0.0
    tokens: Tensor | None = None


def retrain(
    sub: nn.Module,
    lesson: Lesson,
    *,
    state_file: Path,
    recipe: dict[str, Any],
    progress: Progress | None = None,
    steps: Steps | None = None,
) -> tuple[nn.Module, float]:
    """The averaged weights at the end of the run, and their balanced held-out accuracy (see ``balanced_accuracy``).

    ``sub`` answers as ``SubModel`` does; to distil, it must be one. The state is now and then kept in
    ``state_file``, as ``edgevit.train.fit`` does. Errors of ``run_epochs``.
    """
    held_out = Batches(lesson.held_out.rows, part_labels(lesson.held_out.labels, lesson.classes))
    run = _run(sub, lesson, held_out, steps or FullPrecision())
    run_epochs(run, state_file, recipe, progress)
    averaged = _sub_of(run.ema.module)
    return averaged, balanced_accuracy(averaged, held_out, lesson.device)


def _run(sub: nn.Module, lesson: Lesson, held_out: Batches, steps: Steps) -> Run:
    device = lesson.device
    torch.manual_seed(lesson.options.seed)  # the linear map's start
    student = _student(sub, lesson).to(device)
    train, options = _shown(lesson)
    return Run(
        model=student,
        ema=Ema(student, options.ema),
        optimizer=adamw(student, options),
        train=train,
        options=options,
        epochs=options.epochs or _fitted_epochs(lesson),
        classes=len(lesson.classes) + 1,
        device=device,
        measure=lambda averaged: balanced_accuracy(_sub_of(averaged), held_out, device),
        loss=_distillation(lesson) if lesson.mode == "distil" else _labels_alone(options.smoothing),
        sample=_sampler(lesson),
        steps=steps,
    )


def part_labels(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """(N,) labels of all classes as a part's own: 0 for none of its classes, then 1, 2, … in its order."""
    own = torch.zeros_like(labels)
    for place, label in enumerate(classes, start=1):
        own[labels == label] = place
    return own


def negatives_per_class(images: int, all_classes: int, own_classes: int, wanted: int = 0) -> int:
    """How many images of each other class one epoch shows: EC-SNN's count, or as many as make ``wanted`` of them all if
    that is more; at least one."""
    ec_snn = int(images / (10 * all_classes) - own_classes)
    return max(1, ec_snn, round(wanted / max(1, all_classes - own_classes)))


def draw_rows(
    labels: Tensor, classes: Sequence[int], all_classes: int, negatives: float, generator: torch.Generator
) -> Tensor:
    """Rows that one epoch of a part shows, ascending: all of its classes, and of each other class as many as
    ``negatives_per_class`` makes of ``negatives`` for each of them."""
    own = (part_labels(labels, classes) > 0).nonzero().flatten()
    few = negatives_per_class(len(labels), all_classes, len(classes), round(negatives * len(own)))
    chosen = [own]
    for label in range(all_classes):
        if label not in classes:
            rows = (labels == label).nonzero().flatten()
            chosen.append(rows[torch.randperm(len(rows), generator=generator)[:few]])
    return torch.cat(chosen).sort().values


@torch.no_grad()
def balanced_accuracy(sub: nn.Module, batches: Batches, device: torch.device, batch_size: int = 256) -> float:
    """Mean over a part's labels (0 among them, if it occurs) of the share that is recognised; ``batches`` hold these.

    A plain share would say little: of ten parts with a class each, one that answers "none of mine" is right in 90 %.
    """
    training = sub.training
    sub.eval()
    answers = torch.cat([sub(x.to(device))["logits"].argmax(1).cpu() for x, _ in batches.ordered(batch_size)])
    sub.train(training)
    right = answers == batches.labels
    shares = [right[batches.labels == label].float().mean() for label in sorted(set(batches.labels.tolist()))]
    return float(torch.stack(shares).mean())


def _fitted_epochs(lesson: Lesson) -> int:
    """As many as show about ``IMAGES_SHOWN`` images, whatever share of all images is the part's own; 10 to 100."""
    return fitted(IMAGES_SHOWN, len(_rows_of(lesson, torch.Generator())), 10, 100)


def _rows_of(lesson: Lesson, generator: torch.Generator) -> Tensor:
    everything = lesson.trunk.config.num_classes
    return draw_rows(lesson.train.labels, lesson.classes, everything, lesson.negatives, generator)


def _shown(lesson: Lesson) -> tuple[Batches, TrainOptions]:
    """The images with the part's labels, and the recipe: nothing is augmented again where there are tokens."""
    labels = part_labels(lesson.train.labels, lesson.classes)
    if lesson.tokens is None or lesson.mode != "distil":
        return Batches(lesson.train.rows, labels, lesson.train.workers), lesson.options
    copies = len(lesson.tokens) // len(labels)
    rows = torch.cat(list(copies_of(lesson.train, copies - 1, TOKEN_SEED)))
    return Batches(rows, labels.repeat(copies)), replace(lesson.options, augment=False)


def _sampler(lesson: Lesson) -> Callable[[torch.Generator], Tensor]:
    images = len(lesson.train)
    known = lesson.tokens if lesson.mode == "distil" else None
    copies = 1 if known is None else len(known) // images

    def sample(generator: torch.Generator) -> Tensor:
        rows = _rows_of(lesson, generator)
        return rows + images * torch.randint(copies, rows.shape, generator=generator)

    return sample


# --- losses ------------------------------------------------------------------------------------------------------


class _Follower(nn.Module):
    """A sub-model with the linear map from its features to the trunk's class token."""

    def __init__(self, sub: nn.Module, own: int, trunk: int) -> None:
        super().__init__()
        self.sub = sub
        self.to_trunk = nn.Linear(own, trunk)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        answer = self.sub(image)
        return {**answer, "trunk_features": self.to_trunk(answer["features"])}


def _student(sub: nn.Module, lesson: Lesson) -> nn.Module:
    if lesson.mode == "negatives":
        return sub
    if not isinstance(sub, SubModel):
        raise TypeError(f"a {type(sub).__name__} has no features to distil into")
    return _Follower(sub, sub.feature_size, lesson.trunk.config.dim)


def _sub_of(student: nn.Module) -> nn.Module:
    return student.sub if isinstance(student, _Follower) else student


def _labels_alone(smoothing: float) -> Loss:
    def loss(model: nn.Module, images: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        return F.cross_entropy(model(images)["logits"], targets, label_smoothing=smoothing)

    return loss


def _distillation(lesson: Lesson) -> Loss:
    trunk, classes, tokens = lesson.trunk.to(lesson.device).eval(), lesson.classes, lesson.tokens

    def loss(model: nn.Module, images: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            token = trunk.forward_features(images) if tokens is None else tokens[rows].to(images.device)
            wanted = grouped(softened(trunk.head(token)), classes)
        answer = model(images)
        loss = taught(answer["logits"], targets, wanted, lesson.options.smoothing)
        return loss + F.mse_loss(answer["trunk_features"], token)

    return loss


def grouped(probabilities: Tensor, classes: Sequence[int]) -> Tensor:
    """(B, V) probabilities of all classes as a part's: (B, |classes| + 1), the other classes summed into the first."""
    own = probabilities[:, list(classes)]
    return torch.cat([(1 - own.sum(dim=1, keepdim=True)).clamp(min=0), own], dim=1)
