"""Super-resolution by a few convolutions: linear blocks that are wide while they learn and collapse into one each.

Source: SESR (Bhardwaj et al., arXiv 2103.09404). Reconstruction: on colour instead of luminance, and what is learned is
added to the bicubic picture, which is one more convolution before the pixels are shuffled into place. The network
begins as bicubic interpolation, so that even a short run ends above it.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.sizes import ImageSize


class CollapsibleConv(nn.Module):
    """A k×k convolution to many channels and a 1×1 to few, with a short cut where the widths allow: (B, C, H, W) kept.

    No nonlinearity lies between them, so that all of it is one convolution; training computes that one, too, and learns
    through the product.
    """

    fold_kinds: ClassVar[tuple[str, ...]] = ("wide linear block into one convolution",)

    def __init__(self, before: int, after: int, kernel: int, expanded: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(before, expanded, kernel, padding=kernel // 2, bias=False)
        self.project = nn.Conv2d(expanded, after, 1)

    def weight(self) -> Tensor:
        """(after, before, k, k) of the one convolution."""
        wide = self.expand.weight
        one = (self.project.weight[:, :, 0, 0] @ wide.flatten(1)).reshape(-1, *wide.shape[1:])
        if one.shape[0] != one.shape[1]:
            return one
        return one + F.pad(one.new_ones(len(one)).diag()[:, :, None, None], [wide.shape[-1] // 2] * 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight(), self.project.bias, padding=self.expand.padding)

    def fused(self) -> nn.Module:
        weight = self.weight().detach()
        size, padding = (self.expand.kernel_size[0], self.expand.kernel_size[1]), self.expand.kernel_size[0] // 2
        one = nn.Conv2d(weight.shape[1], weight.shape[0], size, padding=padding, device="meta")
        one.weight, one.bias = nn.Parameter(weight), self.project.bias
        return one


class Sesr(nn.Module):
    """(B, 3, H, W) pictures of 0 to 1 -> (B, 3, scale · H, scale · W)."""

    bicubic: Tensor

    def __init__(self, scale: int, width: int, depth: int, expanded: int) -> None:
        super().__init__()
        self.scale = scale
        self.first = CollapsibleConv(3, width, 5, expanded)
        self.act = nn.ReLU()
        self.body = nn.Sequential(
            *(nn.Sequential(CollapsibleConv(width, width, 3, expanded), nn.ReLU()) for _ in range(depth))
        )
        self.last = CollapsibleConv(width, 3 * scale * scale, 5, expanded)
        for parameter in self.last.project.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("bicubic", bicubic_kernel(scale), persistent=False)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, image: Tensor) -> Tensor:
        features = self.act(self.first(image))
        features = features + self.body(features)
        smooth = F.conv2d(_with_edges(image), self.bicubic, groups=3)
        out: Tensor = self.shuffle(self.last(features) + smooth)
        return out


def bicubic_kernel(scale: int) -> Tensor:
    """(3 · scale², 1, 5, 5): for each colour, every new pixel's weights on the 5×5 pixels around the one it lies in.

    Keys' kernel with a = -0.5, as Pillow interpolates.
    """
    new = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5  # where new pixels lie, from the old's middle
    away = (torch.arange(-2, 3) - new[:, None]).abs()
    near, far = 1.5 * away**3 - 2.5 * away**2 + 1, -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2
    taps = torch.where(away <= 1, near, torch.where(away < 2, far, 0.0))  # (scale, 5); each row sums to one
    one = torch.einsum("ai,bj->abij", taps, taps).reshape(-1, 1, 5, 5)
    return one.repeat(3, 1, 1, 1).float()


def _with_edges(image: Tensor) -> Tensor:
    """Two more pixels on each side, the same as those at the edge."""
    wide = torch.cat([image[..., :1], image[..., :1], image, image[..., -1:], image[..., -1:]], dim=3)
    return torch.cat([wide[:, :, :1], wide[:, :, :1], wide, wide[:, :, -1:], wide[:, :, -1:]], dim=2)


# --- builders ----------------------------------------------------------------------------------------------------


def sesr_nano_x2(image_size: ImageSize = 48) -> Sesr:
    """Twice as high and wide: 5 blocks of 16 channels, 128 while they learn. Takes pictures of any size."""
    return Sesr(2, 16, 5, 128)


def sesr_nano_x3(image_size: ImageSize = 48) -> Sesr:
    """Three times as high and wide, otherwise as ``sesr_nano_x2``."""
    return Sesr(3, 16, 5, 128)


def sesr_nano_x4(image_size: ImageSize = 48) -> Sesr:
    """Four times as high and wide, otherwise as ``sesr_nano_x2``."""
    return Sesr(4, 16, 5, 128)
