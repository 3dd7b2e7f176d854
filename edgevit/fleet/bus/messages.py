"""What is said on the bus, and its bounds. JSON beside raw tensor bytes; nothing is ever unpickled.

Everything that arrives is checked before anything is allocated for it: the size of the JSON, the dtype, the shape, and
that the bytes are exactly as many as the shape says. ``BadMessage`` is what a sender of anything else gets to hear, and
what is counted; it never ends a process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgevit.artifact.manifest import Array
from edgevit.errors import EdgeVitError

MAX_META = 4096  # bytes of JSON beside a tensor
MAX_RECORD = 1 << 20  # bytes of JSON that stands alone: an order, a node's figures
MAX_PAYLOAD = 64 << 20  # bytes of a tensor or an encoded image
MAX_ROWS = 64
MAX_SIDES = 6
MAX_OUTPUTS = 16  # of one answer
DTYPES = ("float32", "float16", "uint8", "int64", "int32", "bool")

MAX_COUNT = (1 << 53) - 1  # of anything that is counted, as far as every reader of JSON counts exactly
MAX_GENERATION = (1 << 31) - 1  # of an epoch or a step

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Epoch = Annotated[int, Field(ge=0, le=MAX_GENERATION)]
Free = Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)]  # bytes; below 0 where more is used than was given
Text = Annotated[str, Field(max_length=1000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Shape = Annotated[tuple[Annotated[int, Field(ge=0, le=1 << 20)], ...], Field(max_length=MAX_SIDES)]
Where = Mapping[str, tuple[str, ...]]  # node -> its parts
M = TypeVar("M", bound="Message")


class BadMessage(EdgeVitError):
    """A message that is not what it must be. The sentence says what is wrong with it, without quoting it."""


class Message(BaseModel):
    """Strict; an unknown field is an error, so that both ends notice a version that they do not share."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


class Tensor(Message):
    """How the bytes beside it are to be read: row-major, little-endian."""

    dtype: Literal["float32", "float16", "uint8", "int64", "int32", "bool"] = "float32"
    shape: Shape


class InferMeta(Message):
    """Beside the payload of a question to ``infer/…``.

    kind        tensor: the model's input, as ``tensor`` says; pixels: (H, W, 3) uint8, resized and cropped already,
                which the node normalises; image: an encoded JPEG, PNG, … that the node decodes and preprocesses
    left_ms     time until the asker's deadline when it was sent; a node does not begin what comes later
    """

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    kind: Literal["tensor", "pixels", "image"]
    tensor: Tensor | None = None
    left_ms: Annotated[float, Field(ge=0, le=600_000)]
    trace: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None


