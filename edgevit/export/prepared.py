"""What every way of preparing a model ends in, and which way a model takes: traced by torch, or read as an ONNX file.

Free of torch: an ONNX file needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgevit.artifact.golden import CLEAR_OF, GOLDEN_ROWS
from edgevit.artifact.goodness import IntegerReport, Loss, RecordedAccuracy, RecordedQuality
from edgevit.artifact.manifest import Array, ModelInfo, ReparamSummary, TensorSpec
from edgevit.artifact.sampling import strided
from edgevit.artifact.shelf import Named, Rows, gathered
from edgevit.data.source import check_spec
from edgevit.export.base import Capture, Graph, Progress
from edgevit.images import Preprocess
from edgevit.precisions import TINY, clear_of_noise, largest
from edgevit.quantize.plan import QuantPlan
from edgevit.registry import Format
from edgevit.render import counted
from edgevit.request import ExportRequest, ModelChoice
from edgevit.sizes import Sides, SizeRange

if TYPE_CHECKING:
    from edgevit.export.rows import Rows as GivenRows


@dataclass(frozen=True)
class Noise:
    """Of one output, when its model is computed in a precision.

    error   max abs error / max abs reference, where clear of noise; of whole numbers that were decided, as ``margin``
    margin  how far the margins move that it was decided by, None where it has none
    free    the error where decisions inside the model are not held to the reference's, None where none hangs
    median  the error of the median row, of integers
    """

    error: float
    margin: float | None = None
    free: float | None = None
    median: float | None = None


@dataclass(frozen=True)
class Levels:
    """The noise of a precision.

    outputs  of every output, the largest of all sizes of image
    hanging  by size, None for the model's own, and output: which values hang on a decision inside the model that is
             no further from being another than rounding moves it
    """

    outputs: Mapping[str, Noise]
    hanging: Mapping[Sides | None, Named] = field(default_factory=dict)

    def clear(self, run: Run, size: Sides | None = None) -> dict[str, Rows]:
        """Which values of the rows no noise explains away, of the outputs where it may explain some."""
        hanging = self.hanging.get(size, {})
        noises = {
            name: level
            for name, level in self.outputs.items()
            if level.free is not None or (level.margin is not None and name in run.margins)
        }

        def row(name: str, level: Noise, index: int) -> Array:
            found = np.ones(run.outputs[name].shape[1:], bool)
            if level.margin is not None and name in run.margins:
                found = found & clear_of_noise(run.margins[name][index], level.margin)
            return found & ~hanging[name][index] if name in hanging else found

        return gathered(
            ({name: row(name, level, index)[None] for name, level in noises.items()} for index in range(run.rows)),
            run.rows,
        )


def worst(levels: Iterable[Levels]) -> Levels:
    """The largest of every output."""
    found: dict[str, Noise] = {}
    hanging: dict[Sides | None, Named] = {}
    for level in levels:
        hanging |= level.hanging
        for name, noise in level.outputs.items():
            before = found.get(name, noise)
            margin, free, median = (
                _larger(getattr(before, of), getattr(noise, of)) for of in ("margin", "free", "median")
            )
            found[name] = Noise(max(before.error, noise.error), margin, free, median)
    return Levels(found, hanging)


def _larger(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


@dataclass(frozen=True)
class Run:
    """What a model answered to some rows.

    outputs  by name
    margins  of those that were decided, or picked by what was: how far each value is from being another
    """

    outputs: Named
    margins: Named = field(default_factory=dict)

    def head(self, rows: int = GOLDEN_ROWS) -> Run:
        """The first rows, those of the golden pair."""
        return Run(*({name: value[:rows] for name, value in found.items()} for found in (self.outputs, self.margins)))

    def only(self, names: Collection[str]) -> Run:
        """Of those outputs alone."""
        outputs, margins = (
            {name: value for name, value in found.items() if name in names} for found in (self.outputs, self.margins)
        )
        return Run(outputs, margins)

    @property
    def rows(self) -> int:
        return len(next(iter(self.outputs.values())))

    def vanishing(self) -> list[str]:
        """A sentence on every output of which little can be proved: zero is what much computes."""
        return [
            f"{name} is zero in float32 on all {counted(self.rows, 'row')}: nothing more is proved of it"
            for name, rows in self.outputs.items()
            if all(row.dtype.kind == "f" and largest(row) < TINY for row in rows)
        ]


@dataclass(frozen=True)
class Answers:
    """What the model itself answers.

    whole     to all rows; float64 but where the model answers with integers or booleans
    golden    to the first rows alone: another answer where it depends on the other rows of a batch
    group     how many rows were run at once
    computed  the precision that they were computed in, "float64" or "float32"
    notes     sentences for the record: why not float64, that answers depend on their batch
    inside    whether decisions are made inside the model, and computed with further
    """

    whole: Run
    golden: Run
    group: int
    computed: str = "float64"
    notes: tuple[str, ...] = ()
    inside: bool = False


@dataclass(frozen=True)
class Sized:
    """What the model itself answers to ``inputs`` of images of another size than the one that it was made for."""

    inputs: Mapping[str, Array]
    reference: Answers

    def golden(self, outputs: Sequence[TensorSpec], levels: Levels, size: Sides) -> dict[str, Array]:
        """The one row that is kept, by its names in the file."""
        first = self.reference.whole.head(1)
        kept = strided(first.outputs)
        answers = {spec.name: kept[spec.name].astype(spec.dtype) for spec in outputs}
        clear = {CLEAR_OF + name: found for name, found in strided(levels.clear(first, size)).items()}
        return {**{name: rows[:1] for name, rows in self.inputs.items()}, **answers, **clear}


Answering = Callable[[Mapping[str, Array]], Named]  # rows -> what is answered


@dataclass(frozen=True)
class Prepared:
    """A model ready for any target that takes its format, with what its source answers on the same rows.

    capture    what exporters receive
    reference  what the source form answers to ``rows``: in float64, or as the notes say
    noise      precision, paths kept in float32 -> how far the source computed so is from the reference
    notes      what was assumed or chosen when the model was loaded, and of its answers, in sentences
    reused     what an earlier export had found out, by name; ``noise`` may add to it
    sizes      of images that the model takes, where that is a range
    sized      those of them that are proved, beside its own
    integers   finds the model in integers; None where it cannot be had so
    weigh      what one that answers rows so costs on data beside the model; None where nothing tells
    """

    request: ExportRequest
    info: ModelInfo
    capture: Capture | Graph
    rows: GivenRows
    reference: Answers
    noise: Callable[[str, Collection[str]], Levels]
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None
    reparam: ReparamSummary | None
    accuracy: RecordedAccuracy | None
    quality: RecordedQuality | None = None
    notes: tuple[str, ...] = ()
    reused: Sequence[str] = ()
    sizes: SizeRange | None = None
    sized: Mapping[Sides, Sized] = field(default_factory=dict)
    integers: Callable[[], InIntegers] | None = None
    weigh: Callable[[Answering], Loss] | None = None


class InIntegers(Protocol):
    """A prepared model in integers, whatever the target."""

    @property
    def plan(self) -> QuantPlan:
        """The one that exporters begin with."""
        ...

    def require_captured(self, before: Prepared) -> None:
        """ParityFailed unless the program that integers are of computes the model."""
        ...

    def planned(self, before: Prepared, plan: QuantPlan) -> Prepared:
        """``before`` for an exporter of a plan."""
        ...

    def prepared(self, before: Prepared, plan: QuantPlan) -> Prepared:
        """``before`` with what the integers of a plan answer in place of what its floats do."""
        ...

    def gated(self, plan: QuantPlan, say: Progress) -> tuple[QuantPlan, Loss]:
        """The plan, or what is left of it when it costs no more than asked, and what it costs. GateMissed."""
        ...

    def report(self, plan: QuantPlan, loss: Loss, operators: int) -> IntegerReport:
        """For the manifest."""
        ...

    def layers(self, plan: QuantPlan, inputs: Mapping[str, Array]) -> Mapping[str, tuple[Array, Array]]:
        """Weight -> what its operator is given, and makes of it, on the first rows."""
        ...


# What the module that says what is wrong with a model's name and files has, without torch: check(model).
_CHECKS: Mapping[Format, str] = {
    "torch": "edgevit.models.loading.choice", "onnx": "edgevit.export.from_onnx.prepare",
}  # fmt: skip
# What each format's module has: prepare(request, progress) and threads(count).
_WAYS: Mapping[Format, str] = {"torch": "edgevit.export.prepare", "onnx": "edgevit.export.from_onnx.prepare"}


@dataclass(frozen=True)
class Way:
    """How models of one format become ``Prepared``.

    threads  how many threads the model is run with inside the block; None is as many as there are cores
    """

    prepare: Callable[[ExportRequest, Progress], Prepared]
    threads: Callable[[int | None], AbstractContextManager[None]]


def way_of(model: ModelChoice) -> Way:
    """The way that a model is prepared."""
    module = import_module(_WAYS[model.format])
    return Way(module.prepare, module.threads)


def check(request: ExportRequest) -> None:
    """What can be said of a request before its model is loaded, and torch imported: names that are unknown, files that
    are not there. Raises the errors of ``prepare`` that show then."""
    import_module(_CHECKS[request.model.format]).check(request.model)
    if request.data is not None and request.inputs is None:
        check_spec(request.data)
