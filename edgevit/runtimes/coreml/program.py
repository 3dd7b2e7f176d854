"""A saved .mlpackage as a list of numpy steps.

coremltools' own loader reads the package (specification and weights) back into a MIL program; this module turns that
into ``Program``, which knows nothing of coremltools, and runs it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import BadArtifact, EdgeVitError, Unsupported, first_line
from edgevit.runtimes.coreml.ops import OPERATIONS, Operation
from edgevit.runtimes.coreml.ops.registry import rounded, widened

_OURS = "edgevit."  # how the names of our own metadata begin
_STORED = "constexpr_"  # how the names of operations on constants alone begin
Sources = int | list[int]  # where an input comes from: a slot, or several for a list of tensors


@dataclass(frozen=True)
class Step:
    """One operation of the program: slots it reads and writes, and those that nothing reads after it."""

    operation: Operation
    layer: str
    inputs: Mapping[str, Sources]
    outputs: tuple[int, ...]
    dtypes: tuple[np.dtype[Any], ...]
    released: tuple[int, ...]


@dataclass(frozen=True)
class Input:
    """One input: its slot and its type in the program.

    colors   for an input that the package declares as an image, "RGB" or "BGR": the program takes (B, 3, H, W) values
             of 0 … 255, channels in that order; scale and bias are operations of the program
    """

    slot: int
    dtype: np.dtype[Any]
    colors: str | None = None

    def given(self, feed: Array) -> Array:
        """``feed`` as the program takes it. Pixels are (B, H, W, 3) uint8 in RGB order, as the manifest has them."""
        if self.colors is not None and feed.dtype == np.uint8:
            feed = feed.transpose(0, 3, 1, 2)
            feed = feed[:, ::-1] if self.colors == "BGR" else feed
        return rounded(feed, self.dtype)


@dataclass(frozen=True)
class Program:
    """A MIL function in numpy. Values live in numbered slots; ``constants`` fills some of them before the first step.

    opset    deployment target of the program, "iOS17"
    words    what the package says about itself, see ``own_words``
    """

    opset: str
    inputs: Mapping[str, Input]
    outputs: Mapping[str, int]
    constants: Mapping[int, Any]
    steps: tuple[Step, ...]
    words: Mapping[str, str] = field(default_factory=dict)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, in the types of the program. Shapes follow the feeds."""
        slots: dict[int, Any] = dict(self.constants)
        for name, one in self.inputs.items():
            slots[one.slot] = one.given(feeds[name])
        for step in self.steps:
            given = {name: _fetched(slots, source) for name, source in step.inputs.items()}
            slots.update(zip(step.outputs, _called(step, given), strict=True))
            for slot in step.released:
                del slots[slot]
        return {name: np.asarray(slots[slot], order="C") for name, slot in self.outputs.items()}


def _fetched(slots: Mapping[int, Any], source: Sources) -> Any:
    return [slots[slot] for slot in source] if isinstance(source, list) else slots[source]


def _called(step: Step, given: Mapping[str, Any]) -> list[Array]:
    """The step's outputs; an error names the layer."""
    try:
        return step.operation.call(given, step.dtypes)
    except EdgeVitError as exc:
        raise EdgeVitError(f"layer {step.layer}: {exc}", hint=exc.hint) from exc
    except (ValueError, TypeError, IndexError) as exc:
        shapes = ", ".join(
            f"{name} {np.shape(value)}" for name, value in given.items() if isinstance(value, np.ndarray)
        )
        raise EdgeVitError(
            f"the reference evaluator could not compute {step.operation.name} of layer {step.layer} ({shapes}): {exc}",
            hint="report the model; to verify the package otherwise, use a Mac",
        ) from exc


def load(package: Path) -> Program:
    """Read an .mlpackage. BadArtifact when coremltools cannot, Unsupported when an operation is missing here."""
    spec, function = read(package)
    program = _program(function, {one.name: _colors(one.type) for one in spec.description.input})
    return replace(program, words=own_words(spec.description.metadata.userDefined))


