"""The plan of an int8 model: pure data, the same for every target, keyed by the name of a layer's weight.

    real = (integer - zero_point) · scale

Activations have one unsigned grid each, weights a symmetric one per output channel, biases the grid of the sums that
they are added to. Free of torch: devices read it, and proofs hold an artifact against it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, PlainSerializer, model_validator

from edgevit.artifact.schema import Strict
from edgevit.quantize.asked import Observer

LEVELS = 255  # of an activation above the lowest
MIDDLE = 128  # of them, which a symmetric grid has for zero; where activations are signed that is what they have less
WEIGHT_LEVELS = 127  # of a weight on either side of zero: -128 is left out, so that the grid is symmetric
SMALLEST = 1e-12  # scale: products of two must be float32 numbers of full precision
SMALLEST_HALF, LARGEST_HALF = 2.0**-24, 65504.0  # of float16
_BIAS_LIMIT = 2.0**30  # of an int32 bias, half of what it holds, so that the sums added to it fit too

Array = np.ndarray[Any, Any]
WeightBits = Literal[4, 7, 8]


def _single(value: float) -> float:
    return float(np.float32(value))


# A float32 number, written as shortly as it can be told from the next.
Scale = Annotated[
    float, Field(gt=0), AfterValidator(_single), PlainSerializer(lambda value: float(str(np.float32(value))))
]


class Grid(Strict):
    """The 256 numbers that an activation may be."""

    scale: Scale = Field(description="a float32 number")
    zero_point: int = Field(ge=0, le=LEVELS)

    def integers(self, values: Array) -> Array:
        """Float32 values as uint8: rounded half to even, what is beyond the ends put there."""
        scaled = np.rint(values.astype(np.float32) / np.float32(self.scale)) + np.float32(self.zero_point)
        found: Array = np.clip(scaled, 0, LEVELS).astype(np.uint8)
        return found

    def nearest(self, values: Array) -> Array:
        """The float32 numbers of the grid in place of values."""
        steps = self.integers(values).astype(np.float32) - np.float32(self.zero_point)
        found: Array = steps * np.float32(self.scale)
        return found


class Range(Strict):
    """Smallest and largest value that a grid has to hold; zero is always between them.

    symmetric  whether zero is the middle of its grid, which then reaches as far to either side
    half       whether its grid's scale is a float16 number
    """

    low: float = Field(le=0)
    high: float = Field(ge=0)
    symmetric: bool = False
    half: bool = False

    def grid(self) -> Grid:
        """Zero exactly on it."""
        if self.symmetric:
            return Grid(scale=self._scale(max(-self.low, self.high) / WEIGHT_LEVELS), zero_point=MIDDLE)
        scale = self._scale((self.high - self.low) / LEVELS)
        return Grid(scale=scale, zero_point=int(np.clip(np.rint(-self.low / np.float32(scale)), 0, LEVELS)))

    def _scale(self, step: float) -> float:
        return float(halves(np.array(step))) if self.half else float(np.float32(max(step, SMALLEST)))


class Layer(Strict):
    """One weight, and every operator that multiplies by it.

    modules  paths of the PyTorch modules that these operators are of
    input    what they are given
    output   what they return, where that is put on a grid too: of convolutions, whose integer kernels give integers
    relu     whether ``output`` is behind a ReLU, which the grid's lower end then is
    scales   of the weight, one for every output channel; float32 numbers. Where groups have their own, the largest
    bits     of the weight's integers
    group    how many inputs of an output channel share a scale; None: all
    palette  the numbers that the weight is made of, where its integers are places among them
    checks   CRC-32 of each output channel's float32 numbers as they are stored, where weights alone are
    """

    operator: Literal["conv", "linear"]
    modules: tuple[str, ...]
    input: Range
    output: Range | None
    relu: bool = False
    scales: tuple[Scale, ...]
    bits: WeightBits = 8
    group: int | None = Field(default=None, ge=2)
    palette: tuple[float, ...] | None = None
    checks: tuple[int, ...] | None = None


class Calibration(Strict):
    """The rows that ranges were found on, and how."""

    data: str
    rows: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the rows' bytes")
    observer: Observer

    def sentence(self) -> str:
        """ "128 rows of digits (minmax), 0123456789ab"."""
        return f"{self.rows} rows of {self.data} ({self.observer}), {self.sha256[:12]}"


class Encoding(Strict):
    """What an engine wants of grids that hold the same ranges.

    activations  type that they are stored in: int8 is uint8 less 128, zero points too, and means the same numbers;
                 float where weights alone are stored as integers
    symmetric    whether all zero points are the middle of the grid
    results      whether what convolutions give is put on grids too
    biases       float32 where the engine takes no others: the numbers that the integers are; float16 where it computes
                 in that: the nearest to the model's own
    floats       type of scales, and of what stays float
    weights      bits of a weight: 7 for a processor that adds two products up in 16 bits, which those of 8 overflow
    rounding     own where the engine finds an activation's step by other products of floats than a division by the
                 scale: what lies within a float's rounding of the border of two steps then goes to either
    palettes     whether weights of 4 bits are places in a table, in place of steps of groups
    """

    activations: Literal["uint8", "int8", "float"]
    symmetric: bool
    results: bool
    biases: Literal["int32", "float32", "float16"]
    floats: Literal["float32", "float16"] = "float32"
    weights: WeightBits = 8
    rounding: Literal["exact", "own"] = "exact"
    palettes: bool = False

    @property
    def weights_alone(self) -> bool:
        """Whether everything is computed in floats, and weights are stored smaller."""
        return self.activations == "float"


X86 = Encoding(activations="uint8", symmetric=False, results=True, biases="int32")
AVX2 = X86.model_copy(update={"weights": 7})
ARM = Encoding(activations="int8", symmetric=False, results=True, biases="int32")
TVM = Encoding(activations="uint8", symmetric=False, results=False, biases="int32")
NVIDIA = Encoding(activations="int8", symmetric=True, results=False, biases="float32")
# OpenVINO computes what it is written, as long as activations are unsigned and results are put on no grid of their own.
INTEL = Encoding(activations="uint8", symmetric=False, results=False, biases="float32", rounding="own")
APPLE = Encoding(activations="int8", symmetric=True, results=False, biases="float16", floats="float16")
APPLE_SINGLE = Encoding(activations="int8", symmetric=True, results=False, biases="float32")
STORED = Encoding(activations="float", symmetric=True, results=False, biases="float32")


class QuantPlan(Strict):
    """Which weights are integers, and why the others stay float."""

    schema_version: Literal[1] = 1
    encoding: Encoding = X86
    layers: Mapping[str, Layer]
    kept: Mapping[str, str] = Field(description="weight that stays float -> why")
    calibration: Calibration
    quantizer: str = Field(default="plain", description="registry row of what found it")
    corrected: tuple[str, ...] = Field(default=(), description="layers whose integers are of another weight")

    @model_validator(mode="after")
    def _apart(self) -> QuantPlan:
        if both := set(self.layers) & set(self.kept):
            raise ValueError(f"{sorted(both)[0]} is an integer and stays float")
        if other := set(self.corrected) - set(self.layers):
            raise ValueError(f"{sorted(other)[0]} is corrected and is no integer")
        return self

    def text(self) -> str:
        """As JSON, for a file."""
        return self.model_dump_json() + "\n"

    def sha256(self) -> str:
        """Of the text."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def encoded(self, encoding: Encoding) -> QuantPlan:
        """The same ranges on the grids of an engine; what its scales cannot hold stays float."""
        beyond = {name: _BEYOND for name, layer in self.layers.items() if _is_beyond(layer, encoding)}
        left = self.without(beyond)
        layers = {name: _encoded(layer, encoding) for name, layer in left.layers.items()}
        return left.model_copy(update={"layers": layers, "encoding": encoding})

    def without(self, kept: Mapping[str, str]) -> QuantPlan:
        """The plan with those layers back in float, and why."""
        left = {name: layer for name, layer in self.layers.items() if name not in kept}
        corrected = tuple(name for name in self.corrected if name in left)
        return self.model_copy(update={"layers": left, "kept": {**self.kept, **kept}, "corrected": corrected})


