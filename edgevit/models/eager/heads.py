"""Whether a vector that a model returns is the scores of a head, or what a head would be put on.

Both are (B, n) floats. A classifier ends in a product with a weight matrix, perhaps scaled, averaged or made
probabilities; an encoder ends in a normalisation, a pooling, an activation, a residual sum, or in a projection that
says so.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn, ops
from torch.utils._pytree import tree_leaves

from edgevit.models.eager.margins import operators
from edgevit.models.eager.watching import Watching

_PRODUCTS = operators("addmm mm bmm convolution linear")
# What may come after a head's product without making its scores anything else.
_AFTER = operators(
    "view _unsafe_view reshape squeeze unsqueeze permute transpose t select slice expand clone detach alias _to_copy"
    " mean add mul div _softmax _log_softmax sigmoid"
)
_PROJECTION = re.compile(r"proj|embed|neck|bottleneck", re.IGNORECASE)


class _Makers(Watching):
    """Remembers by which call every tensor was made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[Any, list[Tensor]]] = {}
        self.kept: list[Tensor] = []  # alive, so that no other tensor gets its address

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for value in tree_leaves(result):
            if isinstance(value, Tensor):  # of an operator in place the argument too: what it was before is past
                self.made[id(value)] = (func.overloadpacket, given)
                self.kept.append(value)
        return result


def ends_in_head(module: nn.Module, image: Tensor) -> bool:
    """Whether the one tensor that the module returns is made of scores; False where it returns anything else."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    with _Makers() as makers:
        value = module(image)
    return isinstance(value, Tensor) and _of_a_head(value, names, makers)


def _of_a_head(value: Tensor, names: dict[int, str], makers: _Makers) -> bool:
    operator, given = makers.made.get(id(value), (None, []))
    if operator in _PRODUCTS:
        weights = [name for one in given if (name := _weight(one, names, makers)) is not None]
        return bool(weights) and not any(_PROJECTION.search(name.rpartition(".")[0] or name) for name in weights)
    if operator not in _AFTER:
        return False
    computed = [one for one in given if _weight(one, names, makers) is None and one.ndim]
    # two heads that vote are a head; a sum with more axes is a residual's
    if len(computed) != 1 and (operator is not ops.aten.add or value.ndim != 2):
        return False
    return bool(computed) and all(one is not value and _of_a_head(one, names, makers) for one in computed)


def _weight(value: Tensor, names: dict[int, str], makers: _Makers) -> str | None:
    """The name of the parameter that a tensor is, or is a view of."""
    while id(value) not in names:
        operator, given = makers.made.get(id(value), (None, []))
        if operator not in _AFTER or len(given) != 1:
            return None
        value = given[0]
    return names[id(value)]
