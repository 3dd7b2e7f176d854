"""Pruned transformers: dense, of the sizes that the keep ratio says, and equal to the trunk without the units."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_oracle import deploy, randomised
from torch import nn

from edgevit.errors import PlacementImpossible, Unsupported, UsageError
from edgevit.models.families import vit
from edgevit.models.families.vit import BlockConfig, VisionTransformer, ViTConfig, uniform_blocks
from edgevit.models.macs import count_macs, count_params
from edgevit.split.importance import Gates, gated_logits, random_importance
from edgevit.split.prune import (
    heads_pruned_for,
    highest,
    keep_heads,
    keep_hidden,
    keep_residual,
    kept,
    prune,
    pruned_config,
    size_of,
    smallest_hp,
    with_classes,
)

torch.set_num_threads(1)
CONFIG = ViTConfig((8, 8), 4, 12, uniform_blocks(2, 3, 4, 9), 5)
MIB = 2**20


@pytest.fixture(scope="module")
def trunk() -> VisionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomised(VisionTransformer(CONFIG)).double()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


@cache
def config_of(name: str, classes: int = 1000) -> ViTConfig:
    with torch.device("meta"):
        return getattr(vit, name)(num_classes=classes).config


def gate(width: int, keep: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(width).double()
    found[keep] = 1
    return found


subsets = st.builds(
    lambda one, more: torch.tensor(sorted({one, *more})), st.integers(0, 8), st.sets(st.integers(0, 8), max_size=9)
)


@settings(max_examples=25, deadline=None)
@given(subsets, subsets)
def test_fewer_hidden_units_compute_what_the_whole_net_does_with_the_others_at_zero(first, second):
    trunk, image = _trunk(), torch.randn(2, 3, 8, 8).double()
    gates = Gates(hidden=[gate(9, keep).expand(2, -1) for keep in (first, second)])
    found = keep_hidden(trunk, [first, second])(image)
    assert torch.allclose(found, gated_logits(trunk, image, gates), rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(subsets, st.integers(0, 3))
def test_fewer_residual_channels_compute_what_removal_is_defined_as(keep, extra):
    trunk, image = _trunk(), torch.randn(2, 3, 8, 8).double()
    keep = torch.cat([keep, torch.arange(9, 9 + extra)])
    gates = Gates(residual=gate(12, keep).expand(2, -1))
    found = keep_residual(trunk, keep)(image)
    assert torch.allclose(found, gated_logits(trunk, image, gates), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("keeps", [([0], [2]), ([0, 2], [1, 2]), ([1], [0, 1, 2])])
def test_fewer_heads_compute_what_the_whole_net_does_with_the_others_at_zero(trunk, image, keeps):
    keeps = [torch.tensor(keep) for keep in keeps]
    gates = Gates(head_dims=[gate(3, keep)[None, :, None].expand(3, 3, 4) for keep in keeps])
    found = keep_heads(trunk, keeps)(image)
    assert torch.allclose(found, gated_logits(trunk, image, gates), rtol=1e-9)


def test_one_residual_channel_less_is_a_net_that_never_had_it(trunk, image):
    """The definition itself: LayerNorms average over the d - 1 others, checked with torch's own LayerNorm."""
    keep = torch.tensor([index for index in range(12) if index != 5])
    found = keep_residual(trunk, keep)
    x = torch.randn(2, 12).double()
    norm = trunk.blocks[0].norm1
    expected = nn.functional.layer_norm(x[:, keep], (11,), norm.weight[keep], norm.bias[keep], norm.eps)
    assert torch.equal(found.blocks[0].norm1(x[:, keep]), expected)
    assert found.blocks[0].norm1.normalized_shape == (11,)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2), st.integers(0, 99), st.integers(1, 4))
def test_a_pruned_net_is_dense_of_the_stated_sizes_and_runs(hp, seed, classes):
    model = prune(_trunk(), random_importance(_trunk(), seed), hp, classes)
    assert model.config == pruned_config(CONFIG, hp, classes + 1)
    plain = VisionTransformer(model.config).state_dict()
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in plain.items()
    }
    assert model(torch.randn(2, 3, 8, 8).double()).shape == (2, classes + 1)


def test_the_units_worth_most_are_those_that_stay(trunk):
    importance = random_importance(trunk, 0)
    importance.residual[[1, 4, 6, 11]] += 9
    importance.head_dims[0][2] += 9
    importance.head_dims[1][0] += 9
    importance.hidden[1][[0, 5, 8]] += 9
    model, keep, head = prune(trunk, importance, 2, 1), torch.tensor([1, 4, 6, 11]), torch.arange(8, 12)
    assert torch.equal(model.cls_token[0, 0], trunk.cls_token[0, 0, keep])
    rows = torch.cat([head, 12 + head, 24 + head])
    assert torch.equal(model.blocks[0].attn.qkv.weight, trunk.blocks[0].attn.qkv.weight[rows][:, keep])
    assert torch.equal(model.blocks[1].attn.proj.weight, trunk.blocks[1].attn.proj.weight[keep][:, :4])
    assert torch.equal(model.blocks[1].mlp.fc1.weight, trunk.blocks[1].mlp.fc1.weight[[0, 5, 8]][:, keep])


