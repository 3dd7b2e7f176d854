"""Values held between limits, where importers read one limit for another, or none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments
from edgevit.export.legalise.arithmetic import whole_clamp

aten = torch.ops.aten


def clamp(self: Tensor, min: Any = None, max: Any = None) -> Tensor | Any:
    """Of integers by numbers that are none as numbers, and the upper limit where it is below the lower one."""
    wanted = _type(self, min, max)
    if min is not None and max is not None and min > max:
        return torch.full_like(self, max, dtype=wanted)
    return whole_clamp(self, min, max) if wanted is self.dtype else torch.clamp(self.to(wanted), min, max)


def _type(self: Tensor, *limits: Any) -> torch.dtype:
    found = self
    for limit in limits:
        found = found if limit is None else torch.empty((), dtype=torch.result_type(found, limit))
    return found.dtype


def _needed(node: fx.Node) -> bool:
    given = arguments(node)
    low, high, value = given["min"], given["max"], given["self"].meta["val"]
    crossed = low is not None and high is not None and low > high
    one = (low is None) != (high is None) and not value.is_floating_point()
    return crossed or one or _type(value, low, high) is not value.dtype


def clamp_max(self: Tensor, max: Any) -> Tensor:
    return clamped(self, max=max)


def clamp_min(self: Tensor, min: Any) -> Tensor:
    return clamped(self, min=min)


def clamped(self: Tensor, min: Any = None, max: Any = None) -> Tensor:
    found = clamp(self, min, max)
    return torch.clamp(self, min, max) if found is NotImplemented else found


LIMIT_RULES = {
    aten.clamp.default: Rule(clamp, _needed),
    aten.clamp_max.default: Rule(clamp_max),
    aten.clamp_min.default: Rule(clamp_min),
}
