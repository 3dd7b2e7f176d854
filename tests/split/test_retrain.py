from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_split import write_digits, write_model
from torch import Tensor, nn

from edgevit.errors import Interrupted, UsageError
from edgevit.models.families.edvit import SubModel
from edgevit.request import ModelChoice
from edgevit.split.options import SplitJob, SplitOptions
from edgevit.split.parts import Source, load_source, score
from edgevit.split.prune import prune
from edgevit.split.retrain import (
    Lesson,
    balanced_accuracy,
    draw_rows,
    grouped,
    negatives_per_class,
    part_labels,
    retrain,
)
from edgevit.train import epochs
from edgevit.train.batches import Batches
from edgevit.train.options import TrainOptions

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 2, 3, 4] * 60)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("retrain")
    return load_source(
        SplitJob(ModelChoice(write_model(folder)), write_digits(folder), folder / "b", SplitOptions(parts=2))
    )


def pruned(source: Source, classes: tuple[int, ...] = (2, 0)) -> SubModel:
    return SubModel(prune(source.trunk, score(source, classes, "taylor", 4, seed=0), 1, len(classes)))


def lesson(source: Source, mode: str = "negatives", **changes: object) -> Lesson:
    recipe = TrainOptions(**{"epochs": 6, "lr": 4e-3, "batch_size": 32, **changes})  # type: ignore[arg-type]
    return Lesson(source.trunk, (2, 0), source.train, source.held_out, mode, recipe, CPU)  # type: ignore[arg-type]


# --- labels and rows -----------------------------------------------------------------------------


def test_a_parts_labels_count_its_classes_in_its_order_and_all_others_as_none() -> None:
    assert part_labels(torch.tensor([0, 1, 2, 3, 2]), (2, 0)).tolist() == [2, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("images", "classes", "own", "expected"), [(1437, 10, 2, 12), (50_000, 10, 2, 498), (200, 10, 5, 1)]
)
def test_negatives_are_as_many_as_ec_snn_takes_and_at_least_one(
    images: int, classes: int, own: int, expected: int
) -> None:
    assert negatives_per_class(images, classes, own) == expected


@pytest.mark.parametrize(("wanted", "expected"), [(0, 12), (90, 12), (288, 36), (290, 36)])
def test_more_negatives_than_ec_snn_takes_are_shared_out_over_the_other_classes(wanted: int, expected: int) -> None:
    assert negatives_per_class(1437, 10, 2, wanted) == expected


@pytest.mark.parametrize(("negatives", "each"), [(0.0, 4), (0.5, 20), (1.0, 40), (9.0, 60)])
def test_an_epoch_shows_every_positive_and_as_many_of_each_other_class_as_are_asked_for_and_there(
    negatives: float, each: int
) -> None:
    rows = draw_rows(LABELS, (1, 3), 5, negatives, torch.Generator().manual_seed(0))
    shown = torch.bincount(LABELS[rows], minlength=5).tolist()
    assert shown == [each, 60, each, 60, each]
    assert len(set(rows.tolist())) == len(rows)


def test_other_negatives_are_shown_in_every_epoch() -> None:
    generator = torch.Generator().manual_seed(0)
    epochs = [frozenset(draw_rows(LABELS, (1, 3), 5, 0.0, generator).tolist()) for _ in range(3)]
    assert len(set(epochs)) == 3


def test_the_trunks_probabilities_become_the_parts_with_all_others_in_front() -> None:
    found = grouped(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), (3, 1))
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.4, 0.2]]))


class _Always(nn.Module):
    """Answers the same label for every image."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": torch.eye(3)[self.label].expand(len(image), 3)}


def test_an_expert_that_always_says_none_of_mine_is_a_third_right() -> None:
    batches = Batches(torch.zeros(20, 3, 8, 8), torch.tensor([0] * 16 + [1] * 3 + [2]))
    assert balanced_accuracy(_Always(0), batches, CPU) == pytest.approx(1 / 3)


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["negatives", "distil"])
def test_retraining_makes_an_expert_of_a_pruned_trunk(source: Source, mode: str, tmp_path: Path) -> None:
    sub = pruned(source)
    own = Batches(source.held_out.rows, part_labels(source.held_out.labels, (2, 0)))
    before = balanced_accuracy(sub, own, CPU)
    expert, accuracy = retrain(sub, lesson(source, mode), state_file=tmp_path / "state", recipe={})
    assert isinstance(expert, SubModel)
    assert accuracy == balanced_accuracy(expert, own, CPU)
    assert accuracy > max(before, 1 / 3) + 0.15
    assert expert(source.held_out.rows[:2])["logits"].shape == (2, 3)


def test_distillation_needs_a_sub_model_with_features(source: Source, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="features"):
        retrain(_Always(0), lesson(source, "distil"), state_file=tmp_path / "state", recipe={})


def test_an_interrupted_retraining_goes_on_to_the_same_weights(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "SAVE_EVERY_S", 0.0)

    def stop(epoch: int, *_: object) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    whole, _ = retrain(pruned(source), lesson(source, epochs=3), state_file=tmp_path / "whole", recipe={})
    with pytest.raises(Interrupted, match="epoch 2 of 3"):
        retrain(pruned(source), lesson(source, epochs=3), state_file=tmp_path / "cut", recipe={}, progress=stop)
    rest, _ = retrain(pruned(source), lesson(source, epochs=3, resume=True), state_file=tmp_path / "cut", recipe={})
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(rest.state_dict()[name], value, rtol=0, atol=0)


def test_a_retraining_of_another_part_is_not_gone_on_with(source: Source, tmp_path: Path) -> None:
    retrain(pruned(source), lesson(source, epochs=1), state_file=tmp_path / "state", recipe={"part": 0})
    with pytest.raises(UsageError, match="part 0"):
        retrain(
            pruned(source), lesson(source, epochs=2, resume=True), state_file=tmp_path / "state", recipe={"part": 1}
        )


def test_mixed_precision_trains_float32_weights_through_accelerate(source: Source, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from edgevit.train.amp import MixedPrecision

    sub = pruned(source)
    before = {name: value.clone() for name, value in sub.state_dict().items()}
    seen: list[torch.dtype] = []
    sub.vit.head.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.dtype))
    options = lesson(source, epochs=1)
    expert, _ = retrain(sub, options, state_file=tmp_path / "s", recipe={}, steps=MixedPrecision("bf16", CPU))
    assert torch.bfloat16 in seen
    assert {value.dtype for value in expert.state_dict().values()} == {torch.float32}
    assert not torch.equal(expert.state_dict()["vit.patch_embed.proj.weight"], before["vit.patch_embed.proj.weight"])
