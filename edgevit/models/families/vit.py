"""ViT and DeiT, with every block's heads, head width and FFN width its own parameter: the trunk that ED-ViT splits.

Sources: ViT (Dosovitskiy et al., arXiv 2010.11929), DeiT (Touvron et al., arXiv 2012.12877). Parameter names are those
that timm and DeiT publish their weights under, so that their state dicts are ours.

The train form is the textbook network. The deploy form computes the same function with less: the attention scale is
part of Q's weights, the biases of K and V are gone, what never changes about the tokens is one constant, and the last
block computes the class token alone, the only row that the classifier reads.

On ONNX Runtime (CPU) three projections for Q, K and V and one for all three are equally fast: nearly all of the time
is in the matrix products, and three of them need no 5-D permutation. Leaving out work is what pays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.errors import UsageError
from edgevit.models.layers.fusion import linear
from edgevit.models.layers.mlp import Mlp
from edgevit.sizes import ImageSize, as_size

LAYER_NORM_EPS = 1e-6


@dataclass(frozen=True)
class BlockConfig:
    """Sizes of one block. ``scale`` of the attention logits is head_dim^-0.5 unless given.

    A pruned head keeps the scale of the head that it was cut from, so the two numbers are separate.
    """

    heads: int
    head_dim: int
    hidden: int
    scale: float | None = None

    @property
    def inner(self) -> int:
        """Width of each of Q, K and V; need not be the residual stream's."""
        return self.heads * self.head_dim

    @property
    def attention_scale(self) -> float:
        return self.head_dim**-0.5 if self.scale is None else self.scale


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a whole model; ``dim`` is the width of the residual stream. ``num_classes`` 0 leaves the head out."""

    image_size: tuple[int, int]
    patch: int
    dim: int
    blocks: tuple[BlockConfig, ...]
    num_classes: int
    in_chans: int = 3

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("a vision transformer needs at least one block")
        if any(side % self.patch or side < self.patch for side in self.image_size):
            height, width = self.image_size
            raise ValueError(f"an image of {height}×{width} pixels is not made of {self.patch}×{self.patch} patches")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch


class PatchEmbed(nn.Module):
    """Cut into patches and project each: (B, C, H, W) -> (B, N, D), in raster order."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_chans, config.dim, kernel_size=config.patch, stride=config.patch)

    def forward(self, image: Tensor) -> Tensor:
        grid: Tensor = self.proj(image)
        return grid.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention whose inner width is independent of the residual stream's: (B, N, D) -> (B, N, D)."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("attention scale into Q", "biases of K and V")

    def __init__(self, dim: int, config: BlockConfig) -> None:
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(dim, 3 * config.inner)
        self.proj = nn.Linear(config.inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        heads, head_dim = self.config.heads, self.config.head_dim
        q, k, v = self.qkv(x).unflatten(-1, (3, heads, head_dim)).permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, N, d)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.config.attention_scale)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out

    def fused(self) -> nn.Module:
        return DeployAttention(self)


