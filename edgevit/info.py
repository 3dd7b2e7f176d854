"""A manifest in words."""

from __future__ import annotations

from collections.abc import Iterator

from edgevit import render
from edgevit.artifact import Artifact, Manifest, Parity, ReparamSummary, TensorSpec


def describe(artifact: Artifact) -> Iterator[tuple[str, str]]:
    """(topic, sentence) pairs, in the order a reader asks for them."""
    manifest = artifact.manifest
    model = manifest.model
    written = f"schema {manifest.schema_version}, edgevit {manifest.edgevit}, {manifest.created}"
    counts = f"{render.si(model.params)} parameters, {render.si(model.macs)} MACs per image"
    yield "artifact", f"{artifact.path} ({written})"
    yield "model", f"{model.name}, {model.form} form, from {model.source}; weights: {model.weights.origin}"
    yield "size", f"{counts}, {render.si(artifact.size_bytes(), 'B')} on disk"
    yield "target", f"{manifest.target} {manifest.precision}, batch {manifest.batch}, file {manifest.entry}"
    if manifest.options:
        yield "options", ", ".join(f"{key}={value}" for key, value in manifest.options.items())
    for kind, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            yield kind, _tensor(spec)
    yield from _preprocess(manifest)
    if manifest.labels:
        shown = ", ".join(manifest.labels[:4])
        yield "labels", f"{len(manifest.labels)}: {shown}{', …' if len(manifest.labels) > 4 else ''}"
    yield "parity", parity_sentence(manifest.parity)
    if manifest.accuracy:
        accuracy = manifest.accuracy
        yield (
            "accuracy",
            f"{accuracy.top1:.2%} top-1 of the source model on {accuracy.images} images of {accuracy.data}",
        )
    yield from _inside(manifest)
    for note in manifest.notes:
        yield "note", note


def parity_sentence(parity: Parity) -> str:
    """The proof in one sentence."""
    if parity.status == "unverified" or parity.max_rel is None:
        return f"{parity.status}: {parity.reason}"
    sentence = (
        f"{parity.status}: error {parity.max_rel:.1e} of the largest output, tolerance {parity.tolerance:.1e}, "
        f"{parity.images} rows, batch {', '.join(map(str, parity.batches))}, {parity.runtime}"
    )
    return f"{sentence}; {parity.reason}" if parity.reason else sentence


def reparam_sentence(summary: ReparamSummary) -> str:
    """What was folded, and the float64 proof."""
    folds = ", ".join(f"{count} {kind}" for kind, count in summary.folded.items()) or "nothing to fold"
    return f"{folds}; float64 error {summary.max_rel_error:.1e}"


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype} {'×'.join(map(str, spec.shape))} ({spec.role})"


def _preprocess(manifest: Manifest) -> Iterator[tuple[str, str]]:
    steps = manifest.preprocess
    if steps is None:
        return
    height, width = steps.size
    cut = "squashed to it" if steps.crop == "squash" else f"centre crop {steps.crop_pct:g}"
    where = "inside the graph" if steps.baked else "before the graph"
    numbers = [" ".join(f"{value:g}" for value in triple) for triple in (steps.mean, steps.std)]
    yield (
        "images",
        f"{steps.color} {height}×{width}, {cut}, {steps.interpolation}; mean {numbers[0]}, std {numbers[1]} {where}",
    )


def _inside(manifest: Manifest) -> Iterator[tuple[str, str]]:
    report = manifest.precision_report
    layers = ", ".join(f"{count} {kind}" for kind, count in report.layers.items())
    yield "precision", f"asked for {report.requested}; the graph holds {layers} layers"
    for module, reason in report.kept_fp32.items():
        yield "kept fp32", f"{module}: {reason}"
    if manifest.reparam:
        yield "re-parameterised", reparam_sentence(manifest.reparam)
        for module, reason in manifest.reparam.left.items():
            yield "left as is", f"{module}: {reason}"
    yield "built with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
