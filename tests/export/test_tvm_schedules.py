"""Scheduled kernels compute what PyTorch computes, on sizes that no tile divides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("tvm")
from tvm import te, tirx, topi
from tvm_kernels import function, run, run_function, tensor

from edgevit.export.tvm import operators, schedules, targets

TOLERANCE = 2e-6


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(got: np.ndarray, wanted: torch.Tensor | np.ndarray) -> None:
    expected = np.asarray(wanted, dtype=np.float64)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


def double(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


@pytest.mark.parametrize("constant", [True, False], ids=["packed at build time", "packed when run"])
@pytest.mark.parametrize(
    ("rows", "steps", "columns"), [(1, 5, 3), (1, 64, 10), (7, 33, 17), (13, 100, 40), (197, 64, 65), (196, 768, 24)]
)
def test_a_matrix_product_of_any_size_is_right(rows: int, steps: int, columns: int, constant: bool) -> None:
    first, second = tensor("a", rows, steps), tensor("b", steps, columns)
    a, b = values(rows, steps), values(steps, columns, seed=1)
    got = run([first, second], operators.matmul(first, second), [a, b], constants=[1] if constant else [])
    assert_close(got, double(a) @ double(b))


@pytest.mark.parametrize(
    ("first", "second"), [((3, 17, 9), (3, 9, 21)), ((2, 3, 17, 9), (1, 3, 9, 5)), ((4, 5, 6), (6, 7))]
)
def test_batch_axes_of_a_matrix_product_are_broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    x, y = tensor("a", *first), tensor("b", *second)
    a, b = values(*first), values(*second, seed=1)
    assert_close(run([x, y], operators.matmul(x, y), [a, b]), double(a) @ double(b))


def test_bias_activation_and_residual_are_computed_in_the_tile() -> None:
    x, w, bias, rest = tensor("x", 29, 31), tensor("w", 31, 26), tensor("b", 26), tensor("r", 29, 26)
    product = operators.matmul(x, w)
    active = te.compute(product.shape, lambda m, n: operators.gelu(product[m, n] + bias[n]))
    output = te.compute(product.shape, lambda m, n: active[m, n] * tirx.const(0.5, "float32") + rest[m, n])
    a, b, c, d = values(29, 31), values(31, 26, seed=1), values(26, seed=2), values(29, 26, seed=3)
    func = function([x, w, bias, rest], output, [1, 2])
    assert_close(run_function(func, [a, b, c, d]), F.gelu(double(a) @ double(b) + double(c)) * 0.5 + double(d))
    assert "matmul[" not in schedules.schedule(func, targets.host(1)).script(), "the product is never in memory"


def test_a_result_that_a_wider_value_reads_is_kept_first() -> None:
    x, w, wide = tensor("x", 1, 12), tensor("w", 12, 10), tensor("y", 6, 10)
    gate = operators.matmul(x, w)
    output = te.compute((6, 10), lambda m, n: tirx.sigmoid(gate[0, n]) * wide[m, n])
    a, b, c = values(1, 12), values(12, 10, seed=1), values(6, 10, seed=2)
    assert_close(run([x, w, wide], output, [a, b, c]), torch.sigmoid(double(a) @ double(b)) * double(c))


def squared(x: Any) -> Any:
    """x · (x + 1): reads its operand twice, so that the operand is kept in memory."""
    return te.compute(x.shape, lambda *at: x(*at) * (x(*at) + tirx.const(1.0, "float32")))


def test_values_kept_one_after_the_other_are_not_computed_from_themselves() -> None:
    """24 columns are no whole number of 16 lanes, and TVM gives the second value the memory of the first."""
    x = tensor("x", 6, 24)
    a = values(6, 24)
    one = double(a) * (double(a) + 1)
    two = one * (one + 1)
    assert_close(run([x], squared(squared(squared(x))), [a]), two * (two + 1))


@pytest.mark.parametrize("columns", [24, 40, 23])
def test_what_follows_a_gate_is_not_computed_twice_in_place(columns: int) -> None:
    x, w, wide, rest = tensor("x", 1, 12), tensor("w", 12, columns), tensor("y", 9, columns), tensor("r", 9, columns)
    gate = operators.matmul(x, w)
    gated = te.compute((9, columns), lambda m, n: tirx.sigmoid(gate[0, n]) * wide[m, n])
    output = squared(
        squared(te.compute((9, columns), lambda m, n: gated[m, n] * tirx.const(0.5, "float32") + rest[m, n]))
    )
    a, b, c, d = values(1, 12), values(12, columns, seed=1), values(9, columns, seed=2), values(9, columns, seed=3)
    first = torch.sigmoid(double(a) @ double(b)) * double(c) * 0.5 + double(d)
    second = first * (first + 1)
    assert_close(run([x, w, wide, rest], output, [a, b, c, d]), second * (second + 1))


@pytest.mark.parametrize("columns", [24, 40])
def test_a_tile_is_not_finished_over_the_values_that_it_is_finished_with(columns: int) -> None:
    """What is kept before the product has the shape of its result, and is read for the last time beside it."""
    x, w, y = tensor("x", 9, 12), tensor("w", 12, columns), tensor("y", 9, columns)
    kept, product = squared(y), operators.matmul(x, w)
    mixed = te.compute((9, columns), lambda m, n: product[m, n] + kept[m, n] * kept[m, n])
    output = te.compute((9, columns), lambda m, n: mixed[m, n] * mixed[8 - m, n])
    a, b, c = values(9, 12), values(12, columns, seed=1), values(9, columns, seed=2)
    twice = double(c) * (double(c) + 1)
    wanted = double(a) @ double(b) + twice**2
    assert_close(run([x, w, y], output, [a, b, c]), wanted * wanted.flip(0))


@pytest.mark.parametrize("columns", [24, 40])
def test_values_kept_for_a_row_are_not_computed_from_themselves(columns: int) -> None:
    x = tensor("x", 6, columns)
    one = te.compute(x.shape, lambda *at: tirx.sigmoid(x(*at)))
    two = te.compute(x.shape, lambda *at: tirx.tanh(one(*at)))
    k = te.reduce_axis((0, columns), "k")
    total = te.compute((6,), lambda m: te.sum(two[m, k], axis=k))
    output = te.compute(x.shape, lambda m, n: two[m, n] * total[m])
    a = values(6, columns)
    wanted = torch.tanh(torch.sigmoid(double(a)))
    assert_close(run([x], output, [a]), wanted * wanted.sum(1, keepdim=True))


CONVOLUTIONS = [
    # size, channels in, out, kernel, stride, padding, dilation, groups
    (9, 3, 5, 3, 2, 1, 1, 1),
    (14, 24, 40, 1, 1, 0, 1, 1),
    (11, 8, 12, 3, 1, 1, 1, 1),
    (13, 6, 9, 3, 1, 2, 2, 1),
    (12, 10, 10, 3, 1, 1, 1, 10),
    (15, 35, 35, 5, 2, 2, 1, 35),
    (10, 8, 16, 3, 1, 1, 1, 8),
    (8, 12, 24, 3, 2, 1, 1, 3),
    (16, 3, 7, 4, 4, 0, 1, 1),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_a_convolution_is_right(case: tuple[int, ...]) -> None:
    size, inputs, outputs, side, stride, padding, dilation, groups = case
    x, w = tensor("x", 2, size, size + 1, inputs), tensor("w", side, side, inputs // groups, outputs)
    a, b = values(2, size, size + 1, inputs), values(side, side, inputs // groups, outputs, seed=1)
    pads = [padding] * 4
    output = operators.convolution(x, w, [stride] * 2, pads, [dilation] * 2, groups)
    wanted = F.conv2d(
        double(a).permute(0, 3, 1, 2), double(b).permute(3, 2, 0, 1), None, stride, padding, dilation, groups
    ).permute(0, 2, 3, 1)
    assert_close(run([x, w], output, [a, b], constants=[1]), wanted)


@pytest.mark.parametrize("columns", [1, 5, 8, 197, 1000])
def test_softmax_of_any_row_is_right(columns: int) -> None:
    x = tensor("x", 3, 7, columns)
    a = 5 * values(3, 7, columns)
    assert_close(run([x], operators.softmax(x), [a]), torch.softmax(double(a), -1))


def test_softmax_along_the_other_axis_of_a_square_is_right() -> None:
    x, a = tensor("x", 3, 6, 6), 5 * values(3, 6, 6)
    assert_close(run([x], topi.nn.softmax(x, axis=1), [a]), torch.softmax(double(a), 1))


@pytest.mark.parametrize("columns", [3, 8, 48, 193])
def test_layer_normalisation_of_any_row_is_right(columns: int) -> None:
    x, gamma, beta = tensor("x", 2, 5, columns), tensor("g", columns), tensor("b", columns)
    a, g, b = values(2, 5, columns) + 3, values(columns, seed=1), values(columns, seed=2)
    wanted = F.layer_norm(double(a), (columns,), double(g), double(b), 1e-6)
    assert_close(run([x, gamma, beta], operators.layer_norm(x, gamma, beta, 1e-6), [a, g, b]), wanted)


def test_every_choice_of_the_knobs_is_right_or_refused() -> None:
    x, w = tensor("x", 50, 24), tensor("w", 24, 40)
    a, b = values(50, 24), values(24, 40, seed=1)
    func = function([x, w], operators.matmul(x, w), [1])
    knobs = schedules.knobs(func, targets.host(1))
    assert {"rows", "vectors", "unroll"} <= knobs.keys()
    taken = 0
    for name, candidates in knobs.items():
        for value in candidates:
            try:
                got = run_function(func, [a, b], choice={name: value})
            except ValueError:
                continue
            taken += 1
            assert_close(got, double(a) @ double(b))
    assert taken > len(knobs)


@pytest.mark.parametrize("choice", [{"rows": 99}, {"colour": 3}, {"unroll": 0}], ids=str)
def test_an_impossible_choice_is_refused(choice: dict[str, int]) -> None:
    x, w = tensor("x", 50, 24), tensor("w", 24, 40)
    func = function([x, w], operators.matmul(x, w), [1])
    with pytest.raises(ValueError, match=r"knob|fit|impossible"):
        schedules.schedule(func, targets.host(1), choice)


def test_the_first_value_of_every_knob_is_the_rules_own() -> None:
    x, w = tensor("x", 197, 192), tensor("w", 192, 768)
    func, target = function([x, w], operators.matmul(x, w), [1]), targets.host(1)
    own = {name: candidates[0] for name, candidates in schedules.knobs(func, target).items()}
    assert same(schedules.schedule(func, target), schedules.schedule(func, target, own))


def same(first: Any, second: Any) -> bool:
    return bool(first.script() == second.script())


def test_the_same_computation_has_the_same_key_and_another_size_another() -> None:
    def product(name: str, columns: int) -> Any:
        x, w = tensor(name, 5, 6), tensor("w", 6, columns)
        return function([x, w], operators.matmul(x, w), [1])

    named = product("x", 7).with_attr("global_symbol", "fused_matmul")
    assert schedules.workload_key(named) == schedules.workload_key(product("other", 7))
    assert schedules.workload_key(named) != schedules.workload_key(product("x", 8))


def test_threads_change_nothing_in_the_result() -> None:
    x, w = tensor("x", 197, 192), tensor("w", 192, 96)
    a, b = values(197, 192), values(192, 96, seed=1)
    one, two = (run([x, w], operators.matmul(x, w), [a, b], constants=[1], threads=count) for count in (1, 2))
    np.testing.assert_array_equal(one, two)
