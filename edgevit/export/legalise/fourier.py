"""Fourier transforms of fixed sizes as products with matrices of cosines and sines, real and imaginary parts apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_SCALE = {0: 0.0, 1: 0.5, 2: 1.0}  # PyTorch's numbers of the norms: what power of the size is divided by


class Pair(NamedTuple):
    """A complex tensor, or number; ``imaginary`` None where it is of a tensor that is real."""

    real: Any
    imaginary: Any


def of_real(x: Tensor, dim: Sequence[int], norm: int, onesided: bool) -> Pair:
    """``aten._fft_r2c``; one-sided the last of ``dim`` keeps the first half of its frequencies."""
    *others, last = dim
    size = x.shape[last]
    found = _along(Pair(x, None), last, _turns(size, size // 2 + 1 if onesided else size, x), size ** -_SCALE[norm])
    return of_complex(found, others, norm, True)


def of_complex(x: Pair, dim: Sequence[int], norm: int, forward: bool) -> Pair:
    """``aten._fft_c2c``."""
    for axis in dim:
        size = x.real.shape[axis]
        x = _along(x, axis, _turns(size, size, x.real) * (1 if forward else -1), size ** -_SCALE[norm])
    return x


def to_real(x: Pair, dim: Sequence[int], norm: int, size: int) -> Tensor:
    """``aten._fft_c2r``: frequencies of the first half stand for those of the second too."""
    *others, last = dim
    real, imaginary = of_complex(x, others, norm, False)
    half = size // 2 + 1
    turns = _turns(half, size, real)
    places = torch.arange(half).reshape(-1, 1)
    twice = 2.0 - (places % size == 0).double() - (places * 2 == size).double()
    cosines, sines = (_table(turn(turns) * twice * size ** -_SCALE[norm], real) for turn in (torch.cos, torch.sin))
    real = _product(real.narrow(last, 0, half), last, cosines)
    return real if imaginary is None else real - _product(imaginary.narrow(last, 0, half), last, sines)


def _turns(given: int, made: int, like: Tensor) -> Tensor:
    """(given, made) angles; ``made`` is the whole circle of a backward transform, ``given`` of a forward one."""
    whole = max(given, made)
    steps = torch.arange(given).reshape(-1, 1) * torch.arange(made) % whole  # exact, and small: cosines stay so too
    return steps.to(torch.float64) * (2 * math.pi / whole)


def _along(x: Pair, axis: int, turns: Tensor, scale: float) -> Pair:
    """Σ x · exp(-i turn) along an axis."""
    cosines, sines = (_table(turn(turns) * scale, x.real) for turn in (torch.cos, torch.sin))
    real, imaginary = x
    if imaginary is None:
        return Pair(_product(real, axis, cosines), -_product(real, axis, sines))
    turned = [[_product(one, axis, table) for table in (cosines, sines)] for one in (real, imaginary)]
    return Pair(turned[0][0] + turned[1][1], turned[1][0] - turned[0][1])


def _table(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).to(like.device)


def _product(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    return torch.matmul(x.transpose(axis, -1), matrix).transpose(axis, -1)
