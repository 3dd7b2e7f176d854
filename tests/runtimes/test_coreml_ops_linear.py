"""Matrix products, normalisation and reductions against PyTorch, over random shapes and attributes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coreml_oracle import compute, error, values
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

SIDES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
REDUCTIONS = {
    "reduce_mean": torch.mean,
    "reduce_sum": torch.sum,
    "reduce_max": torch.amax,
    "reduce_min": torch.amin,
    "reduce_l2_norm": lambda x, dim, keepdim: torch.linalg.vector_norm(x, 2, dim, keepdim),
    "reduce_sum_square": lambda x, dim, keepdim: x.square().sum(dim, keepdim),
}


def double(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array)).double()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(lead=st.lists(st.integers(1, 4), max_size=3), inside=st.integers(1, 9), outside=st.integers(1, 9))
def test_linear_is_pytorch_s_for_any_leading_axes(lead, inside, outside) -> None:
    x, weight, bias = values(0, *lead, inside), values(1, outside, inside), values(2, outside)
    assert error(compute("linear", x=x, weight=weight, bias=bias), F.linear(*map(double, (x, weight, bias)))) <= 1e-5
    assert error(compute("linear", x=x, weight=weight), F.linear(double(x), double(weight))) <= 1e-5


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    lead=mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3),
    sides=st.tuples(*[st.integers(1, 6)] * 3),
    flip_x=st.booleans(),
    flip_y=st.booleans(),
)
def test_matmul_broadcasts_and_transposes(lead, sides, flip_x, flip_y) -> None:
    rows, inner, columns = sides
    x = values(0, *lead.input_shapes[0], *((inner, rows) if flip_x else (rows, inner)))
    y = values(1, *lead.input_shapes[1], *((columns, inner) if flip_y else (inner, columns)))
    left, right = (double(x).mT if flip_x else double(x)), (double(y).mT if flip_y else double(y))
    got = compute("matmul", x=x, y=y, transpose_x=np.bool_(flip_x), transpose_y=np.bool_(flip_y))
    assert error(got, left @ right) <= 1e-5


def test_matmul_with_a_vector_is_pytorch_s() -> None:
    x, y = values(0, 5), values(1, 2, 5, 3)
    assert error(compute("matmul", x=x, y=y), double(x) @ double(y)) <= 1e-5
    assert error(compute("matmul", x=y, y=x, transpose_x=True, transpose_y=True), double(y).mT @ double(x)) <= 1e-5


@pytest.mark.parametrize("equation", ["nchw,nwhu->nchu", "bhid,bhjd->bhij", "abc,cd->abd"])
def test_einsum_is_pytorch_s(equation) -> None:
    sizes = dict(zip("nchwubijda", (2, 3, 4, 5, 3, 2, 4, 3, 6, 2), strict=True))
    terms = equation.split("->")[0].split(",")
    tensors = [values(seed, *(sizes[letter] for letter in term)) for seed, term in enumerate(terms)]
    expected = torch.einsum(equation, *map(double, tensors))
    assert error(compute("einsum", values=tensors, equation=equation), expected) <= 1e-5


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lead=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    sides=st.tuples(*[st.integers(1, 6)] * 4),
    mask=st.sampled_from([None, "added", "chosen"]),
)
def test_attention_is_pytorch_s_with_every_kind_of_mask(lead, sides, mask) -> None:
    length, source, width, depth = sides
    query, key, value = (
        values(0, *lead, length, width),
        values(1, *lead, source, width),
        values(2, *lead, source, depth),
    )
    masks = {
        None: None,
        "added": values(3, length, source),
        "chosen": np.random.default_rng(3).random((length, source)) > 0.4,
    }
    given_mask = masks[mask]
    if mask == "chosen":
        given_mask[:, 0] = True  # a row that may look nowhere is NaN in PyTorch and here
    inputs = {} if given_mask is None else {"attn_mask": given_mask}
    reference = None if given_mask is None else torch.from_numpy(given_mask)
    expected = F.scaled_dot_product_attention(
        *map(double, (query, key, value)),
        attn_mask=reference.double() if mask == "added" else reference,
    )
    got = compute("scaled_dot_product_attention", query=query, key=key, value=value, **inputs)
    assert error(got, expected) <= 1e-5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shape=st.lists(st.integers(2, 5), min_size=1, max_size=4), data=st.data())
def test_layer_norm_is_pytorch_s_over_the_last_axes(shape, data) -> None:
    count = data.draw(st.integers(1, len(shape)))
    affine = data.draw(st.booleans())
    axes = np.array(data.draw(st.permutations([axis - count for axis in range(count)])), np.int32)
    x, last = values(0, *shape, scale=3) + 7, shape[len(shape) - count :]
    gamma, beta = (values(1, *last), values(2, *last)) if affine else (None, None)
    expected = F.layer_norm(double(x), last, *(None if one is None else double(one) for one in (gamma, beta)), 1e-5)
    got = compute("layer_norm", x=x, axes=axes, gamma=gamma, beta=beta, epsilon=np.float32(1e-5))
    assert error(got, expected) <= 1e-5


def test_layer_norm_over_channels_of_an_image() -> None:
    x, gamma, beta = values(0, 2, 6, 4, 5), values(1, 6), values(2, 6)
    expected = F.layer_norm(double(x).permute(0, 2, 3, 1), [6], double(gamma), double(beta), 1e-6).permute(0, 3, 1, 2)
    got = compute("layer_norm", x=x, axes=[1], gamma=gamma, beta=beta, epsilon=1e-6)
    assert error(got, expected) <= 1e-5


def test_half_layer_norm_takes_its_sums_in_float32() -> None:
    """The sum of squares of 1,024 values near 300 is far beyond a half's range."""
    x = (values(0, 2, 1024) * 300).astype(np.float16)
    got = compute("layer_norm", dtype=np.float16, x=x, axes=[-1], epsilon=np.float16(1e-5))
    assert error(got.astype(np.float32), F.layer_norm(double(x), [1024])) <= 1e-3