class Block(nn.Module):
    """Pre-norm transformer block: (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, config: BlockConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn: nn.Module = Attention(dim, config)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """The train form. ``forward``: (B, C, H, W) -> logits (B, classes); ``forward_features`` -> class token (B, D)."""

    fold_kinds: ClassVar[tuple[str, ...]] = (
        "class token and positions into constants",
        "last block to the class token",
    )

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        rows, columns = config.grid
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, config.dim))
        self.blocks = nn.Sequential(*(Block(config.dim, block) for block in config.blocks))
        self.norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(config.dim, config.num_classes) if config.num_classes else nn.Identity()
        self._initialise()

    def _initialise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)  # as the paper's code; a fixed 0.02 starves small widths
                nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.pos_embed, std=self.config.dim**-0.5)
        nn.init.trunc_normal_(self.cls_token, std=self.config.dim**-0.5)

    def forward_features(self, image: Tensor) -> Tensor:
        patches = self.patch_embed(image)
        x = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.pos_embed
        out: Tensor = self.norm(self.blocks(x)[:, 0])  # LayerNorm works row by row, so the other rows need none
        return out

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.head(self.forward_features(image))
        return out

    def fused(self) -> nn.Module:
        return DeployViT(self)


# --- deploy form -------------------------------------------------------------------------------------------------


class DeployAttention(nn.Module):
    """Attention with Q, K and V apart; equal to the ``Attention`` it is made from.

    The scale is in Q. K's bias is gone: it adds one number to all logits of a query, which softmax does not see. V's
    bias went through the output projection into that one's bias: the attention weights sum to one.
    """

    def __init__(self, source: Attention) -> None:
        super().__init__()
        self.heads, self.head_dim = source.config.heads, source.config.head_dim
        q, k, v = source.qkv.weight.detach().chunk(3)
        q_bias, _, v_bias = source.qkv.bias.detach().chunk(3)
        scale, out = source.config.attention_scale, source.proj.weight.detach()
        self.q, self.k, self.v = linear(q * scale, q_bias * scale), linear(k), linear(v)
        self.proj = linear(out, source.proj.bias.detach() + out @ v_bias)

    def forward(self, x: Tensor) -> Tensor:
        shape = (self.heads, self.head_dim)
        q = self.q(x).unflatten(-1, shape).transpose(1, 2)  # (B, H, N, d)
        k = self.k(x).unflatten(-1, shape).permute(0, 2, 3, 1)  # (B, H, d, N)
        v = self.v(x).unflatten(-1, shape).transpose(1, 2)  # (B, H, N, d)
        mixed = torch.softmax(q @ k, dim=-1) @ v
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class ClassTokenBlock(nn.Module):
    """The last block for the class token alone: (B, N, D) -> (B, D).

    With one query per head, K and V need not be computed for every token, as matrix products associate:
    q (W_k y)ᵀ = (q W_k) yᵀ, and Σ p_j W_v y_j = W_v (Σ p_j y_j).
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        attention = block.attn
        if not isinstance(attention, DeployAttention):
            raise TypeError("the block's attention must be in deploy form first")
        heads, head_dim = attention.heads, attention.head_dim
        self.heads, self.head_dim = heads, head_dim
        self.norm1, self.norm2, self.mlp, self.proj = block.norm1, block.norm2, block.mlp, attention.proj
        self.q = attention.q
        self.key_weight = nn.Parameter(attention.k.weight.detach().reshape(heads, head_dim, -1).clone())  # (H, d, D)
        value = attention.v.weight.detach().reshape(heads, head_dim, -1)
        self.value_weight = nn.Parameter(value.transpose(1, 2).contiguous())  # (H, D, d)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q = self.q(y[:, 0]).reshape(-1, self.heads, 1, self.head_dim)  # (B, H, 1, d)
        weights = torch.softmax((q @ self.key_weight).squeeze(2) @ y.transpose(1, 2), dim=-1)  # (B, H, N)
        mixed = (weights @ y).unsqueeze(2) @ self.value_weight  # (B, H, 1, d)
        token = x[:, 0] + self.proj(mixed.flatten(1))
        out: Tensor = token + self.mlp(self.norm2(token))
        return out


class DeployViT(nn.Module):
    """The deploy form of ``VisionTransformer``: same inputs, same outputs, fewer operations."""

    def __init__(self, source: VisionTransformer) -> None:
        super().__init__()
        self.config = source.config
        self.patch_embed = source.patch_embed
        position = source.pos_embed.detach()
        self.class_row = nn.Parameter(source.cls_token.detach() + position[:, :1])  # (1, 1, D)
        self.patch_rows = nn.Parameter(position[:, 1:].clone())  # (1, N, D)
        blocks = list(source.blocks)
        last = blocks.pop()
        if not isinstance(last, Block):
            raise TypeError(f"the last block is a {type(last).__name__}, not a Block")
        self.blocks = nn.Sequential(*blocks)
        self.last = ClassTokenBlock(last)
        self.norm, self.head = source.norm, source.head

    def forward_features(self, image: Tensor) -> Tensor:
        patches = self.patch_embed(image) + self.patch_rows
        x = torch.cat([self.class_row.expand(patches.shape[0], -1, -1), patches], dim=1)
        out: Tensor = self.norm(self.last(self.blocks(x)))
        return out

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.head(self.forward_features(image))
        return out


