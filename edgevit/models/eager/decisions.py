"""Calls that decide something from floats: how far each decision is from being another, and what that would be.

Between two numbers that rounding tells apart lies nothing but rounding; between two decisions lies whatever a model
makes of them. So a decision is looked at by itself: what was decided, the gap to what else could have been, and the
result of the call if it had been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from edgevit.models.eager.kinds import Kind, Named, Turning, aten, operators
from edgevit.models.eager.spots import SPOTS, samples_nearest

COMPARES = operators("gt ge lt le eq ne")


@dataclass(frozen=True)
class Decision:
    """A call that decides: its arguments as they were before it."""

    func: Any
    named: Named
    kind: Kind

    @property
    def name(self) -> str:
        return str(self.func)

    def gap(self, made: Tensor) -> Tensor:
        """How far each is from being another; 0 between two infinities."""
        return self.kind.gap(self.named, made).nan_to_num(0.0, math.inf, -math.inf)

    def share(self, made: Tensor) -> Tensor:
        """``gap`` as a share of the largest magnitude among which it was decided, infinite ones (of what is masked)
        left out."""
        sizes = self.kind.size(self.named, made)
        largest = float(sizes.nan_to_num(0.0, 0.0, 0.0).max()) if sizes.numel() else 0.0
        return (self.gap(made) / (largest or 1.0)).float()


def named_arguments(func: Any, args: Sequence[Any], kwargs: Named) -> Named:
    """A call's arguments by name, defaults among them."""
    arguments = func._schema.arguments
    defaults = {one.name: one.default_value for one in arguments if one.has_default_value()}
    return {**defaults, **{one.name: value for one, value in zip(arguments, args, strict=False)}, **kwargs}


def decision_of(func: Any, args: Sequence[Any], kwargs: Named) -> Decision | None:
    """What a call decides from floats, None where it decides nothing."""
    operator = func.overloadpacket
    kind = _BY_OVERLOAD.get(func) or _KINDS.get(operator)
    if kind is None:
        return None
    named = named_arguments(func, args, kwargs)
    floats = [value for value in named.values() if isinstance(value, Tensor) and value.is_floating_point()]
    if not floats or (operator in _DIVIDES and named.get("rounding_mode") is None):
        return None
    if operator in _SAMPLERS:
        return Decision(func, named, kind) if samples_nearest(named) else None
    if operator is aten._to_copy:
        dtype = named["dtype"] or floats[0].dtype
        if dtype.is_floating_point or dtype.is_complex:
            return None
        kind = _NONZERO if dtype is torch.bool else kind
    first = named["self"]
    if not isinstance(first, Tensor):
        first = torch.tensor(first, dtype=floats[0].dtype)
    # what is written over is looked at as it was before
    return Decision(func, {**named, "self": first.clone() if func._schema.name.endswith("_") else first}, kind)


# --- one of two ------------------------------------------------------------------------------------------------------


def _difference(named: Named) -> Tensor:
    found: Tensor = named["self"] - named.get("other", 0)
    return found


def _larger(named: Named, made: Tensor) -> Tensor:
    """The larger magnitude of two that were compared."""
    other = named.get("other", 0)
    other = other if isinstance(other, Tensor) else torch.tensor(float(other))
    return torch.maximum(named["self"].abs().double(), other.abs().double())


def _compared(signed: Callable[[Tensor], Tensor]) -> Kind:
    """``signed`` of a difference: what is above nothing where the comparison holds."""

    def gap(named: Named, made: Tensor) -> Tensor:
        found = signed(_difference(named))
        return torch.where(made.bool(), found, -found)

    def other(named: Named, made: Tensor, turning: Turning) -> Tensor:
        return (made.bool() ^ turning.picks(gap(named, made))).to(made.dtype)

    return Kind(gap, _larger, other)


_ABOVE, _BELOW = _compared(lambda difference: difference), _compared(lambda difference: -difference)
_EQUAL, _NONZERO = _compared(lambda difference: -difference.abs()), _compared(torch.abs)


