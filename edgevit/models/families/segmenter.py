"""A plain ViT that says the class of every pixel: a stem, transformer blocks of one size, a head of deconvolutions.

Source: SETR (Zheng et al., arXiv 2012.15840), which showed that such an encoder and progressive upsampling are enough.
There is no class token, and every deconvolution doubles the sides with a kernel as wide as its stride. What the stem
saw at the same size is added behind each, the image itself behind the last: a token knows what is there, not where it
ends.

Every token gives scores of its own, too, which are added to the head's (as FCN adds those of its strides, Long et al.,
arXiv 1411.4038): the way through the deconvolutions first learns where something is, and until then nothing tells the
tokens what it is. Without it the class of a digit's pixels was still guessed after 6,000 scenes; with it three of
four were known.

In training the network gives scores; in eval mode it decides, so that an artifact holds labels, not eleven numbers a
pixel. The deploy form has matrix products for deconvolutions: those of this kind look at one place at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.models.families.vit import LAYER_NORM_EPS, Block, ViTConfig, uniform_blocks
from edgevit.models.layers.fusion import fuse_conv_bn, linear
from edgevit.sizes import ImageSize, as_size


@dataclass(frozen=True)
class SegmenterConfig:
    """A ViT's sizes, and the channels behind each deconvolution: as many of them as make a patch of one token."""

    encoder: ViTConfig
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if 2 ** len(self.widths) != self.encoder.patch:
            raise ValueError(
                f"{len(self.widths)} deconvolutions make {2 ** len(self.widths)}×{2 ** len(self.widths)} pixels of a "
                f"token, not patches of {self.encoder.patch}×{self.encoder.patch}"
            )


class ConvNormAct(nn.Module):
    """A 3×3 convolution: (B, C, H, W) -> (B, C', H / stride, W / stride)."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("conv-bn",)

    def __init__(self, before: int, after: int, stride: int, act: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(after)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out

    def fused(self) -> nn.Module:
        return nn.Sequential(fuse_conv_bn(self.conv, self.bn), self.act)


class Halving(nn.Module):
    """A convolution of stride 2, and two that are added to it: (B, C, H, W) -> (B, C', H / 2, W / 2)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.down = ConvNormAct(before, after, 2, nn.GELU())
        self.near = nn.Sequential(ConvNormAct(after, after, 1, nn.GELU()), ConvNormAct(after, after, 1, nn.Identity()))
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        out: Tensor = self.act(x + self.near(x))
        return out


class Stem(nn.Module):
    """Convolutions that halve the sides until a patch is one place: (B, C, H, W) -> (B, N, D), in raster order, and
    what each of them saw.

    A ViT that gets bare patches learns slowly which of them are neighbours; after these it begins with what is near
    (Xiao et al., arXiv 2106.14881).
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        dim = config.encoder.dim
        widths = (config.encoder.in_chans, *reversed(config.widths[:-1]), dim)
        self.halvings = nn.ModuleList(Halving(before, after) for before, after in pairwise(widths))
        self.proj = nn.Conv2d(dim, dim, kernel_size=1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        finer, x = [], image
        for halving in self.halvings:
            finer.append(x)
            x = halving(x)
        grid: Tensor = self.proj(x)
        return grid.flatten(2).transpose(1, 2), finer


class Upsampling(nn.Module):
    """Tokens (B, N, D), and what the stem saw at each size from the image's on, to scores (B, classes, H, W)."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("deconvolutions into matrix products",)

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        widths = (config.encoder.dim, *config.widths)
        seen = (*config.widths[:-1], config.encoder.in_chans)  # channels of the stem at the sizes behind each
        self.deconvs = nn.ModuleList(
            nn.ConvTranspose2d(before, after, kernel_size=2, stride=2) for before, after in pairwise(widths)
        )
        self.details = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=3, padding=1)
            for before, after in zip(seen, config.widths, strict=True)
        )
        self.mixes = nn.ModuleList(ConvNormAct(width, width, 1, nn.GELU()) for width in config.widths)
        self.act = nn.GELU()
        self.classify = nn.Conv2d(widths[-1], config.encoder.num_classes, kernel_size=1)

    def forward(self, tokens: Tensor, finer: list[Tensor]) -> Tensor:
        x = as_map(tokens, self.config.encoder.grid)
        steps = zip(self.deconvs, self.details, self.mixes, reversed(finer), strict=True)
        for deconv, detail, mix, seen in steps:
            x = mix(self.act(deconv(x) + detail(seen)))
        out: Tensor = self.classify(x)
        return out

    def fused(self) -> nn.Module:
        return DeployUpsampling(self)


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, D) in raster order -> (B, D, rows, columns)."""
    return tokens.transpose(1, 2).reshape(-1, tokens.shape[2], *grid)


class PixelScores(nn.Module):
    """Encoder and head: (B, C, H, W) -> (B, classes, H, W)."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        encoder = config.encoder
        self.grid, self.patch = encoder.grid, encoder.patch
        self.stem = Stem(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, encoder.grid[0] * encoder.grid[1], encoder.dim))
        self.blocks = nn.Sequential(*(Block(encoder.dim, block) for block in encoder.blocks))
        self.norm = nn.LayerNorm(encoder.dim, eps=LAYER_NORM_EPS)
        self.head: nn.Module = Upsampling(config)
        self.coarse = nn.Linear(encoder.dim, encoder.num_classes)
        nn.init.trunc_normal_(self.pos_embed, std=encoder.dim**-0.5)

    def forward(self, image: Tensor) -> Tensor:
        tokens, finer = self.stem(image)
        tokens = self.norm(self.blocks(tokens + self.pos_embed))
        coarse = as_map(self.coarse(tokens), self.grid)
        size = [side * self.patch for side in self.grid]
        out: Tensor = self.head(tokens, finer) + F.interpolate(coarse, size, mode="bilinear", align_corners=False)
        return out


