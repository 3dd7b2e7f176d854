"""Sub-models as independent jobs: score the trunk's units on the part's classes, prune, retrain, keep the result.

In this process one after the other, or several at a time, each in a process of its own (and on a GPU of its own where
there are several). A part that is finished is not done again.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import wait
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from edgevit.data.classes import aligned
from edgevit.errors import EdgeVitError, Interrupted, WorkerFailed
from edgevit.models.families.edvit import SubModel
from edgevit.models.families.vit import VisionTransformer
from edgevit.models.spec import spec_of
from edgevit.split.features import Told, tokens_of
from edgevit.split.importance import (
    Importance,
    exact_importance,
    magnitude_importance,
    random_importance,
    taylor_importance,
)
from edgevit.split.options import SplitJob
from edgevit.split.prune import prune
from edgevit.split.retrain import TOKEN_SEED, TOKEN_VIEWS, Lesson, retrain
from edgevit.split.trunk import load_trunk
from edgevit.split.work import Work
from edgevit.train.amp import MixedPrecision
from edgevit.train.batches import MEMORY_LIMIT, Batches, make_batches
from edgevit.train.epochs import Progress as Epochs
from edgevit.train.loop import open_split, training_device

Progress = Callable[[str, float | None], None]
"""``progress(what is being done, share of it or None)``."""


def within(progress: Progress, stage: str) -> Told:
    """The share done of a stage, which is told to begin."""
    progress(stage, None)
    return lambda share: progress(stage, share)


RESUME_HINT = "the same command with --resume goes on from there"


@dataclass(frozen=True)
class Source:
    """What all parts share: the trunk, and the images with labels of all classes."""

    trunk: VisionTransformer
    train: Batches
    held_out: Batches
    labels: tuple[str, ...]


@dataclass(frozen=True)
class PartTask:
    """One part's work; small enough to be sent to another process."""

    job: SplitJob
    work: Work
    index: int
    classes: tuple[int, ...]
    heads_pruned: int
    device: str


def load_source(job: SplitJob) -> Source:
    """The trunk and its data. Errors of ``load_trunk`` and ``open_split``."""
    trunk = load_trunk(job.model)
    spec = spec_of(trunk)
    if spec is None or spec.preprocess is None:
        raise EdgeVitError(f"{job.model.source} does not say how its images are preprocessed")
    train, held_out = (aligned(one, spec.labels) for one in open_split(job.data))
    return Source(
        trunk, make_batches(train, spec.preprocess), make_batches(held_out, spec.preprocess), tuple(train.classes or ())
    )


def make_part(task: PartTask, source: Source, progress: Progress) -> float:
    """Finish one part and keep it in the work folder; its balanced held-out accuracy."""
    name, options = f"part-{task.index}", task.job.options
    if task.work.finished(task.index):
        return task.work.load_part(task.index)[1]
    scores = _scored(task, source, progress)
    sub = SubModel(prune(source.trunk, scores, task.heads_pruned, len(task.classes)))
    device = torch.device(task.device)
    unfinished = task.work.state(task.index)
    lesson = _lesson(task, source, device, resume=unfinished.is_file())
    epochs = _telling(name, progress)
    steps = None if options.amp == "no" else MixedPrecision(options.amp, device)
    try:
        averaged, accuracy = retrain(
            sub, lesson, state_file=unfinished, recipe={"part": task.index}, progress=epochs, steps=steps
        )
    except Interrupted as exc:
        raise Interrupted(f"{name}: {exc}", hint=RESUME_HINT) from None
    task.work.save_part(task.index, averaged.state_dict(), accuracy)
    return accuracy


def _scored(task: PartTask, source: Source, progress: Progress) -> Importance:
    """Scores of the trunk's units on the part's classes: those in the work folder, or new ones that are kept there."""
    scores = task.work.load_importance(task.index)
    if scores is None:
        options = task.job.options
        progress(f"part-{task.index}: importance", None)
        scores = score(source, task.classes, options.importance, options.images, options.seed + task.index)
        task.work.save_importance(task.index, scores)
    return scores


def _lesson(task: PartTask, source: Source, device: torch.device, *, resume: bool) -> Lesson:
    options = task.job.options
    return Lesson(
        trunk=source.trunk,
        classes=task.classes,
        train=source.train,
        held_out=source.held_out,
        mode=options.mode,
        options=replace(options.retraining, seed=part_seed(options.seed, task.index), resume=resume),
        device=device,
        negatives=options.negatives,
        tokens=task.work.load_tokens(),
    )


def _telling(name: str, progress: Progress) -> Epochs:
    """What tells ``progress`` how far the retraining of the part is."""

    def epochs(epoch: int, total: int, loss: float, accuracy: float | None) -> None:
        measured = "" if accuracy is None else f", accuracy {accuracy:.1%}"
        progress(f"{name}: epoch {epoch}/{total}{measured}", epoch / total)

    return epochs


def part_seed(seed: int, part: int) -> int:
    """Order and augmentation of a part's images: its own for every part and seed."""
    return (seed * 1009 + part) % 2**32


