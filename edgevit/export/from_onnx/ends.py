"""The ends of a graph: which input is the image, what the request pins, and what an artifact says of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from onnx import ModelProto, TensorProto, ValueInfoProto, helper
from pydantic import ValidationError

from edgevit.artifact.manifest import Array, BatchRange, TensorSpec
from edgevit.artifact.shelf import Rows
from edgevit.errors import Unsupported, UsageError
from edgevit.printable import printable
from edgevit.steps import OF_CHANNELS

Side = int | None  # None: any
Layout = Literal["NCHW", "NHWC"]
DTYPES = frozenset(get_args(TensorSpec.model_fields["dtype"].annotation))
_FROM_PYTHON = "give rows of its inputs: --inputs rows.npz, 16 or more by their names; from Python inputs={…}"


@dataclass(frozen=True)
class Port:
    """One input as the file declares it."""

    name: str
    dtype: str
    sides: tuple[Side, ...]

    def __str__(self) -> str:
        sides = "×".join("?" if side is None else str(side) for side in self.sides)
        return f"{printable(self.name)} ({self.dtype} {sides})"

    @property
    def batch(self) -> Side:
        return self.sides[0]


@dataclass(frozen=True)
class ImagePort:
    """The one input of a model of images, where its sides are, and how many channels it takes."""

    port: Port
    layout: Layout
    channels: int

    @property
    def size(self) -> tuple[Side, Side]:
        """Height and width, None where the file leaves them open."""
        height, width = self.port.sides[2:4] if self.layout == "NCHW" else self.port.sides[1:3]
        return height, width

    def pinned(self, size: tuple[int, int]) -> Port:
        """The same with every side but the batch fixed."""
        inner = (self.channels, *size) if self.layout == "NCHW" else (*size, self.channels)
        return replace(self.port, sides=(self.port.batch, *inner))


def ports(model: ModelProto) -> tuple[Port, ...]:
    """The inputs that are asked for: initialisers may be listed among a graph's inputs, and have their values."""
    constant = {tensor.name for tensor in model.graph.initializer}
    constant |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    return tuple(_port(value) for value in model.graph.input if value.name not in constant)


def _port(value: ValueInfoProto) -> Port:
    kind, shown = value.type.tensor_type, printable(value.name)
    if not kind.HasField("shape"):
        raise Unsupported(
            f"input {shown} has no number of axes in the file", hint="export the model again with the shapes of inputs"
        )
    sides = tuple(one.dim_value if one.dim_value > 0 else None for one in kind.shape.dim)
    if not sides:
        raise Unsupported(
            f"input {shown} is a single number, and has no axis for the rows of a batch",
            hint="make it a constant of the model, or give it a first axis",
        )
    return Port(value.name, _dtype(kind.elem_type, f"input {shown}"), sides)


def _dtype(elem_type: int, what: str) -> str:
    try:
        name = str(helper.tensor_dtype_to_np_dtype(elem_type)) if elem_type != TensorProto.STRING else "text"
    except (KeyError, ValueError):
        name = "of an unknown type"
    return checked_dtype(name, what)


def checked_dtype(name: str, what: str) -> str:
    """``name``, where an artifact can hold it. Unsupported otherwise."""
    if name not in DTYPES:
        raise Unsupported(
            f"{what} is {name}, which no artifact can hold", hint=f"use {', '.join(sorted(DTYPES))} at the model's ends"
        )
    return name


def image_port(found: tuple[Port, ...], shown: str, asked: int | None = None) -> ImagePort:
    """The input that images go to, of the channels that were ``asked`` for where it takes any number. UsageError where
    the model takes anything else, Unsupported for odd images."""
    one = found[0] if len(found) == 1 else None
    if one is None or len(one.sides) != 4 or one.dtype not in ("float32", "uint8"):
        listed = ", ".join(str(port) for port in found[:4]) or "nothing"
        raise UsageError(f"{shown} does not take one image: its inputs are {listed}", hint=_FROM_PYTHON)
    layout = _layout(one)
    channels = one.sides[1 if layout == "NCHW" else 3] or asked or 3
    if channels not in OF_CHANNELS:
        raise Unsupported(
            f"{shown} takes images of {channels} channels; pictures have 1, 3 or 4",
            hint=f"export it behind a layer that takes 3; or {_FROM_PYTHON}",
        )
    if one.dtype == "uint8" and layout == "NCHW":
        raise Unsupported(
            f"{shown} takes uint8 images with the channels first; pixels have them last",
            hint="export it with a float32 input, or uint8 of batch × height × width × 3",
        )
    return ImagePort(one, layout, channels)


