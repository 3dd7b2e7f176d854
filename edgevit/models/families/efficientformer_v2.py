"""EfficientFormerV2 (arXiv 2212.08059, Li et al. 2022): everything on maps with BatchNorm, local mixing inside the MLP.

Attention stands in the last blocks of stages 3 and 4, in stage 3 on a halved map. Parameter names follow timm's state
dicts but for the attention biases; ``from_timm`` and ``to_timm`` translate. Our own code, from the paper's facts.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgevit.models.families.efficientformer import from_timm as from_timm
from edgevit.models.families.efficientformer import resize_state as resize_state
from edgevit.models.families.efficientformer import to_timm as to_timm
from edgevit.models.layers.attention_bias import AttentionBias, Grid
from edgevit.models.layers.blocks import DropPath, LayerScale
from edgevit.models.layers.fusion import (
    fuse_bn_linear,
    fuse_conv_bn,
    identity_conv,
    mean_linear,
    scale_output,
    sum_convs,
    with_projection,
)
from edgevit.models.layers.initialise import initialise
from edgevit.sizes import ImageSize, checked_size

STRIDE = 32  # pixels of the image per token of stage 4, along one side
HEADS = 8
VALUES_PER_KEY = 4  # width of a head's values, as a multiple of its keys'
KEY, DOWNSAMPLING_KEY = 32, 16


@dataclass(frozen=True, slots=True)
class EfficientFormerV2Config:
    """Sizes of one variant.

    widths, depths  channels and blocks of the four stages
    expansion       hidden channels of each block's MLP per channel, for stages 3 and 4 (4 in stages 1 and 2)
    attention       how many blocks at the end of stage 3, and of stage 4, have attention
    drop_path       stochastic depth of the last block; it grows linearly from 0
    layer_scale     what every LayerScale starts from
    """

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    expansion: tuple[tuple[int, ...], tuple[int, ...]]
    attention: int
    drop_path: float = 0.0
    layer_scale: float = 1e-5

    def expansion_of(self, stage: int, block: int) -> int:
        """Hidden channels per channel in block ``block`` (from 0) of stage ``stage`` (from 0)."""
        return 4 if stage < 2 else self.expansion[stage - 2][block]


class ConvNorm(nn.Module):
    """Convolution with bias, padded to keep the size at stride 1, and BatchNorm."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("conv-bn",)

    def __init__(self, width: int, out_width: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out_width, kernel, stride=stride, padding=kernel // 2, groups=groups)
        self.bn = nn.BatchNorm2d(out_width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out

    def fused(self) -> nn.Conv2d:
        return fuse_conv_bn(self.conv, self.bn)


class Stem(nn.Module):
    """Two stride-2 convolutions, each with BatchNorm and GELU: (B, 3, H, W) -> (B, C, H/4, W/4)."""

    def __init__(self, in_chans: int, width: int) -> None:
        super().__init__()
        self.conv1: nn.Module = ConvNorm(in_chans, width // 2, 3, stride=2)
        self.conv2: nn.Module = ConvNorm(width // 2, width, 3, stride=2)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.conv2(self.act(self.conv1(x))))
        return out


class Mlp(nn.Module):
    """1×1 to ``hidden`` channels, depthwise 3×3, 1×1 back, GELU between: (B, C, H, W) kept."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1: nn.Module = ConvNorm(width, hidden)
        self.mid: nn.Module = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.fc2: nn.Module = ConvNorm(hidden, width)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.mid(self.act(self.fc1(x)))))
        return out


class Attention(nn.Module):
    """Attention on a map: (B, C, H, W) kept.

    With ``stride`` 2 it works on a halved map, which is enlarged again behind it. A depthwise 3×3 convolution of the
    values is added to what attention mixes; 1×1 convolutions over the heads, before and behind the softmax, let heads
    talk to each other.
    """

    fold_kinds: ClassVar[tuple[str, ...]] = ("attention scale into Q", "attention-bias table")

    def __init__(self, width: int, grid: Grid, stride: int) -> None:
        super().__init__()
        values = HEADS * KEY * VALUES_PER_KEY
        self.grid = grid[0] // stride, grid[1] // stride
        self.stride_conv: nn.Module = ConvNorm(width, width, 3, stride, width) if stride > 1 else nn.Identity()
        self.q: nn.Module = ConvNorm(width, HEADS * KEY)
        self.k: nn.Module = ConvNorm(width, HEADS * KEY)
        self.v: nn.Module = ConvNorm(width, values)
        self.v_local: nn.Module = ConvNorm(values, values, 3, groups=values)
        self.talking_head1 = nn.Conv2d(HEADS, HEADS, 1)
        self.talking_head2 = nn.Conv2d(HEADS, HEADS, 1)
        self.bias = AttentionBias(HEADS, self.grid, stored=False)
        self.upsample = nn.Upsample(scale_factor=stride, mode="bilinear") if stride > 1 else nn.Identity()
        self.act = nn.GELU()
        self.proj: nn.Module = ConvNorm(values, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stride_conv(x)
        v = self.v(x)
        logits = by_head(self.q(x)).transpose(-2, -1) @ by_head(self.k(x)) * KEY**-0.5 + self.bias()
        weights = self.talking_head2(torch.softmax(self.talking_head1(logits), dim=-1))  # (B, H, N, N)
        mixed = as_map(by_head(v) @ weights.transpose(-2, -1), self.grid) + self.v_local(v)
        out: Tensor = self.proj(self.act(self.upsample(mixed)))
        return out

    def fused(self) -> nn.Module:
        return DeployAttention(self)


class LocalGlobalQuery(nn.Module):
    """Queries of the halved map: every second pixel plus a depthwise 3×3 convolution of stride 2, then 1×1."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("parallel branches",)

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width)
        self.proj: nn.Module = ConvNorm(width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(self.local(x) + x[..., ::2, ::2])
        return out

    def fused(self) -> nn.Module:
        pixel = identity_conv(self.local.in_channels, 1, self.local.groups, like=self.local.weight)
        pixel.stride = self.local.stride  # every second pixel is the identity at stride 2
        return nn.Sequential(sum_convs([self.local, pixel]), self.proj)


class AttentionDownsample(nn.Module):
    """Attention from the halved map to the whole one: (B, C, H, W) -> (B, C', H/2, W/2)."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("attention scale into Q", "attention-bias table")

    def __init__(self, width: int, out_width: int, grid: Grid) -> None:
        super().__init__()
        values = HEADS * DOWNSAMPLING_KEY * VALUES_PER_KEY
        self.grid = grid[0] // 2, grid[1] // 2
        self.q: nn.Module = LocalGlobalQuery(width, HEADS * DOWNSAMPLING_KEY)
        self.k: nn.Module = ConvNorm(width, HEADS * DOWNSAMPLING_KEY)
        self.v: nn.Module = ConvNorm(width, values)
        self.v_local: nn.Module = ConvNorm(values, values, 3, stride=2, groups=values)
        self.bias = AttentionBias(HEADS, grid, query_stride=2, stored=False)
        self.act = nn.GELU()
        self.proj: nn.Module = ConvNorm(values, out_width)

    def forward(self, x: Tensor) -> Tensor:
        v = self.v(x)
        logits = by_head(self.q(x)).transpose(-2, -1) @ by_head(self.k(x)) * DOWNSAMPLING_KEY**-0.5 + self.bias()
        weights = torch.softmax(logits, dim=-1)  # (B, H, N/4, N)
        mixed = as_map(by_head(v) @ weights.transpose(-2, -1), self.grid) + self.v_local(v)
        out: Tensor = self.proj(self.act(mixed))
        return out

    def fused(self) -> nn.Module:
        return DeployAttentionDownsample(self)


class Downsample(nn.Module):
    """Convolution 3×3 of stride 2, BatchNorm; plus attention in front of stage 4: (B, C, H, W) -> (B, C', H/2, W/2)."""

    def __init__(self, width: int, out_width: int, grid: Grid, attention: bool) -> None:
        super().__init__()
        self.conv: nn.Module = ConvNorm(width, out_width, 3, stride=2)
        self.attn: nn.Module | None = AttentionDownsample(width, out_width, grid) if attention else None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out if self.attn is None else self.attn(x) + out


class Block(nn.Module):
    """x + γ₁·attention(x) where the block has one (``stride`` 1 or 2; 0: none), then x + γ₂·MLP(x)."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("LayerScale",)

    def __init__(self, width: int, config: EfficientFormerV2Config, hidden: int, grid: Grid, stride: int) -> None:
        super().__init__()
        self.token_mixer: nn.Module | None = Attention(width, grid, stride) if stride else None
        self.ls1 = LayerScale(width, config.layer_scale, axes=2) if stride else None
        self.mlp = Mlp(width, hidden)
        self.ls2 = LayerScale(width, config.layer_scale, axes=2)
        self.drop_path = DropPath(0.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.token_mixer is not None and self.ls1 is not None:
            x = x + self.drop_path(self.ls1(self.token_mixer(x)))
        out: Tensor = x + self.drop_path(self.ls2(self.mlp(x)))
        return out

    def fused(self) -> nn.Module:
        return DeployBlock(self)


class Stage(nn.Module):
    """Downsampling (not in stage 1), then blocks; ``grid`` is the map's size in front of the downsampling."""

    def __init__(self, config: EfficientFormerV2Config, stage: int, grid: Grid) -> None:
        super().__init__()
        width, depth = config.widths[stage], config.depths[stage]
        self.downsample: nn.Module = nn.Identity()
        if stage > 0:
            self.downsample = Downsample(config.widths[stage - 1], width, grid, attention=stage == 3)
            grid = grid[0] // 2, grid[1] // 2
        stride = {2: 2, 3: 1}.get(stage, 0)
        self.blocks = nn.Sequential()
        for block in range(depth):
            attends = block >= depth - config.attention
            hidden = width * config.expansion_of(stage, block)
            self.blocks.append(Block(width, config, hidden, grid, stride if attends else 0))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.downsample(x))
        return out


class EfficientFormerV2(nn.Module):
    """The whole classifier: images (B, in_chans, H, W) -> logits (B, num_classes).

    The attention biases are tables for one ``image_size`` (height, width): the model takes that size only.
    Two linear heads (one was trained on a teacher's labels) are averaged, in training too.
    """

    fold_kinds: ClassVar[tuple[str, ...]] = ("bn-linear", "parallel heads")

    def __init__(
        self, config: EfficientFormerV2Config, image_size: tuple[int, int], num_classes: int = 1000, in_chans: int = 3
    ) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(in_chans, config.widths[0])
        self.stages = nn.Sequential()
        for stage in range(4):
            before = max(4, 2 ** (stage + 1))  # the stride in front of the stage
            self.stages.append(Stage(config, stage, (image_size[0] // before, image_size[1] // before)))
        self.norm = nn.BatchNorm2d(config.widths[3])
        self.head = nn.Linear(config.widths[3], num_classes)
        self.head_dist = nn.Linear(config.widths[3], num_classes)
        self.apply(initialise)
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        for number, block in enumerate(blocks):
            block.drop_path.rate = config.drop_path * number / (len(blocks) - 1)

    def forward(self, image: Tensor) -> Tensor:
        features = self.norm(self.stages(self.stem(image))).mean(dim=(2, 3))
        out: Tensor = (self.head(features) + self.head_dist(features)) / 2
        return out

    def fused(self) -> nn.Module:
        # An average and a per-channel affine map commute, so the norm may stand behind the average.
        head = fuse_bn_linear(self.norm, mean_linear(self.head, self.head_dist))
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        return nn.Sequential(OrderedDict(stem=self.stem, stages=self.stages, pool=pool, head=head))


def by_head(x: Tensor) -> Tensor:
    """A map (B, H·d, h, w) as (B, H, d, h·w). Only the batch is left to be inferred."""
    return x.reshape(-1, HEADS, x.shape[1] // HEADS, x.shape[2] * x.shape[3])


def as_map(x: Tensor, grid: Grid) -> Tensor:
    """(B, H, d, h·w) as a map (B, H·d, h, w)."""
    return x.reshape(-1, x.shape[1] * x.shape[2], *grid)


# --- deploy form -------------------------------------------------------------------------------------------------


class DeployAttention(nn.Module):
    """Deploy form of ``Attention``.

    The scale is in Q, the biases are gathered into a constant. The talking heads stay: they are 1×1 convolutions of
    what only the image decides.
    """

    bias: Tensor

    def __init__(self, source: Attention) -> None:
        super().__init__()
        self.grid = source.grid
        self.stride_conv, self.upsample, self.act = plain(source.stride_conv), source.upsample, source.act
        self.q, self.k, self.v = scale_output(plain_conv(source.q), KEY**-0.5), plain(source.k), plain(source.v)
        self.v_local, self.proj = plain(source.v_local), plain_conv(source.proj)
        self.talking_head1, self.talking_head2 = source.talking_head1, source.talking_head2
        self.register_buffer("bias", source.bias.gathered())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stride_conv(x)
        v = self.v(x)
        logits = by_head(self.q(x)).transpose(-2, -1) @ by_head(self.k(x)) + self.bias
        weights = self.talking_head2(torch.softmax(self.talking_head1(logits), dim=-1))
        mixed = as_map(by_head(v) @ weights.transpose(-2, -1), self.grid) + self.v_local(v)
        out: Tensor = self.proj(self.act(self.upsample(mixed)))
        return out


class DeployAttentionDownsample(nn.Module):
    """Deploy form of ``AttentionDownsample``: the scale is in Q, the biases are gathered into a constant."""

    bias: Tensor

    def __init__(self, source: AttentionDownsample) -> None:
        super().__init__()
        self.grid, self.act = source.grid, source.act
        local, proj = plain(source.q)
        if not isinstance(proj, nn.Conv2d):
            raise TypeError(f"the queries' last layer is a {type(proj).__name__}, not a convolution")
        self.q = nn.Sequential(local, scale_output(proj, DOWNSAMPLING_KEY**-0.5))
        self.k, self.v = plain(source.k), plain(source.v)
        self.v_local, self.proj = plain(source.v_local), plain(source.proj)
        self.register_buffer("bias", source.bias.gathered())

    def forward(self, x: Tensor) -> Tensor:
        v = self.v(x)
        logits = by_head(self.q(x)).transpose(-2, -1) @ by_head(self.k(x)) + self.bias
        weights = torch.softmax(logits, dim=-1)
        mixed = as_map(by_head(v) @ weights.transpose(-2, -1), self.grid) + self.v_local(v)
        out: Tensor = self.proj(self.act(mixed))
        return out


class DeployBlock(nn.Module):
    """Deploy form of ``Block``: both LayerScales are inside the convolutions in front of them."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.token_mixer: nn.Module | None = None
        if block.ls1 is not None:
            mixer = plain(block.token_mixer)
            if not isinstance(mixer, DeployAttention):
                raise TypeError(f"{type(mixer).__name__} is not the deploy form of attention")
            self.token_mixer = with_projection(mixer, scale_output(mixer.proj, block.ls1.gamma))
        layers = (plain(block.mlp.fc1), block.mlp.act, plain(block.mlp.mid), block.mlp.act)
        self.mlp = nn.Sequential(*layers, scale_output(plain_conv(block.mlp.fc2), block.ls2.gamma))

    def forward(self, x: Tensor) -> Tensor:
        if self.token_mixer is not None:
            x = x + self.token_mixer(x)
        out: Tensor = x + self.mlp(x)
        return out


def plain(module: nn.Module | None) -> Any:
    """``module`` in deploy form, whether it is so already or not."""
    fused = getattr(module, "fused", None)
    return module if fused is None else fused()


def plain_conv(module: nn.Module) -> nn.Conv2d:
    """The same for what deploys as one convolution."""
    conv = plain(module)
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"{type(module).__name__} does not deploy as a convolution")
    return conv


# --- builders ----------------------------------------------------------------------------------------------------

_S1_THIRD, _S1_FOURTH = (4, 4, 3, 3, 3, 3, 4, 4, 4), (4, 4, 3, 3, 4, 4)
CONFIGS: dict[str, EfficientFormerV2Config] = {
    "efficientformerv2_s0": EfficientFormerV2Config(
        (32, 48, 96, 176), (2, 2, 6, 4), ((4, 3, 3, 3, 4, 4), (4, 3, 3, 4)), attention=2
    ),
    "efficientformerv2_s1": EfficientFormerV2Config(
        (32, 48, 120, 224), (3, 3, 9, 6), (_S1_THIRD, _S1_FOURTH), attention=2
    ),
    "efficientformerv2_s2": EfficientFormerV2Config(
        (32, 64, 144, 288),
        (4, 4, 12, 8),
        ((4, 4, *[3] * 6, 4, 4, 4, 4), (4, 4, 3, 3, 3, 3, 4, 4)),
        attention=4,
        drop_path=0.02,
    ),
    "efficientformerv2_l": EfficientFormerV2Config(
        (40, 80, 192, 384),
        (5, 5, 15, 10),
        ((4, 4, 4, 4, *[3] * 7, 4, 4, 4, 4), (4, 4, 4, 3, 3, 3, 3, 4, 4, 4)),
        attention=6,
        drop_path=0.1,
    ),
}


def _build(name: str, num_classes: int, image_size: ImageSize, in_chans: int) -> EfficientFormerV2:
    return EfficientFormerV2(CONFIGS[name], checked_size(name, image_size, STRIDE), num_classes, in_chans)


def efficientformerv2_s0(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> nn.Module:
    """EfficientFormerV2-S0: 3.6 M parameters, 0.40 G multiply-accumulates at 224²."""
    return _build("efficientformerv2_s0", num_classes, image_size, in_chans)


def efficientformerv2_s1(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> nn.Module:
    """EfficientFormerV2-S1: 6.2 M parameters, 0.65 G multiply-accumulates at 224²."""
    return _build("efficientformerv2_s1", num_classes, image_size, in_chans)


def efficientformerv2_s2(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> nn.Module:
    """EfficientFormerV2-S2: 12.7 M parameters, 1.25 G multiply-accumulates at 224²."""
    return _build("efficientformerv2_s2", num_classes, image_size, in_chans)


def efficientformerv2_l(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> nn.Module:
    """EfficientFormerV2-L: 26.3 M parameters, 2.56 G multiply-accumulates at 224²."""
    return _build("efficientformerv2_l", num_classes, image_size, in_chans)
