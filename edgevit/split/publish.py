"""From trained sub-models and a fusion head to a bundle: every member is exported and proved like any other model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgevit import build
from edgevit.artifact.golden import GOLDEN_ROWS
from edgevit.artifact.manifest import Array, WeightsInfo
from edgevit.artifact.opened import Artifact
from edgevit.artifact.staging import check_vacant, staged
from edgevit.bundle.manifest import BUNDLE, BundleAccuracy, Lineage, Loss, Partition, Remaining, Trunk, joined
from edgevit.bundle.opened import Bundle, BundleFacts, PartFacts, folder_of, golden_features, write_bundle
from edgevit.data.content import content_of
from edgevit.data.labelled import LabelledData
from edgevit.data.split import spread
from edgevit.disk import filling
from edgevit.errors import EdgeVitError
from edgevit.export.rows import MAX_ROWS
from edgevit.export.targets import Target
from edgevit.models.families.edvit import FusionHead, SubModel
from edgevit.models.families.vit import VisionTransformer
from edgevit.models.loading.source import state_sha256
from edgevit.models.macs import count_macs, count_params
from edgevit.models.reparam import reparameterize
from edgevit.models.spec import ModelSpec, attach_spec, spec_of
from edgevit.proof.labelled import MAX_IMAGES
from edgevit.request import ExportRequest, ModelChoice
from edgevit.split.accuracy import Degradation
from edgevit.split.features import Features
from edgevit.split.fuse import draw_present
from edgevit.split.options import SplitJob
from edgevit.split.parts import Progress
from edgevit.split.refusals import check_targets

NONE_LABEL = "none of mine"


@dataclass(frozen=True)
class Trained:
    """All that a bundle is made of.

    held_out   features of held-out images: rows that the fusion head is proved on
    """

    trunk: VisionTransformer
    labels: tuple[str, ...]
    partition: tuple[tuple[int, ...], ...]
    heads_pruned: tuple[int, ...]
    subs: Sequence[SubModel]
    head: FusionHead
    held_out: Features


def publish_bundle(
    job: SplitJob, trained: Trained, accuracy: BundleAccuracy, lineage: Lineage, progress: Progress
) -> Bundle:
    """Export all members for every target and write the bundle at ``job.out``. Errors of ``build.export``."""
    targets = check_targets(job)
    check_vacant(job.out, force=job.force, kind="bundle", marker=BUNDLE)
    with filling(job.out), staged(job.out) as staging:
        for target in targets:
            _export_all(job, trained, target, staging, progress, several=len(targets) > 1)
        trunk = _trunk_facts(job, trained.trunk, targets[0], staging, progress)
        partition = Partition(method=job.options.partition, seed=job.options.seed)
        facts = BundleFacts(trained.labels, trunk, _part_facts(trained), partition, accuracy, lineage)
        progress("write the bundle and its proof", None)
        default = f"{targets[0].name}-{targets[0].precision}"
        return write_bundle(staging, job.out, facts, default_target=default, force=job.force)


def _part_facts(trained: Trained) -> list[PartFacts]:
    return [
        PartFacts(tuple(trained.labels[label] for label in classes), pruned)
        for classes, pruned in zip(trained.partition, trained.heads_pruned, strict=True)
    ]


def bundle_accuracy(
    data: str, trunk: float, found: Degradation, labels: Sequence[str], held_out: LabelledData
) -> BundleAccuracy:
    """The accuracy table of bundle.json."""
    return BundleAccuracy(
        data=data,
        images=len(held_out),
        content=content_of(spread(held_out, MAX_IMAGES)),
        trunk=trunk,
        fused=found.fused,
        missing_one=_remaining(found, 1),
        missing_two=_remaining(found, 2),
        losses=_losses(found, labels),
        many_missing={
            joined(_names(case)): share for case, share in found.losses.items() if case not in found.suffering
        },
    )


def _losses(found: Degradation, labels: Sequence[str]) -> tuple[Loss, ...]:
    return tuple(
        Loss(missing=_names(case), top1=found.losses[case], suffering=tuple(labels[label] for label in suffering))
        for case, suffering in found.suffering.items()
    )


def _remaining(found: Degradation, count: int) -> Remaining | None:
    left = found.missing(count)
    if left is None:
        return None
    return Remaining(mean=left.mean, worst=left.worst, worst_parts=_names(left.worst_parts))


def _names(parts: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"part-{part}" for part in parts)


# --- members -----------------------------------------------------------------------------------------------------


def _export_all(
    job: SplitJob, trained: Trained, target: Target, staging: Path, progress: Progress, *, several: bool
) -> None:
    spec = _trunk_spec(trained.trunk)

    def export(module: nn.Module, about: ModelSpec, member: str, inputs: Mapping[str, Array] | None = None) -> Artifact:
        out = staging / folder_of(member, target.name, target.precision, several=several)
        return build.artifact(
            _request(job, attach_spec(module, about), target, out, inputs),
            lambda stage, share: progress(f"export {member} to {target.name}: {stage}", share),
        )

    parts = []
    for index, (sub, classes) in enumerate(zip(trained.subs, trained.partition, strict=True)):
        name = f"part-{index}"
        labels = (NONE_LABEL, *(trained.labels[label] for label in classes))
        about = replace(
            spec, name=f"{spec.name} {name}", num_classes=len(labels), labels=labels, data=job.data, accuracy=None
        )
        parts.append(export(sub, replace(about, source="module"), name))
    inputs = {name: np.ascontiguousarray(rows) for name, rows in _head_rows(parts, trained.held_out).items()}
    export(trained.head, _head_spec(spec, trained.labels), "fusion", inputs)


def _request(
    job: SplitJob, module: nn.Module, target: Target, out: Path, inputs: Mapping[str, Array] | None = None
) -> ExportRequest:
    """The export of one member. ``inputs`` instead of the images of the split's data."""
    return ExportRequest(
        ModelChoice(module),
        (target.name,),
        precision=target.precision,
        data=None if inputs else job.data,
        inputs=inputs,
        out=out,
        threads=job.options.threads,
        verify=job.verify,
    )


