"""What every target's exporter gets and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgevit import registry
from edgevit.artifact.manifest import Array, BatchRange, PrecisionReport, TensorSpec
from edgevit.errors import UnknownName, UsageError
from edgevit.export.weight import Constant
from edgevit.quantize.plan import QuantPlan
from edgevit.sizes import SizeRange

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch


Progress = Callable[[str, float | None], None]


def silent(stage: str, fraction: float | None) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Context:
    """What a build is given beside the model.

    progress   told the stage, and the done fraction where that is known
    timeout_s  for the whole build of this target; exporters that start a native compiler keep it, in a worker process
    threads    threads a compiler may use and tune for; None is every usable core
    """

    progress: Progress = silent
    timeout_s: float | None = None
    threads: int | None = None


class Options(BaseModel):
    """Base of an exporter's options: strings from the command line are converted, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def require(self, precision: str) -> None:
        """Unsupported or UsageError for what they ask of a precision that cannot have it."""


@dataclass(frozen=True)
class Capture:
    """A model as every exporter receives it.

    module       eval-mode float32 module in the form that is exported, preprocessing baked in if that was asked for
    program      the same as a ``torch.export.ExportedProgram``, undecomposed, batch axis dynamic if ``batch.dynamic``
    inputs       specs of the inputs, in the order of the module's arguments
    outputs      specs of the flattened outputs, in order
    calibration  ≥ 16 rows of real inputs by name: what activation ranges are measured on
    metadata     strings for the model file's own metadata (model name, edgevit version, labels, preprocessing)
    image_sizes  that the program takes, where it takes more than one: its specs say which sides follow
    plan         of its integers, where the precision is of them
    """

    module: torch.nn.Module
    program: torch.export.ExportedProgram
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchRange
    calibration: Mapping[str, Array]
    metadata: Mapping[str, str] = field(default_factory=dict)
    image_sizes: SizeRange | None = None
    plan: QuantPlan | None = None


@dataclass(frozen=True)
class Graph:
    """A model that came as an ONNX file, as every exporter receives it that takes one.

    model    float32 graph of standard operators, ends pinned and named as in the specs; exporters edit a clone
    inputs, outputs, batch, calibration, metadata  as of a ``Capture``
    """

    model: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchRange
    calibration: Mapping[str, Array]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """What a finished build says about itself.

    plan       of the integers that are in it: the capture's, without the layers that the target could not have
    operators  of its graph, that multiply by the plan's weights
    constants  the largest that the graph holds
    """

    entry: str
    precision: PrecisionReport
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()
    lock: Mapping[str, str | int | list[int]] = field(default_factory=dict)
    plan: QuantPlan | None = None
    operators: int = 0
    constants: tuple[Constant, ...] = ()


Own = TypeVar("Own", bound=Options)
Taken = TypeVar("Taken", contravariant=True, bound=Capture | Graph)


class Exporter(Protocol[Own, Taken]):
    """One target. ``precisions`` names what it can build, the default first; ``options`` is its own subclass.

    ``one_size`` says why its artifacts take images of one size only, "" where they take a range of them.

    An exporter whose registry row takes ONNX files is given a ``Graph`` for those, else a ``Capture``.
    """

    name: str
    precisions: tuple[str, ...]
    options: type[Own]
    one_size: str

    def write(self, capture: Taken, folder: Path, *, precision: str, options: Own, context: Context) -> Built:
        """Build into ``folder`` (exists, empty). ``precision`` is one of its own and ``options`` are of its own class:
        who calls has checked both. Raises Unsupported, ExportFailed."""
        ...


def parse_options(exporter: Exporter[Own, Any], given: Mapping[str, Any]) -> Own:
    """``given`` as the exporter's own options object; UnknownName with the nearest key, UsageError for a bad value."""
    for key in given:
        if key not in exporter.options.model_fields:
            raise UnknownName(f"option of {exporter.name}", key, exporter.options.model_fields)
    try:
        return exporter.options.model_validate(dict(given))
    except ValidationError as exc:
        first = exc.errors()[0]
        raise UsageError(f"{exporter.name}.{first['loc'][0]}: {first['msg'].lower()}") from exc


def load_exporter(name: str, format: registry.Format = "torch") -> Exporter[Any, Any]:
    """A ready exporter for a target name, and for models of a format. The errors of ``registry.Row.load``."""
    exporter: Exporter[Any, Any] = registry.row("exporter", name).load(format)()
    return exporter
