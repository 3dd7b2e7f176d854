"""Algebra of linear layers in eval mode: what several layers compute, as one layer.

Pure functions: they return new layers and never edit their arguments, keep dtype and device, and work on meta
tensors. Products are taken in float64 and rounded once. A request that cannot be exact (a padded border, batch
statistics, branches of different shape) is a ValueError that says why.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)
Attending = TypeVar("Attending", bound=nn.Module)


def fuse_conv_bn(conv: nn.Conv2d, bn: _BatchNorm) -> nn.Conv2d:
    """One convolution equal to ``bn(conv(x))``. Padding is no obstacle: it comes before the convolution."""
    _same_width("convolution's output", conv.out_channels, bn)
    scale, shift = _affine64(bn)
    # γ (W x + b - μ) / σ + β with scale = γ / σ and shift = β - μ · scale
    return _conv_like(conv, _double(conv.weight) * scale.view(-1, 1, 1, 1), _bias64(conv) * scale + shift)


def fuse_bn_conv(bn: _BatchNorm, conv: nn.Conv2d) -> nn.Conv2d:
    """One convolution equal to ``conv(bn(x))``.

    ValueError when zeros are padded: the border would see a shifted zero instead of zero. Modes that repeat
    pixels (reflect, replicate, circular) pad after the shift as well as before it, so they are allowed.
    """
    _same_width("convolution's input", conv.in_channels, bn)
    if conv.padding_mode == "zeros" and any(padding_of(conv)):
        raise ValueError(f"BatchNorm before a padded {size_of(conv)} convolution: the border would change")
    scale, shift = _affine64(bn)
    weight = _double(conv.weight)  # (C_out, C_in/g, kh, kw): output o reads the inputs of its own group only
    per_out = conv.out_channels // conv.groups
    scale = scale.view(conv.groups, -1).repeat_interleave(per_out, dim=0)[:, :, None, None]
    shift = shift.view(conv.groups, -1).repeat_interleave(per_out, dim=0)[:, :, None, None]
    # without a border every window sees all of its taps, so that the shift of the input is one number for each output
    return _conv_like(conv, weight * scale, _bias64(conv) + (weight * shift).sum(dim=(1, 2, 3)))


def fuse_linear_bn(linear: nn.Linear, bn: _BatchNorm) -> nn.Linear:
    """One linear layer equal to ``bn(linear(x))`` for BatchNorm over the last axis; x is (N, C_in)."""
    _same_width("linear layer's output", linear.out_features, bn)
    scale, shift = _affine64(bn)
    return _linear_like(linear, _double(linear.weight) * scale[:, None], _bias64(linear) * scale + shift)


def fuse_bn_linear(bn: _BatchNorm, linear: nn.Linear) -> nn.Linear:
    """One linear layer equal to ``linear(bn(x))`` for BatchNorm over the last axis."""
    _same_width("linear layer's input", linear.in_features, bn)
    scale, shift = _affine64(bn)
    weight = _double(linear.weight)
    return _linear_like(linear, weight * scale, _bias64(linear) + weight @ shift)


def scale_output(layer: Layer, gamma: Tensor | float) -> Layer:
    """One layer equal to ``gamma * layer(x)``: LayerScale (one factor per output channel) or an attention scale."""
    width = layer.weight.shape[0]
    factor = _double(gamma).reshape(-1) if isinstance(gamma, Tensor) else _double(layer.weight).new_tensor([gamma])
    if factor.numel() not in (1, width):
        raise ValueError(f"{factor.numel()} factors do not fit {width} output channels")
    factor = factor.expand(width)
    bias = None if layer.bias is None else _double(layer.bias) * factor
    if isinstance(layer, nn.Conv2d):
        return _conv_like(layer, _double(layer.weight) * factor.view(-1, 1, 1, 1), bias)
    return _linear_like(layer, _double(layer.weight) * factor[:, None], bias)


def expand_groups(weight: Tensor, groups_from: int, groups_to: int) -> Tensor:
    """The same grouped convolution written with fewer groups: blocks on the diagonal, zeros elsewhere.

    (C_out, C_in/groups_from, kh, kw) -> (C_out, C_in/groups_to, kh, kw); ``groups_to`` divides ``groups_from``.
    """
    if groups_from % groups_to or weight.shape[0] % groups_from:
        raise ValueError(f"{groups_from} groups of {weight.shape[0]} outputs cannot be written as {groups_to} groups")
    merged = groups_from // groups_to  # old groups inside each new one
    if merged == 1:
        return weight.clone()
    out, width, kh, kw = weight.shape
    # old group i of a new one reads the i-th part of its inputs: times the identity over (i, part), zeros elsewhere
    blocks = weight.reshape(groups_to, merged, out // groups_from, 1, width, kh, kw)
    eye = torch.eye(merged, dtype=weight.dtype, device=weight.device).view(1, merged, 1, merged, 1, 1, 1)
    return (blocks * eye).reshape(out, merged * width, kh, kw)


def pad_kernel(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Zeros around an odd kernel up to ``size`` (kh, kw), also odd, so that its centre stays the centre."""
    (kh, kw), (to_h, to_w) = weight.shape[-2:], size
    if to_h < kh or to_w < kw or (to_h - kh) % 2 or (to_w - kw) % 2:
        raise ValueError(f"a {kh}×{kw} kernel cannot be centred in {to_h}×{to_w}")
    top, left = (to_h - kh) // 2, (to_w - kw) // 2
    return nn.functional.pad(weight, (left, left, top, top))


