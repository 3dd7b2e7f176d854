"""Runs that learn from masks and pictures: which task some data teaches, and what such a run needs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from edgevit import render
from edgevit.cpu import usable_cores
from edgevit.data.labelled import LabelledData
from edgevit.errors import Unsupported, UsageError
from edgevit.images import Preprocess
from edgevit.models.loading.source import create_model
from edgevit.models.spec import ModelSpec, spec_of
from edgevit.tasks.base import load_task
from edgevit.train.batches import Batches, make_batches
from edgevit.train.epochs import Run, adamw
from edgevit.train.optim import Ema
from edgevit.train.options import TrainOptions, fitted
from edgevit.train.subjects.answers import HeldOut, numbered
from edgevit.train.subjects.base import Subject
from edgevit.train.subjects.masks import Masks
from edgevit.train.subjects.pictures import Pictures, tiled

TEACHES = {"masks": "segment", "pictures": "restore"}  # kind of target -> the task that is learned from it


def taught(data: LabelledData, asked: str | None) -> str:
    """The task that ``data`` teaches. UsageError where it is another than was asked for, Unsupported where none is
    learned from such data here."""
    kind = data.targets.kind if data.targets is not None else None
    task = "classify" if kind is None else TEACHES.get(kind)
    if task is None:
        raise Unsupported(
            f"nothing is trained on {kind} here; {data.name} holds nothing else",
            hint=f"training learns {', '.join(['classify', *TEACHES.values()])}",
        )
    if asked not in (None, task):
        raise UsageError(f"{data.name} teaches {task}, not {asked}", hint=f"use data for {asked}, or --task {task}")
    return task


def fitting(spec: ModelSpec | None, task: str, data: LabelledData) -> None:
    """UsageError for a model whose outputs mean something else than ``data`` teaches."""
    if spec is not None and spec.task not in (None, task):
        raise UsageError(f"{spec.name} is made to {spec.task}, {data.name} teaches to {task}", hint="choose another")


def prepare(
    name: str, train: LabelledData, held_out: LabelledData, options: TrainOptions, device: torch.device
) -> tuple[Run, Preprocess, HeldOut]:
    """What is run, how images are preprocessed, and what measures the model. Errors of ``create_model`` and above."""
    task, targets = taught(train, options.task), train.targets
    if options.mixup or targets is None:
        raise UsageError("--mixup mixes the classes of whole images", hint="leave it out")
    classes = count(train)
    model = create_model(name, num_classes=classes, image_size=options.image_size, weights=options.weights)
    spec = spec_of(model)
    fitting(spec, task, train)
    preprocess = _preprocess(spec, task)
    if task == "restore":
        train, held_out = tiled(train, preprocess.size), tiled(held_out, preprocess.size)
    model = model.to(device).train()
    measure = HeldOut(load_task(task), held_out, _batches(held_out, preprocess, device), preprocess, device)
    return _run(model, train, preprocess, options, device, measure), preprocess, measure


def _run(
    model: nn.Module,
    train: LabelledData,
    preprocess: Preprocess,
    options: TrainOptions,
    device: torch.device,
    measure: HeldOut,
) -> Run:
    subject = _subject(train, preprocess, options)
    return Run(
        model=model,
        ema=Ema(model, options.ema),
        optimizer=adamw(model, options),
        train=_batches(train, preprocess, device),
        options=options,
        epochs=options.epochs or fitted(subject.shown, len(train), 10, 100),
        classes=count(train) or 0,
        device=device,
        measure=measure,
        loss=subject.loss,
        view=subject.view,
    )


def _subject(train: LabelledData, preprocess: Preprocess, options: TrainOptions) -> Subject:
    targets = train.targets
    if targets is None:
        raise UsageError(f"{train.name} holds nothing to learn from", hint="use another --data")
    if targets.kind == "pictures":
        return Pictures(targets, options)
    return Masks(targets, preprocess, count(train) or 1, options)


def count(data: LabelledData) -> int | None:
    """How many classes the masks of ``data`` tell apart: those with names, else the highest that occurs and all below;
    None for pictures."""
    if data.targets is None or data.targets.kind != "masks":
        return None
    return len(data.classes) if data.classes else 1 + max((int(mask.max()) for mask in data.targets), default=0)


def _batches(data: LabelledData, preprocess: Preprocess, device: torch.device) -> Batches:
    """Images and the rows of their truth."""
    workers = 0 if device.type == "cpu" else min(8, usable_cores())
    return make_batches(replace(data, labels=numbered(data)), preprocess, workers=workers)


def _preprocess(spec: ModelSpec | None, task: str) -> Preprocess:
    """The model's own; pictures of one that says none stay as they are, between 0 and 1."""
    if spec is not None:
        spec.require_rgb()
        for note in spec.notes:
            render.say(f"{spec.name}: {note}")
    size = (spec and spec.image_size) or (224, 224)
    if spec is not None and spec.preprocess is not None:
        return spec.preprocess
    if task == "restore":
        return Preprocess(size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop="squash", crop_pct=1.0)
    return Preprocess(size=size)
