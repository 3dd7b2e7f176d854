"""Blocks with parallel branches equal the one convolution that they deploy as."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgevit.models.layers.blocks import ConvBN, DropPath, Geometry, MultiGroupConv, as_conv


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Eval mode, float64, every BatchNorm far from the identity that it starts as."""
    generator = torch.Generator().manual_seed(seed)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor, low, high in (
            (norm.weight, 0.5, 1.5),
            (norm.bias, -1.0, 1.0),
            (norm.running_mean, -1.0, 1.0),
            (norm.running_var, 0.3, 3.0),
        ):
            tensor.data.uniform_(low, high, generator=generator)
    return module.double().eval()


def relative_error(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / a.abs().max()).detach())


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    groups=st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=3),
    wider=st.sampled_from([1, 2]),
    pointwise=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_mix_of_groups_fuses_to_one_convolution(kernel, stride, dilation, groups, wider, pointwise, seed):
    torch.manual_seed(seed)
    identity = wider == 1 and stride == 1
    block = MultiGroupConv(
        8, 8 * wider, Geometry(kernel, stride, dilation), groups=groups, pointwise=pointwise, identity=identity
    )
    randomised(block, seed)
    fused = block.fused()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    assert type(fused) is nn.Conv2d
    assert relative_error(block(x), fused(x)) < 1e-12


def test_fused_convolution_keeps_the_smallest_group_count():
    block = MultiGroupConv(16, 16, Geometry(3), groups=(2, 4, 16), pointwise=True, identity=True)
    assert block.fused().groups == 2


def test_equal_group_counts_make_one_branch():
    assert len(MultiGroupConv(8, 8, Geometry(), groups=(1, 1, 2)).branches) == 2


def test_branches_start_with_unit_variance_together():
    torch.manual_seed(0)
    block = MultiGroupConv(32, 32, Geometry(3), groups=(2, 4, 32), pointwise=True, identity=True).train()
    assert 0.5 < float(block(torch.randn(8, 32, 16, 16)).detach().var()) < 2.0


def test_fusing_leaves_the_block_as_it_was():
    block = randomised(MultiGroupConv(8, 8, Geometry(3), groups=(1, 2), pointwise=True, identity=True))
    before = copy.deepcopy(block.state_dict())
    block.fused()
    assert len(block.branches) == 3
    assert all(torch.equal(before[key], value) for key, value in block.state_dict().items())


def test_identity_needs_equal_channels_and_stride_one():
    with pytest.raises(ValueError, match="no identity"):
        MultiGroupConv(8, 16, Geometry(3), identity=True)
    with pytest.raises(ValueError, match="no identity"):
        MultiGroupConv(8, 8, Geometry(3, stride=2), identity=True)


def test_as_conv_takes_fused_and_unfused_children_but_nothing_else():
    plain = nn.Conv2d(4, 4, 1)
    assert as_conv(plain) is plain
    assert type(as_conv(ConvBN(4, 4, Geometry()))) is nn.Conv2d
    with pytest.raises(TypeError, match="ReLU"):
        as_conv(nn.ReLU())


def test_drop_path_drops_whole_rows_in_training_and_nothing_in_eval():
    torch.manual_seed(0)
    drop, x = DropPath(0.5), torch.ones(64, 2, 3, 3)
    rows = drop.train()(x).flatten(1)
    assert set(rows.unique().tolist()) == {0.0, 2.0}
    assert bool((rows == rows[:, :1]).all())
    assert drop.eval()(x) is x
