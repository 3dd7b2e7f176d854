"""How far a model's discrete answers are from being others: the margin of every decision, followed to the outputs.

A label map, a mask or a list of the best is decided somewhere: by an argmax, a comparison, a rounding. Where the two
best scores are closer than rounding, another engine decides otherwise and is not wrong. So each decision's margin is
taken where it is made, and goes along with the values that were decided through everything that only moves them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from edgevit.models.eager.watching import Watching

Named = Mapping[str, Any]  # a call's arguments, by the names that its operator has for them


def operators(names: str) -> frozenset[Any]:
    """torch's operators of these names, in all their overloads."""
    return frozenset(getattr(torch.ops.aten, name) for name in names.split())


# What only moves values: their margins are moved in the same way.
_MOVES = operators(
    "alias view _unsafe_view reshape _reshape_alias permute transpose t squeeze unsqueeze expand select slice clone"
    " contiguous flip roll cat stack detach split split_with_sizes unbind index_select repeat unfold constant_pad_nd"
    " upsample_nearest2d _upsample_nearest_exact2d"
)
# What makes one value of several: it may change with any of them.
_JOINS = operators(
    "bitwise_and bitwise_or bitwise_xor bitwise_not logical_and logical_or logical_xor logical_not gt ge lt le eq ne"
    " add sub rsub mul div remainder floor_divide neg clamp clamp_min clamp_max minimum maximum where"
)
_LOOKUPS = operators("_to_copy embedding gather index")
_REDUCES = operators("all any amax amin sum")
_COMPARES = operators("gt ge lt le eq ne")


class Margins(Watching):
    """While open, follows the margin of every decision; ``of`` gives that of a result.

    A margin is the distance to another decision as a share of the largest magnitude that it was decided among. Where
    several decisions meet in one value, the smallest of their margins counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: Any = WeakIdKeyDictionary()

    def of(self, value: Tensor) -> Tensor | None:
        """The margin of every element of a value that was decided, None where nothing is known."""
        found: Tensor | None = self._known.get(value)
        return found

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        # An operator in place writes over its argument, which is looked at before.
        margins = self._margins(func, args, kwargs)
        result = func(*args, **kwargs)
        if margins is not None:
            self._keep(result, margins(result))
        return result

    def _margins(self, func: Any, args: Any, kwargs: Any) -> Callable[[Any], Any] | None:
        """What finds the margins of a call's result, or None."""
        operator = func.overloadpacket
        given = [margin for leaf in tree_leaves((args, kwargs)) if (margin := self._of_leaf(leaf)) is not None]
        if not given:
            return _decided(func, _named(func, args, kwargs))
        if operator in _MOVES:
            moved, options = tree_map(self._or_never, (args, kwargs))
            return lambda _: func(*moved, **options)
        if operator in _LOOKUPS:
            return lambda result: _spread(given[-1], result, trailing=func is not torch.ops.aten.gather.default)
        if operator in _JOINS:
            return lambda result: _nearest([found for one in given if (found := _spread(one, result)) is not None])
        if operator in _REDUCES:
            named = _named(func, args, kwargs)
            return lambda result: _reduced(given[0], result, named.get("dim"))
        return None

    def _of_leaf(self, leaf: Any) -> Tensor | None:
        return self.of(leaf) if isinstance(leaf, Tensor) else None

    def _or_never(self, leaf: Any) -> Any:
        """The margin of a tensor, of one that nothing decided infinity: it never changes."""
        if not isinstance(leaf, Tensor):
            return leaf
        found = self.of(leaf)
        return torch.full(leaf.shape, math.inf) if found is None else found

    def _keep(self, result: Any, margins: Any) -> None:
        results = result if isinstance(result, tuple | list) else [result]
        found = margins if isinstance(margins, tuple | list) else [margins]
        for value, margin in zip(results, found, strict=True):
            if isinstance(value, Tensor) and isinstance(margin, Tensor) and value.shape == margin.shape:
                self._known[value] = margin


def _named(func: Any, args: Sequence[Any], kwargs: Named) -> Named:
    arguments = func._schema.arguments
    defaults = {one.name: one.default_value for one in arguments if one.has_default_value()}
    return {**defaults, **{one.name: value for one, value in zip(arguments, args, strict=False)}, **kwargs}


def _decided(func: Any, named: Named) -> Callable[[Any], Any] | None:
    """What finds the margins where a call decides something from floats, or None."""
    operator, source = func.overloadpacket, named.get("self")
    if not isinstance(source, Tensor) or not source.is_floating_point():
        return None
    if operator in _COMPARES:
        gap = _gap(source, named["other"])
        return lambda _: gap
    if operator is torch.ops.aten._to_copy:
        return lambda result: None if result.is_floating_point() else _share(_to_whole(source), source)
    decides = _BY_OVERLOAD.get(func) or _DECIDES.get(operator)
    return None if decides is None else lambda result: decides(result, named)


