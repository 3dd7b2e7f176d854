from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from edgevit.artifact.manifest import BatchRange
from edgevit.export.capture import bake_preprocess, capture
from edgevit.export.fp16 import RANGE_LIMIT
from edgevit.export.precision import plan_fp16, scan_activations, weights_outside_fp16
from edgevit.images import Preprocess

ONE = BatchRange(min=1, max=1)


class Block(nn.Module):
    """norm -> attention -> big linear -> small linear."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.norm, self.big, self.small = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        with torch.no_grad():
            self.big.weight.mul_(gain)
            self.small.weight.div_(gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        y = y + F.scaled_dot_product_attention(y, y, y)
        return self.small(self.big(y))


def captured(module: nn.Module, scale: float = 1.0):
    torch.manual_seed(0)
    rows = (np.random.default_rng(0).standard_normal((16, 5, 8)) * scale).astype(np.float32)
    return capture(module, {"x": rows}, ONE)


def test_the_scan_finds_the_largest_magnitude_of_every_row() -> None:
    found = captured(Block(1.0))
    ranges = scan_activations(found)
    rows = torch.from_numpy(found.calibration["x"])
    with torch.no_grad():
        expected = {"": found.module(rows), "norm": found.module.norm(rows)}
    assert ranges.rows == 16
    largest: dict[str, float] = {}
    for node, value in ranges.by_node.items():
        largest[ranges.module_of[node]] = max(largest.get(ranges.module_of[node], 0.0), value)
    assert largest["norm"] == float(expected["norm"].abs().max())
    assert largest["small"] == float(expected[""].abs().max())


def test_attention_scores_count_although_they_are_inside_one_operator() -> None:
    def attend(x):
        return F.scaled_dot_product_attention(x, x, x)

    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return attend(x)

    ranges = scan_activations(captured(Attention(), scale=100.0))
    assert max(ranges.by_node.values()) > 100.0**2


def test_a_module_whose_activations_leave_fp16_is_kept_and_its_reader_too() -> None:
    found = captured(Block(1e5))
    plan = plan_fp16(found, scan_activations(found))
    assert set(plan.modules) >= {"big", "small"}
    assert "activations reach" in plan.modules["big"]
    assert "norm" not in plan.modules


def test_a_tame_model_keeps_only_normalisation_and_softmax() -> None:
    found = captured(Block(1.0))
    ranges = scan_activations(found)
    assert max(ranges.by_node.values()) < RANGE_LIMIT
    plan = plan_fp16(found, ranges)
    assert plan.modules == {}
    assert set(plan.kept()) == {"norm", "model (softmax)"}


def test_weights_that_underflow_or_overflow_are_named() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        net[0].weight.fill_(1e-7)
        net[2].weight.fill_(1e5)
    found = weights_outside_fp16(net)
    assert "underflow" in found["0"]
    assert "beyond fp16" in found["2"]
    assert "1" not in found


def test_a_baked_normalisation_stays_in_float32() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    pixels = np.random.default_rng(0).integers(0, 256, (16, 6, 6, 3), dtype=np.uint8)
    found = capture(bake_preprocess(net, Preprocess(size=(6, 6))), {"image": pixels}, ONE, alone="logits")
    assert set(plan_fp16(found, scan_activations(found)).kept()) == {"normalise"}
