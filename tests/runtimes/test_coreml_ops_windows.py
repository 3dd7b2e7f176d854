"""Convolution and pooling against PyTorch, over random shapes and attributes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coreml_oracle import compute, error, values
from hypothesis import assume, given, settings
from hypothesis import strategies as st

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d}
MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d}
PADS = st.integers(0, 3)
PADDINGS = ([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 2, 0], [3, 0, 0, 3])


def per_axis(draw, rank: int, low: int, high: int) -> list[int]:
    return [draw(st.integers(low, high)) for _ in range(rank)]


def check_conv(x, weight, bias, strides, pads, dilations, groups) -> None:
    rank = x.ndim - 2
    got = compute(
        "conv",
        x=x,
        weight=weight,
        bias=bias,
        strides=strides,
        pad_type="custom",
        pad=pads,
        dilations=dilations,
        groups=groups,
    )
    padded = F.pad(torch.from_numpy(x), [side for axis in reversed(range(rank)) for side in pads[2 * axis :][:2]])
    expected = CONVOLVE[rank](
        padded.double(),
        torch.from_numpy(weight).double(),
        None if bias is None else torch.from_numpy(bias).double(),
        stride=strides,
        dilation=dilations,
        groups=groups,
    )
    assert got.dtype == np.float32
    assert error(got, expected) <= 1e-5


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_conv_is_pytorch_s_for_every_padding_stride_dilation_and_group(groups) -> None:
    """Every combination of them on a picture that is not square."""
    x, cases = values(0, 2, 6, 9, 11), itertools.product((1, 3, 4), (1, 2, 3), (1, 2, 3), PADDINGS)
    for kernel, stride, dilation, pads in cases:
        weight, bias = values(1, 12, 6 // groups, kernel, max(1, kernel - 1)), values(2, 12)
        if 9 + pads[0] + pads[1] > (kernel - 1) * dilation:
            check_conv(x, weight, bias, [stride, 1], pads, [dilation] * 2, groups)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data())
def test_conv_is_pytorch_s_for_any_shape_in_one_to_three_dimensions(data) -> None:
    draw = data.draw
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    groups, inside, outside = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel, strides, dilations = per_axis(draw, rank, 1, 4), per_axis(draw, rank, 1, 3), per_axis(draw, rank, 1, 3)
    sides, pads = per_axis(draw, rank, 1, 9), per_axis(draw, 2 * rank, 0, 3)
    for axis in range(rank):
        assume(sides[axis] + pads[2 * axis] + pads[2 * axis + 1] > (kernel[axis] - 1) * dilations[axis])
    x = values(0, draw(st.integers(1, 3)), groups * inside, *sides)
    weight = values(1, groups * outside, inside, *kernel)
    bias = values(2, groups * outside) if draw(st.booleans()) else None
    check_conv(x, weight, bias, strides, pads, dilations, groups)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_depthwise_conv_is_pytorch_s_with_any_multiplier(data) -> None:
    draw = data.draw
    channels, multiplier, side = draw(st.integers(2, 90)), draw(st.integers(1, 3)), draw(st.integers(3, 40))
    kernel, stride, pad = draw(st.sampled_from([1, 3, 5, 7])), draw(st.integers(1, 2)), draw(PADS)
    assume(side + 2 * pad >= kernel)
    x = values(0, draw(st.integers(1, 3)), channels, side, side + 1)
    weight = values(1, channels * multiplier, 1, kernel, kernel)
    got = compute(
        "conv", x=x, weight=weight, strides=[stride] * 2, pad_type="custom", pad=[pad] * 4, groups=np.int32(channels)
    )
    expected = F.conv2d(
        torch.from_numpy(x).double(), torch.from_numpy(weight).double(), stride=stride, padding=pad, groups=channels
    )
    assert error(got, expected) <= 1e-5


@pytest.mark.parametrize("side", [1, 2, 5, 8, 12])
@pytest.mark.parametrize("lower", [False, True])
def test_same_padding_gives_as_many_windows_as_strides_fit(side, lower) -> None:
    for kernel, stride, dilation in itertools.product(range(1, 6), range(1, 4), (1, 2)):
        check_same_padding(side, kernel, stride, dilation, lower)


def check_same_padding(side, kernel, stride, dilation, lower) -> None:
    x, weight = values(0, 2, 3, side), values(1, 4, 3, kernel)
    got = compute(
        "conv",
        x=x,
        weight=weight,
        strides=[stride],
        dilations=[dilation],
        pad_type="same_lower" if lower else "same",
    )
    windows = -(-side // stride)
    total = max(0, (windows - 1) * stride + (kernel - 1) * dilation + 1 - side)
    before = (total + 1) // 2 if lower else total // 2
    padded = F.pad(torch.from_numpy(x), [before, total - before])
    expected = F.conv1d(padded, torch.from_numpy(weight), stride=stride, dilation=dilation)
    assert got.shape[2] == windows
    assert error(got, expected) <= 1e-5


def test_same_padding_at_stride_one_is_pytorch_s() -> None:
    x, weight = values(0, 1, 2, 9, 8), values(1, 3, 2, 3, 5)
    got = compute("conv", x=x, weight=weight, pad_type="same", pad=[0] * 4)
    assert error(got, F.conv2d(torch.from_numpy(x), torch.from_numpy(weight), padding="same")) <= 1e-5


def test_half_convolution_rounds_once_and_overflows_as_the_format_does() -> None:
    x = np.full((1, 4, 3, 3), 180, np.float16)
    weight = np.full((2, 4, 1, 1), 91, np.float16)  # 4 · 180 · 91 = 65,520: the first value that is infinite
    weight[1] -= np.float16(0.0625)
    got = compute("conv", dtype=np.float16, x=x, weight=weight)
    assert got.dtype == np.float16
    assert np.isposinf(got[:, 0]).all()
    assert (got[:, 1] == np.float16(4 * 180 * 90.9375)).all()


@st.composite
def pools(draw):
    rank = draw(st.integers(1, 2))
    kernel = per_axis(draw, rank, 1, 4)
    strides = [draw(st.integers(1, size)) for size in kernel]
    pads = [draw(st.integers(0, size // 2)) for size in kernel]
    sides = per_axis(draw, rank, 4, 11)
    return values(draw(st.integers(0, 9)), 2, 3, *sides), kernel, strides, pads, draw(st.booleans())


def every_pool():
    """Windows, strides and paddings of one axis, with and without ceil mode: all that PyTorch has."""
    for kernel, ceil_mode in itertools.product(range(1, 5), (False, True)):
        for stride, pad in itertools.product(range(1, kernel + 1), range(kernel // 2 + 1)):
            yield values(0, 2, 3, 10), [kernel], [stride], [pad], ceil_mode


def both_sides(pads: list[int]) -> list[int]:
    return [side for pad in pads for side in (pad, pad)]


def check_avg_pool(pool, excluded) -> None:
    x, kernel, strides, pads, ceil_mode = pool
    got = compute(
        "avg_pool",
        x=x,
        kernel_sizes=kernel,
        strides=strides,
        pad_type="custom",
        pad=both_sides(pads),
        exclude_padding_from_average=excluded,
        ceil_mode=ceil_mode,
    )
    expected = AVERAGE[len(kernel)](
        torch.from_numpy(x), kernel, strides, pads, ceil_mode=ceil_mode, count_include_pad=not excluded
    )
    assert error(got, expected) <= 1e-5


def check_max_pool(pool) -> None:
    x, kernel, strides, pads, ceil_mode = pool
    x = x - 5  # all negative: a padding of zero would win
    got = compute(
        "max_pool",
        x=x,
        kernel_sizes=kernel,
        strides=strides,
        pad_type="custom",
        pad=both_sides(pads),
        ceil_mode=ceil_mode,
    )
    expected = MAXIMUM[len(kernel)](torch.from_numpy(x), kernel, strides, pads, ceil_mode=ceil_mode)
    assert got.shape == tuple(expected.shape)
    assert (got == expected.numpy()).all()


def test_pools_are_pytorch_s_for_every_window_stride_padding_and_ceil_mode() -> None:
    for pool in every_pool():
        check_max_pool(pool)
        for excluded in (False, True):
            check_avg_pool(pool, excluded)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(pool=pools(), excluded=st.booleans())
def test_pools_are_pytorch_s_for_any_shape_in_one_or_two_dimensions(pool, excluded) -> None:
    check_avg_pool(pool, excluded)
    check_max_pool(pool)


@pytest.mark.parametrize("name", ["avg_pool", "max_pool"])
def test_a_pool_without_padding_takes_valid(name) -> None:
    x = values(0, 1, 2, 7, 7)
    got = compute(name, x=x, kernel_sizes=[3, 2], strides=[2, 2], pad_type="valid", pad=[0] * 4)
    reference = {"avg_pool": F.avg_pool2d, "max_pool": F.max_pool2d}[name]
    assert error(got, reference(torch.from_numpy(x), [3, 2], 2)) <= 1e-6
