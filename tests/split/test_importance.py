"""Scores: the fast exact run against its own definition, the slopes against small steps, and where they agree."""

from __future__ import annotations

import copy

import pytest
import torch
from model_oracle import randomised
from torch import nn

from edgevit.errors import UsageError
from edgevit.models.families.vit import BlockConfig, VisionTransformer, ViTConfig
from edgevit.split.importance import (
    Gates,
    exact_importance,
    gated_logits,
    magnitude_importance,
    random_importance,
    rank_correlation,
    taylor_importance,
)

torch.set_num_threads(1)
CONFIG = ViTConfig((8, 8), 4, 10, (BlockConfig(2, 3, 7), BlockConfig(1, 4, 5, scale=0.3), BlockConfig(2, 2, 6)), 5)


@pytest.fixture(scope="module")
def trunk() -> VisionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return randomised(VisionTransformer(CONFIG)).double()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture(scope="module")
def exact(trunk, images):
    return exact_importance(trunk, images, batch=7)


def gates_with(kind: str, index: tuple[int, ...], value: float, rows: int) -> Gates:
    """All gates 1 but one, of ``kind`` at ``index`` (for a block's units: block first)."""
    residual = torch.ones(rows, CONFIG.dim).double()
    head_dims = [torch.ones(rows, block.heads, block.head_dim).double() for block in CONFIG.blocks]
    hidden = [torch.ones(rows, block.hidden).double() for block in CONFIG.blocks]
    tensor = residual if kind == "residual" else {"head_dims": head_dims, "hidden": hidden}[kind][index[0]]
    tensor[(slice(None), *(index if kind == "residual" else index[1:]))] = value
    return Gates(residual, head_dims, hidden)


def divergence(trunk, images, gates) -> torch.Tensor:
    log_p, log_q = trunk(images).log_softmax(-1), gated_logits(trunk, images, gates).log_softmax(-1)
    return nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


UNITS = [
    ("residual", (0,)),
    ("residual", (9,)),
    ("head_dims", (0, 1, 2)),
    ("head_dims", (1, 0, 3)),
    ("head_dims", (2, 0, 1)),
    ("hidden", (0, 6)),
    ("hidden", (1, 0)),
    ("hidden", (2, 5)),
]


def score(importance, kind: str, index: tuple[int, ...]) -> float:
    scores = getattr(importance, kind)
    return float(scores[index] if kind == "residual" else scores[index[0]][index[1:]])


def test_open_gates_change_nothing(trunk, images):
    expected = trunk(images)
    everything = gates_with("residual", (0,), 1.0, 3)
    assert torch.allclose(gated_logits(trunk, images, everything), expected, rtol=1e-12)
    assert torch.allclose(gated_logits(trunk, images, Gates()), expected, rtol=1e-12)


@pytest.mark.parametrize(("kind", "index"), UNITS)
def test_exact_scores_are_the_divergence_without_the_unit(trunk, images, exact, kind, index):
    expected = divergence(trunk, images, gates_with(kind, index, 0.0, 3)).item()
    assert expected > 0
    assert score(exact, kind, index) == pytest.approx(expected, rel=1e-8)


def test_exact_scores_do_not_depend_on_how_many_units_share_a_forward(trunk, images, exact):
    whole = exact_importance(trunk, images, batch=1000)
    assert torch.allclose(whole.residual, exact.residual, rtol=1e-9)
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(whole.hidden, exact.hidden, strict=True))


@pytest.mark.parametrize(("kind", "index"), UNITS)
def test_slopes_are_the_second_order_of_the_divergence(trunk, images, kind, index):
    """KL(gate 1 - ε) / ε² tends to half the Fisher information of the gate."""
    step = 1e-4
    found = divergence(trunk, images, gates_with(kind, index, 1 - step, 3)).item() / step**2
    assert score(taylor_importance(trunk, images), kind, index) == pytest.approx(found, rel=2e-3)


def test_slopes_by_random_directions_estimate_those_of_all_classes(trunk, images, monkeypatch):
    whole = taylor_importance(trunk, images)
    monkeypatch.setattr("edgevit.split.importance.ALL_CLASSES", 2)
    monkeypatch.setattr("edgevit.split.importance.PROBES", 400)
    probed = taylor_importance(trunk, images)
    assert torch.allclose(probed.residual, whole.residual, rtol=0.5)
    assert float((probed.residual.sum() / whole.residual.sum() - 1).abs()) < 0.05


def test_slopes_are_the_same_in_one_piece_and_in_several(trunk, images):
    pieces, whole = taylor_importance(trunk, images, batch=8), taylor_importance(trunk, images)
    assert torch.allclose(pieces.residual, whole.residual, rtol=1e-9)
    assert pieces.passes == pytest.approx(whole.passes)


def test_slopes_rank_units_much_as_removal_does_and_random_scores_do_not(trunk, images, exact):
    agreement = rank_correlation(exact, taylor_importance(trunk, images))
    assert set(agreement) == {"residual", "heads", "head_dims", "hidden"}
    assert agreement["residual"] > 0.4
    assert agreement["hidden"] > 0.6
    assert rank_correlation(exact, exact)["residual"] == pytest.approx(1)


def test_rank_correlation_ignores_scale_and_knows_ties(exact):
    other = copy.copy(exact)
    object.__setattr__(other, "residual", torch.tensor([1.0, 2.0, 2.0, 4.0]))
    mine = copy.copy(exact)
    object.__setattr__(mine, "residual", torch.tensor([10.0, 20.0, 30.0, 40.0]))
    assert rank_correlation(mine, other)["residual"] == pytest.approx(0.9486832980505138)  # as scipy.stats.spearmanr


def test_a_head_is_worth_the_sum_of_its_dims(exact):
    assert torch.equal(exact.heads[0], exact.head_dims[0].sum(dim=1))


def test_a_unit_whose_weights_are_zero_has_no_magnitude_and_no_score(trunk, images):
    dead = copy.deepcopy(trunk)
    with torch.no_grad():
        dead.blocks[1].mlp.fc1.weight[2] = 0
        dead.blocks[1].mlp.fc2.weight[:, 2] = 0
    assert magnitude_importance(dead).hidden[1][2] == 0
    assert taylor_importance(dead, images).hidden[1][2] == 0
    assert exact_importance(dead, images).hidden[1][2] == pytest.approx(0, abs=1e-15)


def test_random_scores_are_those_of_their_seed(trunk):
    assert torch.equal(random_importance(trunk, 1).residual, random_importance(trunk, 1).residual)
    assert not torch.equal(random_importance(trunk, 1).residual, random_importance(trunk, 2).residual)


def test_no_images_are_refused(trunk, images):
    for estimator in (exact_importance, taylor_importance):
        with pytest.raises(UsageError, match="needs images"):
            estimator(trunk, images[:0])


def test_scoring_leaves_the_trunk_as_it_was(trunk, images):
    before = copy.deepcopy(trunk.state_dict())
    taylor_importance(trunk, images)
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in trunk.parameters())