def _share(gap: Tensor, *sources: Tensor) -> Tensor:
    """A gap as a share of the largest magnitude that it lies between, infinite scores (of what is masked) left out."""
    largest = [_largest(source) for source in sources if source.numel()]
    return (gap / (max(largest, default=0.0) or 1.0)).float()


def _largest(source: Tensor) -> float:
    ends = torch.stack(source.aminmax()).abs()
    # only where there is infinity a copy is made: scores can be the largest values of a model
    return float(ends.max() if ends.isfinite().all() else source.abs().nan_to_num(0, 0, 0).max())


def _gap(source: Tensor, other: Any) -> Tensor:
    sources = [source, other] if isinstance(other, Tensor) else [source]
    return _share((source - other).abs(), *sources)


def _to_whole(value: Tensor) -> Tensor:
    """The distance to where truncation makes another whole number of it."""
    part = (value - value.trunc()).abs()
    return torch.where(value.abs() < 1, 1 - part, torch.minimum(part, 1 - part))


def _spread(margin: Tensor, result: Tensor, *, trailing: bool = False) -> Tensor | None:
    """A margin in the shape of a result that was made of it, None where it has another, such as that of a mask that
    rows were picked by; ``trailing`` axes are those of rows that were looked up."""
    if trailing and result.ndim > margin.ndim:
        margin = margin.reshape(*margin.shape, *[1] * (result.ndim - margin.ndim))
    if any(have not in (1, want) for have, want in zip(margin.shape[::-1], result.shape[::-1], strict=False)):
        return None
    return None if margin.ndim > result.ndim else margin.expand(result.shape).contiguous()


def _nearest(margins: Sequence[Tensor]) -> Tensor | None:
    return functools.reduce(torch.minimum, margins) if margins else None


def _reduced(margin: Tensor, result: Tensor, dim: Any) -> Tensor:
    """The nearest of all that were reduced: one change may change the result."""
    if dim is None or dim == []:
        return margin.min().reshape(result.shape)
    return margin.amin(dim=dim, keepdim=result.ndim == margin.ndim)


def _best(result: Tensor, named: Named, *, sign: int = 1) -> Tensor:
    """Of an argmax: how far the second best is behind."""
    scores = named["self"]
    flat, axis = (scores.flatten(), 0) if named.get("dim") is None else (scores, named["dim"])
    if flat.shape[axis] < 2:
        return torch.full(result.shape, math.inf)
    first, second = (sign * flat).topk(2, axis).values.unbind(axis)
    return _share((first - second).reshape(result.shape), scores)


def _ranked(result: tuple[Tensor, Tensor], named: Named) -> tuple[None, Tensor]:
    """Of topk and sort: how far the neighbours in the order are, the first that was left out among them."""
    scores, axis, count = named["self"], named["dim"], result[0].shape[named["dim"]]
    largest = bool(named.get("largest", named.get("descending")))
    ordered = scores.topk(min(count + 1, scores.shape[axis]), axis, largest).values
    never = torch.full_like(ordered.narrow(axis, 0, 1), math.inf)
    gaps = torch.cat([never, ordered.diff(dim=axis).abs(), never], axis)
    return None, _share(torch.minimum(gaps.narrow(axis, 0, count), gaps.narrow(axis, 1, count)), scores)


def _rounded(_: Tensor, named: Named) -> Tensor:
    value = named["self"]
    return _share(0.5 - (value - value.round()).abs(), value)


def _cut(_: Tensor, named: Named) -> Tensor:
    value = named["self"]
    part = value - value.floor()
    return _share(torch.minimum(part, 1 - part), value)


_DECIDES: Mapping[Any, Callable[..., Any]] = {
    torch.ops.aten.argmax: _best,
    torch.ops.aten.argmin: lambda result, named: _best(result, named, sign=-1),
    torch.ops.aten.topk: _ranked,
    torch.ops.aten.sort: _ranked,
    torch.ops.aten.round: _rounded,
    torch.ops.aten.floor: _cut,
    torch.ops.aten.ceil: _cut,
    torch.ops.aten.trunc: lambda _, named: _share(_to_whole(named["self"]), named["self"]),
}
_BY_OVERLOAD: Mapping[Any, Callable[..., Any]] = {  # others of these operators decide nothing
    torch.ops.aten.max.dim: lambda result, named: (None, _best(result[1], named)),
    torch.ops.aten.min.dim: lambda result, named: (None, _best(result[1], named, sign=-1)),
}
