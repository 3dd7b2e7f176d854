"""What a client asks a part, and what it takes for an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.fleet.bus.messages import BadMessage, ReplyMeta, Tensor, parse, tensors_of
from edgevit.fleet.bus.transport import Answer, Payload


@dataclass(frozen=True)
class Load:
    """What is asked with: ``payload`` and how to read it (messages.InferMeta)."""

    kind: Literal["tensor", "pixels", "image"]
    payload: Payload
    tensor: Tensor | None = None
    rows: int = 1

    @cached_property
    def said(self) -> str:
        """The part of the question's JSON that is the same for every node."""
        tensor = f',"tensor":{self.tensor.model_dump_json()}' if self.tensor else ""
        return f'"kind":"{self.kind}"{tensor}'


FLOATS = ("float32", "float16")


@dataclass(frozen=True)
class Wanted:
    """A part, and the shape of the answer without its rows. An answer of another shape, or type, is refused.

    more  (shape, type) of each other output of a single artifact
    """

    part: str
    shape: tuple[int, ...]
    dtypes: tuple[str, ...] = FLOATS
    more: tuple[tuple[tuple[int, ...], tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class PartAnswer:
    """What one part answered, who gave it, and where the time went, in milliseconds."""

    part: str
    node: str
    array: Array
    queue_ms: float
    compute_ms: float
    network_ms: float
    hedged: bool = False
    more: tuple[Array, ...] = ()

    @property
    def ms(self) -> float:
        return self.queue_ms + self.compute_ms + self.network_ms


@dataclass(frozen=True)
class Gathered:
    """The answers by part, and why each of the other parts gave none."""

    found: Mapping[str, PartAnswer]
    missing: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer that is what was asked for."""

    array: Array
    queue_ms: float
    compute_ms: float
    more: tuple[Array, ...] = ()


def checked(answer: Answer, question: str, wanted: Wanted, rows: int) -> Checked:
    """BadMessage unless the answer is to that question, of the shape asked for, and finite."""
    meta = parse(ReplyMeta, answer.meta)
    if meta.id != question:
        raise BadMessage("answers another question")
    said, due = (meta.tensor, *meta.more), ((wanted.shape, wanted.dtypes), *wanted.more)
    if len(said) != len(due):
        raise BadMessage(f"answers {len(said)} tensors")
    for one, (shape, dtypes) in zip(said, due, strict=True):
        if one.shape != (rows, *shape) or one.dtype not in dtypes:
            raise BadMessage(f"answers {one.dtype} {'×'.join(map(str, one.shape))}")
    array, *more = tensors_of(said, answer.payload)
    if not all(np.isfinite(one).all() for one in (array, *more)):
        raise BadMessage("answers NaN or infinity")
    return Checked(array, meta.queue_ms, meta.compute_ms, tuple(more))
