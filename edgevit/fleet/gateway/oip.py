"""KServe's Open Inference Protocol v2 over HTTP: requests as feeds, answers as JSON, tensors in JSON or as bytes.

With the header ``Inference-Header-Content-Length`` the body is that many bytes of JSON, then the bytes of every tensor
that has a ``binary_data_size``, in order: little-endian, row-major (KServe's binary tensor data extension).
Everything is checked against the model's own inputs before an array is made of it; ``BadRequest`` is one sentence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.errors import EdgeVitError, UsageError
from edgevit.fleet.gateway.answering import Answering, Said

HEADER_LENGTH = "Inference-Header-Content-Length"
DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32"
}  # fmt: skip
JSON_A_NUMBER = 32  # bytes of JSON: a float64 with its comma and some white space
JSON_BESIDE = 64 << 10  # bytes of JSON that are no tensor's data
MAX_JSON = 16 << 20  # bytes of it, whatever the model takes: every number becomes an object of 32 bytes
MAX_TENSORS = 16


class BadRequest(EdgeVitError):
    """A request that is not what the protocol or the model takes."""


Parameters = dict[str, Any]
Text = Annotated[str, Field(max_length=256)]


class _Model(BaseModel):
    """What else a client sends is ignored, as the protocol lets extensions add fields."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class InputTensor(_Model):
    """One input; ``data`` is flat or nested, and absent when it comes as bytes."""

    name: Text
    shape: Annotated[list[Annotated[int, Field(ge=0, le=1 << 20)]], Field(max_length=8)]
    datatype: Text
    parameters: Parameters = Field(default_factory=dict)
    data: list[Any] | None = None


class AskedOutput(_Model):
    """One output that is wanted; ``binary_data`` in its parameters asks for bytes."""

    name: Text
    parameters: Parameters = Field(default_factory=dict)


class InferRequest(_Model):
    """What is posted to ``/infer``."""

    id: Text | None = None
    parameters: Parameters = Field(default_factory=dict)
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=MAX_TENSORS)]
    outputs: Annotated[list[AskedOutput], Field(max_length=MAX_TENSORS)] = Field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """A request that was understood. ``outputs`` are the names wanted, and whether as bytes."""

    id: str | None
    feeds: dict[str, Array]
    outputs: tuple[tuple[str, bool], ...]


def read(body: bytes, header_length: str | None, model: Answering) -> Asked:
    """The request in a body; BadRequest says what is wrong with it."""
    text, rest = _split(body, header_length)
    if len(text) > (most := _most_json(model)):
        raise BadRequest(f"{len(text)} bytes of JSON; at most {most} are read", hint="send tensors as bytes")
    try:
        request = InferRequest.model_validate_json(text)
    except ValidationError as exc:
        if header_length is None and b"binary_data_size" in text:
            raise BadRequest(f"tensors follow as bytes, but {HEADER_LENGTH} does not say where") from exc
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadRequest(f"{where + ': ' if where else ''}{first['msg']}") from exc
    feeds = _feeds(request.inputs, rest, model)
    return Asked(request.id, feeds, _outputs(request, model))


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 12):
        raise BadRequest(f"{HEADER_LENGTH} is not a number of bytes")
    if (size := int(header_length)) > len(body):
        raise BadRequest(f"{HEADER_LENGTH} is {size}, but the body has {len(body)} bytes")
    return body[:size], memoryview(body)[size:]


def _most_json(model: Answering) -> int:
    """How many bytes of JSON the model's inputs can need at most."""
    largest = [spec.at(model.sizes.highest) if model.sizes else spec for spec in model.inputs]
    sides = ([model.rows.max if side == "batch" else side for side in spec.shape] for spec in largest)
    return min(MAX_JSON, JSON_BESIDE + JSON_A_NUMBER * sum(math.prod(map(int, shape)) for shape in sides))


def _feeds(inputs: Sequence[InputTensor], rest: memoryview, model: Answering) -> dict[str, Array]:
    specs = {spec.name: spec for spec in model.inputs}
    names = [one.name for one in inputs]
    if sorted(names) != sorted(specs):
        raise BadRequest(f"{model.name} takes the inputs {', '.join(specs)}, each once")
    feeds: dict[str, Array] = {}
    for one in inputs:
        _check_shape(one, specs[one.name], model)
        if "shared_memory_region" in one.parameters:
            raise BadRequest(f"{one.name} is in shared memory, which is not read here", hint="send its data")
        size = one.parameters.get("binary_data_size")
        if size is None:
            feeds[one.name] = _from_json(one, specs[one.name])
            continue
        if one.data is not None:
            raise BadRequest(f"{one.name} has data and binary_data_size; it takes one of them")
        if type(size) is not int or not 0 <= size <= len(rest):
            raise BadRequest(f"binary_data_size of {one.name} is not a number of bytes that follow the JSON")
        feeds[one.name] = _from_bytes(one, specs[one.name], rest[:size])
        rest = rest[size:]
    if len(rest):
        raise BadRequest(f"{len(rest)} bytes at the end belong to no input")
    if len({feeds[spec.name].shape[0] for spec in model.inputs if spec.shape[:1] == ("batch",)}) > 1:
        raise BadRequest("all inputs must have the same number of rows")
    return feeds