@settings(max_examples=40, deadline=None, derandomize=True)
@given(channels=st.integers(1, 6), sides=st.lists(st.integers(1, 5), min_size=1, max_size=3), affine=st.booleans())
def test_batch_norm_is_pytorch_s(channels, sides, affine) -> None:
    x, mean, variance = values(0, 2, channels, *sides), values(1, channels), np.abs(values(2, channels)) + 0.1
    gamma, beta = (values(3, channels), values(4, channels)) if affine else (None, None)
    scale = [None if one is None else double(one) for one in (gamma, beta)]
    expected = F.batch_norm(double(x), double(mean), double(variance), *scale, eps=1e-4)
    got = compute("batch_norm", x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=1e-4)
    assert error(got, expected) <= 1e-5


@settings(max_examples=30, deadline=None, derandomize=True)
@given(channels=st.integers(1, 5), sides=st.lists(st.integers(2, 5), min_size=1, max_size=2))
def test_instance_norm_is_pytorch_s(channels, sides) -> None:
    x, gamma, beta = values(0, 2, channels, *sides), values(1, channels), values(2, channels)
    expected = F.instance_norm(double(x), weight=double(gamma), bias=double(beta))
    assert error(compute("instance_norm", x=x, gamma=gamma, beta=beta), expected) <= 1e-5


def test_l2_norm_divides_by_the_norm_of_the_last_three_axes() -> None:
    x = values(0, 2, 3, 4, 5)
    expected = double(x) / (double(x).square().sum((1, 2, 3), keepdim=True) + 1e-6).sqrt()
    assert error(compute("l2_norm", x=x, epsilon=1e-6), expected) <= 1e-5


@pytest.mark.parametrize("name", sorted(REDUCTIONS))
@settings(max_examples=20, deadline=None, derandomize=True)
@given(shape=SIDES, keep=st.booleans(), data=st.data())
def test_reductions_are_pytorch_s_over_any_axes(name, shape, keep, data) -> None:
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    signed = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in sorted(axes)]
    x = values(0, *shape)
    expected = REDUCTIONS[name](double(x), dim=signed, keepdim=keep)
    assert error(compute(name, x=x, axes=np.array(signed, np.int32), keep_dims=np.bool_(keep)), expected) <= 1e-5


def test_a_reduction_without_axes_takes_all() -> None:
    x = values(0, 2, 3, 4)
    assert error(compute("reduce_sum", x=x), x.astype(np.float64).sum()) <= 1e-5
    assert error(compute("reduce_prod", x=x, keep_dims=True), x.astype(np.float64).prod(keepdims=True)) <= 1e-5


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_argmax_is_the_first_of_equals(axis, keep) -> None:
    x = np.random.default_rng(0).integers(0, 3, (4, 5, 3)).astype(np.float32)
    got = compute("reduce_argmax", dtype=np.int32, x=x, axis=axis, keep_dims=keep)
    assert got.dtype == np.int32
    assert (got == np.argmax(x, axis=axis, keepdims=keep)).all()
    least = compute("reduce_argmin", dtype=np.int32, x=x, axis=axis, keep_dims=keep)
    assert (least == np.argmin(x, axis=axis, keepdims=keep)).all()


def test_half_sums_are_not_rounded_on_the_way() -> None:
    x = np.ones((1, 4096), np.float16)  # a running half would stop at 2,048
    assert compute("reduce_sum", dtype=np.float16, x=x, axes=[1])[0] == 4096
    weight = np.ones((1, 4096), np.float16)
    assert compute("linear", dtype=np.float16, x=x, weight=weight)[0, 0] == 4096
