"""Decisions about where: the best of a window, the best so far, the nearest of a grid, the bin of a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from edgevit.models.eager.kinds import Kind, Named, Turning, aten

Rivals = Callable[[Named, Tensor], tuple[Tensor, Tensor]]  # how far the next best of each is behind it, and where it is


def _contested(rivals: Rivals, result: Callable[[Named, Tensor], Any]) -> Kind:
    """One of several, with its place."""

    def other(named: Named, made: Tensor, turning: Turning) -> Tensor:
        gap, place = rivals(named, made)
        return torch.where(turning.picks(gap), place, made)

    return Kind(
        gap=lambda named, made: rivals(named, made)[0],
        size=lambda named, made: result(named, made)[0].abs().nan_to_num(0.0, 0.0, 0.0),
        other=other,
        made=lambda _, found: found[1],
        result=result,
        exact=False,
    )


# --- windows ---------------------------------------------------------------------------------------------------------


def _strided(named: Named, sides: Sequence[int], outs: Sequence[int]) -> Iterator[Tensor]:
    """Of every axis, (places of the result, places of its window): where each is, outside where it is of the border."""
    count = len(sides)
    kernel, stride, padding, dilation = (
        [*given] * count if len(given) == 1 else [*given]
        for given in (
            named["kernel_size"],
            named["stride"] or named["kernel_size"],
            named["padding"],
            named["dilation"],
        )
    )
    for axis, (side, out) in enumerate(zip(sides, outs, strict=True)):
        starts = torch.arange(out)[:, None] * stride[axis] - padding[axis]
        places = starts + torch.arange(kernel[axis])[None] * dilation[axis]
        yield torch.where((places >= 0) & (places < side), places, -1)


def _adaptive(named: Named, sides: Sequence[int], outs: Sequence[int]) -> Iterator[Tensor]:
    for side, out in zip(sides, outs, strict=True):
        steps = torch.arange(out)[:, None]
        starts, ends = steps * side // out, -(-(steps + 1) * side // out)
        places = starts + torch.arange(int((ends - starts).max()))[None]
        yield torch.where(places < ends, places, -1)


Windows = Callable[[Named, Sequence[int], Sequence[int]], Iterator[Tensor]]


def _table(windows: Windows, named: Named, made: Tensor, axes: int) -> Tensor:
    """(results, places of a window) -> the place in the flattened source, -1 in the border."""
    sides, outs = named["self"].shape[-axes:], made.shape[-axes:]
    table = torch.zeros((1, 1), dtype=torch.long)
    for side, places in zip(sides, windows(named, sides, outs), strict=True):
        joined = table[:, None, :, None] * side + places[None, :, None, :]
        outside = (table[:, None, :, None] < 0) | (places[None, :, None, :] < 0)
        table = torch.where(outside, -1, joined).flatten(2).flatten(0, 1)
    return table


def _pooled(windows: Windows, axes: int) -> Kind:
    def rivals(named: Named, made: Tensor) -> tuple[Tensor, Tensor]:
        flat, chosen = named["self"].flatten(-axes), made.flatten(-axes)
        best, places = torch.full_like(chosen, -math.inf, dtype=flat.dtype), torch.zeros_like(chosen)
        for place in _table(windows, named, made, axes).unbind(1):  # one at a time: a window's values take many rooms
            found = torch.where((place < 0) | (place == chosen), -math.inf, flat[..., place.clamp(min=0)])
            places = torch.where(found > best, place, places)
            best = torch.maximum(best, found)
        gap = torch.where(best == -math.inf, math.inf, flat.gather(-1, chosen) - best)
        return gap.reshape(made.shape), places.reshape(made.shape)

    def result(named: Named, made: Tensor) -> tuple[Tensor, Tensor]:
        return named["self"].flatten(-axes).gather(-1, made.flatten(-axes)).reshape(made.shape), made

    return _contested(rivals, result)


# --- the best so far -------------------------------------------------------------------------------------------------


def _running(sign: int) -> Kind:
    def rivals(named: Named, made: Tensor) -> tuple[Tensor, Tensor]:
        axis = named["dim"]
        if not made.ndim:
            return torch.full(made.shape, math.inf), made
        scores, chosen = (sign * named["self"]).movedim(axis, 0), made.movedim(axis, 0)
        places = torch.zeros_like(chosen)
        gaps = torch.full(scores.shape, math.inf, dtype=scores.dtype)
        for last in range(1, len(scores)):
            # the two best so far: one of them is not the chosen one
            values, at = scores[: last + 1].topk(2, 0)
            second = (at[0] == chosen[last]).long()[None]
            places[last] = at.gather(0, second)[0]
            gaps[last] = scores.gather(0, chosen[last : last + 1])[0] - values.gather(0, second)[0]
        return gaps.movedim(0, axis), places.movedim(0, axis)

    def result(named: Named, made: Tensor) -> tuple[Tensor, Tensor]:
        return (named["self"].gather(named["dim"], made) if made.ndim else named["self"].clone()), made

    return _contested(rivals, result)


# --- the nearest of a grid -------------------------------------------------------------------------------------------

_NEAREST, _ZEROS, _BORDER = 1, 0, 1  # aten's numbers of modes and of what lies outside


def samples_nearest(named: Named) -> bool:
    """Whether a call of a grid sampler takes the nearest value, and so decides for one."""
    return bool(named["interpolation_mode"] == _NEAREST)


def _sides(named: Named) -> Tensor:
    return torch.tensor(named["input"].shape[:1:-1], dtype=named["grid"].dtype)  # of x, y, z: the last axis first


def _positions(named: Named) -> Tensor:
    """(B, …, x y z): where each sample is taken from, in steps of the source, as far as it reaches plus one."""
    sides, grid = _sides(named), named["grid"]
    aligned, outside = named["align_corners"], named["padding_mode"]
    at = (grid + 1) / 2 * (sides - 1) if aligned else ((grid + 1) * sides - 1) / 2
    if outside not in (_ZEROS, _BORDER):
        low, span = (0.0, sides - 1) if aligned else (-0.5, sides)
        span = span.clamp(min=1e-6)
        at = (at - low).remainder(2 * span)
        at = torch.minimum(at, 2 * span - at) + low
    ends = (-2.0, sides + 1) if outside == _ZEROS else (0.0, sides - 1)
    return torch.minimum(torch.maximum(at.nan_to_num(-2.0), torch.as_tensor(ends[0], dtype=at.dtype)), ends[1])


def _sampled(named: Named, made: Tensor) -> Tensor:
    """The values at whole positions; nothing outside."""
    source, batch = named["input"], len(made)
    flat, sides = source.flatten(2), source.shape[:1:-1]
    inside, place, step = torch.ones(made.shape[:-1], dtype=torch.bool), made.new_zeros(made.shape[:-1]), 1
    for axis, side in enumerate(sides):
        inside &= (made[..., axis] >= 0) & (made[..., axis] < side)
        place, step = place + made[..., axis].clamp(0, side - 1) * step, step * side
    found = flat.gather(2, place.reshape(batch, 1, -1).expand(-1, flat.shape[1], -1)) * inside.reshape(batch, 1, -1)
    shaped: Tensor = found.reshape(batch, flat.shape[1], *made.shape[1:-1])
    return shaped


def _grid_gap(named: Named, made: Tensor) -> Tensor:
    found: Tensor = 0.5 - (_positions(named) - made).abs()
    return found


def _grid_other(named: Named, made: Tensor, turning: Turning) -> Tensor:
    turns = turning.picks(_grid_gap(named, made))
    return made + torch.where(turns, torch.where(_positions(named) < made, -1, 1), 0)


_SAMPLED = Kind(
    gap=_grid_gap,
    size=lambda named, made: _positions(named).abs(),
    other=_grid_other,
    made=lambda named, _: _positions(named).round().long(),
    result=_sampled,
    exact=False,
)

# --- bins ------------------------------------------------------------------------------------------------------------


def _scaled(named: Named) -> tuple[Tensor, Tensor]:
    """Every value in bins from the first on, and how wide a bin is."""
    values, low, high = named["self"].flatten(), named["min"], named["max"]
    if low == high:  # of the values themselves
        low, high = values.min(), values.max()
    width = torch.as_tensor(high - low, dtype=values.dtype) / named["bins"]
    width = torch.where(width == 0, torch.ones_like(width), width)
    return (values - low) / width, width


def _bins(named: Named) -> Tensor:
    """Of every value its bin: -1 below the first, as many as there are above the last, which has its upper end."""
    scaled, count = _scaled(named)[0], named["bins"]
    found = scaled.floor().clamp(-1, count)
    return torch.where(scaled == count, count - 1, found).long()


def _histogram_gap(named: Named, made: Tensor) -> Tensor:
    scaled, width = _scaled(named)
    low = torch.where(made < 0, -math.inf, made.to(scaled.dtype))
    high = torch.where(made >= named["bins"], math.inf, made.to(scaled.dtype) + 1)
    return torch.minimum(scaled - low, high - scaled) * width


def _histogram_other(named: Named, made: Tensor, turning: Turning) -> Tensor:
    turns = turning.picks(_histogram_gap(named, made))
    step = torch.where(_scaled(named)[0] - made < 0.5, -1, 1)
    return (made + torch.where(turns, step, 0)).clamp(-1, named["bins"])


def _counted(named: Named, made: Tensor) -> Tensor:
    within = made[(made >= 0) & (made < named["bins"])]
    return torch.bincount(within, minlength=named["bins"]).to(named["self"].dtype)


_HISTOGRAM = Kind(
    gap=_histogram_gap,
    size=lambda named, made: named["self"].flatten().abs(),
    other=_histogram_other,
    made=lambda named, _: _bins(named),
    result=_counted,
)

SPOTS = {
    aten.max_pool2d_with_indices: _pooled(_strided, 2),
    aten.max_pool3d_with_indices: _pooled(_strided, 3),
    aten.adaptive_max_pool2d: _pooled(_adaptive, 2),
    aten.adaptive_max_pool3d: _pooled(_adaptive, 3),
    aten.cummax: _running(1),
    aten.cummin: _running(-1),
    aten.grid_sampler_2d: _SAMPLED,
    aten.grid_sampler_3d: _SAMPLED,
    aten.histc: _HISTOGRAM,
}