class Segmenter(nn.Module):
    """(B, C, H, W) -> scores (B, classes, H, W) in training; in eval mode labels (B, H, W) int64."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.scores = PixelScores(config)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for block in self.modules():
            if isinstance(block, Block):  # begins as nothing: what the stem saw reaches the head as it is
                for path in ("attn.proj.weight", "mlp.fc2.weight"):
                    nn.init.zeros_(block.get_parameter(path))

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.scores(image)
        return scores if self.training else scores.argmax(dim=1)


# --- deploy form -------------------------------------------------------------------------------------------------


class DeployUpsampling(nn.Module):
    """The head with matrix products for deconvolutions, equal to the ``Upsampling`` that it is made from.

    A deconvolution whose kernel is its stride makes 2×2 places of each place, and of nothing else. They are put where
    they belong after each product; that moves rows of numbers, never single ones.
    """

    def __init__(self, source: Upsampling) -> None:
        super().__init__()
        self.grid, self.act = source.config.encoder.grid, source.act
        self.products = nn.ModuleList(_as_product(deconv) for deconv in source.deconvs)
        self.details, self.mixes, self.classify = source.details, source.mixes, source.classify

    def forward(self, tokens: Tensor, finer: list[Tensor]) -> Tensor:
        (rows, columns), x = self.grid, tokens
        for product, detail, mix, seen in zip(self.products, self.details, self.mixes, reversed(finer), strict=True):
            x = product(x)  # (B, rows · columns, 2 · 2 · C): above left, above right, below left, below right
            x = x.reshape(-1, columns, 2, x.shape[-1] // 2).transpose(1, 2)  # (B · rows, 2, columns, 2 · C)
            rows, columns = 2 * rows, 2 * columns
            x = as_map(x.reshape(-1, rows * columns, x.shape[-1] // 2), (rows, columns))
            x = mix(self.act(x + detail(seen))).flatten(2).transpose(1, 2)
        out: Tensor = self.classify(as_map(x, (rows, columns)))
        return out


def _as_product(deconv: nn.Module) -> nn.Linear:
    """A 2×2 deconvolution of stride 2 as one product: (…, C) -> (…, 2 · 2 · C')."""
    if not isinstance(deconv, nn.ConvTranspose2d) or deconv.bias is None:
        raise TypeError(f"{type(deconv).__name__} is no deconvolution with a bias")
    weight = deconv.weight.detach()  # (C, C', 2, 2)
    return linear(weight.permute(2, 3, 1, 0).flatten(0, 2), deconv.bias.detach().repeat(4))


# --- builders ----------------------------------------------------------------------------------------------------


def segmenter_nano(num_classes: int = 11, image_size: ImageSize = 64, in_chans: int = 3) -> Segmenter:
    """For tests and demos, patch 8: 3 blocks, 3 heads of 32, D = 96."""
    encoder = ViTConfig(as_size(image_size), 8, 96, uniform_blocks(3, 3, 32, 288), num_classes, in_chans)
    return Segmenter(SegmenterConfig(encoder, (32, 16, 16)))
