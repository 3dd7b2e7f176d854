"""EfficientFormer (arXiv 2206.01191, Li et al. 2022): MobileNet speed with pooling as the token mixer.

Blocks of two kinds: MB4D on maps (pooling and a 1×1-convolution MLP, all foldable) in every stage, MB3D on tokens
(attention and a linear MLP) at the end of the last. Parameter names follow timm's state dicts but for the attention
biases; ``from_timm`` and ``to_timm`` translate. Our own code, from the paper's facts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgevit.models.layers.attention_bias import AttentionBias, Grid, resample_biases
from edgevit.models.layers.blocks import LayerScale
from edgevit.models.layers.fusion import fuse_conv_bn, linear, mean_linear, scale_output, with_projection
from edgevit.models.layers.initialise import initialise
from edgevit.models.layers.mlp import Mlp
from edgevit.sizes import ImageSize, checked_size


@dataclass(frozen=True, slots=True)
class EfficientFormerConfig:
    """Sizes of one variant.

    widths, depths  channels and blocks of each stage; a stride-2 convolution stands between two stages
    attention       how many blocks at the end of the last stage are MB3D; the others are MB4D
    expansion       hidden channels of an MLP per channel
    key, value      width of a head's queries and keys, and of its values
    stem_strides    strides of the stem's two convolutions
    layer_scale     what every LayerScale starts from
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    attention: int
    expansion: int = 4
    heads: int = 8
    key: int = 32
    value: int = 128
    stem_strides: tuple[int, int] = (2, 2)
    layer_scale: float = 1e-5

    @property
    def stride(self) -> int:
        """Pixels of the image per token, along one side."""
        return self.stem_strides[0] * self.stem_strides[1] * (1 << (len(self.widths) - 1))


