"""How far a model's discrete answers are from being others: the margin of every decision, followed to the outputs.

A label map, a mask or a list of the best is decided somewhere: by an argmax, a comparison, a rounding. Where the two
best scores are closer than rounding, another engine decides otherwise and is not wrong. So each decision's margin is
taken where it is made, and goes along with the values that were decided through everything that only moves them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from edgevit.models.eager.decisions import COMPARES, Decision, decision_of, named_arguments
from edgevit.models.eager.kinds import operators
from edgevit.models.eager.reach import Reach
from edgevit.models.eager.watching import Watching

# What only moves values: their margins are moved in the same way.
_MOVES = operators(
    "alias view _unsafe_view reshape _reshape_alias permute transpose t squeeze unsqueeze expand select slice clone"
    " contiguous flip roll cat stack detach split split_with_sizes unbind index_select repeat unfold constant_pad_nd"
    " upsample_nearest2d _upsample_nearest_exact2d"
)
# What makes one value of several: it may change with any of them.
_JOINS = COMPARES | operators(
    "bitwise_and bitwise_or bitwise_xor bitwise_not logical_and logical_or logical_xor logical_not"
    " add sub rsub mul div remainder floor_divide neg clamp clamp_min clamp_max minimum maximum where"
)
_LOOKUPS = operators("_to_copy embedding gather index")
_REDUCES = operators("all any amax amin sum")


class Script(Protocol):
    """Is asked of every decision, in their order, what is to be decided; ``used`` are the numbers of those that
    anything came of."""

    used: set[int]

    def take(self, decision: Decision, made: Tensor) -> Tensor: ...


class Margins(Watching):
    """While open, follows the margin of every decision; ``of`` gives that of a result.

    A margin is the distance to another decision as a share of the largest magnitude that it was decided among. Where
    several decisions meet in one value, the smallest of their margins counts. A ``script`` may have what is made of a
    model's inputs decided otherwise.

    inside  whether something is computed with what was decided of the inputs, so that its margin is lost
    """

    def __init__(self, script: Script | None = None) -> None:
        super().__init__()
        self.inside = False
        self._script, self._reach = script, Reach(None)
        self._known: Any = WeakIdKeyDictionary()
        self._numbers: Any = WeakIdKeyDictionary()
        self._count = 0

    def begin(self, inputs: Sequence[Tensor]) -> None:
        """From here on only what is made of ``inputs`` is decided inside, or asked of a script."""
        self._reach = Reach(inputs)

    def of(self, value: Tensor) -> Tensor | None:
        """The margin of every element of a value that was decided, None where nothing is known."""
        self._use([value])
        found: Tensor | None = self._known.get(value)
        return found

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        leaves = _tensors(args, kwargs)
        self._use(leaves)
        reached = self._reach.any(leaves)
        decision = decision_of(func, args, kwargs)
        # An operator in place writes over its argument, which is looked at before.
        margins = self._margins(func, args, kwargs, decision)
        result = func(*args, **kwargs)
        if reached:
            self._reach.add(_tensors(result))
        with _disable_current_modes():
            if decision is not None and reached:
                result = self._decided(decision, result)
            if margins is not None and not self._keep(result, margins(result)):
                self._lose(leaves)
                # samples, counts and places have no margin that is theirs: all that comes of them hangs on it
                self.inside |= decision is not None and reached
        return result

    def _controlled(self, func: Any, args: Any, kwargs: Any) -> Any:
        leaves = _tensors(args, kwargs)
        self._use(leaves)
        self._lose(leaves)
        result = super()._controlled(func, args, kwargs)
        if self._reach.any(leaves):
            self._reach.add(_tensors(result))
        return result

    def _decided(self, decision: Decision, result: Any) -> Any:
        """The result of a call, as the script has it."""
        made = decision.kind.made(decision.named, result)
        if self._script is not None:
            taken = self._script.take(decision, made)
            if taken is not made:
                result = _written(result, decision.kind.result(decision.named, taken))
        self._numbers[_decided_part(result)] = self._count
        self._count += 1
        return result

    def _margins(self, func: Any, args: Any, kwargs: Any, decision: Decision | None) -> Callable[[Any], Any] | None:
        """What finds the margins of a call's result, or None."""
        operator = func.overloadpacket
        leaves = _tensors(args, kwargs)
        given = [margin for leaf in leaves if (margin := self._known.get(leaf)) is not None]
        if not given:
            return _own(decision)
        if decision is not None and not _whole(decision.named["self"]):
            self._lose(leaves)
        if operator in _MOVES:
            with _disable_current_modes():
                moved, options = tree_map(self._or_never, (args, kwargs))
            return lambda _: func(*moved, **options)
        if operator in _LOOKUPS:
            return lambda result: _spread(given[-1], result, trailing=func is not torch.ops.aten.gather.default)
        if operator in _JOINS:
            return lambda result: _nearest([found for one in given if (found := _spread(one, result)) is not None])
        if operator in _REDUCES:
            named = named_arguments(func, args, kwargs)
            return lambda result: _reduced(given[0], result, named.get("dim"))
        self._lose(leaves)
        return _own(decision)

    def _lose(self, leaves: Iterable[Tensor]) -> None:
        """Values go on without their margins."""
        self.inside |= self._reach.any(leaf for leaf in leaves if leaf in self._known)

    def _use(self, leaves: Iterable[Tensor]) -> None:
        if self._script is not None:
            self._script.used |= {self._numbers[leaf] for leaf in leaves if leaf in self._numbers}

    def _or_never(self, leaf: Any) -> Any:
        """The margin of a tensor, of one that nothing decided infinity: it never changes."""
        if not isinstance(leaf, Tensor):
            return leaf
        found = self._known.get(leaf)
        return torch.full(leaf.shape, math.inf) if found is None else found

    def _keep(self, result: Any, margins: Any) -> bool:
        """Whether any of the margins is of the result."""
        results = result if isinstance(result, tuple | list) else [result]
        found = margins if isinstance(margins, tuple | list) else [margins]
        for value, margin in zip(results, found, strict=True):
            if isinstance(value, Tensor) and isinstance(margin, Tensor) and value.shape == margin.shape:
                self._known[value] = margin
        return any(isinstance(value, Tensor) and value in self._known for value in results)


def _tensors(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _own(decision: Decision | None) -> Callable[[Any], Any] | None:
    """What finds the margins of a decision itself; of the values that come with places nothing is known."""
    if decision is None:
        return None

    def found(result: Any) -> Any:
        margin = decision.share(decision.kind.made(decision.named, result))
        return (None, margin) if isinstance(result, tuple | list) else margin

    return found


def _decided_part(result: Any) -> Tensor:
    part: Tensor = result[1] if isinstance(result, tuple | list) else result
    return part


def _written(result: Any, wanted: Any) -> Any:
    """``wanted`` in the place of a result that was written there."""
    if isinstance(result, tuple | list):
        return type(result)(one.copy_(other) for one, other in zip(result, wanted, strict=True))
    return result.copy_(wanted) if result.shape == wanted.shape else wanted  # places: as many as were decided


def _whole(value: Tensor) -> bool:
    """Whether whole numbers alone are in it: what was decided before, and is only looked at."""
    with _disable_current_modes():
        return not value.is_floating_point() or bool((value == value.round()).all())


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
