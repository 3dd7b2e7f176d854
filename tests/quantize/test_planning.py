"""Plans made of real captures: what is taken, what stays float and why, on which ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from integer_models import captured, mixed, rows_of
from torch import Tensor, nn

from edgevit.artifact.manifest import BatchRange
from edgevit.errors import ExportFailed, Unsupported
from edgevit.quantize.asked import Observer
from edgevit.quantize.plan import Range
from edgevit.quantize.planning import plan_int8
from edgevit.quantize.simulate import Simulation
from edgevit.quantize.sites import sites_of

TAKEN = {"wide.weight", "deep.weight", "qkv.weight", "shared.weight", "table", "head.weight"}


def test_every_layer_is_taken_but_the_first() -> None:
    plan = plan_int8(captured(mixed()), rows_of(16), "rows")
    assert set(plan.layers) == TAKEN
    assert list(plan.kept) == ["first.weight"]
    assert "first layer" in plan.kept["first.weight"]


def test_a_convolution_has_a_grid_for_its_result_and_a_product_has_none() -> None:
    plan = plan_int8(captured(mixed()), rows_of(16), "rows")
    wide, deep = plan.layers["wide.weight"], plan.layers["deep.weight"]
    assert wide.relu
    assert wide.output == deep.input
    assert deep.output is not None
    assert not deep.relu
    assert all(plan.layers[name].output is None for name in TAKEN if plan.layers[name].operator == "linear")


def test_ranges_hold_all_that_was_seen_of_both_uses_of_a_shared_layer() -> None:
    plan = plan_int8(captured(mixed()), rows_of(16), "rows")
    assert plan.layers["shared.weight"].input.high > 1.0  # the second use alone is behind a tanh


@pytest.mark.parametrize("observer", ["percentile", "mse"])
def test_other_observers_leave_outliers_out(observer: Observer) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 2)).eval()
    rows = {"input": np.random.default_rng(0).normal(size=(40_000, 4)).astype(np.float32)}
    rows["input"][0] = 12.0
    dynamic = captured(module, BatchRange(min=1, max=40_000), input=rows["input"][:16])
    full, less = (plan_int8(dynamic, rows, "rows", one).layers["2.weight"].input for one in ("minmax", observer))
    assert less.high - less.low < 0.9 * (full.high - full.low)


class Left(nn.Module):
    """Products that no plan takes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.stack = nn.Parameter(torch.randn(2, 4, 4))
        self.rows = nn.Parameter(torch.randn(3, 4))
        self.up = nn.ConvTranspose1d(4, 4, 2)
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.stem(x)[:, None, None] @ self.stack).sum(1)  # (B, 1, 4)
        x = x + (self.rows @ x.transpose(1, 2)).sum(1, keepdim=True)
        x = self.up(x.transpose(1, 2)).mean(-1)
        found: Tensor = self.last(x)
        return found


def test_what_stays_float_says_why() -> None:
    kept = sites_of(captured(Left().eval(), x=np.ones((16, 4), np.float32)).program).kept
    assert "3 axes" in kept["stack"]
    assert "from the left" in kept["rows"]
    assert "conv_transpose1d" in kept["up.weight"]


def test_a_layer_whose_input_never_changes_stays_float() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    torch.nn.init.constant_(module[1].bias, -1e6)  # type: ignore[arg-type]
    rows = {"input": rows_of(16, sides=(4,))["image"]}
    plan = plan_int8(captured(module, **rows), rows, "rows")
    assert "same number" in plan.kept["3.weight"]
    assert set(plan.layers) == {"1.weight"}


def test_rows_that_give_no_numbers_are_refused() -> None:
    rows = rows_of(16)
    rows["image"][3, 0, 0, 0] = np.nan
    with pytest.raises(ExportFailed, match="no number"):
        plan_int8(captured(mixed()), rows, "rows")


def test_a_model_of_its_first_layer_alone_cannot_be_int8() -> None:
    rows = {"input": rows_of(16, sides=(4,))["image"]}
    with pytest.raises(Unsupported, match="first layer"):
        plan_int8(captured(nn.Linear(4, 2).eval(), **rows), rows, "rows")


class Quantised(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(input, 0.1, 0, -128, 127)


def test_a_model_that_is_quantised_already_is_refused() -> None:
    rows: dict[str, Any] = {"input": rows_of(16, sides=(4,))["image"]}
    with pytest.raises(Unsupported, match="quantised already"):
        plan_int8(captured(nn.Sequential(Quantised(), nn.Linear(4, 2)).eval(), **rows), rows, "rows")


def test_a_range_is_of_the_rows_and_nothing_else() -> None:
    capture = captured(mixed())
    first, second = (plan_int8(capture, rows_of(16, seed), "rows") for seed in (0, 1))
    assert first.sha256() == plan_int8(capture, rows_of(16, 0), "rows").sha256() != second.sha256()
    assert isinstance(first.layers["table"].input, Range)


def test_weights_without_a_range_have_scales_and_compute_nothing_else() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    torch.nn.init.zeros_(module[1].weight[3:])  # type: ignore[arg-type]
    torch.nn.init.zeros_(module[2].weight)  # type: ignore[arg-type]
    rows = {"input": rows_of(16, sides=(4,))["image"]}
    capture = captured(module, **rows)
    plan = plan_int8(capture, rows, "rows")
    assert set(plan.layers) == {"1.weight", "2.weight"}
    assert all(scale > 0 for layer in plan.layers.values() for scale in layer.scales)
    found = Simulation(sites_of(capture.program), plan)(torch.from_numpy(rows["input"][:1]))
    torch.testing.assert_close(found, module[2].bias[None].detach(), rtol=1e-6, atol=1e-6)  # type: ignore[arg-type,index]