def test_the_three_cuts_give_the_same_in_any_order(trunk, image):
    residual, heads, hidden = torch.tensor([0, 3, 7, 9]), [torch.tensor([1])] * 2, [torch.tensor([2, 3, 8])] * 2
    one = keep_hidden(keep_heads(keep_residual(trunk, residual), heads), hidden)
    other = keep_residual(keep_heads(keep_hidden(trunk, hidden), heads), residual)
    assert torch.equal(one(image), other(image))


def test_nothing_pruned_is_the_trunk_with_another_classifier(trunk, image):
    model = prune(trunk, random_importance(trunk, 0), 0, 2)
    assert torch.equal(model.forward_features(image), trunk.forward_features(image))


def test_a_pruned_head_keeps_its_width_and_its_scale(trunk):
    block = prune(trunk, random_importance(trunk, 0), 1, 2).config.blocks[0]
    assert (block.heads, block.head_dim, block.hidden, block.scale) == (2, 4, 6, 0.5)


def test_pruning_leaves_the_trunk_alone_and_its_result_is_the_same_each_time(trunk):
    before = copy.deepcopy(trunk.state_dict())
    one, other = (prune(trunk, random_importance(trunk, 4), 1, 2).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())


def test_scores_of_another_trunk_are_refused(trunk):
    other = VisionTransformer(ViTConfig((8, 8), 4, 12, uniform_blocks(2, 3, 4, 8), 5))
    with pytest.raises(UsageError, match="another trunk"):
        prune(trunk, random_importance(other, 0), 1, 2)


def test_equal_scores_keep_the_first():
    assert highest(torch.tensor([1.0, 2.0, 2.0, 2.0]), 2).tolist() == [1, 2]


def test_a_classifier_can_be_put_on_a_headless_trunk(image):
    headless = randomised(VisionTransformer(ViTConfig((8, 8), 4, 12, uniform_blocks(2, 3, 4, 9), 0))).double()
    assert with_classes(headless, 4)(image).shape == (3, 4)


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hp", [0, 1, 2])
def test_sizes_are_those_of_the_deploy_form(trunk, hp):
    model = deploy(prune(trunk, random_importance(trunk, 0), hp, 3))
    size = size_of(CONFIG, hp, 4)
    assert size.params == count_params(model)
    assert size.macs == count_macs(model, (8, 8))
    assert size.bytes == 4 * size.params


@pytest.mark.parametrize(
    ("hp", "dim", "mib"),
    [(0, 768, 327.3), (4, 512, 146.2), (6, 384, 82.7), (7, 320, 57.6), (8, 256, 37.1), (9, 192, 21.1), (10, 128, 9.55)],
)
def test_vit_base_shrinks_as_the_paper_says(hp, dim, mib):
    config = config_of("vit_base")
    assert kept(config, hp).dim == dim
    assert kept(config, hp).heads == (12 - hp,) * 12
    assert kept(config, hp).hidden == (4 * dim,) * 12
    assert size_of(config, hp, 0).bytes / MIB == pytest.approx(mib, rel=0.006)


@pytest.mark.parametrize("name", ["vit_base", "vit_edvit"])
def test_the_default_is_the_smallest_hp_at_which_all_parts_take_55_percent_of_the_trunk(name):
    config = config_of(name, 10)
    assert [smallest_hp(config, parts) for parts in (1, 2, 3, 5, 10)] == [4, 6, 7, 9, 10]


@pytest.mark.parametrize(
    ("name", "budget_mib", "expected"),
    [
        ("vit_small", 50, [2, 3, 4, 4, 5]),
        ("vit_base", 180, [4, 6, 7, 9, 10]),
        ("vit_large", 600, [5, 8, 10, 11, 13]),
    ],
)
def test_budgets_of_the_paper_lead_to_the_heads_pruned_that_it_needs(name, budget_mib, expected):
    config = config_of(name, 10)
    assert [heads_pruned_for(config, parts, budget_mib * MIB) for parts in (1, 2, 3, 5, 10)] == expected


def test_a_budget_that_nothing_meets_says_needed_and_free_bytes():
    needed = 3 * size_of(CONFIG, 2, 3).bytes
    with pytest.raises(PlacementImpossible, match=f"needs {needed:,} bytes, and the budget is 100") as caught:
        heads_pruned_for(CONFIG, 3, 100)
    assert (caught.value.needed_bytes, caught.value.free_bytes) == (needed, 100)
    assert heads_pruned_for(CONFIG, 3, needed) == 2


@pytest.mark.parametrize("hp", [-1, 3])
def test_heads_that_are_not_there_cannot_be_pruned(hp):
    with pytest.raises(UsageError, match="of 3 heads cannot be pruned"):
        kept(CONFIG, hp)


def test_blocks_with_different_heads_have_no_one_ratio():
    uneven = ViTConfig((8, 8), 4, 12, (BlockConfig(3, 4, 9), BlockConfig(2, 4, 9)), 5)
    with pytest.raises(Unsupported, match="2, 3 heads"):
        kept(uneven, 1)


@pytest.mark.parametrize("parts", [0, 6])
def test_parts_that_the_classes_do_not_fill_are_refused(parts):
    with pytest.raises(UsageError, match="5 classes cannot be split"):
        smallest_hp(CONFIG, parts)


@cache
def _trunk() -> VisionTransformer:
    """For property tests, which pytest gives no fixtures of a narrower scope."""
    torch.manual_seed(0)
    return randomised(VisionTransformer(CONFIG)).double()