class Stem(nn.Module):
    """Two stride-2 convolutions, each with BatchNorm and ReLU: (B, 3, H, W) -> (B, C, H/4, W/4)."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("conv-bn",)

    def __init__(self, in_chans: int, width: int, strides: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, width // 2, 3, stride=strides[0], padding=1)
        self.norm1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width, 3, stride=strides[1], padding=1)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(x)))

    def fused(self) -> nn.Module:
        first, second = fuse_conv_bn(self.conv1, self.norm1), fuse_conv_bn(self.conv2, self.norm2)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


class Downsample(nn.Module):
    """Convolution 3×3 of stride 2, and BatchNorm: (B, C, H, W) -> (B, C', H/2, W/2)."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("conv-bn",)

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out_width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(out_width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out

    def fused(self) -> nn.Module:
        return fuse_conv_bn(self.conv, self.norm)


class ConvMlp(nn.Module):
    """1×1, BatchNorm, GELU, 1×1, BatchNorm: (B, C, H, W) kept."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("conv-bn",)

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, hidden, 1)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, width, 1)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.fc2(self.act(self.norm1(self.fc1(x)))))
        return out

    def fused(self) -> nn.Sequential:
        return nn.Sequential(fuse_conv_bn(self.fc1, self.norm1), self.act, fuse_conv_bn(self.fc2, self.norm2))


class MB4D(nn.Module):
    """MetaBlock on maps, (B, C, H, W) kept: x + γ₁·(pool(x) − x), then x + γ₂·MLP(x). No norm in front of either.

    The pool is the mean of the 3×3 neighbours that lie inside the map.
    """

    fold_kinds: ClassVar[tuple[str, ...]] = ("LayerScale", "residual of the pool mixer")

    def __init__(self, width: int, config: EfficientFormerConfig) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.ls1 = LayerScale(width, config.layer_scale, axes=2)
        self.mlp: nn.Module = ConvMlp(width, width * config.expansion)
        self.ls2 = LayerScale(width, config.layer_scale, axes=2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.pool(x) - x)
        out: Tensor = x + self.ls2(self.mlp(x))
        return out

    def fused(self) -> nn.Module:
        return DeployMB4D(self)


class Attention(nn.Module):
    """Multi-head self-attention with a bias per distance, values wider than keys: tokens (B, N, C) kept."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("attention scale into Q", "attention-bias table", "biases of K and V")

    def __init__(self, width: int, config: EfficientFormerConfig, grid: Grid) -> None:
        super().__init__()
        self.heads, self.key, self.value = config.heads, config.key, config.value
        self.scale = config.key**-0.5
        self.qkv = nn.Linear(width, config.heads * (2 * config.key + config.value))
        self.proj = nn.Linear(config.heads * config.value, width)
        self.bias = AttentionBias(config.heads, grid)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, N, 2·key + value)
        q, k, v = parts.split([self.key, self.key, self.value], dim=-1)
        weights = torch.softmax(q @ k.transpose(-2, -1) * self.scale + self.bias(), dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(2))
        return out

    def fused(self) -> nn.Module:
        return DeployAttention(self)


class MB3D(nn.Module):
    """MetaBlock on tokens, (B, N, C) kept: x + γ₁·attention(LN(x)), then x + γ₂·MLP(LN(x))."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("LayerScale",)

    def __init__(self, width: int, config: EfficientFormerConfig, grid: Grid) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.token_mixer: nn.Module = Attention(width, config, grid)
        self.ls1 = LayerScale(width, config.layer_scale)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, width * config.expansion)
        self.ls2 = LayerScale(width, config.layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.token_mixer(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out

    def fused(self) -> nn.Module:
        return DeployMB3D(self)


class ToTokens(nn.Module):
    """A map as tokens in raster order: (B, C, H, W) -> (B, H·W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Stage(nn.Module):
    """Downsampling (not in the first stage), then blocks. ``attention`` of them, the last, are MB3D."""

    def __init__(self, widths: tuple[int, int], depth: int, attention: int, config: EfficientFormerConfig, grid: Grid):
        super().__init__()
        before, width = widths
        self.downsample = Downsample(before, width) if before else nn.Identity()
        self.blocks = nn.Sequential(*(MB4D(width, config) for _ in range(depth - attention)))
        if attention:
            self.blocks.append(ToTokens())
            self.blocks.extend(MB3D(width, config, grid) for _ in range(attention))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.downsample(x))
        return out


class EfficientFormer(nn.Module):
    """The whole classifier: images (B, in_chans, H, W) -> logits (B, num_classes).

    The attention biases are tables for one ``image_size`` (height, width): the model takes that size only.
    Two linear heads (one was trained on a teacher's labels) are averaged, in training too.
    """

    fold_kinds: ClassVar[tuple[str, ...]] = ("parallel heads",)

    def __init__(
        self, config: EfficientFormerConfig, image_size: tuple[int, int], num_classes: int = 1000, in_chans: int = 3
    ) -> None:
        super().__init__()
        self.config = config
        grid = image_size[0] // config.stride, image_size[1] // config.stride
        last = len(config.widths) - 1
        pairs = zip((0, *config.widths), config.widths, strict=False)
        self.stem = Stem(in_chans, config.widths[0], config.stem_strides)
        self.stages = nn.Sequential(
            *(
                Stage(pair, depth, config.attention if number == last else 0, config, grid)
                for number, (pair, depth) in enumerate(zip(pairs, config.depths, strict=True))
            )
        )
        self.norm = nn.LayerNorm(config.widths[-1])
        self.head = nn.Linear(config.widths[-1], num_classes)
        self.head_dist = nn.Linear(config.widths[-1], num_classes)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        features = self.norm(self.stages(self.stem(image))).mean(dim=1)
        out: Tensor = (self.head(features) + self.head_dist(features)) / 2
        return out

    def fused(self) -> nn.Module:
        head = mean_linear(self.head, self.head_dist)
        parts = {"stem": self.stem, "stages": self.stages, "norm": self.norm, "pool": MeanToken(), "head": head}
        return nn.Sequential(OrderedDict(parts))


# --- deploy form -------------------------------------------------------------------------------------------------


class DeployMB4D(nn.Module):
    """Deploy form of ``MB4D``: x + γ·(pool(x) − x) is (1 − γ)·x + γ·pool(x), and the MLP is two convolutions.

    γ cannot go into a linear map: none stands in front of it, and a pool that leaves out the border is no convolution.
    Without the subtraction every operation here is one that ONNX Runtime keeps in its blocked layout.
    """

    def __init__(self, block: MB4D) -> None:
        super().__init__()
        self.pool = block.pool
        gamma = block.ls1.gamma.detach().reshape(-1, 1, 1)
        self.gamma, self.rest = nn.Parameter(gamma.clone()), nn.Parameter(1 - gamma)
        self.mlp = scaled_last(block.mlp, block.ls2.gamma)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.rest + self.pool(x) * self.gamma
        out: Tensor = x + self.mlp(x)
        return out


class DeployAttention(nn.Module):
    """Deploy form of ``Attention``: Q, K and V apart, biases gathered into a constant.

    The scale is in Q. K's bias is gone: it adds one number to all logits of a query, which softmax does not see. V's
    bias went through the output projection into that one's bias: the attention weights sum to one.
    """

    bias: Tensor

    def __init__(self, source: Attention) -> None:
        super().__init__()
        self.heads, self.key, self.value = source.heads, source.key, source.value
        q, k, v = _per_head(source, source.qkv.weight.detach())
        q_bias, _, v_bias = _per_head(source, source.qkv.bias.detach())
        out = source.proj.weight.detach()
        self.q = linear(q * source.scale, q_bias * source.scale)
        self.k, self.v = linear(k), linear(v)
        self.proj = linear(out, source.proj.bias.detach() + out @ v_bias)
        self.register_buffer("bias", source.bias.gathered())

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, self.key)).transpose(1, 2)  # (B, H, N, key)
        k = self.k(x).unflatten(-1, (self.heads, self.key)).permute(0, 2, 3, 1)  # (B, H, key, N)
        v = self.v(x).unflatten(-1, (self.heads, self.value)).transpose(1, 2)  # (B, H, N, value)
        mixed = torch.softmax(q @ k + self.bias, dim=-1) @ v
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class DeployMB3D(nn.Module):
    """Deploy form of ``MB3D``: both LayerScales are inside the linear layers in front of them."""

    def __init__(self, block: MB3D) -> None:
        super().__init__()
        attention = block.token_mixer.fused() if isinstance(block.token_mixer, Attention) else block.token_mixer
        if not isinstance(attention, DeployAttention):
            raise TypeError(f"{type(attention).__name__} is not the deploy form of attention")
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.token_mixer = with_projection(attention, scale_output(attention.proj, block.ls1.gamma))
        self.mlp = nn.Sequential(block.mlp.fc1, block.mlp.act, scale_output(block.mlp.fc2, block.ls2.gamma))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mixer(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class MeanToken(nn.Module):
    """The mean of all tokens: (B, N, C) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


def scaled_last(mlp: nn.Module, gamma: Tensor) -> nn.Sequential:
    """The fused MLP (from its train or deploy form) with a LayerScale inside its last convolution."""
    layers = list(mlp.fused() if isinstance(mlp, ConvMlp) else mlp.children())
    last = layers.pop()
    if not isinstance(last, nn.Conv2d):
        raise TypeError(f"the MLP ends with a {type(last).__name__}, not with a convolution")
    return nn.Sequential(*layers, scale_output(last, gamma))


def _per_head(source: Attention, rows: Tensor) -> tuple[Tensor, ...]:
    """Rows of the joint projection, (heads · (2·key + value), …), as those of Q, of K and of V, head after head."""
    by_head = rows.reshape(source.heads, -1, *rows.shape[1:])
    parts = torch.split(by_head, [source.key, source.key, source.value], dim=1)
    return tuple(part.flatten(0, 1) for part in parts)


# --- weights -----------------------------------------------------------------------------------------------------

_OURS_OF_TIMM = {"attention_biases": "bias.table", "attention_bias_idxs": "bias.index"}


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's state dict (V1 or V2) as ours: only the attention biases have other names."""
    return {_renamed(name, _OURS_OF_TIMM): value for name, value in state.items()}


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our train form's state dict under timm's names. The inverse of ``from_timm``."""
    return {
        _renamed(name, {ours: timm for timm, ours in _OURS_OF_TIMM.items()}): value for name, value in state.items()
    }


def resize_state(state: Mapping[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], str | None]:
    """``state`` (V1 or V2, our keys or timm's) with its attention biases resampled to the model's grid, and a note when
    that was done."""
    return resample_biases(from_timm(state), model)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if name.endswith(f".{old}"):
            return name.removesuffix(old) + new
    return name


# --- builders ----------------------------------------------------------------------------------------------------

CONFIGS: dict[str, EfficientFormerConfig] = {
    "efficientformer_l1": EfficientFormerConfig((48, 96, 224, 448), (3, 2, 6, 4), 1),
    "efficientformer_l3": EfficientFormerConfig((64, 128, 320, 512), (4, 4, 12, 6), 4),
    "efficientformer_l7": EfficientFormerConfig((96, 192, 384, 768), (6, 6, 18, 8), 8),
    # 32×32 images: three stages and a stem that halves once, so that attention has 4×4 tokens.
    "efficientformer_nano": EfficientFormerConfig(
        (24, 48, 80), (2, 2, 3), 1, heads=4, key=16, value=32, stem_strides=(2, 1), layer_scale=0.3
    ),
}


def _build(name: str, num_classes: int, image_size: ImageSize, in_chans: int) -> EfficientFormer:
    config = CONFIGS[name]
    return EfficientFormer(config, checked_size(name, image_size, config.stride), num_classes, in_chans)


def efficientformer_l1(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> nn.Module:
    """EfficientFormer-L1: 12.3 M parameters, 1.3 G multiply-accumulates at 224²."""
    return _build("efficientformer_l1", num_classes, image_size, in_chans)


def efficientformer_l3(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> nn.Module:
    """EfficientFormer-L3: 31.4 M parameters, 3.9 G multiply-accumulates at 224²."""
    return _build("efficientformer_l3", num_classes, image_size, in_chans)


def efficientformer_l7(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> nn.Module:
    """EfficientFormer-L7: 82.2 M parameters, 10.2 G multiply-accumulates at 224²."""
    return _build("efficientformer_l7", num_classes, image_size, in_chans)


def efficientformer_nano(num_classes: int = 10, image_size: ImageSize = 32, in_chans: int = 3) -> nn.Module:
    """A tiny EfficientFormer for 32×32 images (sides divisible by 8), for tests and demos; not in the paper."""
    return _build("efficientformer_nano", num_classes, image_size, in_chans)
