"""FMViT (arXiv 2311.05707, Tan, Geng and Xie 2023): a convolution-attention hybrid that mixes several frequencies.

A **reconstruction**: the authors released no code. The paper gives the blocks' names and roles and each variant's
parameters and multiply-accumulates; the skeleton follows Next-ViT (arXiv 2207.05501), on which it builds. Widths,
depths, group counts and the exact wiring are ours, listed with reasons in docs/reference/fmvit.md, and were solved
for the published sizes of the deploy form by benchmarks/fmvit_calibrate.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgevit.models.layers.blocks import DropPath, Geometry, MultiGroupConv, as_conv, identity_like
from edgevit.models.layers.fusion import fuse_bn_linear, scale_output, stack_convs, sum_convs
from edgevit.models.layers.initialise import initialise
from edgevit.sizes import ImageSize, checked_size

MLP_GROUPS = (1, 2, 4)  # branches of every 1×1 convolution
RESIDUAL_START = 0.3  # size of a residual branch's output at the start, relative to its input's
PATH_GROUP_WIDTH = 16  # output channels of one group in an FMB's high-frequency paths


@dataclass(frozen=True, slots=True)
class FMViTConfig:
    """Sizes of one variant. Widths are multiples of ``group_width``; where a stage has FMBs, halves are whole heads and
    quarters whole groups of ``PATH_GROUP_WIDTH``.

    widths, depths  channels and blocks of the four stages
    attention       every how many blocks of each stage one is an FMB, counted back from the last; 0: none is
    expansion       hidden channels of a gMLP per channel, in a CFB and in an FMB
    group_width     channels of one group of a CFB's 3×3 mixer in deploy form
    pools           side of the window that RLMHSA averages keys and values over, per stage
    stem            channels of the first convolution
    stem_strides    strides of the stem's two convolutions; stages 2 to 4 halve the map again
    drop_path       stochastic depth of the last block; it grows linearly from 0
    """

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    attention: tuple[int, int, int, int]
    expansion: tuple[int, int] = (3, 2)
    group_width: int = 16
    head_width: int = 32
    pools: tuple[int, int, int, int] = (8, 4, 2, 1)
    stem: int = 32
    stem_strides: tuple[int, int] = (2, 2)
    drop_path: float = 0.0

    def is_fmb(self, stage: int, block: int) -> bool:
        """Whether block ``block`` (from 0) of stage ``stage`` mixes frequencies."""
        every = self.attention[stage]
        return every > 0 and (self.depths[stage] - 1 - block) % every == 0


class GroupMLP(nn.Module):
    """gMLP, the multi-group MLP: 1×1, ReLU, 1×1, where each 1×1 trains as multi-group branches. (B, C, H, W) kept."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.expand = MultiGroupConv(width, width * expansion, Geometry(), groups=MLP_GROUPS)
        self.act = nn.ReLU()
        self.project = MultiGroupConv(width * expansion, width, Geometry(), groups=MLP_GROUPS)
        self.project.start_with(RESIDUAL_START)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.act(self.expand(x)))
        return out


class FusedCFB(nn.Module):
    """Deploy form of a CFB: the mixer's residual is inside its convolution."""

    def __init__(self, mixer: nn.Conv2d, mlp: nn.Module) -> None:
        super().__init__()
        self.mixer, self.mlp = mixer, mlp

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixer(x)
        out: Tensor = x + self.mlp(x)
        return out


class CFB(nn.Module):
    """Convolutional Fusion Block: residual grouped 3×3 mixer, then residual gMLP. (B, C, H, W) kept.

    The mixer is linear in eval mode, so that its branches and its residual deploy as one grouped convolution.
    """

    fold_kinds: ClassVar[tuple[str, ...]] = ("residual into the mixer",)

    def __init__(self, width: int, config: FMViTConfig, drop_path: float) -> None:
        super().__init__()
        groups = width // config.group_width
        branches = (groups, 2 * groups, width)
        self.mixer = MultiGroupConv(width, width, Geometry(3), groups=branches, pointwise=True, identity=True)
        self.mixer.start_with(RESIDUAL_START)
        self.mlp = GroupMLP(width, config.expansion[0])
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.mixer(x))
        out: Tensor = x + self.drop_path(self.mlp(x))
        return out

    def fused(self) -> nn.Module:
        mixer = as_conv(self.mixer)
        return FusedCFB(sum_convs([mixer, identity_like([mixer])]), self.mlp)


