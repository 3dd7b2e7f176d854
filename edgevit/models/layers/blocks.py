"""Convolution blocks that train as parallel branches and deploy as one convolution; LayerScale and DropPath.

Each block has one forward, that of its train form. ``fused()`` returns the plain layer of equal eval-mode output;
it reads children that are already fused as well as ones that are not, and never edits the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgevit.models.layers.fusion import fuse_conv_bn, identity_conv, sum_convs


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a convolution reads its input: square odd ``kernel``, padded so that stride 1 keeps the map's size."""

    kernel: int = 1
    stride: int = 1
    dilation: int = 1


class ConvBN(nn.Module):
    """Conv2d without bias, then BatchNorm2d: one branch."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("conv-bn",)

    def __init__(self, in_channels: int, out_channels: int, geometry: Geometry, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            geometry.kernel,
            stride=geometry.stride,
            padding=geometry.kernel // 2 * geometry.dilation,
            dilation=geometry.dilation,
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out

    def fused(self) -> nn.Conv2d:
        return fuse_conv_bn(self.conv, self.bn)


class MultiGroupConv(nn.Module):
    """Convolutions of one size but different group counts, each with its BatchNorm, summed (FMViT's multi-group
    re-parameterisation).

    groups     one branch per entry; the deploy form is one convolution with their greatest common divisor, so it
               costs no more than the branch of fewest groups where that one divides the others
    pointwise  adds a 1×1 branch with ``groups[0]`` groups (kernels above 1×1 only)
    identity   adds the input through a BatchNorm of its own (equal channels, stride 1)

    Input (B, in_channels, H, W), output (B, out_channels, H / stride, W / stride). ValueError for an identity that
    cannot be added.
    """

    fold_kinds: ClassVar[tuple[str, ...]] = ("multi-group branches",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        geometry: Geometry,
        *,
        groups: Sequence[int] = (1,),
        pointwise: bool = False,
        identity: bool = False,
    ) -> None:
        super().__init__()
        if identity and (in_channels != out_channels or geometry.stride != 1):
            raise ValueError(f"no identity from {in_channels} to {out_channels} channels at stride {geometry.stride}")
        self.in_channels, self.out_channels, self.geometry = in_channels, out_channels, geometry
        self.branches = nn.ModuleList(ConvBN(in_channels, out_channels, geometry, g) for g in dict.fromkeys(groups))
        if pointwise and geometry.kernel > 1:
            self.branches.append(ConvBN(in_channels, out_channels, Geometry(stride=geometry.stride), groups[0]))
        self.identity = nn.BatchNorm2d(out_channels) if identity else None
        self.start_with(1.0)

    def start_with(self, deviation: float) -> None:
        """Set the BatchNorms so that the output starts with about this standard deviation, whatever the branches."""
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            nn.init.constant_(norm.weight, deviation * len(norms) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.branches[0](x)
        for branch in list(self.branches)[1:]:
            total = total + branch(x)
        return total if self.identity is None else total + self.identity(x)

    def fused(self) -> nn.Conv2d:
        convs = [as_conv(branch) for branch in self.branches]
        if self.identity is not None:
            convs.append(fuse_conv_bn(identity_like(convs), self.identity))
        return sum_convs(convs)


class LayerScale(nn.Module):
    """A learned factor per channel: on tokens (B, N, C), or with ``axes`` = 2 on maps (B, C, H, W)."""

    def __init__(self, width: int, start: float, axes: int = 0) -> None:
        super().__init__()
        self.axes = axes
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.reshape(-1, *[1] * self.axes)


class DropPath(nn.Module):
    """Stochastic depth: in training the whole branch of a row is zeroed with probability ``rate``; kept rows are
    scaled up so that the mean stays. Nothing in eval mode."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1.0 - self.rate)
        return x * keep / (1.0 - self.rate)


def as_conv(module: nn.Module) -> nn.Conv2d:
    """The plain convolution that ``module`` is, or that its ``fused()`` gives. TypeError for anything else."""
    fused = module.fused() if isinstance(module, ConvBN | MultiGroupConv) else module
    if not isinstance(fused, nn.Conv2d):
        raise TypeError(f"{type(module).__name__} is not a convolution, and does not fuse to one")
    return fused


def identity_like(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """The identity as a 1×1 convolution that can be summed with ``convs`` (channels of the first, most groups)."""
    groups = max(conv.groups for conv in convs)
    return identity_conv(convs[0].in_channels, 1, groups, like=convs[0].weight)
