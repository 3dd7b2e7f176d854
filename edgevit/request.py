"""What an export is asked for. Command line, Python API, ``split`` and ``benchmark`` make it; ``build`` does it.

Frozen, and free of torch: a device can make one, and be told what it lacks.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from edgevit import registry
from edgevit.artifact.manifest import Array, BatchRange
from edgevit.errors import UnknownName, Unsupported, UsageError
from edgevit.precisions import WEIGHT_PRECISIONS, precision_row
from edgevit.quantize.asked import ASKED, Quantizing
from edgevit.registry import Format
from edgevit.sizes import Sides, SizeRange, as_size, as_sizes
from edgevit.steps import Steps

if TYPE_CHECKING:
    from torch import nn

Form = Literal["deploy", "train"]
MIN_ROWS = 16  # of a proof
ONE = BatchRange(min=1, max=1)
_IR_VERSIONS, _AFTER_IR = 64, (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)  # tags of the other fields of a model


@dataclass(frozen=True)
class ModelChoice:
    """Which model, with which weights.

    source      a zoo name, timm:NAME, path/to/file.py:factory, an ONNX file, or a module; the last two have their
                weights already
    classes     None: those of the weights, else the model's own; 0: no head (timm's and files' models)
    image_size  height, width; None likewise
    steps       of its pictures, where they are other than the model says, or it says none
    image_sizes all that an artifact is to take, in place of one: then pictures keep theirs, unless steps say otherwise
    Raises UsageError for what contradicts itself.
    """

    source: str | nn.Module
    weights: str | None = None
    pretrained: bool = False
    classes: int | None = None
    image_size: tuple[int, int] | None = None
    steps: Steps = field(default_factory=Steps)
    image_sizes: SizeRange | None = None

    def __post_init__(self) -> None:
        if self.image_sizes is not None and self.steps.crop is None:
            object.__setattr__(self, "steps", replace(self.steps, crop="pad"))
        if self.pretrained and self.weights is not None:
            raise UsageError("--pretrained and --weights contradict each other", hint="give one of them")
        if not isinstance(self.source, str) and (self.weights or self.pretrained or self.classes is not None):
            raise UsageError("a module has its weights already", hint="give its name, or load them into it first")
        if self.classes is not None and self.classes < 0:
            raise UsageError(f"the number of classes must be 0 (no head) or more, got {self.classes}")
        if self.image_size is not None:
            as_size(self.image_size)

    @property
    def format(self) -> Format:
        """Whether torch traces it, or an ONNX file holds it."""
        return "onnx" if isinstance(self.source, str) and is_onnx(Path(self.source)) else "torch"


@dataclass(frozen=True)
class ExportRequest:
    """A model, and the targets to build from it.

    targets    in the order in which they are built
    precision  None: each target's own
    options    of exporters, by target; their values are checked by the exporter
    labels     None: the checkpoint's
    task       what the outputs mean; None: what the model says, else what its outputs look like
    inputs     16 rows or more by argument name, for models that take no image
    data       source of real images; None: what the checkpoint was trained on, else "samples"
    out        the artifact's folder; of several targets, or as ``parent``, the one that holds a folder for each.
               None: artifacts/MODEL-TARGET-PRECISION
    timeout_s  for the build of each target
    max_size   bytes that each target's model files may have; None: any number
    cache      whether what earlier exports found out of the same model is used, and kept; the proof never is
    quantizing how integers are found, where the precision is of them
    Raises UnknownName and UsageError for what cannot be right.
    """

    model: ModelChoice
    targets: tuple[str, ...]
    precision: str | None = None
    batch: BatchRange = ONE
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    form: Form = "deploy"
    bake_preprocess: bool = False
    labels: tuple[str, ...] | None = None
    task: str | None = None
    inputs: Mapping[str, Array] | None = None
    data: str | None = None
    out: Path | None = None
    parent: bool = False
    force: bool = False
    verify: bool = True
    require_verified: bool = False
    threads: int | None = None
    timeout_s: float | None = None
    max_size: int | None = None
    cache: bool = True
    quantizing: Quantizing = ASKED

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise UnknownName("form", self.form, get_args(Form))
        if self.task is not None:
            registry.row("task", self.task)
        if self.inputs is not None and self.model.image_sizes is not None:
            raise UsageError(
                f"--image-size {self.model.image_sizes} is of images; rows that are given have a size",
                hint="leave one of them out",
            )
        if self.inputs is not None and (said := [*self.model.steps.said(), *(["--data"] if self.data else [])]):
            raise UsageError(
                f"{', '.join(said)}: of images; rows that are given go to the model as they are",
                hint="leave them out, or the rows",
            )
        self._check_quantizing()
        for target in self.options:
            if target not in self.targets:
                raise UsageError(f"there are options for {target}, which is not being built", hint=f"add -t {target}")

    def _check_quantizing(self) -> None:
        if self.quantizing == ASKED:
            return
        if self.precision is None or not precision_row(self.precision).integers:
            raise UsageError(
                "--calibrate, --calibration-images, --max-drop, --keep-float, --observer and --quantizer are of "
                "integers",
                hint="add --precision int8, or leave them out",
            )
        if self.precision in WEIGHT_PRECISIONS and (said := self.quantizing.of_activations()):
            raise UsageError(
                f"{said} is of activations, which --precision {self.precision} leaves in floats",
                hint="leave it out, or use --precision int8",
            )
        if self.quantizing.calibrate is not None and self.inputs is not None:
            raise UsageError(
                "--calibrate is of images; rows that are given are calibrated on those beyond the first 32",
                hint="leave it out, or the rows",
            )

    def record(self) -> dict[str, Any]:
        """As JSON, for a worker: of a model by name."""
        sizes = self.model.image_sizes and str(self.model.image_sizes)
        found = {**asdict(self), "batch": self.batch.model_dump(), "out": None if self.out is None else str(self.out)}
        found["model"] = {**found["model"], "image_sizes": sizes}
        record: dict[str, Any] = json.loads(
            json.dumps(found, default=_array_record)
        )  # as it is read again: lists, no tuples
        return record


def of_record(record: Mapping[str, Any]) -> ExportRequest:
    """The request that ``record()`` wrote."""
    labels, out, inputs = record["labels"], record["out"], record["inputs"]
    return ExportRequest(
        **{
            **record,
            "model": _choice_of(record["model"]),
            "targets": tuple(record["targets"]),
            "batch": BatchRange(**record["batch"]),
            "labels": labels and tuple(labels),
            "out": out and Path(out),
            "inputs": inputs and {name: _array_of(one) for name, one in inputs.items()},
            "quantizing": _quantizing_of(record["quantizing"]),
        }
    )


def _quantizing_of(record: Mapping[str, Any]) -> Quantizing:
    return Quantizing(**{**record, "keep_float": tuple(record["keep_float"])})


def _choice_of(record: Mapping[str, Any]) -> ModelChoice:
    size, sizes = chosen_size(record["image_size"])[0], chosen_size(record["image_sizes"])[1]
    return ModelChoice(
        **{**record, "image_size": size, "steps": Steps(**record["steps"]), "image_sizes": sizes},
    )


def _array_record(array: Array) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "base64": data}


def _array_of(record: Mapping[str, Any]) -> Array:
    values = np.frombuffer(base64.b64decode(record["base64"]), record["dtype"])
    return values.reshape(record["shape"])


def is_onnx(path: Path) -> bool:
    """Whether a path means an ONNX file: by its name, or by how the file that is there begins."""
    if path.suffix.lower() == ".onnx":
        return True
    try:
        if path.suffix == ".py" or not path.is_file():
            return False
        with path.open("rb") as file:
            tag, version, after = (*file.read(3), 0, 0, 0)[:3]
    except (OSError, ValueError):
        return False
    # The first field of a model is its IR version, a small number; then come its producer or its operator sets.
    return tag == 0x08 and 0 < version < _IR_VERSIONS and after in _AFTER_IR


def image_sides(size: Any) -> tuple[int, int] | None:
    """Height and width of an image size given as one side or both, in whatever holds them."""
    if size is None:
        return None
    sides = as_size(size)
    return sides.height, sides.width


def chosen_size(given: Any) -> tuple[tuple[int, int] | None, SizeRange | None]:
    """``--image-size`` as the two fields of a ``ModelChoice``: one size, or a range of them. UsageError as
    ``as_sizes``."""
    found = None if given is None else as_sizes(given)
    return (found, None) if isinstance(found, Sides) else (None, found)


def parse_batch(batch: int | str) -> BatchRange:
    """1, "4" or "1-8". UsageError for anything else."""
    low, dash, high = str(batch).strip().partition("-")
    try:
        found = int(low), int(high if dash else low)
    except ValueError:
        found = (0, 0)
    if not 1 <= found[0] <= found[1]:
        raise UsageError(f"batch must be a number or a range, got {batch!r}", hint="for example 1, or 1-8")
    return BatchRange(min=found[0], max=found[1])


def resolve_targets(names: Sequence[str], format: Format = "torch") -> tuple[str, ...]:
    """The targets asked for, in order, without repeats; 'all' is every one that this machine can build from models of
    a format."""
    if "all" in names:
        rows = registry.rows("exporter").items()
        able = tuple(name for name, row in rows if format in row.formats_taken and row.on_this_machine(format).able)
        if not able:
            raise Unsupported("this machine can build no target", hint="edgevit targets says what each of them needs")
        return able
    for name in names:
        registry.row("exporter", name)  # an unknown name ends the command before anything is built
    return tuple(dict.fromkeys(names))


def split_options(given: Iterable[str], targets: Sequence[str]) -> dict[str, dict[str, str]]:
    """``TARGET.key=value`` strings by target; the bare ``key=value`` belongs to the only target."""
    split: dict[str, dict[str, str]] = {target: {} for target in targets}
    for item in given:
        name, equals, value = item.partition("=")
        target, dot, key = name.partition(".")
        if not equals or not name:
            raise UsageError(f"--option {item!r} is not KEY=VALUE", hint="for example --option onnx.opset=20")
        if not dot:
            if len(targets) != 1:
                raise UsageError(f"--option {item!r} does not say for which target", hint=f"write {targets[0]}.{item}")
            target, key = targets[0], name
        if target not in split:
            raise UsageError(f"--option {item!r} is for {target}, which is not being built", hint=f"add -t {target}")
        split[target][key] = value
    return split