def identity_conv(channels: int, kernel_size: int, groups: int, *, like: Tensor) -> nn.Conv2d:
    """The convolution (stride 1, same padding, no bias) that returns its input; dtype and device of ``like``."""
    if kernel_size % 2 == 0 or channels % groups:
        raise ValueError(f"no identity with a {kernel_size}×{kernel_size} kernel, {channels} channels, {groups} groups")
    width = channels // groups
    kernel = torch.eye(width, dtype=like.dtype, device=like.device).repeat(groups, 1)[:, :, None, None]
    conv = nn.Conv2d(
        channels, channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False, **_place(like)
    )
    conv.weight = nn.Parameter(pad_kernel(kernel, (kernel_size, kernel_size)))
    return conv


def sum_convs(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """One convolution equal to the sum of parallel ones over the same input.

    They share stride and channels, and each pads with zeros to half its reach (kernel // 2 × dilation), so that
    all are centred on the same pixel. Groups become their greatest common divisor, the kernel the largest.
    Branches of unlike dilation are written out with zeros between the taps.
    """
    _require_summable(convs)
    first, groups = convs[0], math.gcd(*(conv.groups for conv in convs))
    # a 1×1 kernel has no distance between taps: its dilation, whatever it says, forces nothing on the others
    dilations = {conv.dilation for conv in convs if tuple(conv.kernel_size) != (1, 1)}
    dilation = dilations.pop() if len(dilations) == 1 else (1, 1)
    weight = _summed_kernels(convs, dilation, groups)
    size = (weight.shape[2], weight.shape[3])
    biases = [_double(conv.bias) for conv in convs if conv.bias is not None]
    total = nn.Conv2d(
        first.in_channels,
        first.out_channels,
        size,
        stride=first.stride,  # type: ignore[arg-type]  # two axes
        padding=(size[0] // 2 * dilation[0], size[1] // 2 * dilation[1]),
        dilation=dilation,  # type: ignore[arg-type]
        groups=groups,
        bias=bool(biases),
        **_place(first.weight),
    )
    return _fill(total, first.weight, weight, torch.stack(biases).sum(dim=0) if biases else None)


def _summed_kernels(convs: Sequence[nn.Conv2d], dilation: tuple[int, ...], groups: int) -> Tensor:
    """Their kernels at ``dilation`` in as many ``groups``, centred on each other and added, in float64."""
    kernels = [expand_groups(_dilated(conv, dilation), conv.groups, groups) for conv in convs]
    size = (max(k.shape[2] for k in kernels), max(k.shape[3] for k in kernels))
    return torch.stack([pad_kernel(kernel, size) for kernel in kernels]).sum(dim=0)


def mean_linear(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """One linear layer equal to the mean of two over the same input."""
    weight = (first.weight.detach().double() + second.weight.detach().double()) / 2
    bias = (first.bias.detach().double() + second.bias.detach().double()) / 2
    return linear(weight.to(first.weight.dtype), bias.to(first.bias.dtype))


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer of copies of these tensors."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def with_projection(attention: Attending, proj: nn.Module) -> Attending:
    """``attention`` with another output projection ``proj``; the argument keeps its own."""
    new = copy.copy(attention)
    new._modules = {**attention._modules, "proj": proj}
    return new


def stack_convs(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """One ungrouped convolution whose output channels are theirs, concatenated. They agree in all but out_channels."""
    shapes = {(c.in_channels, tuple(c.kernel_size), tuple(c.stride), padding_of(c), tuple(c.dilation)) for c in convs}
    if len(shapes) != 1 or any(c.groups != 1 for c in convs) or len({c.padding_mode for c in convs}) != 1:
        raise ValueError(
            "only ungrouped convolutions of one input, kernel, stride, padding and dilation can be stacked"
        )
    weight = torch.cat([_double(conv.weight) for conv in convs])
    biases = torch.cat([_bias64(conv) for conv in convs]) if any(conv.bias is not None for conv in convs) else None
    return _conv_like(convs[0], weight, biases)


def padding_of(conv: nn.Conv2d) -> tuple[int, int]:
    """Pixels padded on the top and on the left. ValueError where "same" pads unevenly."""
    if conv.padding == "valid":
        return (0, 0)
    if conv.padding == "same":
        reach = [(k - 1) * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        if any(r % 2 for r in reach):
            raise ValueError(f'padding="same" is uneven for a {size_of(conv)} convolution')
        return (reach[0] // 2, reach[1] // 2)
    return (int(conv.padding[0]), int(conv.padding[1]))


def size_of(conv: nn.Conv2d) -> str:
    """Its kernel in words: 3×3."""
    return "×".join(str(k) for k in conv.kernel_size)


def _require_summable(convs: Sequence[nn.Conv2d]) -> None:
    if not convs:
        raise ValueError("no convolutions to sum")
    if len({(c.in_channels, c.out_channels, tuple(c.stride)) for c in convs}) != 1:
        raise ValueError("only convolutions of the same channels and stride can be summed")
    for conv in convs:
        half = tuple(k // 2 * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
        if any(k % 2 == 0 for k in conv.kernel_size) or padding_of(conv) != half:
            raise ValueError(f"a {size_of(conv)} convolution padded by {conv.padding} is not centred on its pixel")
        if conv.padding_mode != "zeros" and any(half):
            raise ValueError(f"a convolution padded with {conv.padding_mode!r} cannot be summed with others")


def _dilated(conv: nn.Conv2d, dilation: tuple[int, ...]) -> Tensor:
    """The kernel in float64 as it reads at ``dilation``: unchanged, or written out with zeros between its taps."""
    weight = _double(conv.weight)
    if tuple(conv.kernel_size) == (1, 1) or conv.dilation == dilation:
        return weight
    (kh, kw), (dh, dw) = conv.kernel_size, conv.dilation
    spread = weight.new_zeros(*weight.shape[:2], (kh - 1) * dh + 1, (kw - 1) * dw + 1)
    spread[:, :, ::dh, ::dw] = weight
    return spread


def _stats(bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("BatchNorm without running statistics depends on the batch: it is not a fixed affine map")
    return bn.running_mean, bn.running_var


def _affine64(bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    mean, var = _stats(bn)
    # in float64 from the start: a variance near 0 makes the scale large, and with it any rounding of the root
    scale = torch.rsqrt(_double(var) + bn.eps)
    if bn.affine:
        scale = scale * _double(bn.weight)
    shift = -_double(mean) * scale
    return scale, shift + _double(bn.bias) if bn.affine else shift


def _same_width(what: str, width: int, bn: _BatchNorm) -> None:
    if bn.num_features != width:
        raise ValueError(f"BatchNorm over {bn.num_features} channels does not fit the {what} of {width}")


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float64)


def _bias64(layer: nn.Conv2d | nn.Linear) -> Tensor:
    if layer.bias is None:
        return torch.zeros(layer.weight.shape[0], dtype=torch.float64, device=layer.weight.device)
    return _double(layer.bias)


def _place(like: Tensor) -> dict[str, Any]:
    return {"dtype": like.dtype, "device": "meta"}  # the tensors are put in afterwards: nothing is initialised twice


def _fill(layer: Layer, like: Tensor, weight: Tensor, bias: Tensor | None) -> Layer:
    layer.weight = nn.Parameter(weight.to(like.dtype))
    if bias is not None:
        layer.bias = nn.Parameter(bias.to(like.dtype))
    return layer


def _conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A plain convolution with the geometry of ``conv``; its output channels are those of ``weight``."""
    new = nn.Conv2d(
        conv.in_channels,
        weight.shape[0],
        conv.kernel_size,  # type: ignore[arg-type]  # two axes
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        groups=conv.groups,
        padding_mode=conv.padding_mode,
        bias=bias is not None,
        **_place(conv.weight),
    )
    return _fill(new, conv.weight, weight, bias)


def _linear_like(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    new = nn.Linear(linear.in_features, weight.shape[0], bias=bias is not None, **_place(linear.weight))
    return _fill(new, linear.weight, weight, bias)
