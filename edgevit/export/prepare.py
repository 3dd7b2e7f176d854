"""What all targets share: the form that is exported, real rows, the capture, and the float64 reference."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from functools import cache

import torch
from torch import nn

from edgevit.artifact.goodness import RecordedAccuracy, RecordedQuality
from edgevit.artifact.manifest import ModelInfo, ReparamSummary, WeightsInfo
from edgevit.errors import UsageError
from edgevit.export.accuracy import logits_among, measure_accuracy
from edgevit.export.asking import logits_of, outputs_of
from edgevit.export.base import Capture, Progress, silent
from edgevit.export.cache.findings import ACCURACY, ANSWERS, MACS, NOISE
from edgevit.export.cache.fold import folded
from edgevit.export.cache.recall import Recall, recall_for
from edgevit.export.capture import bake_preprocess as baked
from edgevit.export.capture import capture, capture_range
from edgevit.export.legalise.stacked import unstacked
from edgevit.export.meaning import meaning_of, with_classes
from edgevit.export.noise import noise
from edgevit.export.prepared import Answers, Levels, Prepared, Sized, worst
from edgevit.export.quality import measure_quality
from edgevit.export.ranges import Sizing, in_range, require_free, sizing_of
from edgevit.export.reference import answers
from edgevit.export.rows import DEFAULT_DATA, Rows, image_rows, labelled, tensor_rows
from edgevit.images import Preprocess
from edgevit.models.loading.source import load, state_sha256
from edgevit.models.macs import count_macs, count_params
from edgevit.models.spec import ModelSpec, spec_of
from edgevit.models.threads import torch_threads
from edgevit.precisions import WEIGHT_PRECISIONS
from edgevit.prediction.labels import check_labels_for
from edgevit.quantize.calibration import Held, calibration_images, calibration_rows
from edgevit.quantize.integral import Integral
from edgevit.quantize.loss import Scales
from edgevit.quantize.stored import Kept
from edgevit.quantize.trial import Trial
from edgevit.registry import own_version
from edgevit.request import MIN_ROWS, ExportRequest
from edgevit.sizes import Sides
from edgevit.tasks.meaning import Meaning
from edgevit.tasks.metrics.measuring import Bench

threads = torch_threads  # of a ``Way``, as ``check`` is


def prepare(request: ExportRequest, say: Progress = silent) -> Prepared:
    """Everything before the target: form, real rows, capture, float64 reference. Errors of each step."""
    say("load the model", None)
    source, request = in_range(load(request.model), request)
    spec = with_classes(source, _spec(source, request), request)
    spec = spec if request.labels is not None else labelled(spec, request.data)
    recall = recall_for(request, spec.source)
    preprocess = _preprocess(spec, request)
    say("real rows", None)
    rows = _rows(source, spec, preprocess, request)
    say("float64 reference", None)
    baking = preprocess if request.bake_preprocess else None
    asked = source if baking is None else baked(source, baking)
    sizing = sizing_of(request, _stored_preprocess(preprocess, request), rows)
    if sizing is not None:
        require_free(asked, rows.inputs["image"], sizing)
    meaning = meaning_of(source, spec, rows if preprocess is None else _unbaked(preprocess, rows), request)
    reference = _reference(asked, meaning, rows, request, recall)
    sized = {
        size: Sized(at, _reference(asked, meaning, Rows(at, rows.data), request, recall))
        for size, at in (sizing.inputs if sizing else {}).items()
    }
    if request.form == "deploy":
        say("re-parameterise, with proof", None)
    form, reparam = _formed(source, rows, request, recall)
    say("trace", None)
    captured = _captured(form, spec, preprocess, rows, request, meaning, sizing)

    def level(precision: str, keep_fp32: Collection[str]) -> Levels:
        own: dict[Sides | None, Sized] = {None: Sized(rows.inputs, reference)}
        return worst(at_size(size, one, precision, keep_fp32) for size, one in (own | sized).items())

    def at_size(size: Sides | None, one: Sized, precision: str, keep_fp32: Collection[str]) -> Levels:
        asked = (captured.module, one.inputs, one.reference, precision, sorted(keep_fp32))
        found = recall.found(NOISE, asked, lambda: noise(*asked))
        return replace(found, hanging={size: found.hanging[None]} if found.hanging else {})

    lacking: list[str] = []
    quality = _quality(source, captured, spec, request, meaning, lacking)
    return Prepared(
        request=request,
        info=_model_info(source, form, spec, meaning, rows, request, recall),
        capture=captured,
        rows=rows,
        reference=reference,
        noise=level,
        preprocess=_stored_preprocess(preprocess, request),
        labels=_labels(spec, request),
        reparam=reparam,
        accuracy=_accuracy(source, captured, spec, request, recall, say),
        quality=quality,
        notes=(
            *spec.notes,
            *meaning.notes,
            *lacking,
            *reference.notes,
            *reference.whole.vanishing(),
            *(sizing.notes if sizing else ()),
        ),
        reused=recall.reused,
        sizes=sizing.sizes if sizing else None,
        sized=sized,
        integers=cache(lambda: _integral(captured, spec, rows, request, meaning)),
        weigh=lambda answering: _scales(captured, spec, rows, request, meaning).weigh(
            lambda given: Trial(captured).run(None, given).outputs, answering
        ),
    )


def _spec(source: nn.Module, request: ExportRequest) -> ModelSpec:
    """The module's own spec, or one for a bare module: a classifier of images unless ``inputs`` were given.

    With ``inputs``, a module that has a spec stays the classifier that it says it is, of other things than images.
    """
    found = spec_of(source)
    if request.inputs is not None:
        return replace(found, image_size=None, preprocess=None) if found else _bare_spec(type(source).__name__)
    if found is not None:
        return _resized(found, request)
    from edgevit.models.loading.file_models import look

    if request.model.image_size is None:
        raise UsageError(
            f"{type(source).__name__} does not say what it takes", hint="give image_size=, or inputs= for other tensors"
        )
    size = request.model.image_size
    channels, classes = look(source, size, request.model.steps.channels)
    spec = replace(_bare_spec(type(source).__name__), image_size=size, num_classes=classes, channels=channels)
    spec.require_pictures()
    preprocess, notes = request.model.steps.onto(None, size, channels)
    return replace(spec, preprocess=preprocess, notes=notes)


def _bare_spec(name: str) -> ModelSpec:
    return ModelSpec(name, "module", image_size=None, preprocess=None, num_classes=None, origin="given module")


def _resized(spec: ModelSpec, request: ExportRequest) -> ModelSpec:
    """Of a module that was given: a name's has the size and the steps that were asked for."""
    size = request.model.image_size or spec.image_size
    if isinstance(request.model.source, str) or size is None or spec.preprocess is None:
        return spec
    preprocess, notes = request.model.steps.onto(spec.preprocess, size, spec.channels)
    return replace(spec, image_size=size, preprocess=preprocess, notes=(*spec.notes, *notes))


