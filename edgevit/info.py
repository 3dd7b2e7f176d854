"""The manifest of an artifact or a bundle in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from edgevit import render
from edgevit.artifact.manifest import QUANT, Manifest, Parity, ReparamSummary, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.bundle.manifest import BundleAccuracy, Remaining
from edgevit.bundle.opened import Bundle
from edgevit.quantize.plan import Layer
from edgevit.steps import cut_in_words


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
    yield "task", model.task
    if manifest.image_sizes:
        sizes = manifest.image_sizes
        yield "image sizes", f"{sizes}: {sizes.lowest} to {sizes.highest}, sides that are multiples of {sizes.multiple}"
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
    for decisions in manifest.parity.decisions():
        yield "", decisions
    if manifest.accuracy:
        yield "accuracy", manifest.accuracy.sentence("source model")
    if manifest.quality:
        yield "quality", manifest.quality.sentence("source model")
    if manifest.loss:
        yield "cost", manifest.loss.sentence()
    yield from _inside(artifact)
    for note in manifest.notes:
        yield "note", note


def parity_sentence(parity: Parity) -> str:
    """The proof in one sentence."""
    if parity.status == "unverified" or parity.max_rel is None:
        return f"{parity.status}: {parity.reason}"
    sentence = (
        f"{parity.status}: error {parity.max_rel:.1e} of the largest output, tolerance {parity.tolerance:.1e}, "
        f"{parity.images} rows, batch {', '.join(map(str, parity.batches))}{parity.at_sizes()}, {parity.runtime}"
    )
    return f"{sentence}; {parity.reason}" if parity.reason else sentence


def reparam_sentence(summary: ReparamSummary) -> str:
    """What was folded, and the float64 proof."""
    folds = ", ".join(f"{count} {kind}" for kind, count in summary.folded.items()) or "nothing to fold"
    return f"{folds}; float64 error {summary.max_rel_error:.1e}"


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype} {spec.shown()} ({spec.role})"


def _preprocess(manifest: Manifest) -> Iterator[tuple[str, str]]:
    steps = manifest.preprocess
    if steps is None:
        return
    height, width = steps.size
    cut = cut_in_words(steps)
    where = "inside the graph" if steps.baked else "before the graph"
    numbers = [" ".join(f"{value:g}" for value in triple) for triple in (steps.mean, steps.std)]
    yield (
        "images",
        f"{steps.color} {height}×{width}, {cut}, {steps.interpolation}; mean {numbers[0]}, std {numbers[1]} {where}",
    )


def _integers(artifact: Artifact) -> Iterator[tuple[str, str]]:
    manifest, plan = artifact.manifest, artifact.plan()
    if manifest.integers is None or plan is None:
        return
    for number, sentence in enumerate(manifest.integers.sentences()):
        yield "" if number else "integers", sentence
    if plan.encoding.weights_alone:
        yield "stored as", f"{stored_as(plan.layers.values())}; plan {QUANT}"
    else:
        yield "calibrated on", f"{plan.calibration.sentence()}; plan {QUANT}"
    told = f", which corrected {len(plan.corrected)} of {len(plan.layers)} layers" if plan.corrected else ""
    yield "found by", f"{plan.quantizer}{told}"
    if layers := manifest.parity.layers:
        yield "layers alone", f"error {layers.worst:.1e}, {layers.steps:.2%} on another step; {layers.sentence()}"


def stored_as(layers: Iterable[Layer]) -> str:
    """How many weights are stored in which way, the most frequent first."""
    return ", ".join(f"{count} weights {way}" for way, count in Counter(map(_way, layers)).most_common())


def _way(layer: Layer) -> str:
    if layer.palette is not None:
        return f"by a table of {len(layer.palette)} numbers"
    shared = "each output channel" if layer.group is None else f"every {layer.group} inputs of an output channel"
    return f"in {layer.bits} bits with a scale for {shared}"


def _inside(artifact: Artifact) -> Iterator[tuple[str, str]]:
    manifest = artifact.manifest
    report = manifest.precision_report
    layers = ", ".join(f"{count} {kind}" for kind, count in report.layers.items())
    yield "precision", f"asked for {report.requested}; the graph holds {layers} layers"
    yield from _integers(artifact)
    for module, reason in report.kept_fp32.items():
        yield "kept fp32", f"{module}: {reason}"
    if manifest.reparam:
        yield "re-parameterised", reparam_sentence(manifest.reparam)
        for module, reason in manifest.reparam.left.items():
            yield "left as is", f"{module}: {reason}"
    yield "built with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())


def describe_bundle(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """(topic, sentence) pairs of a bundle, in the order a reader asks for them."""
    manifest, trunk = bundle.manifest, bundle.manifest.trunk
    written = f"schema {manifest.schema_version}, edgevit {manifest.edgevit}, {manifest.created}"
    yield "bundle", f"{bundle.path} ({written}, revision {bundle.sha256[:12]})"
    yield "trunk", f"{trunk.name}, {_counts(trunk.params, trunk.macs, trunk.bytes)}; weights: {trunk.weights.origin}"
    yield "classes", f"{len(manifest.classes)}, shared out: {manifest.partition.method}, seed {manifest.partition.seed}"
    for part, feature in zip(manifest.parts, manifest.features, strict=True):
        ratios = f"{trunk.params / part.params:.1f}× smaller, {trunk.macs / part.macs:.1f}× fewer MACs than the trunk"
        yield (
            part.name,
            f"classes {', '.join(part.classes)}; {part.heads_pruned} heads pruned, "
            f"{_counts(part.params, part.macs, part.bytes)} ({ratios}), {feature.size} features",
        )
    fusion = manifest.fusion
    yield "fusion", _counts(fusion.params, fusion.macs, fusion.bytes)
    yield "targets", ", ".join(bundle.targets)
    for target in bundle.targets:
        for artifact in (*bundle.parts(target), bundle.fusion(target)):
            if artifact.manifest.parity.status != "verified":
                yield "parity", f"{artifact.path.name} is {parity_sentence(artifact.manifest.parity)}"
    if manifest.accuracy:
        yield from _fused(manifest.accuracy)
    yield "made from", f"{manifest.lineage.data}, seed {manifest.lineage.seed}"
    for command in manifest.lineage.commands:
        yield "made by", command
    for note in manifest.lineage.notes:
        yield "note", note


def _counts(params: int, macs: int, size: int) -> str:
    return f"{render.si(params)} parameters, {render.si(macs)} MACs, {render.si(size, 'B')}"


def _fused(accuracy: BundleAccuracy) -> Iterator[tuple[str, str]]:
    what = f"on {accuracy.images} images of {accuracy.data}"
    yield "accuracy", f"{accuracy.fused:.2%} top-1 fused, {accuracy.trunk:.2%} of the trunk, {what}"
    for count, left in (("one part", accuracy.missing_one), ("two parts", accuracy.missing_two)):
        if left:
            yield f"without {count}", _left(left)


def _left(left: Remaining) -> str:
    worst = f" ({', '.join(left.worst_parts)})" if left.worst_parts else ""
    return f"{left.mean:.2%} on average, {left.worst:.2%} in the worst case{worst}"