def _layout(port: Port) -> Layout:
    """Where the channels are: where there are 1, 3 or 4 of them; where both or neither say so, what the name says."""
    first, last = (port.sides[axis] in OF_CHANNELS for axis in (1, 3))
    if first != last:
        return "NCHW" if first else "NHWC"
    open_last = not first and port.sides[1] is not None and port.sides[3] is None
    return "NHWC" if "nhwc" in port.name.lower() or open_last else "NCHW"


def pinned_size(
    image: ImagePort, asked: tuple[int, int] | None, known: tuple[int, int] | None, shown: str
) -> tuple[int, int] | None:
    """Height and width: the file's own, else those asked for, else those it is ``known`` to want; None where nothing
    says so. Unsupported where the file has others than were asked for."""
    own = image.size
    if asked is not None and any(mine not in (None, side) for mine, side in zip(own, asked, strict=True)):
        has = "×".join("any" if side is None else str(side) for side in own)
        raise Unsupported(
            f"{shown} takes images of {has} only, not of {asked[0]}×{asked[1]}",
            hint="leave --image-size out, or export the model again with that size or with open sides",
        )
    if own[0] is not None and own[1] is not None:
        return own[0], own[1]
    base = asked or known
    return None if base is None else (own[0] or base[0], own[1] or base[1])


def check_batch(found: tuple[Port, ...], batch: BatchRange, shown: str) -> None:
    """Unsupported where the file has a fixed batch, and another was asked for."""
    fixed = sorted({port.batch for port in found if port.batch is not None})
    if len(fixed) > 1:
        listed = ", ".join(str(port) for port in found[:4])
        raise Unsupported(
            f"the first axes of the inputs differ, so that they are not the batch: {listed}",
            hint="export the model so that every input has one row per image or item",
        )
    if fixed and (batch.min, batch.max) != (fixed[0], fixed[0]):
        raise Unsupported(
            f"{shown} has a fixed batch of {fixed[0]}, so it cannot be built for --batch {batch}",
            hint=f"use --batch {fixed[0]}, or export the model again with an open batch axis",
        )


def given_rows(found: tuple[Port, ...], given: Mapping[str, Array], fewest: int, most: int) -> dict[str, Array]:
    """The caller's own arrays in the order of the file's inputs. UsageError unless names, types and shapes fit."""
    names = [port.name for port in found]
    if set(given) != set(names):
        raise UsageError(
            f"inputs are {', '.join(given) or 'missing'}; the file takes {', '.join(map(str, found))}",
            hint="give one array for each of them",
        )
    lengths = {len(array) if array.ndim else 0 for array in given.values()}
    if min(lengths) < fewest or len(lengths) > 1:
        raise UsageError(f"inputs have {min(lengths)} rows; a proof needs {fewest} real ones, as many of each input")
    for port in found:
        array = given[port.name]
        fits = array.ndim == len(port.sides) and all(
            side in (None, has) for side, has in zip(port.sides[1:], array.shape[1:], strict=True)
        )
        if str(array.dtype) != port.dtype or not fits:
            raise UsageError(f"{port.name} is {array.dtype} of {array.shape}; the file takes {port}")
    return {name: given[name][:most] for name in names}


def input_spec(name: str, array: Array, batch: BatchRange, *, image: bool) -> TensorSpec:
    """What the manifest says of an input, from its rows."""
    return _spec(name, array, batch, "image" if image else "tensor")


def output_spec(name: str, array: Rows, batch: BatchRange) -> TensorSpec:
    """What the manifest says of an output, from its answers. Unsupported for a type that no artifact holds."""
    checked_dtype(str(array.dtype), f"output {printable(name)}")
    return _spec(name, array, batch, "tensor")


def _spec(name: str, array: Rows, batch: BatchRange, role: Any) -> TensorSpec:
    shape = ("batch" if batch.dynamic else batch.min, *array.shape[1:])
    try:
        return TensorSpec(name=name, dtype=str(array.dtype), shape=shape, role=role)  # type: ignore[arg-type]
    except ValidationError as exc:  # no values, too many of them, or too many axes
        raise Unsupported(
            f"{printable(name)} has the shape {array.shape}, which no artifact can hold",
            hint="export the model with one tensor of some values per image",
        ) from exc
