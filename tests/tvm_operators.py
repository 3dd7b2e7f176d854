"""Operators with other arguments than their defaults, by theme: what TVM's import is compared with PyTorch on.

Every function is of one (3, 8, 6, 6) input. Between them they give each argument that is left to TVM's importer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[[Tensor], Any]


@functools.cache
def w(*shape: int, seed: int = 0) -> Tensor:
    """A weight that is a constant of the program."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def n(t: Tensor) -> Tensor:
    return (t * 10).to(torch.int64)


FIRST, SECOND = torch.tensor([2, 0, -1]), torch.tensor([0, 3, -2])
BOUNDS = torch.tensor([-1.0, 0.0, 1.0])

TABLE: dict[str, dict[str, Function]] = {
    "pooling": {
        "average": lambda t: F.avg_pool2d(t, (2, 3), (1, 2), (1, 1), count_include_pad=False),
        "average over the end": lambda t: F.avg_pool2d(t, 4, 3, 1, ceil_mode=True),
        "average beyond the end": lambda t: F.avg_pool2d(t, 2, 3, 1, ceil_mode=True),
        "divisor": lambda t: F.avg_pool2d(t, 3, 2, 1, divisor_override=2),
        "average 1d": lambda t: F.avg_pool1d(t.flatten(2), 3, 2, 1, True, False),
        "average 3d": lambda t: F.avg_pool3d(t, 3, 2, 1, True, False),
        "largest": lambda t: F.max_pool2d(t - 9, 2, 3, 1, 2, ceil_mode=True),
        "largest, no stride": lambda t: F.max_pool2d(t, 3),
        "largest 1d": lambda t: F.max_pool1d(t.flatten(2), 3, 2, 1, 2, True),
        "largest 1d, no stride": lambda t: F.max_pool1d(t.flatten(2), 2, ceil_mode=True),
        "largest 3d": lambda t: F.max_pool3d(t, 3, 2, 1, 1, True) + F.max_pool3d(t, 2, 2, 0, 2, True).mean(),
        "places": lambda t: F.max_pool2d(t, 3, 2, 1, return_indices=True)[1].to(t.dtype),
        "adaptive": lambda t: F.adaptive_avg_pool2d(t, (4, 9)),
        "adaptive 1d": lambda t: F.adaptive_avg_pool1d(t.flatten(2), 7),
        "adaptive 3d": lambda t: F.adaptive_avg_pool3d(t, (3, 4, 5)),
    },
    "norms": {
        "group": lambda t: F.group_norm(t, 4, w(8), w(8, seed=1), 0.3),
        "group bare": lambda t: F.group_norm(t, 2, eps=0.2),
        "instance": lambda t: F.instance_norm(t, None, None, w(8), w(8, seed=1), True, 0.2, 0.4),
        "instance of statistics": lambda t: F.instance_norm(t, w(8), w(8).abs() + 0.3, w(8), None, False, 0.2, 0.4),
        "layer": lambda t: F.layer_norm(t, (6, 6), w(6, 6), w(6, 6, seed=1), 0.3),
        "rms": lambda t: F.rms_norm(t, (6,), w(6), 0.3),
        "normalize": lambda t: F.normalize(t, p=3.0, dim=1, eps=0.5),
        "batch": lambda t: F.batch_norm(t, w(8), w(8).abs() + 0.1, w(8, seed=2), w(8, seed=3), False, 0.2, 0.3),
        "var": lambda t: t.var((1, -1), correction=2, keepdim=True),
        "std": lambda t: t.std(1, correction=0) + t.std(-1).mean(),
        "norms": lambda t: torch.linalg.vector_norm(t, 3, (1, 2), True) + t.norm(float("inf"), 1, True)[..., :1, :],
        "how many": lambda t: torch.linalg.vector_norm(t.round(), 0, 1),
    },
    "activations": {
        "gelu": lambda t: F.gelu(t, approximate="tanh"),
        "elu": lambda t: F.elu(t, 0.3) + F.celu(t, 0.7) + F.selu(t),
        "leaky": lambda t: F.leaky_relu(t, 0.3) + F.hardtanh(t, -0.3, 0.6),
        "softplus": lambda t: F.softplus(t, 2.0, 1.0),
        "shrink": lambda t: F.softshrink(t, 0.3) + F.hardshrink(t, 0.3) + F.threshold(t, 0.2, -7.0),
        "softmax": lambda t: t.softmax(-2) + t.log_softmax(1),
        "softmax of integers": lambda t: (
            n(t).softmax(1, dtype=torch.float32) + n(t).log_softmax(1, dtype=torch.float32)
        ),
        "clamps": lambda t: t.clamp(-0.2, 0.3) + t.clamp_max(0.1) + t.clamp(min=0) + t.clamp(0.3, -0.2),
        "rounded": lambda t: t.round(decimals=2) + (n(t) / 2).round(),
        "prelu": lambda t: F.prelu(t, w(8)) + F.prelu(t, w(1)),
        "small": lambda t: (t * 1e-7).log1p() * 1e7 + (t * 1e-7).expm1() * 1e7,
    },
    "pads": {
        "constant": lambda t: F.pad(t, (1, 2, 3, 0), value=-2.5),
        "channels": lambda t: F.pad(t, (0, 0, 0, 0, 1, 2)),
        "cut": lambda t: F.pad(t, (-1, 2, -2, -1)),
        "reflect": lambda t: F.pad(t, (1, 2, 3, 0), "reflect"),
        "replicate": lambda t: F.pad(t, (1, 2, 3, 0), "replicate"),
        "circular": lambda t: F.pad(t, (1, 2, 3, 0), "circular"),
        "booleans": lambda t: F.pad(t > 0, (1, 1), value=True).to(t.dtype),
    },
    "products": {
        "same": lambda t: F.conv2d(t, w(4, 8, 3, 3), padding="same"),
        "groups": lambda t: F.conv2d(t, w(8, 2, 3, 3), w(8), 2, (1, 2), (1, 2), 4),
        "one axis": lambda t: F.conv1d(t.flatten(2), w(4, 4, 3), w(4), 2, 1, 2, 2),
        "three axes": lambda t: F.conv3d(t[:, None].expand(-1, 4, -1, -1, -1), w(4, 2, 3, 3, 3), w(4), 2, 1, 2, 2),
        "one map": lambda t: F.conv2d(t[0], w(4, 8, 3, 3)),
        "transposed": lambda t: F.conv_transpose2d(t, w(8, 3, 3, 3), w(12), (2, 1), (1, 0), (1, 0), 4),
        "transposed, apart": lambda t: F.conv_transpose2d(t, w(8, 4, 3, 3), w(4), 2, 1, 0, 1, 2),
        "transposed 1d": lambda t: F.conv_transpose1d(t.flatten(2), w(8, 2, 3), w(4), 2, 1, 1, 2),
        "addmm": lambda t: torch.addmm(w(5), t[0, 0], w(6, 5), beta=0.3, alpha=2.0),
        "baddbmm": lambda t: torch.baddbmm(t[:, 0], t[:, 1], t[:, 2], beta=0.3, alpha=2.0),
        "vectors": lambda t: t @ w(6) + (w(6) @ t),
        "einsum": lambda t: torch.einsum("bchw,bdhw->bcd", t, t) + torch.einsum("bcii->bc", t)[..., None],
        "diagonal": lambda t: t.diagonal(1, -2, -1),
        "attention": lambda t: F.scaled_dot_product_attention(
            t, t[:, :2], t[:, :2], is_causal=True, scale=0.3, enable_gqa=True
        ),
        "attention to nothing": lambda t: F.scaled_dot_product_attention(t, t[:1], t[:1], attn_mask=t > 0.5),
        "a vector": lambda t: F.linear(t[0, 0, 0], w(4, 6), w(4)) + F.linear(t, w(6)).mean(),
        "summed products": lambda t: torch.addbmm(t[0, 0], t[:, 0], t[:, 1], beta=0.3, alpha=0.2),
    },
    "types": {
        "alpha": lambda t: torch.add(t, t.abs(), alpha=3) + torch.sub(t, 2, alpha=3) + torch.rsub(t, t.abs(), alpha=3),
        "numbers": lambda t: (n(t) + 0.5) * 0.3 + n(t) / 4 + (2 - n(t)) + 3 / (n(t).abs() + 1),
        "compared": lambda t: (n(t) > 0.5).to(t.dtype) + (n(t) == 0.5) + (n(t) <= t) + (t != 0) + (t >= 0.1) + (t < 1),
        "booleans": lambda t: ((t > 0) + (t > 1)).to(t.dtype) + (t > 0) * 0.3 + (t > 0).sum(1, keepdim=True),
        "floored": lambda t: (n(t) // -3).to(t.dtype) + torch.div(n(t), 3, rounding_mode="floor") + t // 0.3,
        "towards zero": lambda t: (
            torch.div(n(t), 3, rounding_mode="trunc").to(t.dtype) + torch.div(t, 0.3, rounding_mode="trunc")
        ),
        "rests": lambda t: (n(t) % -3).to(t.dtype) + torch.fmod(n(t), 3) + t % -0.3 + torch.fmod(t, 0.3),
        "powers": lambda t: (t + 3 * t.sign()) ** -2 + 2.0**t + (n(t) ** 3) * 1e-3 + t.abs() ** t + n(t).abs() ** 0.5,
        "bits": lambda t: ((n(t) & 6) + (n(t) | 6) + (n(t) ^ 6) + (n(t) << 2) + (n(t) >> 1)).to(t.dtype),
        "casts": lambda t: (t * 3).to(torch.int32).to(t.dtype) + (t * 0.1).bool() + (t.abs() * 20).to(torch.uint8),
        "functions": lambda t: n(t).sigmoid() + (t > 0).tanh() + (n(t).abs() + 1).reciprocal(),
        "limits": lambda t: n(t).clamp(-3.5, 5.5) + n(t).clamp(max=2) + n(t).clamp_min(-2),
        "joined": lambda t: torch.cat([t, n(t)], -3) + torch.where(t > 0, n(t), 0.5).repeat(1, 2, 1, 1),
        "filled": lambda t: t.masked_fill(t > 0, 3.0) + n(t).masked_fill(t > 0, 7) + torch.full_like(n(t), 2) / 4,
        "booleans compared": lambda t: (
            ((t > 0) > (t > 1)).to(t.dtype) + ((t > 0) <= (t > 1)) + ((t > 0) == (t > 1)) + ((t > 0) != True)  # noqa: E712
        ),
        "booleans in functions": lambda t: ((t > 0).to(t.dtype) * (t < 1)).exp() + (t > 0).to(t.dtype).sigmoid(),
        "no numbers": lambda t: (t.round() / t.round()).nanmean(1),
        "bits of numbers": lambda t: torch.bitwise_and(n(t), 5).to(t.dtype) + torch.bitwise_or(t > 0, True),
        "wide": lambda t: (t.double() @ t.double()).to(t.dtype) + (n(t) @ n(t)).to(t.dtype) * 1e-2,
        "hyperbolic": lambda t: t.cosh() + t.sinh(),
        "made": lambda t: (
            t.new_zeros(6, dtype=torch.int64) / 4
            + torch.ones_like(t, dtype=torch.int32) / 2
            + torch.zeros_like(t, dtype=torch.int64) / 2
        ),
        "made of numbers": lambda t: (
            torch.eye(6) + torch.arange(5, -1, -1) * t + torch.linspace(1, -1, 6) + t.new_ones(6)
        ),
        "filled anew": lambda t: t.clone().fill_(2.0) + t + torch.full((6,), 0.5) + torch.zeros(6) + torch.ones(6),
    },
    "reductions": {
        "means": lambda t: t.mean((-1, 1), keepdim=True) + n(t).mean(1, dtype=torch.float32).mean() + t.mean(),
        "sums": lambda t: n(t).sum(1, keepdim=True, dtype=torch.float32) + t.sum((), keepdim=True) * 1e-2,
        "extremes": lambda t: t.amax((1, 2), keepdim=True) + t.min(-1, keepdim=True)[0] + n(t).amin(1, keepdim=True),
        "products": lambda t: t.prod(1, keepdim=True) + t.cumprod(1),
        "running sums": lambda t: t.cumsum(-1) + n(t).cumsum(1, dtype=torch.float32) * 1e-2 + (t > 0).cumsum(2),
        "places": lambda t: (
            t.round().argmax(1, keepdim=True).to(t.dtype) + (t > 0).to(torch.uint8).argmax(-1, keepdim=True)
        ),
        "any and all": lambda t: (t > 1).any(1, keepdim=True).to(t.dtype) + (t > -1).all(2, keepdim=True),
        "infinite all through": lambda t: (
            (t.masked_fill(t < 9, -torch.inf).amax(1) == -torch.inf).to(t.dtype)
            + (F.max_pool2d(t.masked_fill(t < 9, -torch.inf), 3, 1, 1)[:, 0] == -torch.inf)
        ),
        "over no axis": lambda t: torch.any(t > 1, dim=()).to(t.dtype),
        "medians": lambda t: t.median(1, keepdim=True).values + t.kthvalue(3, 1, keepdim=True).values,
        "between": lambda t: torch.bucketize(t.round(), BOUNDS, right=True, out_int32=True).to(t.dtype),
    },
    "places": {
        "from the end": lambda t: t[:, -1] + t[:, [-2, 0]].sum(1),
        "lists": lambda t: t[:, FIRST, SECOND].flatten() + t[:, FIRST, :, SECOND].flatten(),
        "slices": lambda t: t[:, 1::3, -5:-2] + t.narrow(2, 1, 3)[:, :3],
        "gathered": lambda t: t.gather(-1, n(t).abs() % 6) + t.index_select(1, FIRST.abs()).mean(),
        "embedded": lambda t: F.embedding(n(t).abs() % 5, w(5, 4), padding_idx=0),
        "written": lambda t: t.index_put((t > 0.5,), torch.tensor(0.0)) + t.index_fill(1, FIRST.abs(), 2.0),
        "scattered": lambda t: t.scatter(1, t.argmax(1, keepdim=True)[..., :3, :2], t.abs()),
        "added": lambda t: t.scatter_add(1, n(t).abs() % 8, t) + t.scatter(1, n(t).abs() % 8, t, reduce="add"),
        "largest of": lambda t: t.scatter_reduce(1, n(t).abs() % 8, t.abs(), "amin", include_self=False),
        "sliced in": lambda t: t.slice_scatter(t[:, :3], 1, 1, 7, 2) + t.select_scatter(t[:, 0], 1, -1),
        "turned": lambda t: t.flip(1, -1) + t.roll((1, -2), (2, -1)) + t.roll(5),
        "repeated": lambda t: t.repeat(2, 1, 1, 3).repeat_interleave(2, 1) + t.tile(2, 3).mean(),
        "parted": lambda t: sum(
            c.mean((1, 2, 3)) * k for k, c in enumerate([*t.chunk(5, 1), *t.split(3, -2), *t.split([1, 5], -1)])
        ),
        "one by one": lambda t: sum(c * k for k, c in enumerate(t.unbind(-1))) + torch.stack([t, t * 2], -1).mean(),
        "shapes": lambda t: (
            t[:, :1].squeeze((1, 3)).unsqueeze(-2).expand(-1, -1, 8, -1) + t.squeeze(1).movedim(1, -1).mean()
        ),
        "triangles": lambda t: t.tril(1) + t.triu(-1),
        "masks": lambda t: t.masked_scatter(t > 0, t.flip(1)) + t.slice_scatter(t[:, :3], 1, 1, None, 3),
        "empty parts": lambda t: t.split([0, 3, 5], 1)[1],
        "grids": lambda t: torch.stack(torch.meshgrid(t[0, 0, 0], t[0, 1, 0, :4], indexing="xy")),
        "windows": lambda t: t.unfold(2, 3, 2),
    },
    "images": {
        f"{mode} {name}": lambda t, mode=mode, how=how: F.interpolate(t, mode=mode, **how)
        for mode in ("bilinear", "bicubic")
        for name, how in {
            "size": {"size": (11, 9)},
            "corners": {"size": (4, 9), "align_corners": True},
            "one": {"size": (1, 1), "align_corners": True},
            "scale": {"scale_factor": (1.7, 0.6)},
            "antialiased": {"size": (4, 9), "antialias": True},
        }.items()
    }
    | {
        "nearest": lambda t: F.interpolate(t, size=(11, 9)),
        "nearest twice": lambda t: F.interpolate(t, scale_factor=2),
        "exact": lambda t: F.interpolate(t, size=(4, 9), mode="nearest-exact"),
        "lines": lambda t: F.interpolate(t.flatten(2), size=50, mode="linear", align_corners=True),
        "volumes": lambda t: F.interpolate(t[:, None], size=(9, 5, 7), mode="trilinear"),
        "affine": lambda t: F.affine_grid(t[:, 0, :2, :3], [3, 1, 5, 4], align_corners=False),
    },
}