def levels(bits: int) -> int:
    """Of a weight on either side of zero."""
    return int(2 ** (bits - 1) - 1)


def _encoded(layer: Layer, encoding: Encoding) -> Layer:
    half = encoding.floats == "float16"
    grid = {"symmetric": encoding.symmetric, "half": half}
    coarser = levels(layer.bits) / levels(encoding.weights)
    scales = np.array([_single(scale * coarser) for scale in layer.scales])
    changed: dict[str, Any] = {
        "input": layer.input.model_copy(update=grid),
        "scales": tuple(map(float, halves(scales) if half else scales)),
        "bits": encoding.weights,
    }
    if not encoding.results:
        changed |= {"output": None, "relu": False}
    elif layer.output is not None:
        changed["output"] = layer.output.model_copy(update=grid)
    return layer.model_copy(update=changed)


_BEYOND = "its numbers are larger than float16 holds"


def _is_beyond(layer: Layer, encoding: Encoding) -> bool:
    ends = [layer.input, *([layer.output] if layer.output is not None and encoding.results else [])]
    largest = max(*(max(-one.low, one.high) for one in ends), max(layer.scales) * WEIGHT_LEVELS)
    return encoding.floats == "float16" and largest > LARGEST_HALF


def halves(steps: Array) -> Array:
    """Float32 numbers that float16 holds exactly, none smaller than what is given: what a grid reached, it reaches."""
    nearest = np.maximum(steps, SMALLEST_HALF).astype(np.float16)
    with np.errstate(over="ignore"):  # next to the largest
        above = np.nextafter(nearest, np.float16(np.inf))
    found: Array = np.where(nearest < steps, above, nearest).astype(np.float32)
    return found