def _head_spec(spec: ModelSpec, labels: tuple[str, ...]) -> ModelSpec:
    return ModelSpec(
        f"{spec.name} fusion", "module", None, None, len(labels), labels=labels, origin=spec.origin, data=spec.data
    )


def _head_rows(parts: Sequence[Artifact], held_out: Features) -> dict[str, Array]:
    """The parts' golden features, then held-out ones with parts missing at random."""
    golden = golden_features(parts)
    count = min(len(held_out), MAX_ROWS - GOLDEN_ROWS)
    present = draw_present(count, len(parts), 1.0, torch.Generator().manual_seed(0)).numpy()
    rows = [part[:count].numpy() for part in held_out.parts]
    more = {f"features_{index}": row for index, row in enumerate(rows)} | {"present": present}
    return {name: np.concatenate([first, more[name]]) for name, first in golden.items()}


def _trunk_facts(job: SplitJob, trunk: VisionTransformer, target: Target, staging: Path, progress: Progress) -> Trunk:
    """Sizes of the trunk in deploy form, its files as the default target writes them."""
    progress("size of the trunk", None)
    spec = _trunk_spec(trunk)
    folder = staging.with_name(f"{staging.name}-trunk")
    try:
        alone = replace(_request(job, trunk, target, folder), verify=False)
        file_bytes = build.artifact(alone).size_bytes()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    deploy = reparameterize(trunk)
    return Trunk(
        name=spec.name,
        params=count_params(deploy),
        macs=count_macs(deploy, trunk.config.image_size),
        bytes=file_bytes,
        weights=WeightsInfo(origin=spec.origin, state_sha256=state_sha256(trunk)),
    )


def _trunk_spec(trunk: VisionTransformer) -> ModelSpec:
    spec = spec_of(trunk)
    if spec is None:
        raise EdgeVitError("the trunk does not say what it is")
    return spec
