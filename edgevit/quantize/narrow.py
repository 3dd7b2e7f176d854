"""Weights alone in few bits: stored as integers or places in a table, multiplied as the float32 numbers they stand for.

What a weight becomes follows from its numbers and its layer in the plan, so that a plan holds no scales of groups: it
holds a checksum of every output channel, which what a file stores is held against.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgevit.quantize.plan import (
    LARGEST_HALF,
    SMALLEST,
    Array,
    Encoding,
    Layer,
    QuantPlan,
    Weight,
    halves,
    levels,
)

_SMALL = 4  # bits
_WIDEST, _NARROWEST = 32, 8  # inputs of a group
_SHRUNK = np.linspace(0.7, 1.0, 13)  # shares of a group's largest magnitude that its last level is tried on
_ROUNDS = 25  # of k-means, from quantiles: further ones move the tables of real layers by less than float16's step


@dataclass(frozen=True)
class Stored:
    """A weight as a file holds it.

    integers  (O, I, …) int8: steps, or places in ``table``
    scales    (O, I / group, …) float32 of groups, (O,) of channels, None with a table
    table     float32 numbers, in order
    values    (O, I, …) float32, what they stand for
    """

    integers: Array
    scales: Array | None
    table: Array | None
    values: Array


def encoded(plan: QuantPlan, weights: Mapping[str, Weight], encoding: Encoding) -> QuantPlan:
    """The plan as an engine has it; what its floats cannot hold stays float."""
    return _narrowed(plan, weights, encoding) if encoding.weights_alone else plan.encoded(encoding)


def _narrowed(plan: QuantPlan, weights: Mapping[str, Weight], encoding: Encoding) -> QuantPlan:
    half = encoding.floats == "float16"
    beyond = {
        name: "its numbers are larger than float16 holds"
        for name in plan.layers
        if half and float(np.abs(weights[name].values).max()) > LARGEST_HALF
    }
    left = plan.without(beyond) if beyond else plan
    layers = {name: _layer(layer, weights[name].values, encoding) for name, layer in left.layers.items()}
    return left.model_copy(update={"layers": layers, "encoding": encoding})


def stored(layer: Layer, values: Array, encoding: Encoding) -> Stored:
    """(O, I, …) float32 output channels of a layer's weight, as they are stored."""
    if layer.palette is not None:
        table = np.array(layer.palette, np.float32)
        places = np.searchsorted((table[1:] + table[:-1]) / 2, values).astype(np.int8)
        return Stored(places, None, table, table[places])
    half, most = encoding.floats == "float16", levels(layer.bits)
    if layer.group is None:
        scales = _steps(np.abs(values.reshape(len(values), -1)).max(axis=1) / most, half)
        over = scales.reshape(-1, *[1] * (values.ndim - 1))
    else:
        blocks = values.reshape(len(values), -1, layer.group, *values.shape[2:])
        scales = _fitted(blocks, most, half)
        over = np.repeat(scales, layer.group, axis=1)
    integers = np.clip(np.rint(values / over), -most, most).astype(np.int8)
    return Stored(integers, scales, None, integers.astype(np.float32) * over)


def checks(values: Array) -> tuple[int, ...]:
    """CRC-32 of every output channel of (O, …) float32 numbers; zero has no sign."""
    rows = np.ascontiguousarray(values.reshape(len(values), -1), "<f4") + np.float32(0)
    return tuple(zlib.crc32(row.tobytes()) for row in rows)


def _layer(layer: Layer, values: Array, encoding: Encoding) -> Layer:
    bits, group = encoding.weights, None
    if bits == _SMALL and not encoding.palettes and (group := _group(values.shape[1])) is None:
        bits = 8  # so few inputs that scales would take what integers save
    table = _palette(values, 1 << bits, encoding.floats == "float16") if encoding.palettes else None
    palette = None if table is None else tuple(map(float, table))
    changed = {"output": None, "relu": False, "bits": bits, "group": group, "palette": palette}
    own = layer.model_copy(update=changed)
    found = stored(own, values, encoding)
    return own.model_copy(update={"scales": _largest(found), "checks": checks(found.values)})


def _group(inputs: int) -> int | None:
    """The most inputs, at most ``_WIDEST``, that all groups can have alike."""
    return next((size for size in range(_WIDEST, _NARROWEST - 1, -1) if inputs % size == 0), None)


def _steps(wanted: Array, half: bool) -> Array:
    least = np.maximum(wanted, SMALLEST)
    return halves(least) if half else least.astype(np.float32)


def _fitted(blocks: Array, most: int, half: bool) -> Array:
    """(O, groups, …): of (O, groups, size, …) the scales whose integers are least far from them."""
    whole = np.abs(blocks).max(axis=2) / most
    best, least = _steps(whole, half), np.full(whole.shape, np.inf)
    for share in _SHRUNK:
        scales = _steps(whole * share, half)
        over = scales[:, :, None]
        error = ((np.clip(np.rint(blocks / over), -most, most) * over - blocks) ** 2).sum(axis=2)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best.astype(np.float32)


def _palette(values: Array, count: int, half: bool) -> Array:
    """The numbers whose nearest ones are least far from a weight's, in order: one-dimensional k-means."""
    ordered = np.sort(values, axis=None).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    table = np.quantile(ordered, (np.arange(count) + 0.5) / count)
    for _ in range(_ROUNDS):
        ends = np.searchsorted(ordered, (table[1:] + table[:-1]) / 2)
        cuts = np.concatenate([[0], ends, [len(ordered)]])
        sizes = np.diff(cuts)
        table = np.where(sizes > 0, np.diff(sums[cuts]) / np.maximum(sizes, 1), table)
    found: Array = np.sort(table.astype(np.float16 if half else np.float32)).astype(np.float32)
    return found


def _largest(found: Stored) -> tuple[float, ...]:
    """Of every output channel, the largest step between two numbers that it may have."""
    if found.scales is not None:
        return tuple(map(float, found.scales.reshape(len(found.integers), -1).max(axis=1)))
    if found.table is None:
        raise ValueError("a weight has scales or a table")
    step = max(float(np.diff(found.table).max()), SMALLEST)
    return (float(np.float32(step)),) * len(found.integers)
