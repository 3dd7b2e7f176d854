"""Places in a map are computed in float32 in a half-precision package, and with them alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coreml_tiny import build, captured, eager, layers, run
from torch import Tensor, nn

SIDE = 64
IMAGES = np.random.default_rng(0).standard_normal((16, 3, SIDE, SIDE)).astype(np.float32)


def sampled(values: Tensor, places: Tensor) -> Tensor:
    return F.grid_sample(values, (places + 0.5) / (SIDE / 2) - 1, align_corners=False)


def gathered(values: Tensor, places: Tensor) -> Tensor:
    """By the pixel above and left alone, as models that avoid the operator write it."""
    inside = places.clamp(0, SIDE - 1.01)
    whole = inside.floor().to(torch.int64)
    across, down = (1 - (inside - whole).abs()).unbind(-1)
    index = (whole[..., 1] * SIDE + whole[..., 0]).flatten(1)[:, None].expand(-1, values.shape[1], -1)
    return values.flatten(2).gather(2, index).reshape(values.shape) * (across * down)[:, None]


class Moved(nn.Module):
    """A map read where a convolution says."""

    def __init__(self, read) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read, self.values, self.offsets = read, nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1, bias=False)
        nn.init.normal_(self.offsets.weight, std=0.01)
        axis = torch.arange(float(SIDE))
        self.register_buffer("here", torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1))

    def forward(self, image: Tensor) -> Tensor:
        places = self.here + 0.37 + self.offsets(image).permute(0, 2, 3, 1)
        return self.read(self.values(image), places)


@pytest.mark.parametrize("read", [sampled, gathered])
def test_a_map_is_read_where_the_model_reads_it_in_half_precision_too(read, tmp_path) -> None:
    module = Moved(read)
    built = build(captured(module, inputs={"image": IMAGES}), tmp_path, "fp16")
    got, expected = run(tmp_path, IMAGES[:1]), eager(module, IMAGES[:1])
    assert np.abs(got - expected).max() < 2e-3 * np.abs(expected).max()
    assert {row["dtype"] for row in layers(tmp_path) if row["op"] == "conv"} == {"float16"}
    assert "it computes places, which fp16 would move" in built.precision.kept_fp32.values()