def _preprocess(spec: ModelSpec, request: ExportRequest) -> Preprocess | None:
    """Preprocessing up to the model's float input; UsageError when it is to be baked but there is none."""
    if request.bake_preprocess and spec.preprocess is None:
        raise UsageError("--bake-preprocess needs a model that takes images", hint="drop --bake-preprocess")
    return spec.preprocess


def _stored_preprocess(preprocess: Preprocess | None, request: ExportRequest) -> Preprocess | None:
    return preprocess.model_copy(update={"baked": True}) if preprocess and request.bake_preprocess else preprocess


def _rows(source: nn.Module, spec: ModelSpec, preprocess: Preprocess | None, request: ExportRequest) -> Rows:
    if request.inputs is not None:
        return tensor_rows(source, request.inputs)
    spec.require_pictures()
    stored = _stored_preprocess(preprocess, request)
    if stored is None:
        raise UsageError(f"{spec.name} does not say how images are preprocessed", hint="give inputs= arrays")
    return image_rows(request.data or spec.data or DEFAULT_DATA, stored, max(MIN_ROWS, request.batch.max))


def _unbaked(preprocess: Preprocess, rows: Rows) -> Rows:
    """A row as the model itself takes it, whatever the artifact does."""
    return Rows({"image": preprocess.batch(list(rows.pixels[:1]))}, rows.data)


def _reference(asked: nn.Module, meaning: Meaning, rows: Rows, request: ExportRequest, recall: Recall) -> Answers:
    alone = meaning.task.alone
    return recall.found(
        ANSWERS,
        (asked, rows.inputs, request.batch, alone),
        lambda: answers(asked, rows.inputs, request.batch, alone=alone),
    )


def _formed(
    source: nn.Module, rows: Rows, request: ExportRequest, recall: Recall
) -> tuple[nn.Module, ReparamSummary | None]:
    """The module in the form that is exported, and the proof of the re-parameterisation."""
    if request.form == "train":
        return source, None
    example = None
    if request.inputs is not None:
        example = [torch.from_numpy(array[:2].copy()) for array in rows.inputs.values()]
    deploy, report = folded(source, example, recall)
    return deploy, report.summary()


def _captured(
    form: nn.Module,
    spec: ModelSpec,
    preprocess: Preprocess | None,
    rows: Rows,
    request: ExportRequest,
    meaning: Meaning,
    sizing: Sizing | None,
) -> Capture:
    """The capture, with the preprocessing in front where that was asked for."""
    if request.bake_preprocess and preprocess is not None:
        form = baked(form, preprocess)
    metadata = _metadata(spec, _stored_preprocess(preprocess, request), _labels(spec, request))
    image = preprocess is not None
    alone = meaning.task.alone
    if sizing is not None:
        found = capture_range(form, rows.inputs, request.batch, sizing, alone=alone, metadata=metadata)
    else:
        found = capture(form, rows.inputs, request.batch, alone=alone, image=image, metadata=metadata)
    outputs = meaning.named(found.outputs)
    check_labels_for(outputs, meaning.task.name, _labels(spec, request))
    return replace(found, outputs=outputs)


