from __future__ import annotations

from dataclasses import replace
from math import comb

import pytest
import torch
from torch import Tensor, nn

from edgevit.models.families.edvit import FusionHead
from edgevit.split.accuracy import degradation
from edgevit.split.features import Features, features_of, gather
from edgevit.split.fuse import draw_present, train_fusion
from edgevit.split.options import FusionOptions
from edgevit.train.batches import Batches

CPU = torch.device("cpu")
WIDTH = 10


def expert_features(rows: int, seed: int, parts: int = 6, own: int = 1, noise: float = 0.6) -> Features:
    """What ideal sub-models give, with noise: which of its classes it sees, or that it sees none of them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(parts * own, (rows,), generator=generator)
    spread = torch.randn(own + 1, WIDTH, generator=torch.Generator().manual_seed(0))
    found = []
    for part in range(parts):
        answer = torch.where(labels // own == part, labels % own + 1, 0)
        found.append(spread[answer] + noise * torch.randn(rows, WIDTH, generator=generator))
    return Features(tuple(found), labels)


# --- presence ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parts", "missing"), [(1, 1.0), (2, 2.0), (5, 1.0)])
def test_no_row_is_without_any_part(parts: int, missing: float) -> None:
    present = draw_present(4000, parts, missing, torch.Generator().manual_seed(0))
    assert set(present.unique().tolist()) <= {0.0, 1.0}
    assert int(present.sum(1).min()) >= 1


def test_as_many_parts_are_left_out_on_average_as_asked_and_each_as_often() -> None:
    present = draw_present(20_000, 5, 1.0, torch.Generator().manual_seed(0))
    assert float((1 - present).sum(1).mean()) == pytest.approx(1.0, abs=0.03)
    assert (1 - present).mean(0) == pytest.approx([0.2] * 5, abs=0.02)


def test_with_nothing_to_miss_all_parts_are_there() -> None:
    assert draw_present(50, 3, 0.0, torch.Generator().manual_seed(0)).min() == 1


# --- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heads() -> tuple[FusionHead, FusionHead]:
    """One trained with parts missing, one without."""
    features = expert_features(1500, seed=0)
    return (
        train_fusion(features, 6, FusionOptions(epochs=20, lr=5e-3)),
        train_fusion(features, 6, FusionOptions(epochs=20, lr=5e-3, missing=0.0)),
    )


def test_both_heads_learn_the_classes(heads: tuple[FusionHead, FusionHead]) -> None:
    held_out = expert_features(600, seed=1)
    for head in heads:
        assert degradation(head, held_out).fused > 0.85


def test_a_head_that_met_missing_parts_loses_less_when_some_are_missing(heads: tuple[FusionHead, FusionHead]) -> None:
    held_out = expert_features(600, seed=1)
    with_training, without = (degradation(head, held_out).missing(2) for head in heads)
    assert with_training is not None
    assert without is not None
    assert with_training.mean > without.mean + 0.03
    assert with_training.mean > 4 / 6, "even the classes of missing parts are found, by elimination"


def test_a_head_learns_from_the_trunks_answers_what_the_labels_do_not_say() -> None:
    plain = expert_features(1500, seed=0)
    alike = 8 * nn.functional.one_hot(plain.labels, 6).float()
    alike[plain.labels == 0, 1] = 7.0  # to the trunk, class 0 resembles class 1
    taught = replace(plain, trunk=alike)
    held_out = expert_features(600, seed=1)
    zeros = held_out.labels == 0
    shares = []
    for features in (taught, plain):
        head = train_fusion(features, 6, FusionOptions(epochs=20, lr=5e-3))
        with torch.no_grad():
            found = head(*held_out.parts, torch.ones(600, 6)).softmax(1)[zeros]
        shares.append(float(found[:, 1].mean() / found[:, 2:].mean()))
    assert shares[0] > 3 * shares[1]


def test_the_same_seed_gives_the_same_head() -> None:
    features = expert_features(200, seed=0)
    one, other = (train_fusion(features, 6, FusionOptions(epochs=1, seed=3)) for _ in range(2))
    another = train_fusion(features, 6, FusionOptions(epochs=1, seed=4))
    assert torch.equal(one.out.weight, other.out.weight)
    assert not torch.equal(one.out.weight, another.out.weight)


def test_training_leaves_torchs_own_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train_fusion(expert_features(64, seed=0), 6, FusionOptions(epochs=1))
    assert torch.equal(torch.rand(1), expected)


# --- accuracy ------------------------------------------------------------------------------------


class _Votes(nn.Module):
    """Part i knows class i alone; without it the class is taken for class 0."""

    def forward(self, *inputs: Tensor) -> Tensor:
        features, present = inputs[:-1], inputs[-1]
        seen = torch.stack([x[:, 0] * present[:, i] for i, x in enumerate(features)], dim=1)
        return seen + torch.tensor([0.5, 0.0, 0.0])


def one_class_each() -> Features:
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    return Features(tuple((labels == part).float()[:, None] for part in range(3)), labels)


def test_every_way_to_lose_one_or_two_parts_is_measured() -> None:
    found = degradation(_Votes(), one_class_each())
    assert found.fused == 1.0
    assert found.losses == pytest.approx(
        {(0,): 1.0, (1,): 1 / 2, (2,): 5 / 6, (0, 1): 1 / 2, (0, 2): 5 / 6, (1, 2): 1 / 3}
    )
    one, two = found.missing(1), found.missing(2)
    assert one is not None
    assert two is not None
    assert (one.mean, one.worst) == pytest.approx((7 / 9, 1 / 2))
    assert (two.mean, two.worst) == pytest.approx((5 / 9, 1 / 3))
    assert (one.worst_parts, two.worst_parts) == ((1,), (1, 2))


def eyes(parts: int) -> Features:
    return Features(tuple(torch.ones(2, 1) for _ in range(parts)), torch.tensor([0, 1]))


@pytest.mark.parametrize(("parts", "most"), [(4, 3), (10, 9), (11, 2)])
def test_up_to_ten_parts_every_subset_is_measured_since_a_node_may_hold_any(parts: int, most: int) -> None:
    found = degradation(FusionHead([1] * parts, 2).eval(), eyes(parts))
    assert len(found.losses) == sum(comb(parts, lost) for lost in range(1, most + 1))
    assert {len(case) for case in found.suffering} == {1, 2}


def test_the_classes_that_suffer_are_named() -> None:
    found = degradation(_Votes(), one_class_each())
    assert found.suffering[0,] == ()
    assert found.suffering[1,] == (1,)
    assert found.suffering[1, 2] == (1, 2)


def test_a_single_part_cannot_be_missed() -> None:
    labels = torch.tensor([0, 1])
    head = FusionHead([2], 2).eval()
    found = degradation(head, Features((torch.eye(2),), labels))
    assert found.losses == {}
    assert found.missing(1) is None


# --- features ------------------------------------------------------------------------------------


class _Pixels(nn.Module):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"features": image.flatten(1)}


def test_features_are_of_the_images_first_and_then_of_copies_that_all_parts_share() -> None:
    rows = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    batches = Batches(rows, torch.arange(5))
    one, other = (features_of(_Pixels(), batches, CPU, views=2, seed=7) for _ in range(2))
    assert torch.equal(one[:5], rows.flatten(1))
    assert torch.equal(one, other)
    assert not torch.equal(one[5:10], one[10:])
    assert gather([one, other], batches.labels).labels.tolist() == [*range(5)] * 3


def test_the_head_s_training_and_the_features_tell_how_far_they_are() -> None:
    told: list[float] = []
    train_fusion(expert_features(64, seed=0), 6, FusionOptions(epochs=4), told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]
    told.clear()
    batches = Batches(torch.rand(6, 3, 4, 4), torch.zeros(6, dtype=torch.long))
    features_of(_Pixels(), batches, CPU, views=2, told=told.append)
    assert told == pytest.approx([1 / 3, 2 / 3, 1.0])
