"""``edgevit split``: partition → importance → prune → retrain → features → fusion head → export → bundle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgevit import render
from edgevit.artifact.claim import claimed
from edgevit.bundle.manifest import BundleAccuracy, Lineage
from edgevit.bundle.opened import Bundle
from edgevit.cpu import usable_cores
from edgevit.disk import filling
from edgevit.errors import Interrupted, UsageError
from edgevit.models.families.edvit import FusionHead, SubModel
from edgevit.models.families.vit import VisionTransformer
from edgevit.models.loading.source import state_sha256
from edgevit.models.spec import spec_of
from edgevit.models.threads import torch_threads
from edgevit.split.accuracy import degradation
from edgevit.split.features import Features, answers_of, features_of, gather
from edgevit.split.fuse import train_fusion
from edgevit.split.options import PARTITIONS, SplitJob, SplitOptions, command_line
from edgevit.split.partition import partition, read_partition, shown
from edgevit.split.parts import (
    RESUME_HINT,
    PartTask,
    Progress,
    Source,
    devices_for,
    load_part,
    load_source,
    make_parts,
    within,
)
from edgevit.split.publish import Trained, bundle_accuracy, publish_bundle
from edgevit.split.refusals import check
from edgevit.split.sizing import Sizing, choose_heads
from edgevit.split.work import open_work
from edgevit.train.batches import Batches
from edgevit.train.loop import evaluate, open_split, training_device

COLUMNS = ("part", "classes", "heads pruned", "params", "MACs", "bytes", "own accuracy", "fused without it")


@dataclass(frozen=True)
class SplitResult:
    """A finished bundle.

    own      balanced accuracy of every part over its own labels and "none of mine"
    seconds  of every step
    """

    bundle: Bundle
    accuracy: BundleAccuracy
    own: tuple[float, ...]
    sizing: Sizing
    seconds: dict[str, float]

    def record(self) -> dict[str, Any]:
        """The object that ``edgevit split --json`` prints."""
        manifest = self.bundle.manifest
        return {
            "bundle": str(self.bundle.path),
            "parts": [
                {
                    **part.model_dump(
                        mode="json", include={"name", "classes", "heads_pruned", "params", "macs", "bytes"}
                    ),
                    "own_accuracy": own,
                }
                for part, own in zip(manifest.parts, self.own, strict=True)
            ],
            "trunk": manifest.trunk.model_dump(mode="json", include={"name", "params", "macs", "bytes"}),
            "accuracy": self.accuracy.model_dump(mode="json", exclude={"losses"}),
            "sizing": list(self.sizing.steps),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }

    def rows(self) -> list[tuple[str, ...]]:
        """A line for every part."""
        return [
            (
                part.name,
                " ".join(part.classes),
                str(part.heads_pruned),
                render.si(part.params),
                render.si(part.macs),
                render.si(part.bytes, "B"),
                f"{own:.2%}",
                _percent(self.accuracy.if_lost([part.name])),
            )
            for part, own in zip(self.bundle.manifest.parts, self.own, strict=True)
        ]

    def facts(self) -> list[tuple[str, str]]:
        """(name, value) lines for people."""
        found, trunk = self.accuracy, self.bundle.manifest.trunk
        lines = [
            ("bundle", str(self.bundle.path)),
            ("trunk", f"{render.si(trunk.params)} params, {render.si(trunk.macs)} MACs, {render.si(trunk.bytes, 'B')}"),
            ("accuracy", f"{found.fused:.2%} fused, {found.trunk:.2%} trunk, on {found.images} held-out images"),
        ]
        for name, left in (("one missing", found.missing_one), ("two missing", found.missing_two)):
            if left is not None:
                lines.append(
                    (name, f"{left.mean:.2%} on average, {left.worst:.2%} without {', '.join(left.worst_parts)}")
                )
        took = ", ".join(f"{name} {value:.0f} s" for name, value in self.seconds.items())
        return [*lines, ("took", took)]


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{share:.2%}"


def run_split(job: SplitJob, progress: Progress) -> SplitResult:
    """Split a trunk into a bundle at ``job.out``. What is finished is kept in ``job.work()`` until the bundle is whole.

    Raises UsageError (an option, a checkpoint, data or a work folder that does not fit), Unsupported (no plain ViT),
    PlacementImpossible (a budget or fleet that nothing meets), Interrupted, and the errors of exports.
    """
    options = _with_jobs(job.options)
    job = replace(job, options=options)
    with claimed(job.out), filling(job.out):
        check(job)
        return _run(job, progress)


def _run(job: SplitJob, progress: Progress) -> SplitResult:
    options = job.options
    device = training_device(options.device)
    threads = options.threads if options.jobs == 1 else options.threads or usable_cores()
    with torch_threads(threads), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            return _split(job, device, progress)
        except KeyboardInterrupt:
            raise Interrupted("stopped; finished sub-models are kept", hint=RESUME_HINT) from None


def _with_jobs(options: SplitOptions) -> SplitOptions:
    """As many sub-models at a time as there are GPUs, or cores."""
    if options.jobs is not None:
        return options
    device = training_device(options.device)
    able = torch.cuda.device_count() if device.type == "cuda" else usable_cores()
    return replace(options, jobs=max(1, min(able, options.parts)))


def _split(job: SplitJob, device: torch.device, progress: Progress) -> SplitResult:
    clock = _Clock()
    progress("load the trunk and the data", None)
    source = load_source(job)
    check_classes(job, source)
    options, config = job.options, source.trunk.config
    groups = choose_partition(options, source, device)
    sizing = choose_heads(config, groups, options, _nodes(options))
    spec = spec_of(source.trunk)
    for step in (*(spec.notes if spec else ()), *sizing.steps):
        progress(step, None)
    work = open_work(job.work(), _recipe(job, source), resume=job.resume, force=job.force)
    clock.lap("preparation")
    places = devices_for(len(groups), options.device)
    tasks = [
        PartTask(job, work, index, classes, sizing.heads_pruned[index], places[index])
        for index, classes in enumerate(groups)
    ]
    own = make_parts(tasks, source, progress)
    clock.lap("sub-models")
    subs = [load_part(task, source.trunk) for task in tasks]
    held_out = _held_out(subs, source, device, progress)
    head = _fused(subs, source, options, device, progress)
    progress("accuracy without some of the parts", None)
    found = degradation(head, held_out)
    clock.lap("fusion")
    progress("accuracy of the trunk", None)
    trunk = evaluate(source.trunk.to(device), source.held_out, device)
    accuracy = bundle_accuracy(job.data, trunk, found, source.labels, open_split(job.data)[1])
    trained = Trained(
        source.trunk.cpu(), source.labels, groups, sizing.heads_pruned, [s.cpu() for s in subs], head, held_out
    )
    lineage = Lineage(data=job.data, seed=options.seed, commands=(command_line(job),), notes=sizing.steps)
    bundle = publish_bundle(job, trained, accuracy, lineage, progress)
    work.remove()
    clock.lap("export")
    return SplitResult(bundle, accuracy, tuple(own), sizing, clock.laps)


class _Clock:
    """Seconds of the steps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


