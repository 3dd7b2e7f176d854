"""Whether a vector that a model returns is the scores of a head, or what a head would be put on.

Both are (B, n) floats. A classifier ends in a product with a weight matrix, perhaps scaled, averaged or made
probabilities; an encoder ends in a normalisation, a pooling, an activation, a residual sum, or in a projection that
says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn, ops
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from edgevit.models.eager.kinds import operators
from edgevit.models.eager.watching import Watching

_PRODUCTS = operators("addmm mm bmm convolution linear")
# What may come after a head's product without making its scores anything else.
_AFTER = operators(
    "view _unsafe_view reshape squeeze unsqueeze permute transpose t select slice expand clone detach alias _to_copy"
    " mean add mul div _softmax _log_softmax sigmoid"
)
_PROJECTION = re.compile(r"proj|embed|neck|bottleneck", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class _Made:
    """How a tensor came to be. The tensor itself is not kept: those of a whole forward take many times its memory.

    operator  None of what was there before: an input, a parameter
    name      of the parameter that it is
    given     the tensors that it was made of
    """

    operator: Any = None
    name: str | None = None
    axes: int = 0
    given: tuple[_Made, ...] = ()


class _Makers(Watching):
    """Remembers by which call every tensor was made, as long as it is there."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._of = WeakTensorKeyDictionary()
        for name, parameter in module.named_parameters():
            self._of[parameter] = _Made(name=name, axes=parameter.ndim)

    def of(self, value: Tensor) -> _Made:
        found: _Made = self._of[value] if value in self._of else _Made(axes=value.ndim)
        return found

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        given = tuple(self.of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        result = func(*args, **kwargs)
        for value in tree_leaves(result):
            if isinstance(value, Tensor):  # of an operator in place the argument too: it is no longer what it was
                self._of[value] = _Made(func.overloadpacket, axes=value.ndim, given=given)
        return result


def ends_in_head(module: nn.Module, image: Tensor) -> bool:
    """Whether the one tensor that the module returns is made of scores; False where it returns anything else."""
    with _Makers(module) as makers:
        value = module(image)
    return isinstance(value, Tensor) and _of_a_head(makers.of(value))


def _of_a_head(made: _Made) -> bool:
    if made.operator in _PRODUCTS:
        weights = [name for one in made.given if (name := _weight(one)) is not None]
        return bool(weights) and not any(_PROJECTION.search(name.rpartition(".")[0] or name) for name in weights)
    if made.operator not in _AFTER:
        return False
    computed = [one for one in made.given if _weight(one) is None and one.axes]
    # two heads that vote are a head; a sum with more axes is a residual's
    if len(computed) != 1 and (made.operator is not ops.aten.add or made.axes != 2):
        return False
    return bool(computed) and all(map(_of_a_head, computed))


def _weight(made: _Made) -> str | None:
    """The name of the parameter that a tensor is, or is a view of."""
    while made.name is None:
        if made.operator not in _AFTER or len(made.given) != 1:
            return None
        (made,) = made.given
    return made.name
