"""An ONNX file as a ``Prepared``: read, pinned, asked for its answers. No torch is needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgevit.cpu import checked_threads
from edgevit.errors import Unsupported, UsageError
from edgevit.export.accuracy import logits_among
from edgevit.export.base import Progress, silent
from edgevit.export.from_onnx.file import check_there
from edgevit.export.from_onnx.original import Original, Scored
from edgevit.export.from_onnx.source import read_source
from edgevit.export.prepared import Levels, Prepared
from edgevit.request import ExportRequest, ModelChoice
from edgevit.tasks.metrics.measuring import Bench


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Nothing here runs a model in this process: workers are told how many threads they have."""
    checked_threads(count)
    yield


def check(model: ModelChoice) -> None:
    """What can be said of a choice before the file is read: it is there, and nothing is asked that it cannot have."""
    given = {"--weights": model.weights, "--pretrained": model.pretrained, "--classes": model.classes}
    for flag, value in given.items():
        if value not in (None, False):
            raise UsageError(
                f"{flag} is not for an ONNX file: it has its weights and classes", hint=f"leave {flag} out"
            )
    if model.image_sizes is not None:
        raise Unsupported(
            f"an ONNX file is pinned to one image size, and not proved at {model.image_sizes}",
            hint="export the PyTorch model it came from, or one size: --image-size 224",
        )
    check_there(Path(str(model.source)))


def _check_traced(request: ExportRequest) -> None:
    """Unsupported for what is done to a model before it is traced."""
    if request.bake_preprocess:
        raise Unsupported(
            "--bake-preprocess is for PyTorch models: into an ONNX file no normalisation is put",
            hint="leave it out, or export the file with its normalisation inside and a uint8 input",
        )
    if request.form != "deploy":
        raise Unsupported(f"an ONNX file has one form, and no {request.form} form", hint="leave --form out")


def prepare(request: ExportRequest, say: Progress = silent) -> Prepared:
    """Everything before the target: graph, real rows, and the file's own answers. Errors of each step."""
    check(request.model)
    _check_traced(request)
    say("read the file", None)
    source = read_source(request)
    say("real rows", None)
    rows = source.rows()
    say("the graph in standard operators", None)
    original = Original(source.file, source.graph(rows), source.cut, request.threads)
    say("reference of ONNX Runtime", None)
    answers, levels = original.answers(rows.inputs, request.batch)
    reference = source.named(answers)
    classes = source.classes(reference)
    labels, notes = source.labels(classes)
    capture = source.captured(original, rows, reference, labels, classes)

    def noise(precision: str, keep_fp32: Collection[str]) -> Levels:
        found = original.noise(rows.inputs, answers, levels, precision, keep_fp32)
        return Levels(dict(zip(reference.whole.outputs, found.outputs.values(), strict=True)))

    accuracy = quality = None
    lacking: list[str] = []
    if source.preprocess is not None and request.data is not None:
        bench = Bench(source.meaning(classes).task, capture.outputs, source.preprocess, labels)
        quality = original.quality(request.data, bench, reference.group, lacking)
    logits = logits_among(capture.outputs)
    if source.preprocess and request.data is not None and classes is not None and logits is not None:
        say(f"accuracy on {request.data}", None)
        scores = Scored(capture.outputs.index(logits), classes, labels)
        accuracy = original.accuracy(request.data, source.preprocess, scores, reference.group)
    return Prepared(
        request=request,
        info=source.info(original, classes),
        capture=capture,
        rows=rows,
        reference=reference,
        noise=noise,
        preprocess=source.preprocess,
        labels=labels,
        reparam=None,
        accuracy=accuracy,
        quality=quality,
        notes=(*source.notes, *notes, *lacking, *reference.notes, *reference.whole.vanishing()),
    )
