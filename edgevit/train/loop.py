"""Train a model on images and what is true of them: AdamW, warm-up and cosine, averaged weights, a fixed split.

The result is the average of the weights at the end of the run. No epoch is ever chosen by its held-out accuracy, so
that accuracy is an honest estimate.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgevit import render
from edgevit.artifact.claim import claimed
from edgevit.cpu import usable_cores
from edgevit.data.classes import aligned
from edgevit.data.labelled import LabelledData
from edgevit.data.source import open_data
from edgevit.disk import filling
from edgevit.errors import Unsupported, UsageError
from edgevit.images import Preprocess
from edgevit.models.loading.checkpoint import CheckpointMeta, save_checkpoint
from edgevit.models.loading.source import create_model
from edgevit.models.spec import spec_of
from edgevit.models.threads import torch_threads
from edgevit.train import dense
from edgevit.train.batches import Batches, make_batches
from edgevit.train.dense import fitting, taught
from edgevit.train.epochs import Progress, Run, adamw, run_epochs
from edgevit.train.optim import Ema
from edgevit.train.options import TrainOptions, command_line
from edgevit.train.refusals import check_out, resume_path

SPLIT_SEED = 0  # fixed whatever --seed says, so that accuracies of two runs are of the same images


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    accuracy  top-1 on the held-out images, a fraction; None of other tasks
    metric    what ``figure`` is, on the held-out images: "top-1", "mIoU", "PSNR"
    loss      the last epoch's mean
    """

    path: Path
    model: str
    data: str
    task: str
    accuracy: float | None
    metric: str
    figure: float
    loss: float
    epochs: int
    train_images: int
    held_out_images: int
    seconds: float
    device: str

    def record(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "path": str(self.path), "bytes": self.path.stat().st_size}

    def facts(self) -> list[tuple[str, str]]:
        """(name, value) lines for people."""
        size = self.path.stat().st_size / 1e6
        return [
            ("checkpoint", f"{self.path} ({size:.2f} MB)"),
            (
                "accuracy" if self.task == "classify" else self.metric,
                f"{render.figure(self.figure)} on {self.held_out_images} held-out images of {self.data}",
            ),
            ("trained", f"{self.epochs} epochs of {self.train_images} images in {self.seconds:.0f} s on {self.device}"),
        ]


