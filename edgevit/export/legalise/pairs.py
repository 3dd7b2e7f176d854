"""What operators on complex tensors do to their real and imaginary parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgevit.export.legalise import fourier
from edgevit.export.legalise.fourier import Pair

aten = torch.ops.aten
Written = Callable[..., Any]


def pair_of(value: Any) -> Pair:
    if isinstance(value, Pair):
        return value
    if isinstance(value, Tensor):
        return Pair(value, torch.zeros_like(value))
    number = complex(value)
    return Pair(number.real, number.imag)


def apart(operator: Written) -> Written:
    """What does to both parts the same as to a real tensor."""

    def written(x: Any, *args: Any, **kwargs: Any) -> Any:
        named = {name: value for name, value in kwargs.items() if name not in _OF_FACTORIES}
        real, imaginary = (operator(part, *args, **named) for part in pair_of(x))
        return [Pair(*both) for both in zip(real, imaginary, strict=True)] if _is_list(real) else Pair(real, imaginary)

    return written


_OF_FACTORIES = ("dtype", "layout", "device", "pin_memory")


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def both_apart(operator: Written) -> Written:
    """The same of two tensors, the second written into the first."""

    def written(x: Any, y: Any, *args: Any, **kwargs: Any) -> Pair:
        return Pair(*(operator(one, other, *args, **kwargs) for one, other in zip(pair_of(x), pair_of(y), strict=True)))

    return written


def full(size: list[int], value: Any, dtype: torch.dtype | None = None, **_: Any) -> Pair:
    kind = torch.float64 if dtype is torch.complex128 else torch.float32
    return Pair(*(torch.full(size, part, dtype=kind) for part in pair_of(value)))


def joined(operator: Written) -> Written:
    def written(tensors: list[Any], dim: int = 0) -> Pair:
        real, imaginary = zip(*map(pair_of, tensors), strict=True)
        return Pair(operator(list(real), dim), operator(list(imaginary), dim))

    return written


def summed(operator: Written) -> Written:
    """A sum or a difference, the second part of it multiplied by ``alpha``."""

    def written(x: Any, y: Any, alpha: Any = 1) -> Pair:
        (a, b), (c, d) = pair_of(x), product(y, alpha) if alpha != 1 else pair_of(y)
        return Pair(operator(a, c), operator(b, d))

    return written


def bilinear(operator: Written) -> Written:
    """A product of two: (a + bi)(c + di) by its parts."""

    def written(x: Any, y: Any) -> Pair:
        if not isinstance(y, Pair | complex):
            return Pair(operator(x[0], y), operator(x[1], y))
        if not isinstance(x, Pair | complex):
            return Pair(operator(x, y.real), operator(x, pair_of(y).imaginary))
        (a, b), (c, d) = pair_of(x), pair_of(y)
        return Pair(operator(a, c) - operator(b, d), operator(a, d) + operator(b, c))

    return written


product: Written = bilinear(lambda x, y: x * y)


def einsum(equation: str, tensors: list[Any], path: Any = None) -> Any:
    if len(tensors) == 1:
        return apart(lambda x: torch.einsum(equation, x))(tensors[0])
    first, *rest = tensors
    if len(rest) > 1:
        return NotImplemented
    return bilinear(lambda x, y: torch.einsum(equation, x, y))(first, rest[0])


def quotient(x: Any, y: Any) -> Any:
    if not isinstance(y, Pair | complex):
        return product(x, 1.0 / y)
    c, d = pair_of(y)
    return product(product(x, Pair(c, -d)), 1.0 / (c * c + d * d))


def conjugate(x: Any) -> Any:
    return Pair(x.real, -x.imaginary) if isinstance(x, Pair) else x


def magnitude(x: Pair) -> Tensor:
    found: Tensor = (x.real * x.real + x.imaginary * x.imaginary).sqrt()
    return found


def angle(x: Pair) -> Tensor:
    return torch.atan2(x.imaginary, x.real)


def exponential(x: Pair) -> Pair:
    size = x.real.exp()
    return Pair(size * x.imaginary.cos(), size * x.imaginary.sin())


def powered(x: Pair, exponent: Any) -> Any:
    """Whole powers as products."""
    if exponent not in (1, 2, 3, 4):
        return NotImplemented
    found = x
    for _ in range(int(exponent) - 1):
        found = product(found, x)
    return found


def chosen(condition: Tensor, x: Any, y: Any) -> Pair:
    (a, b), (c, d) = pair_of(x), pair_of(y)
    return Pair(torch.where(condition, a, c), torch.where(condition, b, d))


def padded(x: Pair, pad: list[int], value: Any = 0) -> Pair:
    number = pair_of(value)
    return Pair(*(aten.constant_pad_nd(part, pad, one) for part, one in zip(x, number, strict=True)))


_APART = (
    "reshape", "permute", "transpose.int", "t", "unsqueeze", "squeeze.dim", "squeeze.dims",
    "squeeze", "expand", "clone", "contiguous", "alias", "detach", "slice.Tensor", "select.int", "roll", "flip",
    "repeat", "index_select", "index.Tensor", "gather", "split.Tensor", "split_with_sizes", "chunk", "unbind.int",
    "flatten.using_ints", "unflatten.int", "sum.dim_IntList", "sum", "mean.dim", "mean", "neg", "_neg_view",
    "_to_copy", "lift_fresh_copy", "movedim.intlist", "cumsum", "zeros_like", "masked_fill.Scalar",
)  # fmt: skip


def _operator(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


WRITTEN: dict[Any, Written] = {
    **{_operator(name): apart(_operator(name)) for name in _APART},
    **{_operator(name): apart(torch.reshape) for name in ("view", "_unsafe_view")},  # parts lie in memory otherwise
    aten._fft_r2c.default: fourier.of_real,
    aten._fft_c2c.default: lambda x, *args: fourier.of_complex(pair_of(x), *args),
    aten._fft_c2r.default: lambda x, *args: fourier.to_real(pair_of(x), *args),
    aten.view_as_complex.default: lambda x: Pair(x.select(-1, 0), x.select(-1, 1)),
    aten.view_as_real.default: lambda x: torch.stack(x, -1),
    aten.complex.default: Pair,
    aten.polar.default: lambda size, turn: Pair(size * turn.cos(), size * turn.sin()),
    aten.full.default: full,
    **{_operator(name): both_apart(_operator(name)) for name in ("slice_scatter", "select_scatter", "copy")},
    aten.cat.default: joined(torch.cat),
    aten.stack.default: joined(torch.stack),
    aten.add.Tensor: summed(torch.add),
    aten.add.Scalar: summed(torch.add),
    aten.sub.Tensor: summed(torch.sub),
    aten.sub.Scalar: summed(torch.sub),
    aten.rsub.Scalar: lambda x, y, alpha=1: summed(torch.sub)(y, product(x, alpha)),
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar), product),
    **dict.fromkeys((aten.div.Tensor, aten.div.Scalar), quotient),
    **{one: bilinear(torch.matmul) for one in (aten.matmul.default, aten.bmm.default, aten.mm.default)},
    aten.einsum.default: einsum,
    aten.reciprocal.default: lambda x: quotient(1.0, x),
    **dict.fromkeys((aten._conj.default, aten._conj_physical.default, aten.conj_physical.default), conjugate),
    **dict.fromkeys((aten.resolve_conj.default, aten.resolve_neg.default), lambda x: x),
    aten.real.default: lambda x: x.real,
    aten.imag.default: lambda x: x.imaginary,
    aten.abs.default: magnitude,
    aten.angle.default: angle,
    aten.exp.default: exponential,
    aten.pow.Tensor_Scalar: powered,
    aten.square.default: lambda x: product(x, x),
    aten.where.self: chosen,
    aten.constant_pad_nd.default: padded,
}
