"""The fusion algebra, in float64 against the layers it replaces, over shapes, groups, strides and dilations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgevit.models.layers import fusion

torch.set_num_threads(1)
property_test = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def random_bn(kind: type[nn.Module], channels: int, *, affine: bool = True) -> nn.Module:
    bn = kind(channels, affine=affine, eps=1e-3, dtype=torch.float64)
    bn.running_mean.normal_()
    bn.running_var.uniform_(0.2, 3.0)
    if affine:
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
    return bn.eval()


def close(found: Tensor, expected: Tensor) -> bool:
    found, expected = found.detach(), expected.detach()
    assert found.shape == expected.shape
    return bool((found - expected).abs().max() <= 1e-12 * max(1.0, float(expected.abs().max())))


@st.composite
def convs(draw: st.DrawFn, *, padded: bool = True) -> nn.Conv2d:
    groups, (per_in, per_out) = draw(st.sampled_from([1, 2, 3])), draw(pairs)
    kernel = draw(pairs)
    padding = draw(st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.just("valid"))) if padded else 0
    torch.manual_seed(draw(seeds))
    return nn.Conv2d(
        groups * per_in,
        groups * per_out,
        kernel,
        stride=draw(pairs),
        padding=padding,
        dilation=draw(pairs),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "circular"])) if padding != "valid" else "zeros",
        dtype=torch.float64,
    )


def image(channels: int, size: tuple[int, int] = (9, 11)) -> Tensor:
    return torch.randn(2, channels, *size, dtype=torch.float64)


@property_test
@given(conv=convs(), affine=st.booleans())
def test_conv_then_bn_is_one_conv(conv: nn.Conv2d, affine: bool) -> None:
    bn = random_bn(nn.BatchNorm2d, conv.out_channels, affine=affine)
    x = image(conv.in_channels)
    assert close(fusion.fuse_conv_bn(conv, bn)(x), bn(conv(x)))


@property_test
@given(conv=convs(padded=False), affine=st.booleans())
def test_bn_then_unpadded_conv_is_one_conv(conv: nn.Conv2d, affine: bool) -> None:
    bn = random_bn(nn.BatchNorm2d, conv.in_channels, affine=affine)
    x = image(conv.in_channels)
    assert close(fusion.fuse_bn_conv(bn, conv)(x), conv(bn(x)))


@pytest.mark.parametrize("padding", [1, (0, 1), "same"])
def test_bn_before_zero_padding_is_refused(padding: int | tuple[int, int] | str) -> None:
    conv = nn.Conv2d(4, 4, 3, padding=padding)
    with pytest.raises(ValueError, match="padded 3×3 convolution: the border would change"):
        fusion.fuse_bn_conv(nn.BatchNorm2d(4), conv)


def test_bn_before_padding_that_repeats_pixels_is_one_conv() -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", dtype=torch.float64)
    bn, x = random_bn(nn.BatchNorm2d, 4), image(4)
    assert close(fusion.fuse_bn_conv(bn, conv)(x), conv(bn(x)))


@property_test
@given(width=pairs, bias=st.booleans(), affine=st.booleans(), seed=seeds)
def test_linear_and_bn_are_one_linear_in_either_order(
    width: tuple[int, int], bias: bool, affine: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    linear = nn.Linear(*width, bias=bias, dtype=torch.float64)
    x = torch.randn(5, width[0], dtype=torch.float64)
    after, before = (random_bn(nn.BatchNorm1d, n, affine=affine) for n in (width[1], width[0]))
    assert close(fusion.fuse_linear_bn(linear, after)(x), after(linear(x)))
    assert close(fusion.fuse_bn_linear(before, linear)(x), linear(before(x)))


@property_test
@given(conv=convs(), scalar=st.booleans())
def test_a_scale_folds_into_the_conv_before_it(conv: nn.Conv2d, scalar: bool) -> None:
    gamma = -0.37 if scalar else torch.randn(conv.out_channels, dtype=torch.float64)
    x = image(conv.in_channels)
    expected = conv(x) * (gamma if isinstance(gamma, float) else gamma.view(-1, 1, 1))
    assert close(fusion.scale_output(conv, gamma)(x), expected)


def test_a_scale_folds_into_the_linear_before_it() -> None:
    linear, gamma = nn.Linear(3, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    assert close(fusion.scale_output(linear, gamma)(x), linear(x) * gamma)
    with pytest.raises(ValueError, match="4 factors do not fit 5"):
        fusion.scale_output(linear, torch.ones(4))


@property_test
@given(to=st.sampled_from([1, 2, 3]), merged=st.integers(1, 3), width=pairs, kernel=pairs, seed=seeds)
def test_expanded_groups_compute_the_same(
    to: int, merged: int, width: tuple[int, int], kernel: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    groups = to * merged
    weight = torch.randn(groups * width[1], width[0], *kernel, dtype=torch.float64)
    x = image(groups * width[0])
    expected = nn.functional.conv2d(x, weight, groups=groups)
    assert close(nn.functional.conv2d(x, fusion.expand_groups(weight, groups, to), groups=to), expected)


def test_groups_that_do_not_nest_are_refused() -> None:
    with pytest.raises(ValueError, match="6 groups of 12 outputs cannot be written as 4 groups"):
        fusion.expand_groups(torch.zeros(12, 2, 1, 1), 6, 4)


@property_test
@given(channels=st.sampled_from([6, 12]), groups=st.sampled_from([1, 2, 3, 6]), k=st.sampled_from([1, 3, 5]))
def test_the_identity_conv_returns_its_input(channels: int, groups: int, k: int) -> None:
    x = image(channels)
    assert torch.equal(fusion.identity_conv(channels, k, groups, like=x)(x), x)


@property_test
@given(
    branches=st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 6]), st.sampled_from([1, 3, 5]), st.integers(1, 2), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    stride=st.integers(1, 2),
    seed=seeds,
)
def test_parallel_convs_sum_to_one(branches: list[tuple[int, int, int, bool]], stride: int, seed: int) -> None:
    torch.manual_seed(seed)
    parts = [
        nn.Conv2d(
            6, 12, k, stride, padding=k // 2 * dilation, dilation=dilation, groups=g, bias=bias, dtype=torch.float64
        )
        for g, k, dilation, bias in branches
    ]
    x = image(6, (10, 13))
    assert close(fusion.sum_convs(parts)(x), sum(part(x) for part in parts))


def test_oblong_branches_and_same_padding_sum_to_one() -> None:
    parts = [
        nn.Conv2d(4, 4, (1, 5), padding=(0, 2), dtype=torch.float64),
        nn.Conv2d(4, 4, (3, 1), padding="same", groups=4, dtype=torch.float64),
        fusion.identity_conv(4, 3, 2, like=image(4)),
    ]
    x = image(4)
    assert close(fusion.sum_convs(parts)(x), sum(part(x) for part in parts))


def test_summed_depthwise_branches_stay_depthwise() -> None:
    parts = [nn.Conv2d(8, 8, k, padding=k // 2, groups=8) for k in (1, 3, 7)]
    fused = fusion.sum_convs(parts)
    assert (fused.groups, fused.kernel_size) == (8, (7, 7))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1), "same channels and stride"),
        (lambda: nn.Conv2d(4, 8, 3, padding=1), "same channels and stride"),
        (lambda: nn.Conv2d(4, 4, 3), "not centred"),
        (lambda: nn.Conv2d(4, 4, 2, padding=1), "not centred"),
        (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "'reflect' cannot be summed"),
    ],
)
def test_branches_that_are_not_parallel_are_refused(other: Callable[[], nn.Conv2d], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        fusion.sum_convs([nn.Conv2d(4, 4, 3, padding=1), other()])


@property_test
@given(
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3), biases=st.lists(st.booleans(), min_size=3), seed=seeds
)
def test_stacked_convs_concatenate_outputs(widths: list[int], biases: list[bool], seed: int) -> None:
    torch.manual_seed(seed)
    x = image(4)
    convs_ = [nn.Conv2d(4, w, 1, bias=b, dtype=torch.float64) for w, b in zip(widths, biases, strict=False)]
    assert close(fusion.stack_convs(convs_)(x), torch.cat([part(x) for part in convs_], dim=1))


def test_batch_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match="depends on the batch"):
        fusion.fuse_conv_bn(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))


def test_a_bn_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="BatchNorm over 3 channels does not fit"):
        fusion.fuse_conv_bn(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
def test_fusion_keeps_the_dtype_and_never_edits_its_arguments(dtype: torch.dtype) -> None:
    conv, bn = nn.Conv2d(4, 6, 3, dtype=dtype), random_bn(nn.BatchNorm2d, 6).to(dtype)
    tensors = [*conv.state_dict().values(), *bn.state_dict().values()]
    before = [tensor.clone() for tensor in tensors]
    fused = fusion.fuse_conv_bn(conv, bn)
    assert {p.dtype for p in fused.parameters()} == {dtype}
    assert all(torch.equal(was, now) for was, now in zip(before, tensors, strict=True))
    assert fused.weight.data_ptr() != conv.weight.data_ptr()


def test_everything_works_on_meta_tensors() -> None:
    with torch.device("meta"):
        conv, bn, linear = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.Linear(8, 8)
        unpadded = nn.Conv2d(8, 8, 1)
    made = [
        fusion.fuse_conv_bn(conv, bn),
        fusion.fuse_bn_conv(bn, unpadded),
        fusion.fuse_linear_bn(linear, bn),
        fusion.fuse_bn_linear(bn, linear),
        fusion.scale_output(conv, 0.5),
        fusion.sum_convs([conv, unpadded, fusion.identity_conv(8, 3, 8, like=conv.weight)]),
        fusion.stack_convs([unpadded, unpadded]),
    ]
    assert all(p.is_meta for layer in made for p in layer.parameters())
