"""``torchvision.ops.deform_conv2d`` where torchvision's own library cannot be loaded: written anew, value by value."""

from __future__ import annotations

import contextlib
import itertools
import math

import torch
from torch import Tensor

_SCHEMA = (
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
    "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
    "SymInt offset_groups, bool use_mask) -> Tensor"
)


def deform_conv2d(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor,
    stride_h: int, stride_w: int, pad_h: int, pad_w: int, dilation_h: int, dilation_w: int,
    groups: int, offset_groups: int, use_mask: bool,
) -> Tensor:  # fmt: skip
    """One value of the result after another."""
    (out, part, kh, kw), (rows, columns) = weight.shape, offset.shape[2:]
    found = bias.reshape(1, -1, 1, 1).repeat(len(input), 1, rows, columns)
    each = input.shape[1] // offset_groups
    for b, o, c, y, x in itertools.product(*map(range, (len(input), out, part, rows, columns))):
        channel = o // (out // groups) * part + c
        for i, j in itertools.product(range(kh), range(kw)):
            tap = channel // each * kh * kw + i * kw + j
            down = y * stride_h - pad_h + i * dilation_h + offset[b, 2 * tap, y, x].item()
            across = x * stride_w - pad_w + j * dilation_w + offset[b, 2 * tap + 1, y, x].item()
            seen = _value(input[b, channel], down, across)
            found[b, o, y, x] += seen * weight[o, c, i, j] * (mask[b, tap, y, x] if use_mask else 1.0)
    return found


def _value(plane: Tensor, down: float, across: float) -> float:
    """Between four pixels; outside the map lie zeros."""
    total, (high, wide) = 0.0, plane.shape
    for y, x in itertools.product(
        (math.floor(down), math.floor(down) + 1), (math.floor(across), math.floor(across) + 1)
    ):
        if 0 <= y < high and 0 <= x < wide:
            total += plane[y, x].item() * (1 - abs(down - y)) * (1 - abs(across - x))
    return total


def _sides(input: Tensor, weight: Tensor, offset: Tensor, *_: object) -> Tensor:
    return input.new_empty(input.shape[0], weight.shape[0], *offset.shape[2:])


@contextlib.contextmanager
def registered():
    """The operator, torchvision's own where that is there."""
    if hasattr(torch.ops.torchvision, "deform_conv2d"):
        yield torch.ops.torchvision.deform_conv2d
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(_SCHEMA)
    library.impl("deform_conv2d", deform_conv2d, "CPU")
    torch.library.register_fake("torchvision::deform_conv2d", _sides, lib=library)
    yield torch.ops.torchvision.deform_conv2d
    library._destroy()