class ReplyMeta(Message):
    """Beside the payload of an answer: which question it answers, how to read it, where the time went. What follows
    the first tensor are the other outputs of a single artifact, their bytes one after another."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    tensor: Tensor
    more: Annotated[tuple[Tensor, ...], Field(max_length=MAX_OUTPUTS - 1)] = ()
    queue_ms: Annotated[float, Field(ge=0)]
    compute_ms: Annotated[float, Field(ge=0)]


def parse(kind: type[M], data: bytes, limit: int = MAX_META) -> M:
    """``data`` as a message of this kind; BadMessage when it is too long, no JSON, or another message."""
    if len(data) > limit:
        raise BadMessage(f"{kind.__name__} of {len(data)} bytes; at most {limit} are read")
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise BadMessage(f"{kind.__name__}: {where}: {first['msg']}") from exc


def record(data: bytes, limit: int = MAX_RECORD) -> dict[str, Any]:
    """A JSON object without a fixed form; BadMessage when it is anything else."""
    if len(data) > limit:
        raise BadMessage(f"a record of {len(data)} bytes; at most {limit} are read")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise BadMessage("a record that is not JSON") from exc
    if not isinstance(found, dict):
        raise BadMessage("a record that is no JSON object")
    return found


def tensor_bytes(array: Array) -> tuple[Tensor, memoryview]:
    """How to read an array, and its bytes, copied only if it is not contiguous."""
    if array.dtype.name not in DTYPES:
        raise BadMessage(f"tensors of {array.dtype.name} are not sent")
    flat = np.ascontiguousarray(array)
    return Tensor(dtype=array.dtype.name, shape=flat.shape), flat.data.cast("B")


def tensor_of(said: Tensor, data: bytes | memoryview, limit: int = MAX_PAYLOAD) -> Array:
    """The array, without a copy (read-only); BadMessage unless the bytes are exactly those of the shape."""
    size = math.prod(said.shape) * np.dtype(said.dtype).itemsize
    if size != len(data) or size > limit:
        raise BadMessage(f"{len(data)} bytes for a tensor of {size}, at most {limit}")
    if said.dtype == "bool" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise BadMessage("booleans that are neither 0 nor 1")
    return np.frombuffer(data, said.dtype).reshape(said.shape)


def tensors_of(said: Sequence[Tensor], data: bytes, limit: int = MAX_PAYLOAD) -> tuple[Array, ...]:
    """The arrays whose bytes follow each other; BadMessage unless these are exactly those of all shapes."""
    found, start, whole = [], 0, memoryview(data)
    for one in said:
        end = start + math.prod(one.shape) * np.dtype(one.dtype).itemsize
        found.append(tensor_of(one, whole[start:end], limit))
        start = end
    if start != len(data):
        raise BadMessage(f"{len(data)} bytes for tensors of {start}")
    return tuple(found)


# --- what nodes say of themselves ---------------------------------------------------------------------------------


class PartFigures(Message):
    """Of one part on one node, since it was loaded; milliseconds are of the newest answers, None without any."""

    revision: Sha256
    part: Name
    queued: Count = 0
    answered: Count = 0
    busy: Count = Field(default=0, description="refused because the queue was full")
    late: Count = Field(default=0, description="not begun because the asker's deadline had passed")
    failed: Count = Field(default=0, description="bad requests and engine errors")
    queue_p50_ms: float | None = None
    compute_p50_ms: float | None = None
    compute_p95_ms: float | None = None


class Beat(Message):
    """Published to ``beat/<node>`` every 500 ms: the heartbeat is the metrics message."""

    node: Name
    incarnation: Name
    seq: Count
    rss_bytes: Count
    memory_bytes: Count = Field(description="that the node gives to sub-models")
    free_bytes: Free
    load: float | None = Field(default=None, description="of the last minute, per core")
    drained: bool = False
    parts: tuple[PartFigures, ...] = ()


class Held(Message):
    """A part that a node has loaded, or is loading."""

    revision: Sha256
    part: Name
    deployment: Name
    state: Literal["pulling", "loading", "ready", "failed"]
    memory_bytes: Count
    reason: Text | None = None


class Info(Message):
    """The answer to ``info/<node>``."""

    node: Name
    incarnation: Name
    edgevit: Text
    arch: Text
    system: Text
    python: Text
    cores: Count
    runtimes: tuple[Text, ...] = Field(description="that can run here")
    memory_bytes: Count
    free_bytes: Free
    macs_per_s: Annotated[float, Field(gt=0)] | None = None
    drained: bool = False
    labels: dict[Text, Text] = Field(default_factory=dict)
    held: tuple[Held, ...] = ()
    placements: dict[Name, tuple[Epoch, Epoch]] = Field(default_factory=dict, description="deployment -> generation")
    started: Text = Field(description="UTC, ISO 8601")


class Placement(Message):
    """Who is to hold what of one deployment: the order that every node gets, keeps, and answers ``place/<name>`` with.

    An operator raises the epoch and signs all but ``step`` and ``nodes``. The elected controller raises the step and
    adds to ``nodes`` what others of ``hosts`` take over from nodes that are gone. It can take nothing away: what an
    operator gave a node is signed, and stays given until an operator says otherwise.
    """

    name: Name
    kind: Literal["bundle", "artifact"]
    revision: Sha256 = Field(description="of bundle.json, or the artifact's content digest")
    release: Sha256 = Field(description="of the release record, which lists every part's files")
    epoch: Annotated[int, Field(ge=1, le=MAX_GENERATION)]
    step: Epoch = 0
    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    replace_after_s: Annotated[float, Field(ge=1, le=86400)] = 10.0
    withdrawn: bool = False
    given: dict[Name, tuple[Name, ...]] = Field(default_factory=dict, description="node -> its parts, by the operator")
    hosts: tuple[Name, ...] = Field(default=(), description="nodes that may take parts over")
    nodes: dict[Name, tuple[Name, ...]] = Field(description="node -> its parts, what it took over among them")
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="the operator's Ed25519 public key")
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]

    @property
    def generation(self) -> tuple[int, int]:
        return self.epoch, self.step

    def same(self, other: Placement) -> bool:
        """Whether both are one order of one operator, whatever was taken over since."""
        return self.model_copy(update={"step": 0, "nodes": {}}) == other.model_copy(update={"step": 0, "nodes": {}})

    def joined(self, other: Placement) -> Placement:
        """This order with all that either of the two says was taken over; ``other`` must be the ``same``."""
        nodes = both(self.nodes, other.nodes)
        return self.model_copy(update={"step": max(self.step, other.step), "nodes": nodes})


def both(one: Where, other: Where) -> dict[str, tuple[str, ...]]:
    """Everything that either of two placements gives."""
    nodes = sorted(one.keys() | other.keys())
    return {node: tuple(dict.fromkeys((*one.get(node, ()), *other.get(node, ())))) for node in nodes}


class Progress(Message):
    """One of the answers to ``order/<node>/apply``, the last of which says ready or failed."""

    node: Name
    stage: Literal["checking", "pulling", "loading", "ready", "failed"]
    share: float | None = None
    said: Text | None = None