def attend(q: Tensor, k: Tensor, v: Tensor, head_width: int) -> Tensor:
    """Multi-head attention over maps, without scaling: q (B, D, H, W), k and v (B, D, h, w) -> (B, D, H, W).

    Channels stay before pixels throughout, so that a runtime moves no data between convolutions and products.
    """
    width, height, across = q.shape[1:]
    # Only the batch is left to be inferred: an exported graph with a dynamic one needs no arithmetic on shapes.
    queries, keys, values = (t.reshape(-1, width // head_width, head_width, t.shape[2] * t.shape[3]) for t in (q, k, v))
    weights = torch.softmax(queries.transpose(-2, -1) @ keys, dim=-1)  # (B, heads, H·W, h·w)
    return torch.reshape(values @ weights.transpose(-2, -1), (-1, width, height, across))


class FusedRLMHSA(nn.Module):
    """Deploy form of RLMHSA: the scale is inside ``q``; keys and values (and queries, unpooled) are one projection."""

    def __init__(self, q: nn.Conv2d | None, rest: nn.Conv2d, pool: nn.Module, head_width: int) -> None:
        super().__init__()
        self.q, self.rest, self.pool, self.head_width = q, rest, pool, head_width

    def forward(self, x: Tensor) -> Tensor:
        if self.q is None:
            q, k, v = self.rest(x).chunk(3, dim=1)
            return attend(q, k, v, self.head_width)
        k, v = self.rest(self.pool(x)).chunk(2, dim=1)
        return attend(self.q(x), k, v, self.head_width)


class RLMHSA(nn.Module):
    """Re-parameterised lightweight multi-head self-attention: keys and values from the map averaged over
    ``pool`` × ``pool`` windows, projections trained as multi-group branches. (B, C, H, W) -> (B, width, H, W).

    Its output projection is the FMB's, behind the concatenation.
    """

    fold_kinds: ClassVar[tuple[str, ...]] = ("attention scale into Q", "Q/K/V stacked")

    def __init__(self, in_channels: int, width: int, head_width: int, pool: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (MultiGroupConv(in_channels, width, Geometry(), groups=MLP_GROUPS) for _ in range(3))
        self.pool = nn.AvgPool2d(pool) if pool > 1 else nn.Identity()
        self.head_width = head_width
        self.scale = head_width**-0.5

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x)
        return attend(self.q(x) * self.scale, self.k(pooled), self.v(pooled), self.head_width)

    def fused(self) -> nn.Module:
        q, k, v = scale_output(as_conv(self.q), self.scale), as_conv(self.k), as_conv(self.v)
        if isinstance(self.pool, nn.Identity):
            return FusedRLMHSA(None, stack_convs([q, k, v]), self.pool, self.head_width)
        return FusedRLMHSA(q, stack_convs([k, v]), self.pool, self.head_width)


class FMB(nn.Module):
    """multi-Frequency Block: a low-frequency path (pooled attention, half of the channels) beside two
    high-frequency ones (grouped 3×3 convolutions of dilation 1 and 2, a quarter each), concatenated, projected
    and added to the input; then residual gMLP. (B, C, H, W) kept.
    """

    def __init__(self, width: int, config: FMViTConfig, pool: int, drop_path: float) -> None:
        super().__init__()
        high = width // 4
        groups = max(1, high // PATH_GROUP_WIDTH)
        self.low = RLMHSA(width, width // 2, config.head_width, pool)
        self.near, self.far = (
            MultiGroupConv(width, high, Geometry(3, dilation=d), groups=(groups, 2 * groups), pointwise=True)
            for d in (1, 2)
        )
        self.act = nn.ReLU()
        self.mix = MultiGroupConv(width, width, Geometry(), groups=MLP_GROUPS)
        self.mix.start_with(RESIDUAL_START)
        self.mlp = GroupMLP(width, config.expansion[1])
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        paths = torch.cat([self.low(x), self.act(self.near(x)), self.act(self.far(x))], dim=1)
        x = x + self.drop_path(self.mix(paths))
        out: Tensor = x + self.drop_path(self.mlp(x))
        return out


class Head(nn.Module):
    """BatchNorm, average over the map, linear classifier. (B, C, H, W) -> (B, num_classes)."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("bn-linear",)

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(nn.functional.adaptive_avg_pool2d(self.norm(x), 1).flatten(1))
        return out

    def fused(self) -> nn.Module:
        # An average and a per-channel affine map commute, so the norm may stand behind the average.
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), fuse_bn_linear(self.norm, self.classifier))


class FMViT(nn.Module):
    """The whole classifier: images (B, in_chans, H, W) -> logits (B, num_classes). H and W are divisible by the
    total stride (32; 16 for the nano variant), any such size works, square or not.
    """

    def __init__(self, config: FMViTConfig, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        first, second = config.stem_strides
        self.stem = nn.Sequential(
            MultiGroupConv(in_chans, config.stem, Geometry(3, first), pointwise=True),
            nn.ReLU(),
            MultiGroupConv(config.stem, config.widths[0], Geometry(3, second), pointwise=True),
            nn.ReLU(),
        )
        rates = torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist()
        self.stages = nn.Sequential(*(self._stage(config, stage, rates) for stage in range(4)))
        self.head = Head(config.widths[3], num_classes)
        self.apply(initialise)

    @staticmethod
    def _stage(config: FMViTConfig, stage: int, rates: list[float]) -> nn.Sequential:
        width, layers = config.widths[stage], nn.Sequential()
        if stage > 0:
            layers.append(nn.AvgPool2d(2))
            layers.append(MultiGroupConv(config.widths[stage - 1], width, Geometry(), groups=MLP_GROUPS))
        for block in range(config.depths[stage]):
            rate = rates[sum(config.depths[:stage]) + block]
            fmb = config.is_fmb(stage, block)
            layers.append(FMB(width, config, config.pools[stage], rate) if fmb else CFB(width, config, rate))
        return layers

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.stages(self.stem(x)))
        return out


# Solved by benchmarks/fmvit_calibrate.py for the sizes of the deploy form; a test recounts them.
_LAST, _FIFTH = 99, 5  # as in Next-ViT, FMBs end stages 2 and 4, and every fifth block of stage 3 is one
_ATTENTION = (0, _LAST, _FIFTH, _LAST)
CONFIGS: dict[str, FMViTConfig] = {
    "fmvit_t": FMViTConfig((32, 64, 128, 256), (1, 4, 5, 2), _ATTENTION, stem=16),
    "fmvit_s": FMViTConfig((48, 64, 192, 384), (2, 2, 7, 4), _ATTENTION, stem=16, drop_path=0.05),
    "fmvit_m": FMViTConfig((64, 128, 256, 576), (3, 6, 5, 4), _ATTENTION, group_width=32, stem=32, drop_path=0.1),
    "fmvit_b": FMViTConfig((96, 192, 448, 896), (2, 4, 8, 2), _ATTENTION, group_width=32, stem=48, drop_path=0.15),
    "fmvit_l": FMViTConfig((128, 256, 512, 1024), (3, 4, 10, 2), _ATTENTION, group_width=32, stem=64, drop_path=0.2),
    # 32×32 images: the stem halves only once, so the last map is 2×2 (total stride 16).
    "fmvit_nano": FMViTConfig(
        (16, 32, 64, 64), (1, 2, 2, 1), _ATTENTION, group_width=8, head_width=8, stem=16, stem_strides=(2, 1)
    ),
}


def _build(name: str, num_classes: int, image_size: ImageSize, in_chans: int) -> FMViT:
    config = CONFIGS[name]
    checked_size(name, image_size, config.stem_strides[0] * config.stem_strides[1] * 8)
    return FMViT(config, num_classes, in_chans)


def fmvit_t(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> nn.Module:
    """FMViT-T (reconstruction): 2.0 M parameters and 0.3 G multiply-accumulates at 224² in deploy form."""
    return _build("fmvit_t", num_classes, image_size, in_chans)


def fmvit_s(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> nn.Module:
    """FMViT-S (reconstruction): 6.4 M parameters and 0.8 G multiply-accumulates at 224² in deploy form."""
    return _build("fmvit_s", num_classes, image_size, in_chans)


def fmvit_m(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> nn.Module:
    """FMViT-M (reconstruction): 12.8 M parameters and 2.0 G multiply-accumulates at 224² in deploy form."""
    return _build("fmvit_m", num_classes, image_size, in_chans)


def fmvit_b(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> nn.Module:
    """FMViT-B (reconstruction): 24.3 M parameters and 4.2 G multiply-accumulates at 224² in deploy form."""
    return _build("fmvit_b", num_classes, image_size, in_chans)


def fmvit_l(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> nn.Module:
    """FMViT-L (reconstruction): 35.3 M parameters and 7.1 G multiply-accumulates at 224² in deploy form."""
    return _build("fmvit_l", num_classes, image_size, in_chans)


def fmvit_nano(num_classes: int = 10, image_size: ImageSize = 32, in_chans: int = 3) -> nn.Module:
    """A tiny FMViT for 32×32 images (sides divisible by 16), for tests and demos; not in the paper."""
    return _build("fmvit_nano", num_classes, image_size, in_chans)
