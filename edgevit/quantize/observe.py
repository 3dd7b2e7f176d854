"""Which numbers a model's layers really see: ranges on calibration rows, by three ways to look at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgevit.artifact.manifest import BatchRange
from edgevit.errors import ExportFailed
from edgevit.export.capture import batches
from edgevit.quantize.asked import Observer
from edgevit.quantize.plan import LEVELS, Array, Range

_BINS = 2048
_TAIL = 1e-5  # share of all values that the percentile observer lets go at either end
_SHRUNK = np.linspace(0.3, 1.0, 71)  # shares of the full range that the mse observer tries

Inputs = Mapping[str, Array]
Watch = Callable[[str, Array], None]


@dataclass(frozen=True)
class Seen:
    """Smallest and largest value of one activation on all rows."""

    low: float
    high: float

    @property
    def varies(self) -> bool:
        return self.low < self.high


class _Watched(fx.Interpreter):
    """Runs a program and shows what the nodes of these names return."""

    def __init__(self, module: fx.GraphModule, names: frozenset[str], watch: Watch) -> None:
        super().__init__(module)
        self.names, self.watch = names, watch

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.names and isinstance(result, Tensor):
            self.watch(n.name, result.detach().numpy())
        return result


def ranges(
    module: fx.GraphModule, names: frozenset[str], rows: Inputs, batch: BatchRange, observer: Observer
) -> dict[str, tuple[Seen, Range]]:
    """Node name -> what it was on the rows, and the range that its grid should hold.

    minmax holds all that was seen, percentile all but the outermost 0.001 % at either end, mse as much as makes the
    squared error of all values least. ExportFailed for values that are no numbers.
    """
    seen: dict[str, Seen] = {}
    _run(module, names, rows, batch, lambda name, array: _widen(seen, name, array))
    full = {name: Range(low=min(one.low, 0.0), high=max(one.high, 0.0)) for name, one in seen.items()}
    if observer == "minmax":
        return {name: (seen[name], full[name]) for name in seen}
    counts = {name: np.zeros(_BINS, np.int64) for name in seen}
    _run(module, names, rows, batch, lambda name, array: _count(counts[name], full[name], array))
    fit = _percentile if observer == "percentile" else _least_error
    return {name: (seen[name], fit(full[name], counts[name])) for name in seen}


def _run(module: fx.GraphModule, names: frozenset[str], rows: Inputs, batch: BatchRange, watch: Watch) -> None:
    watched = _Watched(module, names, watch)
    with torch.no_grad():
        for chunk in batches(rows, batch):
            watched.run(*chunk)


def _widen(seen: dict[str, Seen], name: str, array: Array) -> None:
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise ExportFailed(
            f"on calibration rows the model computes what is no number, first in {name}",
            hint="look at the rows that --calibrate names, or give others",
        )
    before = seen.get(name, Seen(low, high))
    seen[name] = Seen(min(before.low, low), max(before.high, high))


def _count(counts: Array, full: Range, array: Array) -> None:
    if full.high > full.low:
        counts += np.histogram(array, _BINS, (full.low, full.high))[0]


def _percentile(full: Range, counts: Array) -> Range:
    """Without the outermost ``_TAIL`` of the values at either end."""
    edges = np.linspace(full.low, full.high, _BINS + 1)
    below = np.cumsum(counts) / max(1, counts.sum())
    first, last = int(np.searchsorted(below, _TAIL, "right")), int(np.searchsorted(below, 1 - _TAIL))
    low, high = edges[min(first, _BINS)], edges[min(last + 1, _BINS)]
    return Range(low=min(float(low), 0.0), high=max(float(high), 0.0))


def _least_error(full: Range, counts: Array) -> Range:
    """The share of the full range, zero staying where it is, whose grid is least far from the values."""
    edges = np.linspace(full.low, full.high, _BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    tried = [Range(low=full.low * share, high=full.high * share) for share in _SHRUNK]
    return min(tried, key=lambda one: _squared_error(one, centres, counts))


def _squared_error(tried: Range, centres: Array, counts: Array) -> float:
    """Within the grid's ends values are spread evenly over a step; beyond them they are put to the end."""
    step = (tried.high - tried.low) / LEVELS
    beyond = np.maximum(0.0, np.maximum(centres - tried.high, tried.low - centres))
    return float((counts * np.where(beyond > 0, beyond**2, step**2 / 12)).sum())
