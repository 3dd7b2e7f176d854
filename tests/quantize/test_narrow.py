"""Weights in few bits: what they stand for, in numpy alone."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.errors import UsageError
from edgevit.quantize.asked import quantizing_of
from edgevit.quantize.narrow import checks, encoded, stored
from edgevit.quantize.plan import STORED, Calibration, Layer, QuantPlan, Range, Weight
from edgevit.request import ExportRequest, ModelChoice

FOUR = STORED.model_copy(update={"weights": 4})
PALETTE = FOUR.model_copy(update={"palettes": True})


def planned(values: np.ndarray, encoding: object) -> QuantPlan:
    layer = Layer(
        operator="linear", modules=("fc",), input=Range(low=0, high=1), output=None, scales=(1.0,) * len(values)
    )
    calibration = Calibration(data="digits", rows=16, sha256="0" * 64, observer="minmax")
    plan = QuantPlan(layers={"fc.weight": layer}, kept={}, calibration=calibration)
    return encoded(plan, {"fc.weight": Weight(values, None)}, encoding)  # type: ignore[arg-type]


def gaussian(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("floats", ["float32", "float16"])
@pytest.mark.parametrize("encoding", [STORED, FOUR, PALETTE], ids=["w8", "w4", "palette"])
def test_a_part_of_a_weight_stands_for_that_part_of_the_whole(encoding: object, floats: str) -> None:
    values = gaussian(12, 64)
    given = encoding.model_copy(update={"floats": floats})  # type: ignore[attr-defined]
    layer = planned(values, given).layers["fc.weight"]
    whole = stored(layer, values, given).values
    np.testing.assert_array_equal(stored(layer, values[4:8], given).values, whole[4:8])
    assert checks(whole) == layer.checks
    assert np.abs(whole - values).max() < (0.03 if encoding is STORED else 0.8)


def test_groups_are_nearer_than_channels_and_a_table_than_a_grid() -> None:
    values = gaussian(16, 128) ** 3
    errors = {}
    for name, encoding in {"groups": FOUR, "palette": PALETTE}.items():
        layer = planned(values, encoding).layers["fc.weight"]
        errors[name] = float(((stored(layer, values, encoding).values - values) ** 2).mean())
    scales = np.abs(values).max() / 7
    grid = float(((np.rint(values / scales) * scales - values) ** 2).mean())
    channels = np.abs(values).max(axis=1, keepdims=True) / 7
    by_channel = float(((np.rint(values / channels) * channels - values) ** 2).mean())
    assert errors["groups"] < by_channel
    assert errors["palette"] < grid / 1.5


def test_few_inputs_keep_eight_bits() -> None:
    layer = planned(gaussian(8, 3, 4, 4), FOUR).layers["fc.weight"]
    assert (layer.bits, layer.group) == (8, None)
    assert planned(gaussian(8, 48), FOUR).layers["fc.weight"].group == 24


def test_what_half_does_not_hold_stays_float_and_zeros_stay_zeros() -> None:
    half = FOUR.model_copy(update={"floats": "float16"})
    assert planned(gaussian(4, 32) * 1e6, half).kept == {"fc.weight": "its numbers are larger than float16 holds"}
    for encoding in (STORED, FOUR, PALETTE, half):
        layer = planned(np.zeros((4, 32), np.float32), encoding).layers["fc.weight"]
        assert not stored(layer, np.zeros((4, 32), np.float32), encoding).values.any()


def test_a_zero_has_no_sign_and_a_changed_number_is_seen() -> None:
    values = gaussian(3, 4)
    values[0, 0] = 0.0
    other = values.copy()
    other[0, 0] = -0.0
    assert checks(values) == checks(other)
    other[2, 3] = np.nextafter(other[2, 3], np.float32(9))
    assert [a == b for a, b in zip(checks(values), checks(other), strict=True)] == [True, True, False]


@pytest.mark.parametrize("asked", [{"observer": "mse"}, {"quantizer": "plain"}], ids=["observer", "quantizer"])
def test_what_is_of_activations_is_not_asked_of_weights_alone(asked: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(asked))} is of activations"):
        ExportRequest(ModelChoice("vit_nano"), ("onnx",), precision="w8", quantizing=quantizing_of(asked))