def _metadata(spec: ModelSpec, preprocess: Preprocess | None, labels: tuple[str, ...] | None) -> dict[str, str]:
    """Strings for the model file's own metadata."""
    found = {"model": spec.name, "edgevit": own_version(), "weights": spec.origin}
    if preprocess is not None:
        found["preprocess"] = preprocess.model_dump_json()
    if labels is not None:
        found["labels"] = json.dumps(list(labels), ensure_ascii=False)
    return found


def _labels(spec: ModelSpec, request: ExportRequest) -> tuple[str, ...] | None:
    labels = request.labels if request.labels is not None else spec.labels
    if labels is not None and spec.num_classes is not None and len(labels) != spec.num_classes:
        raise UsageError(f"{len(labels)} labels for {spec.num_classes} classes", hint="one label per class, in order")
    return labels


def _model_info(
    source: nn.Module,
    form: nn.Module,
    spec: ModelSpec,
    meaning: Meaning,
    rows: Rows,
    request: ExportRequest,
    recall: Recall,
) -> ModelInfo:
    size, channels = spec.image_size, spec.channels
    inputs = None if size else [torch.from_numpy(array[:1].copy()) for array in rows.inputs.values()]
    return ModelInfo(
        name=spec.name,
        source=spec.source,
        form=request.form,
        task=meaning.task.name,
        image_size=spec.image_size,
        classes=spec.num_classes,
        params=count_params(form),
        macs=recall.found(MACS, (form, size, inputs), lambda: count_macs(form, size, inputs=inputs, in_chans=channels)),
        weights=WeightsInfo(origin=spec.origin, state_sha256=state_sha256(source)),
    )


def _integral(captured: Capture, spec: ModelSpec, rows: Rows, request: ExportRequest, meaning: Meaning) -> Integral:
    """The model in integers: found on rows that it is not proved on, weighed on those that it was not trained on."""
    captured, asked = replace(captured, program=unstacked(captured.program)), request.quantizing
    alone = request.precision in WEIGHT_PRECISIONS  # of the float model, whatever integers its checkpoint has
    kept = None if spec.integers is None or alone else Kept(*spec.integers)
    if kept is not None:
        kept.require_unasked(asked)
    scales = _scales(captured, spec, rows, request, meaning)
    if scales.held is None or scales.preprocess is None:
        return Integral(captured, asked, calibration_rows(request), scales, kept, alone)
    if kept is not None:
        kept.require_apart(scales.held)
    wanted = max(MIN_ROWS, request.batch.max)
    found = calibration_images(asked.calibrate or rows.data, asked.images, scales.held, scales.preprocess, wanted)
    return Integral(captured, asked, found, scales, kept, alone)


def _scales(captured: Capture, spec: ModelSpec, rows: Rows, request: ExportRequest, meaning: Meaning) -> Scales:
    """What it is weighed on: images that it was not trained on, or the rows of the proof where it takes no images."""
    logits = next((one.name for one in captured.outputs if one.role == "logits"), None)
    steps = _stored_preprocess(spec.preprocess, request) if request.inputs is None else None
    if steps is None:
        return Scales(rows.inputs, rows.data, None, None, logits, None, spec.num_classes)
    held = Held.of(rows.data, len(rows))
    bench = Bench(meaning.task, captured.outputs, steps, _labels(spec, request))
    return Scales(rows.inputs, held.data, held, steps, logits, bench, spec.num_classes)


def _data(spec: ModelSpec, request: ExportRequest) -> str | None:
    """What the source model's own answers are judged on, None for models of other inputs than images."""
    return (request.data or spec.data) if request.inputs is None else None


def _accuracy(
    source: nn.Module, captured: Capture, spec: ModelSpec, request: ExportRequest, recall: Recall, say: Progress
) -> RecordedAccuracy | None:
    data, logits = _data(spec, request), logits_among(captured.outputs)
    if data is None or spec.preprocess is None or logits is None:
        return None
    say(f"accuracy on {data}", None)
    return measure_accuracy(
        logits_of(source, logits.name),
        data,
        spec.preprocess,
        spec.num_classes,
        _labels(spec, request),
        lambda decided, made, holds: recall.found(ACCURACY, (source, *decided), made, holds),
    )


def _quality(
    source: nn.Module,
    captured: Capture,
    spec: ModelSpec,
    request: ExportRequest,
    meaning: Meaning,
    notes: list[str],
) -> RecordedQuality | None:
    data = _data(spec, request)
    if data is None or spec.preprocess is None:
        return None
    bench = Bench(meaning.task, captured.outputs, spec.preprocess, _labels(spec, request))
    return measure_quality(outputs_of(source, meaning.task.alone), data, bench, notes)