def load_part(task: PartTask, trunk: VisionTransformer) -> SubModel:
    """The finished sub-model from the work folder."""
    state, _ = task.work.load_part(task.index)
    nothing = random_importance(trunk, seed=0)  # decides values that are overwritten
    sub = SubModel(prune(trunk, nothing, task.heads_pruned, len(task.classes)))
    sub.load_state_dict(state)
    return sub.eval()


# --- scores ------------------------------------------------------------------------------------------------------


def score(source: Source, classes: Sequence[int], method: str, images: int, seed: int) -> Importance:
    """Scores of the trunk's units on ``images`` training images of each class."""
    if method == "random":
        return random_importance(source.trunk, seed=seed)
    if method == "magnitude":
        return magnitude_importance(source.trunk)
    chosen = some_images(source.train, classes, images)
    return exact_importance(source.trunk, chosen) if method == "exact" else taylor_importance(source.trunk, chosen)


def some_images(batches: Batches, classes: Sequence[int], count: int) -> Tensor:
    """Up to ``count`` training images of each class, (B, C, H, W): the first of them."""
    rows = torch.cat([(batches.labels == label).nonzero().flatten()[:count] for label in classes])
    return torch.stack([batches.rows[int(row)] for row in rows])


def save_tokens(task: PartTask, source: Source, progress: Progress) -> None:
    """Compute what all parts distil from, once; nothing where the copies of the images would not fit in memory."""
    rows = source.train.rows
    if not isinstance(rows, Tensor) or (1 + TOKEN_VIEWS) * rows.nbytes > MEMORY_LIMIT:
        return
    told = within(progress, "the trunk's answers for augmented images")
    device = torch.device(task.device)
    tokens = tokens_of(source.trunk, source.train, device, views=TOKEN_VIEWS, seed=TOKEN_SEED, told=told)
    task.work.save_tokens(tokens)


# --- several at a time -------------------------------------------------------------------------------------------


def make_parts(tasks: Sequence[PartTask], source: Source, progress: Progress) -> list[float]:
    """Finish all parts, ``--jobs`` at a time; their accuracies. Raises Interrupted, WorkerFailed, a part's error."""
    job, unfinished = tasks[0].job, [task for task in tasks if not task.work.finished(task.index)]
    if unfinished and job.options.mode == "distil" and tasks[0].work.load_tokens() is None:
        save_tokens(tasks[0], source, progress)
    together = min(len(tasks), job.options.jobs or 1)
    if together == 1:
        return [make_part(task, source, progress) for task in tasks]
    return _in_processes(tasks, together, progress)


def _in_processes(tasks: Sequence[PartTask], together: int, progress: Progress) -> list[float]:
    """Finish the parts in ``together`` processes, each of which reads the data for itself; their accuracies."""
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn")
    news = context.SimpleQueue()
    listener = Thread(target=_listen, args=(news, progress), daemon=True)
    listener.start()
    threads = tasks[0].job.options.threads or 1
    with ProcessPoolExecutor(together, context, _start_worker, (news, threads)) as pool:
        try:
            found = _collected(pool, tasks)
        except Interrupted:
            for child in multiprocessing.active_children():
                if child not in others:
                    child.terminate()  # the last finished epoch is on disk
            raise  # the listener stays behind: a process that was ended may hold the queue's lock
    news.put(None)
    listener.join()
    return found


def _collected(pool: ProcessPoolExecutor, tasks: Sequence[PartTask]) -> list[float]:
    waiting = {pool.submit(_in_worker, task): task.index for task in tasks}
    found: dict[int, float] = {}
    try:
        for done in as_completed(waiting):
            found[waiting[done]] = done.result()
    except KeyboardInterrupt:
        raise Interrupted("stopped; the epochs that were finished are kept", hint=RESUME_HINT) from None
    except BrokenProcessPool:
        raise WorkerFailed(
            "a process that retrained a part ended unexpectedly; the epochs that were finished are kept",
            hint=f"{RESUME_HINT}; with less memory give --jobs 1",
        ) from None
    finally:
        for future in waiting:
            future.cancel()
    return [found[task.index] for task in tasks]


def _listen(news: Any, progress: Progress) -> None:
    while (item := news.get()) is not None:
        progress(*item)


_NEWS: Any = None


def _start_worker(news: Any, threads: int) -> None:
    global _NEWS
    _NEWS = news
    torch.set_num_threads(threads)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would otherwise wait for its next task for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


_source_here = cache(load_source)


def _in_worker(task: PartTask) -> float:
    return make_part(task, _source_here(task.job), lambda what, share: _NEWS.put((what, share)))


def devices_for(count: int, wanted: str) -> list[str]:
    """The device of each of ``count`` parts: GPUs in turn where ``auto`` or ``cuda`` finds several."""
    device = training_device(wanted)
    gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
    return [f"cuda:{index % gpus}" if gpus > 1 else str(device) for index in range(count)]