def read(package: Path) -> tuple[Any, Any]:
    """An .mlpackage's specification, and its MIL function. BadArtifact when coremltools cannot."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # on Linux its import says what a Mac would have
    import coremltools
    from coremltools.converters.mil.frontend.milproto import load as milproto

    try:
        model = coremltools.models.MLModel(str(package), skip_model_load=True)
        spec = model.get_spec()
        mil = milproto.load(spec, spec.specificationVersion, model.weights_dir)
        return spec, mil.functions["main"]
    except Exception as exc:
        reason = first_line(exc)
        raise BadArtifact(
            f"coremltools {coremltools.__version__} cannot read {package}: {reason}", hint="export anew"
        ) from exc


def own_words(metadata: Mapping[str, str]) -> dict[str, str]:
    """What our exporter wrote into a package: "labels", "preprocess" and the like, by name."""
    return {name.removeprefix(_OURS): text for name, text in metadata.items() if name.startswith(_OURS)}


def _colors(declared: Any) -> str | None:
    """Channel order of an input that is declared as an image, None of a tensor; Unsupported for grey images."""
    if declared.WhichOneof("Type") != "imageType":
        return None
    name = str(declared.imageType.ColorSpace.Name(declared.imageType.colorSpace))
    if name not in ("RGB", "BGR"):
        raise Unsupported(
            f"the reference evaluator takes RGB and BGR images, not {name}", hint="verify the package on a Mac"
        )
    return name


def _program(function: Any, colors: Mapping[str, str | None]) -> Program:
    """``Program`` of a loaded MIL function."""
    slots = _Slots()
    inputs = {
        name: Input(slots[variable], _dtype(variable), colors[name]) for name, variable in function.inputs.items()
    }
    outputs = {variable.name: slots[variable] for variable in function.outputs}
    drafts = [_step(op, slots) for op in function.operations if op.op_type != "const"]
    given = _given(function.operations, slots)
    return _assembled(function.opset_version.name, inputs, outputs, given, drafts)


def piece(operations: Sequence[Any], x: Any, y: Any) -> Program:
    """What makes the variable ``y`` of ``x``, by some of a function's operations. In float32: its numbers are as they
    are stored, and nothing is rounded to float16 on the way."""
    slots = _Slots()
    drafts = [_single(_step(op, slots)) for op in operations if op.op_type != "const"]
    inputs, outputs = {"x": Input(slots[x], np.dtype(np.float32))}, {"y": slots[y]}
    return _assembled("", inputs, outputs, _given(operations, slots), drafts)


def _given(operations: Sequence[Any], slots: _Slots) -> dict[int, Any]:
    return {slots[op.outputs[0]]: op.outputs[0].val for op in operations if op.op_type == "const"}


def _single(step: Step) -> Step:
    wide = tuple(np.dtype(np.float32) if one == np.float16 else one for one in step.dtypes)
    return replace(step, dtypes=wide)


def _assembled(
    opset: str, inputs: Mapping[str, Input], outputs: Mapping[str, int], constants: dict[int, Any], drafts: list[Step]
) -> Program:
    """What is stored smaller is computed once, here, and constants that only arithmetic reads are widened."""
    stored = [step for step in drafts if step.operation.name.startswith(_STORED)]
    for step in stored:
        given = {name: _fetched(constants, source) for name, source in step.inputs.items()}
        constants.update(zip(step.outputs, _called(step, given), strict=True))
    drafts = [step for step in drafts if not step.operation.name.startswith(_STORED)]
    moved = {slot for step in drafts if step.operation.kind == "moves" for slot in _slots_of(step.inputs)}
    kept = moved | set(outputs.values())
    constants = {slot: value if slot in kept else widened(value) for slot, value in constants.items()}
    return Program(opset, inputs, outputs, constants, _with_releases(drafts, set(constants) | set(outputs.values())))


class _Slots:
    """A number for every MIL variable. Variables are told apart by identity: their names need not be unique."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def __getitem__(self, variable: Any) -> int:
        return self._numbers.setdefault(id(variable), len(self._numbers))


def _step(op: Any, slots: _Slots) -> Step:
    operation = _supported(op)
    inputs: dict[str, Sources] = {}
    for name, value in op.inputs.items():
        if value is not None:
            several = isinstance(value, list | tuple)
            inputs[name] = [slots[one] for one in value] if several else slots[value]
    numbers = tuple(slots[variable] for variable in op.outputs)
    return Step(operation, op.name, inputs, numbers, tuple(_dtype(variable) for variable in op.outputs), ())


def _supported(op: Any) -> Operation:
    """The operation in our table; Unsupported when it, or an input that is given, is not there."""
    operation = OPERATIONS.get(op.op_type)
    given = {name for name, value in op.inputs.items() if value is not None}
    if operation is not None and given <= operation.parameters:
        return operation
    what = f"no MIL op {op.op_type}"
    if operation is not None:
        what = f"{op.op_type} without {', '.join(sorted(given - operation.parameters))}"
    raise Unsupported(
        f"the reference evaluator has {what}, which layer {op.name} uses", hint="verify the package on a Mac"
    )


def _dtype(variable: Any) -> np.dtype[Any]:
    from coremltools.converters.mil.mil import types

    dtype: np.dtype[Any] = np.dtype(types.nptype_from_builtin(variable.dtype))
    return dtype


def _slots_of(inputs: Mapping[str, Sources]) -> Iterator[int]:
    for source in inputs.values():
        yield from source if isinstance(source, list) else [source]


def _with_releases(steps: list[Step], kept: set[int]) -> tuple[Step, ...]:
    """The steps with what each may forget: values that it makes or reads and no later step does, but ``kept``."""
    found: list[Step] = []
    needed = set(kept)
    for step in reversed(steps):
        touched = {*_slots_of(step.inputs), *step.outputs}
        released = tuple(sorted(touched - needed))
        found.append(Step(step.operation, step.layer, step.inputs, step.outputs, step.dtypes, released))
        needed |= touched
    return tuple(reversed(found))