# --- weights -----------------------------------------------------------------------------------------------------


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's or DeiT's state dict as ours: the same names. UsageError for a relative that this class is not."""
    for key, kind in (
        ("dist_token", "distilled DeiT, which has a second token and classifier"),
        ("blocks.0.ls1.gamma", "ViT with LayerScale (DeiT III)"),
        ("blocks.0.attn.q_norm.weight", "ViT with normalised queries"),
        ("fc_norm.weight", "ViT that averages its tokens"),
    ):
        if key in state:
            raise UsageError(f"these are weights of a {kind}", hint="such models run as timm:NAME")
    return dict(state)


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our train form's state dict under timm's names: the same. The inverse of ``from_timm``."""
    return dict(state)


def resize_state(state: Mapping[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], str | None]:
    """``state`` with its position embedding resampled (bicubic) to the model's patches, and a note when that was done.

    Only a square grid can be told from its length; any other length is left alone, for the loader to refuse.
    """
    state = dict(state)
    old = state.get("pos_embed")
    if not isinstance(model, VisionTransformer) or old is None or old.ndim != 3 or old.shape == model.pos_embed.shape:
        return state, None
    side, grid = round((old.shape[1] - 1) ** 0.5), model.config.grid
    if side * side + 1 != old.shape[1] or old.shape[2] != model.config.dim:
        return state, None
    patches = old[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=True, align_corners=False)
    state["pos_embed"] = torch.cat([old[:, :1], patches.flatten(2).transpose(1, 2).to(old.dtype)], dim=1)
    return state, f"position embedding resampled from {side}×{side} to {grid[0]}×{grid[1]} patches"


# --- builders ----------------------------------------------------------------------------------------------------


def uniform_blocks(depth: int, heads: int, head_dim: int, hidden: int) -> tuple[BlockConfig, ...]:
    """``depth`` blocks of one size, as published ViTs have."""
    return (BlockConfig(heads, head_dim, hidden),) * depth


def vit_tiny(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> VisionTransformer:
    """ViT/DeiT-Tiny, patch 16: 12 blocks, 3 heads, D = 192."""
    config = ViTConfig(as_size(image_size), 16, 192, uniform_blocks(12, 3, 64, 768), num_classes, in_chans)
    return VisionTransformer(config)


def vit_small(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> VisionTransformer:
    """ViT/DeiT-Small, patch 16: 12 blocks, 6 heads, D = 384."""
    config = ViTConfig(as_size(image_size), 16, 384, uniform_blocks(12, 6, 64, 1536), num_classes, in_chans)
    return VisionTransformer(config)


def vit_base(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> VisionTransformer:
    """ViT/DeiT-Base, patch 16: 12 blocks, 12 heads, D = 768."""
    config = ViTConfig(as_size(image_size), 16, 768, uniform_blocks(12, 12, 64, 3072), num_classes, in_chans)
    return VisionTransformer(config)


def vit_large(num_classes: int = 1000, image_size: ImageSize = 224, in_chans: int = 3) -> VisionTransformer:
    """ViT-Large, patch 16: 24 blocks, 16 heads, D = 1024."""
    config = ViTConfig(as_size(image_size), 16, 1024, uniform_blocks(24, 16, 64, 4096), num_classes, in_chans)
    return VisionTransformer(config)


def vit_nano(num_classes: int = 10, image_size: ImageSize = 32, in_chans: int = 3) -> VisionTransformer:
    """For tests and demos, patch 4: 4 blocks, 4 heads of 16, D = 64."""
    config = ViTConfig(as_size(image_size), 4, 64, uniform_blocks(4, 4, 16, 256), num_classes, in_chans)
    return VisionTransformer(config)


def vit_edvit(num_classes: int = 10, image_size: ImageSize = 16, in_chans: int = 3) -> VisionTransformer:
    """The trunk that ED-ViT splits on small images, patch 4: 12 blocks, 12 heads of 16, D = 192."""
    config = ViTConfig(as_size(image_size), 4, 192, uniform_blocks(12, 12, 16, 768), num_classes, in_chans)
    return VisionTransformer(config)