# --- one of many -----------------------------------------------------------------------------------------------------


def _axis_of(named: Named, made: Tensor, sign: int) -> tuple[Tensor, int, Tensor]:
    """The scores, the best largest, the axis, and what was decided as an index along it."""
    scores = sign * named["self"]
    if named.get("dim") is None:
        return scores.flatten(), 0, made.reshape(1)
    axis = named["dim"]
    return scores, axis, made if named.get("keepdim") else made.unsqueeze(axis)


def _without(scores: Tensor, axis: int, index: Tensor) -> Tensor:
    """The scores but for those that were taken."""
    return scores.scatter(axis, index, -math.inf)


def _best(sign: int) -> Kind:
    def pair(named: Named, made: Tensor) -> tuple[Tensor, Tensor]:
        scores, axis, index = _axis_of(named, made, sign)
        return scores.gather(axis, index), _without(scores, axis, index).amax(axis, keepdim=True)

    def gap(named: Named, made: Tensor) -> Tensor:
        first, second = pair(named, made)
        return torch.where(second == -math.inf, math.inf, first - second).reshape(made.shape)

    def size(named: Named, made: Tensor) -> Tensor:
        return torch.maximum(*(one.abs().nan_to_num(0.0, 0.0, 0.0) for one in pair(named, made)))

    def other(named: Named, made: Tensor, turning: Turning) -> Tensor:
        scores, axis, index = _axis_of(named, made, sign)
        rest = _without(scores, axis, index)
        near = scores.gather(axis, index) - rest <= turning.limit
        # the second best, or where chance has a say any of those that are as near
        keys = rest if turning.bit is None else turning.chances(rest)
        chosen = torch.where(near, keys, -math.inf).argmax(axis, keepdim=True)
        turns = turning.picks(gap(named, made)).reshape(index.shape)
        turning.close += int((near.sum(axis) - 1).clamp(min=0).sum())
        return torch.where(turns, chosen, index).reshape(made.shape)

    return Kind(gap, size, other, exact=False)


def _picked(sign: int) -> Kind:
    """The best, with its place."""

    def result(named: Named, made: Tensor) -> tuple[Tensor, Tensor]:
        scores, axis, index = _axis_of(named, made, sign)
        return sign * scores.gather(axis, index).reshape(made.shape), made

    return replace(_best(sign), made=lambda _, found: found[1], result=result)


# --- an order --------------------------------------------------------------------------------------------------------


def _falling(named: Named) -> Tensor:
    falls = named["largest"] if "largest" in named else named.get("descending")
    scores: Tensor = named["self"]
    return scores if falls else -scores


def _in_order(named: Named, made: Tensor) -> Tensor:
    """The scores as they were ranked, and behind them the best of those that were left out."""
    scores, axis = _falling(named), named["dim"]
    rest = _without(scores, axis, made).amax(axis, keepdim=True)
    return torch.cat([scores.gather(axis, made), rest], axis)


def _rank_gaps(named: Named, made: Tensor) -> Tensor:
    """To the nearer of its neighbours, the first that was left out among them."""
    axis, count = named["dim"], made.shape[named["dim"]]
    if not made.ndim or not count:
        return torch.full(made.shape, math.inf)
    ordered = _in_order(named, made)
    steps = -ordered.diff(dim=axis)
    if count == named["self"].shape[axis]:  # nothing was left out
        steps.narrow(axis, count - 1, 1).fill_(math.inf)
    before = torch.cat([torch.full_like(steps.narrow(axis, 0, 1), math.inf), steps.narrow(axis, 0, count - 1)], axis)
    return torch.minimum(before.nan_to_num(0.0, math.inf), steps.nan_to_num(0.0, math.inf))


def _rank_size(named: Named, made: Tensor) -> Tensor:
    return _in_order(named, made).abs().nan_to_num(0.0, 0.0, 0.0) if made.ndim else named["self"].abs()