def _check_shape(one: InputTensor, spec: TensorSpec, model: Answering) -> None:
    if one.datatype != DATATYPES[spec.dtype]:
        raise BadRequest(f"{one.name} must be {DATATYPES[spec.dtype]}")
    if model.sizes is not None:
        try:
            spec = spec.at(spec.taken(tuple(one.shape), model.sizes))
        except UsageError as exc:
            raise BadRequest(f"{exc}; {exc.hint}" if exc.hint else str(exc)) from exc
    shown = "×".join("rows" if side == "batch" else str(side) for side in spec.shape)
    rows = model.rows
    free = spec.shape[:1] == ("batch",)
    fits = one.shape[1:] == list(spec.shape[1:]) and one.shape if free else one.shape == list(spec.shape)
    if not fits or (free and not rows.min <= one.shape[0] <= rows.max):
        raise BadRequest(f"{one.name} must be {shown}" + (f" with {rows} rows" if free else ""))


def _from_json(one: InputTensor, spec: TensorSpec) -> Array:
    if one.data is None:
        raise BadRequest(f"{one.name} has no data")
    try:
        found = np.asarray(one.data)
    except (ValueError, OverflowError, RecursionError, MemoryError) as exc:
        raise BadRequest(f"data of {one.name} is not an array") from exc
    if found.size != math.prod(one.shape):
        raise BadRequest(f"data of {one.name} has {found.size} numbers; its shape says {math.prod(one.shape)}")
    kinds = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[np.dtype(spec.dtype).kind]
    if found.size and found.dtype.kind not in kinds:
        raise BadRequest(f"data of {one.name} must hold {'booleans' if kinds == 'b' else 'numbers'} that fit its type")
    if "f" not in kinds and "b" not in kinds and found.size:
        bounds = np.iinfo(spec.dtype)
        if found.min() < bounds.min or found.max() > bounds.max:
            raise BadRequest(f"data of {one.name} is out of the range of {one.datatype}")
    with np.errstate(over="ignore"):
        return _finite(one, found.astype(spec.dtype).reshape(one.shape))


def _from_bytes(one: InputTensor, spec: TensorSpec, data: memoryview) -> Array:
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    expected = math.prod(one.shape) * dtype.itemsize
    if len(data) != expected:
        raise BadRequest(f"{one.name} has {len(data)} bytes; its shape says {expected}")
    if dtype.kind == "b" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise BadRequest(f"{one.name} holds booleans that are neither 0 nor 1")
    return _finite(one, np.frombuffer(data, dtype).astype(spec.dtype, copy=False).reshape(one.shape))


def _finite(one: InputTensor, found: Array) -> Array:
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise BadRequest(f"{one.name} holds NaN, infinity or numbers beyond {one.datatype}")
    return found


def _outputs(request: InferRequest, model: Answering) -> tuple[tuple[str, bool], ...]:
    known = [spec.name for spec in model.outputs]
    every = request.parameters.get("binary_data_output") is True
    if not request.outputs:
        return tuple((name, every) for name in known)
    for one in request.outputs:
        if one.name not in known:
            raise BadRequest(f"{model.name} has the outputs {', '.join(known)}")
    if len({one.name for one in request.outputs}) < len(request.outputs):
        raise BadRequest("an output is asked for twice")
    return tuple((one.name, one.parameters.get("binary_data", every) is True) for one in request.outputs)


def write(asked: Asked, said: Said, model: Answering) -> tuple[bytes, int | None]:
    """The answer's body, and how many bytes of it are JSON when tensors follow as bytes. BadRequest when it is no
    number."""
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, binary in asked.outputs:
        array = said.outputs[name]
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadRequest(f"{name} holds NaN or infinity for this input", hint="edgevit verify says if it should")
        one: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}
        if binary:
            blobs.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            one["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            one["data"] = array.ravel().tolist()
        outputs.append(one)
    record = {"model_name": model.name, "model_version": model.version, "outputs": outputs, "parameters": _notes(said)}
    text = json.dumps(record if asked.id is None else {"id": asked.id, **record}, allow_nan=False).encode()
    return b"".join([text, *blobs]), len(text) if blobs else None


def _notes(said: Said) -> dict[str, str | int | float | bool]:
    """What the protocol has no field for, as its parameters."""
    found: dict[str, str | int | float | bool] = {
        "degraded": said.degraded,
        "sub_models": said.parts,
        "answered": said.answered,
        "latency_ms": round(said.latency_ms, 3),
    }
    if said.missing:
        found["missing"] = ", ".join(one.part for one in said.missing)
    return found


def metadata(model: Answering) -> dict[str, Any]:
    """``GET /v2/models/{name}``; a free number of rows is -1, and a side that follows the image's."""
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": model.platform,
        "inputs": [_spec(spec) for spec in model.inputs],
        "outputs": [_spec(spec) for spec in model.outputs],
    }


def _spec(spec: TensorSpec) -> Mapping[str, Any]:
    shape = [-1 if side == "batch" or str(axis) in spec.sides else side for axis, side in enumerate(spec.shape)]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}