def _held_out(subs: Sequence[SubModel], source: Source, device: torch.device, progress: Progress) -> Features:
    parts = [
        features_of(sub, source.held_out, device, told=within(progress, f"features of part-{index} on held-out images"))
        for index, sub in enumerate(subs)
    ]
    return gather(parts, source.held_out.labels)


def _fused(
    subs: Sequence[SubModel], source: Source, options: SplitOptions, device: torch.device, progress: Progress
) -> FusionHead:
    views, seed = options.fusion.views_for(len(source.train)), options.seed
    parts = []
    for index, sub in enumerate(subs):
        told = within(progress, f"features of part-{index} on augmented images")
        parts.append(features_of(sub, source.train, device, views=views, seed=seed, told=told))
    told = within(progress, "the trunk's answers for the same images")
    trunk = answers_of(source.trunk, source.train, device, views=views, seed=seed, told=told)
    told = within(progress, "train the fusion head")
    features = gather(parts, source.train.labels, trunk)
    return train_fusion(features, source.trunk.config.num_classes, replace(options.fusion, seed=seed), told)


# --- what is checked before any long work ------------------------------------------------------------------------


def check_classes(job: SplitJob, source: Source) -> None:
    """UsageError unless the data has images of exactly the trunk's classes, on both sides of its split."""
    spec, classes = spec_of(source.trunk), source.trunk.config.num_classes
    known = spec.labels if spec is not None else None
    if known is not None and set(source.labels) != set(known):
        raise _other_classes(job, source.labels, known)
    if len(source.labels) != classes:
        raise UsageError(
            f"{job.data} has {len(source.labels)} classes and the trunk {classes}",
            hint="split with the data that the trunk was trained on",
        )
    _check_images(job, source)


