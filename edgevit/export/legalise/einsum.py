"""Einstein's sums of two tensors as one batched product of matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments

aten = torch.ops.aten
_NATIVE = ("nchw,nwhu->nchu", "chw,whu->chu")  # what Core ML's own operator is for, and runs at once


def einsum(equation: str, tensors: list[Tensor], *, path: list[int] | None = None) -> Tensor | Any:
    """Of two tensors, without a letter twice in one; an ellipsis stands for the same axes in both."""
    if len(tensors) != 2:
        return NotImplemented
    (left, right), out = _letters(equation, tensors)
    pairs = [*zip(left, tensors[0].shape, strict=True), *zip(right, tensors[1].shape, strict=True)]
    sizes = dict(sorted(pairs, key=lambda pair: str(pair[1]) != "1"))  # an axis of one is repeated along the other's
    tensors = [tensor.expand([sizes[one] for one in term]) for tensor, term in zip(tensors, (left, right), strict=True)]
    batch = [one for one in out if one in left and one in right]
    rows, columns = ([one for one in out if one in own and one not in batch] for own in (left, right))
    summed = [one for one in left if one in right and one not in out]
    first = _matrices(tensors[0], left, (batch, rows, summed))
    second = _matrices(tensors[1], right, (batch, summed, columns))
    order = [*batch, *rows, *columns]
    found = (first @ second).reshape([sizes[one] for one in order])
    return found.permute([order.index(one) for one in out]).contiguous()  # what follows may view it


def _letters(equation: str, tensors: list[Tensor]) -> tuple[list[str], str]:
    """A letter for every axis of both tensors and of the result."""
    given, _, out = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if "->" not in equation:
        once = sorted(one for one in set(given) if one.isalpha() and given.count(one) == 1)
        out = ("..." if "..." in given else "") + "".join(once)
    extra = [tensor.ndim - len(term.replace("...", "")) for term, tensor in zip(terms, tensors, strict=True)]
    names = "".join(chr(0x3B1 + place) for place in range(max(extra)))  # Greek, which no equation has
    filled = [term.replace("...", names[len(names) - more :]) for term, more in zip(terms, extra, strict=True)]
    return filled, out.replace("...", names)


def _matrices(tensor: Tensor, letters: str, groups: tuple[list[str], ...]) -> Tensor:
    """The tensor with one axis for each group of letters; a letter in none of them is summed."""
    wanted = [one for group in groups for one in group]
    alone = [axis for axis, one in enumerate(letters) if one not in wanted]
    tensor = tensor.sum(alone) if alone else tensor
    kept = [one for one in letters if one in wanted]
    moved = tensor.permute([kept.index(one) for one in wanted])
    sizes = list(moved.shape)
    shape, at = [], 0
    for group in groups:
        side: Any = 1
        for size in sizes[at : at + len(group)]:
            side = side * size
        shape.append(side)
        at += len(group)
    return moved.reshape(shape)


def is_plain(node: fx.Node) -> bool:
    """Whether the rule is for it: two tensors, and no diagonal."""
    given = arguments(node)
    values = [one.meta["val"] for one in given["tensors"]]
    equation = _renamed(given["equation"])
    if len(values) != 2 or equation in _NATIVE:
        return False
    terms, _ = _letters(given["equation"], values)
    return all(len(set(term)) == len(term) for term in terms)


def _renamed(equation: str) -> str:
    """The equation in the letters of Core ML's own, where it is one of them."""
    plain = equation.replace(" ", "")
    for native in _NATIVE:
        names: dict[str, str] = {}
        if len(plain) == len(native):
            told = "".join(
                names.setdefault(one, to) if one.isalpha() else one for one, to in zip(plain, native, strict=True)
            )
            if told == native and len(set(names.values())) == len(names):
                return native
    return plain


EINSUM_RULES = {aten.einsum.default: Rule(einsum, is_plain)}