def fit(
    model_name: str,
    data_spec: str,
    out: Path | str,
    *,
    options: TrainOptions | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train ``model_name`` on ``data_spec`` and write its averaged weights to ``out`` (.safetensors).

    The state is now and then kept in ``OUT.resume`` until the run ends; with ``options.resume`` the run goes on
    from there, to the same weights on the same machine and threads. Raises UsageError (data without labels, an existing
    ``out``, …), Unsupported (no such device), EdgeVitError (the loss became infinite), Interrupted (Ctrl-C).
    """
    options, out = options or TrainOptions(), Path(out)
    with claimed(out), filling(out):
        check_out(out, options)
        return _fit(model_name, data_spec, out, options, progress)


def _fit(model_name: str, data_spec: str, out: Path, options: TrainOptions, progress: Progress | None) -> TrainResult:
    started = time.perf_counter()
    device = training_device(options.device)
    train, held_out = (open_data(data_spec, split=part, seed=SPLIT_SEED) for part in ("train", "held-out"))
    with torch_threads(options.threads), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        ready = _prepared(model_name, train, held_out, options, device)
        run = ready.run
        recipe = {
            "model": model_name,
            "data": data_spec,
            "images": len(train),
            "total_epochs": run.epochs,
            **options.recipe(),
        }
        loss = run_epochs(run, resume_path(out), recipe, progress)
        figure = run.measure(run.ema.module)
    meta = ready.meta(model_name, data_spec, figure).model_copy(
        update={"command": command_line(model_name, data_spec, out, options)}
    )
    save_checkpoint(out, run.ema.module.state_dict(), meta)
    resume_path(out).unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    return TrainResult(
        out, model_name, data_spec, ready.task, meta.accuracy, ready.metric, figure,
        loss, run.epochs, len(train), len(held_out), seconds, str(device),
    )  # fmt: skip


@dataclass(frozen=True)
class _Ready:
    """A run, how its images are preprocessed, the classes in the order of its outputs, and what is measured."""

    run: Run
    preprocess: Preprocess
    labels: tuple[str, ...] | None
    task: str
    metric: str

    def meta(self, model: str, data: str, figure: float) -> CheckpointMeta:
        classifies = self.task == "classify"
        return CheckpointMeta(
            model=model,
            num_classes=self.run.classes or None,
            image_size=self.preprocess.size,
            labels=self.labels,
            preprocess=self.preprocess,
            data=data,
            split_seed=SPLIT_SEED,
            task=self.task,
            accuracy=figure if classifies else None,
            metric=None if classifies else self.metric,
            figure=None if classifies else figure,
            epochs=self.run.epochs,
            edgevit=metadata.version("edgevit"),
        )


def _prepared(
    name: str, train: LabelledData, held_out: LabelledData, options: TrainOptions, device: torch.device
) -> _Ready:
    task = taught(train, options.task)
    if task == "classify":
        require_classes(train, held_out)
        return _Ready(*_prepare(name, train, held_out, options, device), task, "top-1")
    run, preprocess, measure = dense.prepare(name, train, held_out, options, device)
    return _Ready(run, preprocess, train.classes, task, measure.name)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, device: torch.device | str = "cpu", batch_size: int = 256) -> float:
    """Top-1 accuracy of ``model`` in eval mode, a fraction."""
    training = model.training
    model.eval()
    right = sum(int((model(x.to(device)).argmax(1).cpu() == y).sum()) for x, y in batches.ordered(batch_size))
    model.train(training)
    return right / len(batches)


def training_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}", hint="use auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise Unsupported(f"training runs on cpu or cuda, not on {name}", hint="use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Unsupported(f"there is no {name} device here", hint="use --device cpu")
    return device


def open_split(spec: str) -> tuple[LabelledData, LabelledData]:
    """What a classifier is trained on, and what is held out. Errors of ``open_data`` and ``require_classes``."""
    train, held_out = (open_data(spec, split=part, seed=SPLIT_SEED) for part in ("train", "held-out"))
    require_classes(train, held_out)
    return train, held_out


def require_classes(train: LabelledData, held_out: LabelledData) -> None:
    """UsageError for data that no classifier learns from."""
    spec = train.name
    if train.labels is None or train.classes is None or held_out.labels is None:
        raise UsageError(f"{spec} has no labels to learn from", hint="give folder:PATH one sub-folder per class")
    if len(set(train.labels.tolist())) < 2:
        raise UsageError(f"{spec} has a single class, so there is nothing to tell apart", hint="add a second class")
    if not len(held_out):
        raise UsageError(f"{spec} has too few images to hold any out", hint="give each class two images or more")


def _prepare(
    name: str, train: LabelledData, held_out: LabelledData, options: TrainOptions, device: torch.device
) -> tuple[Run, Preprocess, tuple[str, ...] | None]:
    """What is run, how images are preprocessed, and the classes in the order of the logits."""
    classes = len(train.classes or ())
    # A shipped or own checkpoint knows its preprocessing; the seed decides order and augmentation, never the start.
    model = create_model(name, num_classes=classes, image_size=options.image_size, weights=options.weights)
    spec = spec_of(model)
    fitting(spec, "classify", train)
    if spec is not None:
        spec.require_rgb()
        for note in spec.notes:
            render.say(f"{name}: {note}")
    size = (spec and spec.image_size) or (224, 224)
    preprocess = (spec and spec.preprocess) or Preprocess(size=size)
    model = model.to(device).train()
    workers = 0 if device.type == "cpu" else min(8, usable_cores())
    names = spec.labels if spec else None
    train, held_out = aligned(train, names), aligned(held_out, names)  # the head that was loaded counts them so
    unseen = make_batches(held_out, preprocess, workers=workers)
    run = Run(
        model=model,
        ema=Ema(model, options.ema),
        optimizer=adamw(model, options),
        train=make_batches(train, preprocess, workers=workers),
        options=options,
        epochs=options.epochs_for(len(train)),
        classes=classes,
        device=device,
        measure=lambda averaged: evaluate(averaged, unseen, device),
    )
    return run, preprocess, train.classes
