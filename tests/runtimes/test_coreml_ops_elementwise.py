"""Elementwise operations and activations against PyTorch, and the rounding that they all share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coreml_oracle import compute, error, values
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from edgevit.runtimes.coreml.ops import OPERATIONS
from edgevit.runtimes.coreml.ops.erf import erf, erfc_of_positive, gelu
from edgevit.runtimes.coreml.ops.half import to_half
from edgevit.runtimes.coreml.ops.registry import HALVES

BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.true_divide,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
}
COMPARISONS = {
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
}
LOGIC = {"logical_and": torch.logical_and, "logical_or": torch.logical_or, "logical_xor": torch.logical_xor}
UNARY = {
    "abs": torch.abs,
    "ceil": torch.ceil,
    "floor": torch.floor,
    "round": torch.round,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "square": torch.square,
    "sign": torch.sign,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": F.softplus,
    "softsign": F.softsign,
}
ATTRIBUTED = {
    "leaky_relu": ({"alpha": 0.1}, lambda x: F.leaky_relu(x, 0.1)),
    "elu": ({"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
    "clip": ({"alpha": -1.0, "beta": 0.5}, lambda x: x.clamp(-1.0, 0.5)),
    "threshold": ({"alpha": 0.3}, lambda x: x.clamp(min=0.3)),
    "thresholded_relu": ({"alpha": -3.0}, lambda x: F.threshold(x, -3.0, 0.0)),
    "sigmoid_hard": ({"alpha": 1 / 6, "beta": 0.5}, F.hardsigmoid),
    "gelu": ({"mode": "EXACT"}, F.gelu),
    "gelu tanh": ({"mode": "TANH_APPROXIMATION"}, lambda x: F.gelu(x, approximate="tanh")),
    "gelu sigmoid": ({"mode": "SIGMOID_APPROXIMATION"}, lambda x: x * torch.sigmoid(1.702 * x)),
}
POSITIVE = {
    "sqrt": ({}, torch.sqrt),
    "rsqrt": ({"epsilon": 1e-12}, torch.rsqrt),
    "inverse": ({"epsilon": 1e-4}, lambda x: 1 / (x + 1e-4)),
    "log": ({"epsilon": 1e-45}, torch.log),
}
BROADCAST = mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4)


@pytest.mark.parametrize("name", sorted(BINARY))
@settings(max_examples=15, deadline=None, derandomize=True)
@given(shapes=BROADCAST)
def test_arithmetic_broadcasts_as_pytorch_s(name, shapes) -> None:
    x, y = values(0, *shapes.input_shapes[0]), values(1, *shapes.input_shapes[1])
    expected = BINARY[name](torch.from_numpy(np.asarray(x)), torch.from_numpy(np.asarray(y)))
    got = compute(name, x=x, y=y)
    assert got.dtype == np.float32
    assert error(got, expected) <= 1e-6


@pytest.mark.parametrize("name", sorted(COMPARISONS))
@settings(max_examples=8, deadline=None, derandomize=True)
@given(shapes=BROADCAST)
def test_comparisons_give_booleans(name, shapes) -> None:
    x = np.random.default_rng(0).integers(0, 3, shapes.input_shapes[0], dtype=np.int32)
    y = np.random.default_rng(1).integers(0, 3, shapes.input_shapes[1], dtype=np.int32)
    expected = COMPARISONS[name](torch.tensor(x), torch.tensor(y)).numpy()
    got = compute(name, dtype=np.bool_, x=x, y=y)
    assert got.dtype == np.bool_
    assert (got == expected).all()


@pytest.mark.parametrize("name", sorted(LOGIC))
def test_logic_is_pytorch_s(name) -> None:
    x, y = np.array([[False], [True]]), np.array([False, True])
    expected = LOGIC[name](torch.from_numpy(x), torch.from_numpy(y)).numpy()
    assert (compute(name, dtype=np.bool_, x=x, y=y) == expected).all()
    assert (compute("logical_not", dtype=np.bool_, x=x) == ~x).all()


def test_shape_arithmetic_stays_whole() -> None:
    sides = np.array([7, 8, -9], np.int32)
    assert compute("floor_div", dtype=np.int32, x=sides, y=np.int32(2)).tolist() == [3, 4, -5]
    assert compute("real_div", dtype=np.int32, x=sides, y=np.int32(2)).tolist() == [3, 4, -4]
    assert compute("mul", dtype=np.int32, x=sides, y=np.int32(3)).dtype == np.int32


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.0])
def test_pow_is_pytorch_s(exponent) -> None:
    x = np.abs(values(0, 50)) + 0.1
    assert error(compute("pow", x=x, y=np.float32(exponent)), torch.from_numpy(x) ** exponent) <= 1e-6


@pytest.mark.parametrize("name", sorted(UNARY))
def test_unary_functions_are_pytorch_s(name) -> None:
    x = np.concatenate([values(0, 3, 400, scale=3), np.zeros((3, 2), np.float32)], axis=1)
    assert error(compute(name, x=x), UNARY[name](torch.from_numpy(x).double())) <= 3e-7


@pytest.mark.parametrize("name", sorted(ATTRIBUTED))
def test_activations_with_attributes_are_pytorch_s(name) -> None:
    inputs, reference = ATTRIBUTED[name]
    x = values(0, 3, 500, scale=4)
    got = compute(name.partition(" ")[0], x=x, **inputs)
    assert error(got, reference(torch.from_numpy(x).double())) <= 3e-7


@pytest.mark.parametrize("name", sorted(POSITIVE))
def test_functions_of_positive_numbers_are_pytorch_s(name) -> None:
    inputs, reference = POSITIVE[name]
    x = np.abs(values(0, 300)) + 1e-3
    assert error(compute(name, x=x, **inputs), reference(torch.from_numpy(x).double())) <= 3e-7


@settings(max_examples=20, deadline=None, derandomize=True)
@given(channels=st.integers(1, 5), rank=st.integers(1, 3))
def test_prelu_has_a_slope_by_channel(channels, rank) -> None:
    x, alpha = values(0, 2, channels, *[3] * rank), values(1, channels)
    assert error(compute("prelu", x=x, alpha=alpha), F.prelu(torch.from_numpy(x), torch.from_numpy(alpha))) <= 1e-6


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_softmax_is_pytorch_s_on_any_axis(shape, data) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = values(0, *shape, scale=30)
    expected = torch.softmax(torch.from_numpy(x).double(), axis)
    assert error(compute("softmax", x=x, axis=np.int32(axis)), expected) <= 1e-6


def test_select_broadcasts() -> None:
    cond = np.array([[True], [False]])
    got = compute("select", cond=cond, a=np.float32([1, 2, 3]), b=np.float32(9))
    assert got.tolist() == [[1, 2, 3], [9, 9, 9]]


def test_erf_has_a_small_relative_error_everywhere() -> None:
    x = np.concatenate([np.linspace(-7, 7, 40_001), np.geomspace(1e-30, 1, 2_000)])
    exact = np.array([math.erf(one) for one in x])
    assert np.abs(erf(x) - exact).max() <= 1e-7
    assert (np.abs(erf(x) / np.where(exact == 0, 1, exact) - 1)[exact != 0]).max() <= 1e-7
    assert erf(np.array([0.0, -np.inf, np.inf])).tolist() == [0, -1, 1]
    assert np.isnan(erf(np.array([np.nan])))


def test_the_tail_of_erfc_keeps_its_relative_error() -> None:
    z = np.linspace(0, 26, 20_001)
    exact = np.array([math.erfc(one) for one in z])
    assert np.abs(erfc_of_positive(z) / exact - 1).max() <= 1e-8


def test_gelu_of_a_negative_number_does_not_cancel() -> None:
    x = np.linspace(-12, -3, 1_001)
    exact = np.array([0.5 * one * math.erfc(-one / math.sqrt(2)) for one in x])
    assert np.abs(gelu(x) / exact - 1).max() <= 2e-7


def test_float32_becomes_the_nearest_half_for_every_neighbourhood_of_a_half() -> None:
    halves = np.arange(HALVES, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = halves[np.isfinite(halves)]
    ordered = np.sort(halves)
    between = (ordered[:-1] + ordered[1:]) / 2
    near = [np.nextafter(between, np.float32(end)) for end in (-np.inf, np.inf)]
    special = np.float32([np.inf, -np.inf, 65519.99, 65520, -65520, 1e30, 1e-30, -1e-30, 0.0, -0.0])
    for numbers in (halves, between, *near, special):
        with np.errstate(over="ignore"):
            expected = numbers.astype(np.float16)
        assert (to_half(numbers).view(np.uint16) == expected.view(np.uint16)).all()
    assert np.isnan(to_half(np.float32([np.nan, -np.nan]))).all()
    assert to_half(np.float32(0.1)).shape == ()
    assert to_half(np.empty((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("name", sorted(name for name, row in OPERATIONS.items() if row.kind == "maps"))
def test_a_large_half_tensor_gives_what_its_elements_give_alone(name) -> None:
    """Large float16 tensors go through a table; the values must be the same bits."""
    x = np.random.default_rng(0).permutation(np.arange(HALVES, dtype=np.uint16)).view(np.float16)
    large = np.concatenate([x, x[:1]]).reshape(1, -1)
    inputs = {
        parameter: np.float16(0.3) if parameter != "mode" else "EXACT"
        for parameter in OPERATIONS[name].parameters - {"x"}
    }
    alone = compute(name, dtype=np.float16, x=x, **inputs)
    together = compute(name, dtype=np.float16, x=large, **inputs)
    same = (together[0, :-1].view(np.uint16) == alone.view(np.uint16)) | (np.isnan(alone) & np.isnan(together[0, :-1]))
    assert same.all()


def test_a_half_result_is_the_float32_one_rounded_once() -> None:
    x, y = values(0, 400).astype(np.float16), values(1, 400).astype(np.float16)
    got = compute("real_div", dtype=np.float16, x=x, y=y)
    assert (got == (x.astype(np.float64) / y.astype(np.float64)).astype(np.float16)).mean() > 0.999
    assert np.isposinf(compute("exp", dtype=np.float16, x=np.float16([12])))
    assert np.isposinf(compute("mul", dtype=np.float16, x=np.float16([300]), y=np.float16([300])))


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [(2.9, "int32", 2), (-2.9, "int32", -2), (0.1, "bool", True), (1e6, "float16", np.inf), (7, "float32", 7.0)],
)
def test_cast_rounds_to_the_type_of_the_output(value, dtype, expected) -> None:
    inputs = {"x": np.array([value], np.float32), "dtype": dtype}
    (got,) = OPERATIONS["cast"].call(inputs, [np.dtype(dtype)])
    assert got.dtype == np.dtype(dtype)
    assert got[0] == expected
