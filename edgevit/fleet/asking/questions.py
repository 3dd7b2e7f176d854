"""What a client asks a part, and what it takes for an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.fleet.bus.messages import BadMessage, ReplyMeta, Tensor, parse, tensor_of
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


@dataclass(frozen=True)
class Wanted:
    """A part, and the shape of the answer without its rows. An answer of another shape, or type, is refused."""

    part: str
    shape: tuple[int, ...]
    dtypes: tuple[str, ...] = ("float32", "float16")


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


def checked(answer: Answer, question: str, wanted: Wanted, rows: int) -> Checked:
    """BadMessage unless the answer is to that question, of the shape asked for, and finite."""
    meta = parse(ReplyMeta, answer.meta)
    if meta.id != question:
        raise BadMessage("answers another question")
    if meta.tensor.shape != (rows, *wanted.shape) or meta.tensor.dtype not in wanted.dtypes:
        raise BadMessage(f"answers {meta.tensor.dtype} {'×'.join(map(str, meta.tensor.shape))}")
    array = tensor_of(meta.tensor, answer.payload)
    if not np.isfinite(array).all():
        raise BadMessage("answers NaN or infinity")
    return Checked(array, meta.queue_ms, meta.compute_ms)
