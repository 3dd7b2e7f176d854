"""What every way of preparing a model ends in, and which way a model takes: traced by torch, or read as an ONNX file.

Free of torch: an ONNX file needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from edgevit.artifact.golden import GOLDEN_ROWS
from edgevit.artifact.manifest import Accuracy, Array, ModelInfo, ReparamSummary
from edgevit.export.base import Capture, Graph, Progress
from edgevit.images import Preprocess
from edgevit.registry import Format
from edgevit.request import ExportRequest, ModelChoice

if TYPE_CHECKING:
    from edgevit.export.rows import Rows

Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Answers:
    """What the model itself answers.

    outputs   by name, for all rows; float64 but where the model answers with integers or booleans
    golden    the same of the first rows alone: another answer where it depends on the other rows of a batch
    group     how many rows were run at once
    computed  the precision that they were computed in, "float64" or "float32"
    notes     sentences for the record: why not float64, that answers depend on their batch
    """

    outputs: Outputs
    golden: Outputs
    group: int
    computed: str = "float64"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A model ready for any target that takes its format, with what its source answers on the same rows.

    capture    what exporters receive
    reference  what the source form answers to ``rows``: in float64, or as the notes say
    noise      precision, paths kept in float32 -> error of the source computed so, against the reference
    notes      what was assumed or chosen when the model was loaded, and of its answers, in sentences
    """

    request: ExportRequest
    info: ModelInfo
    capture: Capture | Graph
    rows: Rows
    reference: Answers
    noise: Callable[[str, Collection[str]], float]
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None
    reparam: ReparamSummary | None
    accuracy: Accuracy | None
    notes: tuple[str, ...] = ()


def head(outputs: Outputs) -> Outputs:
    """The golden rows."""
    return {name: value[:GOLDEN_ROWS] for name, value in outputs.items()}


# What each format's module has: prepare(request, progress), check(model) and threads(count).
_WAYS: Mapping[Format, str] = {"torch": "edgevit.export.prepare"}


@dataclass(frozen=True)
class Way:
    """How models of one format become ``Prepared``.

    check    what can be said of a model before it is loaded: raises the errors of ``prepare`` that show then
    threads  how many threads the model is run with inside the block; None is as many as there are cores
    """

    prepare: Callable[[ExportRequest, Progress], Prepared]
    check: Callable[[ModelChoice], None]
    threads: Callable[[int | None], AbstractContextManager[None]]


def way_of(model: ModelChoice) -> Way:
    """The way that a model is prepared."""
    module = import_module(_WAYS[model.format])
    return Way(module.prepare, module.check, module.threads)
