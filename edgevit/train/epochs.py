"""The epochs of a training run: steps, averaged weights, state kept now and then, and going on from it.

``edgevit.train.loop`` trains classifiers with it, ``edgevit.split`` the sub-models and fusion heads of ED-ViT.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgevit.errors import EdgeVitError, Interrupted
from edgevit.train.augment import Augment, mixed
from edgevit.train.batches import Batches, step_count
from edgevit.train.optim import Ema, learning_rate, parameter_groups, set_learning_rate
from edgevit.train.options import TrainOptions
from edgevit.train.state import load_state, save_state

SAVE_EVERY_S = 2.0
"""Least time between two saved states: for a small model, saving takes as long as a few steps."""

Progress = Callable[[int, int, float, float | None], None]
"""``progress(epoch, epochs, mean loss, held-out figure or None where it was not measured)``, after each epoch."""

Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""``loss(model, images, targets, rows)``: the mean loss of a batch; targets are (B, classes) and sum to one, rows (B,)
say which images of the training set these are."""


View = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""``view(images, labels, generator)``: the batch as a loss takes it, on the images' device."""


class Steps(Protocol):
    """How a loss is computed and followed: in full precision, or in mixed precision (``edgevit.train.amp``)."""

    def autocast(self) -> AbstractContextManager[Any]: ...

    def follow(self, loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> None:
        """One step of the optimiser against the gradient of ``loss``, its norm clipped."""


class FullPrecision:
    """Steps in the weights' own precision."""

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def follow(self, loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


@dataclass
class Run:
    """Everything the epochs share.

    measure   held-out accuracy, or another figure, of the averaged model
    loss      None is cross entropy with the options' label smoothing
    view      what a step sees of images and their labels; None is augmented images and (B, classes) targets
    sample    rows of ``train`` that one epoch shows, drawn from its generator; None shows all of them
    """

    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    train: Batches
    options: TrainOptions
    epochs: int
    classes: int
    device: torch.device
    measure: Callable[[nn.Module], float]
    loss: Loss | None = None
    view: View | None = None
    sample: Callable[[torch.Generator], Tensor] | None = None
    steps: Steps = field(default_factory=FullPrecision)


def adamw(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """The optimiser of every run here: AdamW, weight decay on the weights of linear and convolution layers only."""
    return torch.optim.AdamW(parameter_groups(model, options.weight_decay), lr=options.lr, fused=True)


def run_epochs(run: Run, state_file: Path, recipe: dict[str, Any], progress: Progress | None) -> float:
    """Run the epochs that are left; mean loss of the last one.

    The state is kept in ``state_file`` after the first epoch, after the last, and after any other that ends at least
    ``SAVE_EVERY_S`` after the last time; with ``run.options.resume`` the run goes on from there. Raises UsageError
    (nothing to resume, or a state of another recipe), EdgeVitError (the loss became infinite), Interrupted.
    """
    kept, loss = _restore(run, load_state(state_file, recipe)) if run.options.resume else (0, math.nan)
    saved_at = -math.inf
    try:
        for done in range(kept + 1, run.epochs + 1):
            loss = _epoch(run, done - 1)
            if done == run.epochs or time.monotonic() >= saved_at + SAVE_EVERY_S:
                save_state(state_file, _state(run, done, loss), recipe)
                kept, saved_at = done, time.monotonic()
            if progress is not None:
                progress(done, run.epochs, loss, _measured(run, done))
    except KeyboardInterrupt:
        raise _stopped(run, kept) from None
    return loss


def _measured(run: Run, done: int) -> float | None:
    """Held-out accuracy after the last epoch and ten times on the way; it may take as long as an epoch."""
    due = done == run.epochs or done % max(1, run.epochs // 10) == 0
    return run.measure(run.ema.module) if due else None


def _stopped(run: Run, kept: int) -> Interrupted:
    hint = "the same command with --resume goes on from there" if kept else "nothing was kept"
    return Interrupted(f"stopped after epoch {kept} of {run.epochs}", hint=hint)


def _epoch(run: Run, epoch: int) -> float:
    """One pass over the training images; its mean loss. Randomness follows from (seed, epoch), so runs can resume."""
    seed = (run.options.seed << 20) + epoch
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout and the like
    view = run.view or _classes_of(run)
    among = None if run.sample is None else run.sample(generator)
    steps = step_count(len(run.train) if among is None else len(among), run.options.batch_size)
    run.model.train()
    losses = []
    for index, (images, labels, rows) in enumerate(run.train.shuffled(run.options.batch_size, generator, among)):
        rate = learning_rate(epoch * steps + index, run.epochs * steps, run.options.lr, run.options.warmup)
        set_learning_rate(run.optimizer, rate)
        images, targets = view(images.to(run.device), labels, generator)
        losses.append(_step(run, images, targets, rows))
    return _finite(run, epoch, float(torch.stack(losses).mean()))


def _classes_of(run: Run) -> View:
    augment = Augment(hflip=run.options.hflip) if run.options.augment else None

    def view(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        targets = F.one_hot(labels, run.classes).float().to(run.device)
        images = augment(images, generator) if augment else images
        return mixed(images, targets, run.options.mixup, generator) if run.options.mixup else (images, targets)

    return view


def _finite(run: Run, epoch: int, mean: float) -> float:
    if not math.isfinite(mean):
        raise EdgeVitError(
            f"the loss became {mean} in epoch {epoch + 1}",
            hint=f"start over with --force --lr {run.options.lr / 3:.1g}",
        )
    return mean


def _step(run: Run, images: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    with run.steps.autocast():
        if run.loss is None:
            loss = F.cross_entropy(run.model(images), targets, label_smoothing=run.options.smoothing)
        else:
            loss = run.loss(run.model, images, targets, rows)
    run.steps.follow(loss, run.model, run.optimizer, run.options.clip)
    run.ema.update(run.model)
    return loss.detach()


def _state(run: Run, epoch: int, loss: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": loss,
        "model": run.model.state_dict(),
        "ema": run.ema.module.state_dict(),
        "ema_updates": run.ema.updates,
        "optimizer": run.optimizer.state_dict(),
    }


def _restore(run: Run, state: dict[str, Any]) -> tuple[int, float]:
    run.model.load_state_dict(state["model"])
    run.ema.module.load_state_dict(state["ema"])
    run.ema.updates = state["ema_updates"]
    run.optimizer.load_state_dict(state["optimizer"])
    return state["epoch"], state["loss"]
