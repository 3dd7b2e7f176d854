"""The plan: grids and integers, in numpy alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgevit.quantize.plan import (
    APPLE,
    ARM,
    MIDDLE,
    NVIDIA,
    X86,
    Calibration,
    Grid,
    Layer,
    QuantPlan,
    Range,
    Weight,
    added,
    bias_integers,
    halves,
    sum_scales,
    weight_integers,
    weight_scales,
    zero_point,
)

CALIBRATION = Calibration(data="digits", rows=16, sha256="0" * 64, observer="minmax")


def layer(**changed: object) -> Layer:
    found = {"operator": "linear", "modules": ("fc",), "input": Range(low=-1.0, high=1.0), "output": None}
    return Layer.model_validate({**found, "scales": (0.01, 0.02), **changed})


def test_a_grid_holds_zero_and_both_ends_of_its_range() -> None:
    grid = Range(low=-1.0, high=3.0).grid()
    ends = (np.array([0, 255, grid.zero_point]) - grid.zero_point) * grid.scale
    np.testing.assert_allclose(ends, [-1, 3, 0], atol=grid.scale / 2)
    assert grid.integers(np.array([0.0])) == grid.zero_point


@given(st.floats(-1e6, 0, width=32), st.floats(0, 1e6, width=32))
def test_a_symmetric_grid_holds_both_ends_and_zero_in_its_middle(low: float, high: float) -> None:
    grid = Range(low=low, high=high, symmetric=True).grid()
    assert grid.zero_point == MIDDLE
    assert zero_point(grid, NVIDIA) == 0
    ends = np.array([low, 0.0, high], np.float32)
    found = (grid.integers(ends).astype(np.float64) - MIDDLE) * grid.scale
    assert found[1] == 0
    assert np.abs(found - ends).max() <= grid.scale * (0.5 + 1e-5)


def test_an_engine_changes_grids_and_no_range() -> None:
    plan = QuantPlan(
        layers={"a": layer(operator="conv", output=Range(low=0.0, high=4.0), relu=True)},
        kept={},
        calibration=CALIBRATION,
    )
    signed, symmetric = plan.encoded(ARM), plan.encoded(NVIDIA)
    assert signed.layers["a"] == plan.layers["a"]
    assert signed.sha256() != plan.sha256()
    seen = plan.layers["a"].input
    assert (symmetric.layers["a"].input.low, symmetric.layers["a"].input.high) == (seen.low, seen.high)
    assert symmetric.layers["a"].input.grid() != seen.grid()
    assert symmetric.layers["a"].output is None
    assert symmetric.encoded(NVIDIA) == symmetric
    for one in (X86, ARM, NVIDIA):
        assert QuantPlan.model_validate_json(plan.encoded(one).text()) == plan.encoded(one)
        assert zero_point(seen.grid(), one).dtype == one.activations


def test_values_are_rounded_half_to_even_and_put_to_the_ends() -> None:
    grid = Grid(scale=1.0, zero_point=10)
    assert grid.integers(np.array([0.5, 1.5, -0.5, 400.0, -400.0])).tolist() == [10, 12, 10, 255, 0]


def test_a_scale_is_a_float32_number_and_survives_json() -> None:
    made = QuantPlan(layers={"fc.weight": layer()}, kept={}, calibration=CALIBRATION)
    scale = made.layers["fc.weight"].input.grid().scale
    assert scale == float(np.float32(scale))
    assert QuantPlan.model_validate_json(made.text()).sha256() == made.sha256()


def test_the_largest_weight_of_every_channel_is_the_last_level() -> None:
    values = np.array([[0.5, -1.0], [0.25, 0.125], [0.0, 0.0]], np.float32)
    scales = weight_scales(Weight(values, None), 0.1)
    found = weight_integers(layer(scales=tuple(map(float, scales))), values)
    assert found.tolist() == [[64, -127], [127, 64], [0, 0]]


def test_a_bias_far_above_its_weights_still_fits_in_int32() -> None:
    weight = Weight(np.full((2, 3), 1e-9, np.float32), np.array([5.0, -7.0], np.float32))
    given = Range(low=0.0, high=1.0)
    made = layer(input=given, scales=tuple(map(float, weight_scales(weight, given.grid().scale))))
    assert weight.bias is not None
    np.testing.assert_allclose(bias_integers(made, weight.bias) * sum_scales(made), weight.bias, rtol=1e-6)


def test_a_layer_back_in_float_says_why_and_changes_the_hash() -> None:
    made = QuantPlan(layers={"a": layer(), "b": layer()}, kept={}, calibration=CALIBRATION)
    left = made.without({"a": "it cost 2 points"})
    assert set(left.layers) == {"b"}
    assert left.kept == {"a": "it cost 2 points"}
    assert left.sha256() != made.sha256()


def test_a_weight_is_not_both_integer_and_float() -> None:
    with pytest.raises(ValidationError, match="stays float"):
        QuantPlan(layers={"a": layer()}, kept={"a": "why"}, calibration=CALIBRATION)


@pytest.mark.parametrize("wrong", [{"scales": (0.0,)}, {"input": {"low": 1.0, "high": 2.0}}, {"bits": 5}, {"x": 1}])
def test_a_layer_that_cannot_be_right_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        layer(**wrong)


@given(st.floats(2.0**-24, 65504.0, width=32))
def test_a_scale_in_half_is_the_next_that_float16_holds_and_reaches_as_far(step: float) -> None:
    found = halves(np.array(step, np.float32))
    assert found == np.float16(found)
    assert found >= np.float32(step)
    assert found == np.float32(step) or np.nextafter(np.float16(found), np.float16(0)) < np.float32(step)
    assert halves(found) == found


def test_on_the_grids_of_core_ml_scales_are_halves_and_zero_is_the_middle() -> None:
    made = QuantPlan(layers={"a": layer()}, kept={}, calibration=CALIBRATION).encoded(APPLE)
    grid = made.layers["a"].input.grid()
    assert grid.zero_point == MIDDLE
    assert grid.scale == float(np.float16(grid.scale))
    assert all(scale == float(np.float16(scale)) for scale in made.layers["a"].scales)
    assert made.layers["a"].output is None
    assert made.encoded(APPLE) == made


def test_what_float16_does_not_hold_stays_float() -> None:
    wide = layer(input=Range(low=-1e6, high=1.0))
    made = QuantPlan(layers={"a": wide, "b": layer()}, kept={}, calibration=CALIBRATION)
    assert made.encoded(APPLE).kept == {"a": "its numbers are larger than float16 holds"}
    assert set(made.encoded(X86).layers) == {"a", "b"}


def test_a_bias_in_half_is_the_nearest_float16_and_not_a_number_of_steps() -> None:
    made, bias = layer(scales=(0.5,)), np.array([0.1], np.float32)
    found = added(made, bias, APPLE) * sum_scales(made)
    np.testing.assert_allclose(found, np.float16(0.1), rtol=1e-12)
    assert float(added(made, bias, X86)[0]).is_integer()


@given(st.floats(-1e6, 0, width=32), st.floats(0, 1e6, width=32), st.integers(0, 2**32 - 1))
def test_the_nearest_numbers_of_a_grid_are_of_the_same_integers_and_stay_where_they_are(
    low: float, high: float, seed: int
) -> None:
    grid = Range(low=low, high=high).grid()
    values = np.random.default_rng(seed).uniform(low, high, 64).astype(np.float32)
    found = grid.nearest(values)
    assert found.dtype == np.float32
    assert (grid.integers(found) == grid.integers(values)).all()
    assert (grid.nearest(found) == found).all()