@dataclass(frozen=True)
class Weight:
    """A layer's numbers in float32: ``values`` (O, …) with the output channels first, ``bias`` (O,) or None."""

    values: Array
    bias: Array | None


def zero_point(grid: Grid, encoding: Encoding) -> np.uint8 | np.int8:
    """As it is stored."""
    return np.uint8(grid.zero_point) if encoding.activations == "uint8" else np.int8(grid.zero_point - MIDDLE)


def weight_scales(weight: Weight, input_scale: float) -> Array:
    """(O,) float32: the largest magnitude of each channel on the last level, and room for its bias in int32."""
    flat = np.abs(weight.values.reshape(len(weight.values), -1)).max(axis=1).astype(np.float64)
    scales = np.maximum(flat / WEIGHT_LEVELS, SMALLEST)
    if weight.bias is not None:
        scales = np.maximum(scales, np.abs(weight.bias) / (input_scale * _BIAS_LIMIT))
    found: Array = scales.astype(np.float32)
    return found


def sum_scales(layer: Layer) -> Array:
    """(O,) float32: what one step of an integer sum is worth."""
    found: Array = np.float32(layer.input.grid().scale) * np.array(layer.scales, np.float32)
    return found


def weight_integers(layer: Layer, values: Array) -> Array:
    """(O, …) int8 of a layer's weight."""
    scales = np.array(layer.scales, np.float32).reshape(-1, *[1] * (values.ndim - 1))
    most = levels(layer.bits)
    found: Array = np.clip(np.rint(values / scales), -most, most).astype(np.int8)
    return found


def bias_integers(layer: Layer, bias: Array) -> Array:
    """(O,) int32 of a layer's bias, in steps of ``sum_scales``."""
    found: Array = np.rint(bias.astype(np.float64) / sum_scales(layer).astype(np.float64)).astype(np.int32)
    return found


def added(layer: Layer, bias: Array, encoding: Encoding) -> Array:
    """(O,) float64: what a layer's bias adds to its integer sums, in steps of ``sum_scales``."""
    if encoding.biases != "float16":
        return bias_integers(layer, bias).astype(np.float64)
    found: Array = as_stored(bias, encoding) / sum_scales(layer).astype(np.float64)
    return found


def as_stored(bias: Array, encoding: Encoding) -> Array:
    """(O,) float64: a bias in the floats of an encoding; what float16 does not hold is computed in float32."""
    if encoding.biases != "float16":
        return bias.astype(np.float64)
    with np.errstate(over="ignore"):
        halved = bias.astype(np.float16).astype(np.float64)
    found: Array = np.where(np.isfinite(halved), halved, bias)
    return found