def _other_classes(job: SplitJob, labels: Sequence[str], known: Sequence[str]) -> UsageError:
    absent = [label for label in known if label not in labels]
    strange = [label for label in labels if label not in known]
    what = (
        f"has no images of {shown(absent)}" if absent else f"has classes that the trunk does not know: {shown(strange)}"
    )
    return UsageError(f"{job.data} {what}", hint=f"the trunk's classes are {shown(list(known))}")


def _check_images(job: SplitJob, source: Source) -> None:
    """UsageError for a class without images on one side of the split."""
    for side, batches in (("training", source.train), ("held-out", source.held_out)):
        counts = torch.bincount(batches.labels, minlength=len(source.labels))
        if int(counts.min()) == 0:
            missing = [source.labels[int(label)] for label in (counts == 0).nonzero().flatten()]
            raise UsageError(
                f"{job.data} has no {side} images of {shown(missing)}", hint="give every class two images or more"
            )


def choose_partition(options: SplitOptions, source: Source, device: torch.device) -> tuple[tuple[int, ...], ...]:
    """The classes of every part. UsageError for a file that is not a partition, and for more parts than classes."""
    classes = source.trunk.config.num_classes
    if options.partition not in PARTITIONS:
        groups = read_partition(Path(options.partition), source.labels)
        if len(groups) != options.parts:
            raise UsageError(
                f"{options.partition} has {len(groups)} parts, and --parts says {options.parts}",
                hint=f"--parts {len(groups)}",
            )
        return groups
    centroids = confusion = None
    if options.partition != "balanced" and 1 < options.parts < classes:
        centroids, confusion = class_statistics(source.trunk, source.train, device)
    if options.parts in (1, classes):  # nothing to choose
        return partition(classes, options.parts, seed=options.seed)
    return partition(
        classes, options.parts, method=options.partition, seed=options.seed, centroids=centroids, confusion=confusion
    )


@torch.no_grad()
def class_statistics(
    trunk: VisionTransformer, batches: Batches, device: torch.device
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Mean feature of every class (V, D), and by class the summed probabilities of the trunk's answers (V, V)."""
    trunk.to(device).eval()
    classes = trunk.config.num_classes
    sums = torch.zeros(classes, trunk.config.dim, dtype=torch.float64)
    confusion = torch.zeros(classes, classes, dtype=torch.float64)
    for images, labels in batches.ordered(256):
        token = trunk.forward_features(images.to(device))
        sums.index_add_(0, labels, token.double().cpu())
        confusion.index_add_(0, labels, trunk.head(token).softmax(dim=1).double().cpu())
    counts = torch.bincount(batches.labels, minlength=classes)[:, None]
    return (sums / counts).numpy(), confusion.numpy()


def _nodes(options: SplitOptions) -> tuple[Any, ...]:
    if options.fleet is None:
        return ()
    from edgevit.bundle.fleet_file import read_fleet

    return tuple(read_fleet(options.fleet).nodes)


def _recipe(job: SplitJob, source: Source) -> dict[str, Any]:
    """What decides the sub-models: the options, and the weights and images that were found."""
    return {
        "model": job.model.source,
        "weights": state_sha256(source.trunk),
        "data": job.data,
        "images": len(source.train),
        "classes": list(source.labels),
        **job.options.recipe(),
    }
