"""Every rule computes what its operator does, in float64, and leaves none of it in the program."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rule_oracle import Calls, assert_written_out
from torch import Tensor, nn

from edgevit.export.legalise import calls_of, rewritten
from edgevit.export.legalise.arithmetic import (
    BATCH_NORM_RULES,
    BOOLEAN_RULES,
    EXTREME_RULES,
    LAYER_NORM_RULES,
    LOGICAL_RULES,
    ONE_HOT_RULES,
    SUBTRACTION_RULES,
)
from edgevit.export.legalise.limits import LIMIT_RULES
from edgevit.export.legalise.pixels import PIXEL_RULES
from edgevit.export.legalise.refusals import named
from edgevit.export.legalise.sampling import SAMPLING_RULES
from edgevit.export.legalise.windows import WINDOW_RULES


@pytest.mark.parametrize(
    ("mode", "padding", "aligned"),
    list(itertools.product(("bilinear", "nearest"), ("zeros", "border", "reflection"), (True, False))),
)
def test_a_sampled_grid_is_four_gathers(mode: str, padding: str, aligned: bool) -> None:
    def sample(x: Tensor) -> Tensor:
        grid = x[:, :2].permute(0, 2, 3, 1) * 2.5  # far outside on all sides too
        return F.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=aligned)

    assert_written_out(Calls(sample), SAMPLING_RULES, 3, 5, 7, tolerance=1e-12)


@pytest.mark.parametrize("aligned", [True, False])
def test_a_map_of_one_pixel_is_sampled_too(aligned: bool) -> None:
    def sample(x: Tensor) -> Tensor:
        grid = x[:, :2].permute(0, 2, 3, 1)
        return F.grid_sample(x, grid, padding_mode="reflection", align_corners=aligned)

    assert_written_out(Calls(sample), SAMPLING_RULES, 3, 1, 1)


@pytest.mark.parametrize(
    "how",
    [
        {"kernel_size": 3},
        {"kernel_size": (2, 3), "stride": (2, 1)},
        {"kernel_size": 3, "dilation": 2, "padding": (3, 1)},
    ],
    ids=str,
)
def test_unfolded_windows_are_two_gathers(how: dict[str, Any]) -> None:
    assert_written_out(Calls(lambda x: F.unfold(x, **how)), WINDOW_RULES, 3, 8, 9, tolerance=0)


def test_adaptive_maximum_pooling_is_windows_where_it_divides() -> None:
    module = Calls(lambda x: F.adaptive_max_pool2d(x, (2, 3)))
    assert_written_out(module, WINDOW_RULES, 3, 8, 9, tolerance=0)


@pytest.mark.parametrize(
    ("function", "channels"),
    [
        (lambda x: F.pixel_shuffle(x, 3), 18),
        (lambda x: F.pixel_unshuffle(x, 2), 3),
        (lambda x: F.channel_shuffle(x, 3), 12),
    ],
    ids=["pixel_shuffle", "pixel_unshuffle", "channel_shuffle"],
)
def test_pixel_shuffles_are_reshapes(function: Callable[[Tensor], Tensor], channels: int) -> None:
    assert_written_out(Calls(function), PIXEL_RULES, channels, 4, 6, tolerance=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x > 0).all(1),
        lambda x: (x > 0).all(-1, keepdim=True),
        lambda x: (x.round().int()).any(2),
        lambda x: (x > 1).any(1, keepdim=True) | (x > 0).all(1, keepdim=True),
        lambda x: x.flatten(1).round().all(1),
    ],
    ids=["all", "all-kept", "any-of-integers", "both", "all-of-floats"],
)
def test_all_and_any_are_counts(function: Callable[[Tensor], Tensor]) -> None:
    assert_written_out(Calls(function), BOOLEAN_RULES, 3, 2, 3, tolerance=0)


def test_bits_of_booleans_are_logic() -> None:
    def function(x: Tensor) -> Tensor:
        first, second = x > 0, x > 1
        return (first & ~second) | (second ^ (x > 2))

    assert_written_out(Calls(function), LOGICAL_RULES, 3, 4, tolerance=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.one_hot(x.argmax(1), 5),
        lambda x: torch.zeros_like(x).scatter_(1, x.argmax(1, keepdim=True), 2.5),
        lambda x: x.scatter(-1, x.argmin(-1, keepdim=True), -1.0),
    ],
    ids=["one_hot", "scatter_", "scatter"],
)
def test_one_hot_and_single_scatters_are_comparisons(function: Callable[[Tensor], Tensor]) -> None:
    assert_written_out(Calls(function), ONE_HOT_RULES, 5, 3, 4, tolerance=0)


def test_a_scatter_of_several_values_is_left_as_it_is() -> None:
    module, x = Calls(lambda x: x.scatter(1, x.argsort(1)[:, :2], 1.0)), torch.randn(2, 5, dtype=torch.float64)
    program = torch.export.export(module, (x,), strict=False).run_decompositions({})
    torch.testing.assert_close(rewritten(program, ONE_HOT_RULES).module()(x), module(x))


@pytest.mark.parametrize("other", [1, 2.5, -3], ids=str)
def test_a_number_less_a_tensor_keeps_the_tensors_type(other: float) -> None:
    assert_written_out(Calls(lambda x: other - x), SUBTRACTION_RULES, 3)
    assert_written_out(Calls(lambda x: torch.rsub(x, other, alpha=2)), SUBTRACTION_RULES, 3)


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "bare"])
@pytest.mark.parametrize("kept", [True, False], ids=["running", "of-the-batch"])
@pytest.mark.parametrize("axes", [1, 2, 3], ids=["1d", "2d", "3d"])
def test_batch_normalisation_is_a_scale_and_a_shift(axes: int, kept: bool, affine: bool) -> None:
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 1](6, affine=affine, track_running_stats=kept)
    for value in norm.state_dict().values():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.5, 1.5)
    assert_written_out(norm, BATCH_NORM_RULES, 6, *(3, 4, 5)[:axes], tolerance=1e-13)


@pytest.mark.parametrize("how", [{"elementwise_affine": False}, {"bias": False}], ids=str)
def test_a_layer_normalisation_without_weights_gets_some(how: dict[str, bool]) -> None:
    assert_written_out(nn.LayerNorm(6, **how), LAYER_NORM_RULES, 4, 6)


def test_a_call_is_named_with_its_module_and_its_line() -> None:
    model = nn.Sequential(nn.Identity(), Calls(lambda x: torch.trapz(x)))
    program = torch.export.export(model, (torch.randn(2, 5),), strict=False)
    line = Calls.forward.__code__.co_firstlineno + 1
    assert named(calls_of(program)[0]) == f"trapz.dx (in 1, rule_oracle.py:{line})"


@pytest.mark.parametrize("keepdim", [True, False], ids=["kept", "dropped"])
def test_an_extreme_and_its_place_are_found_apart(keepdim: bool) -> None:
    assert_written_out(Calls(lambda x: torch.stack([*map(Tensor.double, x.max(1, keepdim))])), EXTREME_RULES, 5)
    assert_written_out(Calls(lambda x: x.min(-1, keepdim).indices), EXTREME_RULES, 5)


def test_integers_are_cut_at_one_end_without_an_infinity() -> None:
    assert_written_out(Calls(lambda x: (x * 10).long().clamp(max=5)), LIMIT_RULES, 4)
    assert_written_out(Calls(lambda x: (x * 10).long().clamp(min=-3)), LIMIT_RULES, 4)