def _reranked(named: Named, made: Tensor, turning: Turning) -> Tensor:
    """Every other rank a little lower, every other a little higher; or each by chance."""
    scores, axis = _falling(named), named["dim"]
    if not made.ndim:
        return made
    half = turning.limit * 0.501
    turning.close += 2 * int((_rank_gaps(named, made) <= turning.limit).sum())
    order = scores.argsort(axis, descending=True)
    if turning.parity is None:
        down = turning.chances(scores) < 0.5
    else:
        sides = torch.arange(turning.parity, order.shape[axis] + turning.parity) % 2 == 0
        down = sides.reshape([-1 if at == axis % order.ndim else 1 for at in range(order.ndim)]).expand(order.shape)
    lower = torch.zeros_like(down).scatter(axis, order, down)
    moved = scores + torch.where(lower, -half, half)
    return moved.argsort(axis, descending=True).narrow(axis, 0, made.shape[axis])


def _ranks_result(named: Named, made: Tensor) -> tuple[Tensor, Tensor]:
    return (named["self"].gather(named["dim"], made) if made.ndim else named["self"].clone()), made


_RANKS = Kind(_rank_gaps, _rank_size, _reranked, lambda _, found: found[1], _ranks_result, exact=False)


def _beside(named: Named, made: Tensor) -> tuple[Tensor, Tensor]:
    """How far the score next to each is, and where that one is."""
    scores, axis, index = _axis_of(named, made, 1)
    nearest = (scores - scores.gather(axis, index)).abs().scatter(axis, index, math.inf).min(axis)
    return nearest.values.reshape(made.shape), nearest.indices.reshape(made.shape)


def _at_rank_gap(named: Named, made: Tensor) -> Tensor:
    return _beside(named, made)[0]


def _at_rank_other(named: Named, made: Tensor, turning: Turning) -> Tensor:
    gap, nearest = _beside(named, made)
    return torch.where(turning.picks(gap), nearest, made)


# the k-th, the median: with its place
_AT_RANK = replace(_picked(1), gap=_at_rank_gap, other=_at_rank_other)


# --- a whole number --------------------------------------------------------------------------------------------------

Ends = Callable[[Tensor], tuple[Tensor, Tensor]]  # of whole numbers: between which values each stands


def _toward_zero(whole: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(whole > 0, whole, whole - 1), torch.where(whole < 0, whole, whole + 1)


def _whole(ends: Ends, value: Callable[[Named], Tensor] = lambda named: named["self"]) -> Kind:
    """``value`` of the arguments is made a whole number of."""

    def sides(named: Named, made: Tensor) -> tuple[Tensor, Tensor]:
        exact, whole = value(named), made.to(value(named).dtype)
        low, high = ends(whole)
        return exact - low, high - exact

    def gap(named: Named, made: Tensor) -> Tensor:
        return torch.minimum(*sides(named, made))

    def other(named: Named, made: Tensor, turning: Turning) -> Tensor:
        below, above = sides(named, made)
        turns = turning.picks(torch.minimum(below, above))
        return made + torch.where(turns, torch.where(above < below, 1, -1), 0).to(made.dtype)

    return Kind(gap, lambda named, made: value(named).abs(), other)


def _decimals(named: Named) -> Tensor:
    found: Tensor = named["self"] * 10.0 ** named["decimals"]
    return found


def _quotient(named: Named) -> Tensor:
    found: Tensor = named["self"] / named.get("other", 1)
    return found


def _rest(kind: Kind, down: Callable[[Tensor], Tensor]) -> Kind:
    """What a division leaves: the whole number is decided, and the rest follows."""

    def result(named: Named, made: Tensor) -> Tensor:
        found: Tensor = named["self"] - made * named.get("other", 1)
        return found

    return replace(kind, made=lambda named, _: down(_quotient(named)), result=result)


def _to_decimals(named: Named, found: Tensor) -> Tensor:
    return torch.round(found * 10.0 ** named["decimals"])


def _from_decimals(named: Named, made: Tensor) -> Tensor:
    found: Tensor = made / 10.0 ** named["decimals"]
    return found


_ROUND: Ends = lambda whole: (whole - 0.5, whole + 0.5)  # noqa: E731
_FLOORED = _whole(lambda whole: (whole, whole + 1), _quotient)
_CUT = _whole(_toward_zero, _quotient)


def _by_mode(named: Named) -> Kind:
    return _CUT if named.get("rounding_mode") == "trunc" else _FLOORED


_DIVIDED = Kind(
    lambda named, made: _by_mode(named).gap(named, made),
    lambda named, made: _by_mode(named).size(named, made),
    lambda named, made, turning: _by_mode(named).other(named, made, turning),
)


# --- on or off, and what comes through -------------------------------------------------------------------------------


def _gate(opens: Callable[[Named], Tensor], shut: Callable[[Named], float]) -> Kind:
    """``self`` where the gate ``opens``, above nothing, ``shut`` elsewhere."""

    def gap(named: Named, made: Tensor) -> Tensor:
        return torch.where(made, opens(named), -opens(named))

    return Kind(
        gap,
        lambda named, made: named["self"].abs(),
        lambda named, made, turning: made ^ turning.picks(gap(named, made)),
        made=lambda named, _: opens(named) > 0,
        result=lambda named, made: torch.where(made, named["self"], shut(named)),
    )


_THRESHOLD = _gate(lambda named: named["self"] - named["threshold"], lambda named: float(named["value"]))

# --- a side ----------------------------------------------------------------------------------------------------------


def _side_gap(named: Named, made: Tensor) -> Tensor:
    value = named["self"]
    return torch.where(made == 0, -value.abs(), made.to(value.dtype) * value)


def _side_other(named: Named, made: Tensor, turning: Turning) -> Tensor:
    turns = turning.picks(_side_gap(named, made))
    return torch.where(turns, torch.where(made == 0, torch.ones_like(made), -made), made)


def _bin_ends(named: Named, made: Tensor) -> tuple[Tensor, Tensor]:
    """The boundaries that a value was found between."""
    bounds = named.get("boundaries")
    bounds = named["sorted_sequence"] if bounds is None else bounds
    bounds = bounds if named.get("sorter") is None else bounds.gather(-1, named["sorter"])
    never = torch.full_like(bounds[..., :1], math.inf)
    padded = torch.cat([-never, bounds, never], -1)
    low, high = made.long(), made.long() + 1
    if bounds.ndim == 1:
        return padded[low], padded[high]
    return padded.gather(-1, low), padded.gather(-1, high)


def _bin_gap(named: Named, made: Tensor) -> Tensor:
    low, high = _bin_ends(named, made)
    return torch.minimum(named["self"] - low, high - named["self"])


def _bin_other(named: Named, made: Tensor, turning: Turning) -> Tensor:
    low, high = _bin_ends(named, made)
    turns = turning.picks(_bin_gap(named, made))
    step = torch.where(high - named["self"] < named["self"] - low, 1, -1)
    return made + torch.where(turns, step, 0).to(made.dtype)


def _side(named: Named, _: Any) -> Tensor:
    found: Tensor = named["self"].sign()
    return found


def _stepped(named: Named, made: Tensor) -> Tensor:
    return torch.where(made == 0, named["values"], (made > 0).to(named["values"].dtype))


def _signed(named: Named, made: Tensor) -> Tensor:
    found: Tensor = named["self"].abs() * torch.where(made < 0, -1, 1)
    return found


def _sign_of_other(named: Named, found: Tensor) -> Tensor:
    """-1 or 1, of what may be a zero with a sign."""
    sign: Tensor = 1 - 2 * torch.as_tensor(named["other"]).signbit().to(found.dtype)
    return sign.expand(found.shape)


def _copied(named: Named) -> Named:
    return {**named, "self": torch.as_tensor(named["other"], dtype=named["self"].dtype).expand(named["self"].shape)}


_SIDE = Kind(_side_gap, _larger, _side_other)
_STEP = replace(_SIDE, made=_side, result=_stepped)
_COPIED_SIGN = Kind(
    lambda named, made: _side_gap(_copied(named), made),
    lambda named, made: _larger({**_copied(named), "other": 0}, made),
    lambda named, made, turning: _side_other(_copied(named), made, turning),
    made=_sign_of_other,
    result=_signed,
)


def _is_nonzero(named: Named, _: Any) -> Tensor:
    found: Tensor = named["self"] != 0
    return found


def _nonzero_count(named: Named, made: Tensor) -> Tensor:
    axes = named.get("dim")
    return made.sum(axes) if isinstance(axes, list | tuple | int) else made.sum()


# which are none, as their places, and how many: many of one result
_NONZERO_PLACES = replace(_NONZERO, made=_is_nonzero, result=lambda _, made: made.nonzero())
_NONZERO_COUNT = replace(_NONZERO, made=_is_nonzero, result=_nonzero_count)
_BIN = Kind(_bin_gap, lambda named, made: named["self"].abs(), _bin_other)

_KINDS: Mapping[Any, Kind] = {
    **dict.fromkeys(operators("gt ge gt_ ge_"), _ABOVE),
    **dict.fromkeys(operators("lt le lt_ le_"), _BELOW),
    **dict.fromkeys(operators("eq eq_ logical_not logical_not_"), _EQUAL),
    **dict.fromkeys(operators("ne ne_"), _NONZERO),
    aten.signbit: _BELOW,
    **dict.fromkeys(operators("topk sort"), _RANKS),
    aten.kthvalue: _AT_RANK,
    aten.argmax: _best(1),
    aten.argmin: _best(-1),
    **dict.fromkeys(operators("floor floor_"), _whole(lambda whole: (whole, whole + 1))),
    **dict.fromkeys(operators("ceil ceil_"), _whole(lambda whole: (whole - 1, whole))),
    **dict.fromkeys(operators("trunc trunc_ _to_copy"), _whole(_toward_zero)),
    **dict.fromkeys(operators("floor_divide floor_divide_ div div_"), _DIVIDED),
    **dict.fromkeys(operators("remainder remainder_"), _rest(_FLOORED, torch.floor)),
    **dict.fromkeys(operators("fmod fmod_ frac frac_"), _rest(_CUT, torch.trunc)),
    **dict.fromkeys(operators("sign sign_ sgn sgn_"), _SIDE),
    **dict.fromkeys(operators("bucketize searchsorted"), _BIN),
    **dict.fromkeys(operators("threshold threshold_"), _THRESHOLD),
    **dict.fromkeys(operators("heaviside heaviside_"), _STEP),
    **dict.fromkeys(operators("copysign copysign_"), _COPIED_SIGN),
    aten.nonzero: _NONZERO_PLACES,
    aten.count_nonzero: _NONZERO_COUNT,
    **SPOTS,
    aten.hardshrink: _gate(lambda named: named["self"].abs() - named["lambd"], lambda named: 0.0),
}
_DIVIDES = operators("div div_")
_SAMPLERS = operators("grid_sampler_2d grid_sampler_3d")
_BY_OVERLOAD: Mapping[Any, Kind] = {  # others of these operators decide nothing, or otherwise
    aten.max.dim: _picked(1),
    aten.min.dim: _picked(-1),
    aten.median.dim: _AT_RANK,
    aten.nanmedian.dim: _AT_RANK,
    aten.round.default: _whole(_ROUND),
    aten.round.decimals: replace(_whole(_ROUND, _decimals), made=_to_decimals, result=_from_decimals),
    aten.round_.default: _whole(_ROUND),
    aten.round_.decimals: replace(_whole(_ROUND, _decimals), made=_to_decimals, result=_from_decimals),
}
