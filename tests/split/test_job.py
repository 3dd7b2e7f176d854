from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_split import write_digits, write_model
from typer.testing import CliRunner

from edgevit.cli import app
from edgevit.data import open_data
from edgevit.errors import Interrupted, PlacementImpossible, UnknownName, UsageError
from edgevit.models.vit import ViTConfig, uniform_blocks, vit_base
from edgevit.split.assign import Node
from edgevit.split.bundle import Bundle
from edgevit.split.embedded import BundleSession
from edgevit.split.job import SplitResult, run_split
from edgevit.split.options import FusionOptions, SplitJob, SplitOptions, command_line, parse_bytes
from edgevit.split.parts import PartTask, load_source, make_parts
from edgevit.split.sizing import choose_heads, fit_fleet, planned_part
from edgevit.split.work import open_work
from edgevit.train.options import TrainOptions

QUICK = SplitOptions(
    parts=2,
    mode="negatives",
    retraining=TrainOptions(epochs=2, lr=4e-3, batch_size=32),
    fusion=FusionOptions(epochs=6, views=1, lr=4e-3),
    images=4,
    jobs=1,
    threads=1,
    device="cpu",
)
Make = Callable[..., SplitJob]


def quiet(what: str, share: float | None) -> None: ...


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("split")


@pytest.fixture(scope="module")
def model(shared: Path) -> str:
    return write_model(shared)


@pytest.fixture(scope="module")
def data(shared: Path) -> str:
    return write_digits(shared)


@pytest.fixture
def job(model: str, data: str, tmp_path: Path) -> Make:
    def make(**changes: object) -> SplitJob:
        asked = {
            name: changes.pop(name) for name in ("data", "weights", "classes", "resume", "force") if name in changes
        }
        return SplitJob(
            **{"model": model, "data": data, "out": tmp_path / "b", "options": replace(QUICK, **changes), **asked}
        )  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="module")
def split(model: str, data: str, shared: Path) -> tuple[SplitResult, list[str]]:
    """One whole split, with what it said on the way."""
    said: list[str] = []
    result = run_split(
        SplitJob(model, data, shared / "whole", replace(QUICK, mode="distil")), lambda what, share: said.append(what)
    )
    return result, said


# --- the whole of it -----------------------------------------------------------------------------


def test_a_split_is_a_bundle_whose_members_are_all_proved(split: tuple[SplitResult, list[str]]) -> None:
    bundle = Bundle.open(split[0].bundle.path)
    assert sorted(label for part in bundle.manifest.parts for label in part.classes) == ["0", "1", "2", "3"]
    for artifact in (*bundle.parts(), bundle.fusion()):
        assert artifact.manifest.parity.status == "verified"
    assert [part.heads_pruned for part in bundle.manifest.parts] == [1, 1]


def test_its_accuracy_table_is_what_the_artifacts_do_on_held_out_images(
    split: tuple[SplitResult, list[str]], data: str
) -> None:
    result, _ = split
    held_out = open_data(data, split="held-out")
    assert held_out.labels is not None
    with BundleSession(result.bundle.path) as session:
        feeds = session.rows(list(held_out.images))
        for lost, expected in (((), result.accuracy.fused), ((0,), result.accuracy.losses[0].top1)):
            present = [part not in lost for part in range(2)]
            right = session.infer(feeds, present)["logits"].argmax(1) == held_out.labels
            assert np.mean(right) == pytest.approx(expected, abs=1 / len(held_out) + 1e-9)


def test_what_is_going_on_is_said_part_by_part_and_epoch_by_epoch(split: tuple[SplitResult, list[str]]) -> None:
    for sentence in ("part-0: importance", "part-1: epoch 2/2, accuracy", "train the fusion head"):
        assert any(said.startswith(sentence) for said in split[1]), sentence


def test_the_record_and_the_table_name_every_part(split: tuple[SplitResult, list[str]]) -> None:
    result, _ = split
    record = json.loads(json.dumps(result.record()))
    assert [part["name"] for part in record["parts"]] == [row[0] for row in result.rows()] == ["part-0", "part-1"]
    assert record["accuracy"]["fused"] == result.accuracy.fused
    assert record["trunk"]["bytes"] > record["parts"][0]["bytes"]
    assert any("one missing" in name for name, _ in result.facts())


def test_the_work_folder_is_gone_once_the_bundle_is_there(split: tuple[SplitResult, list[str]], shared: Path) -> None:
    assert (shared / "whole" / "bundle.json").is_file()
    assert not (shared / "whole.split").exists()


def test_the_lineage_holds_a_command_that_makes_the_same(split: tuple[SplitResult, list[str]]) -> None:
    (command,) = split[0].bundle.manifest.lineage.commands
    assert command.startswith("edgevit split ")
    assert "--parts 2" in command
    assert "--epochs 2" in command
    assert "--retrain" not in command, "the default"


# --- interrupted ---------------------------------------------------------------------------------


def interrupted_at(sentence: str) -> Callable[[str, float | None], None]:
    def progress(what: str, share: float | None) -> None:
        if what.startswith(sentence):
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_split_goes_on_where_it_was(job: Make) -> None:
    asked = job()
    with pytest.raises(Interrupted, match="part-1") as stopped:
        run_split(asked, interrupted_at("part-1: epoch 1/2"))
    assert "--resume" in str(stopped.value.hint)
    assert not asked.out.exists()
    kept = load_file(asked.work() / "part-0.safetensors")
    with pytest.raises(UsageError, match="unfinished split"):
        run_split(asked, quiet)
    with pytest.raises(UsageError, match="seed 0"):
        run_split(replace(asked, resume=True, options=replace(QUICK, seed=1)), quiet)
    said: list[str] = []
    result = run_split(replace(asked, resume=True), lambda what, share: said.append(what))
    assert not [what for what in said if what.startswith(("part-0: ", "part-1: importance", "part-1: epoch 1/2"))]
    assert [what for what in said if what.startswith("part-1: epoch 2/2")]
    assert kept.keys()
    assert Bundle.open(result.bundle.path).manifest.accuracy == result.accuracy


def test_there_must_be_something_to_resume(job: Make) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        run_split(job(resume=True), quiet)


def test_force_starts_an_unfinished_split_over(job: Make) -> None:
    with pytest.raises(Interrupted):
        run_split(job(), interrupted_at("part-0: epoch 1/2"))
    with pytest.raises(Interrupted):
        run_split(job(force=True, seed=3), interrupted_at("part-0: epoch 1/2"))
    assert json.loads((job().work() / "recipe.json").read_text())["seed"] == 3


def test_parts_made_in_processes_of_their_own_are_the_same(job: Make, tmp_path: Path) -> None:
    made = []
    for jobs in (1, 2):
        asked = job(jobs=jobs, retraining=TrainOptions(epochs=1, batch_size=32))
        work = open_work(tmp_path / f"work-{jobs}", {}, resume=False, force=False)
        tasks = [PartTask(asked, work, index, classes, 1, "cpu") for index, classes in enumerate(((0, 2), (1, 3)))]
        said: list[str] = []
        accuracies = make_parts(tasks, load_source(asked), lambda what, share, said=said: said.append(what))
        assert any(what.startswith("part-1: epoch 1/1") for what in said)
        made.append((accuracies, [load_file(work.folder / f"part-{index}.safetensors") for index in range(2)]))
    assert made[0][0] == made[1][0]
    for one, other in zip(made[0][1], made[1][1], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


# --- refused before any long work ----------------------------------------------------------------


def refused(job: SplitJob, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        run_split(job, quiet)
    assert not job.work().exists()
    assert not job.out.exists()


def test_more_parts_than_classes_are_refused(job: Make) -> None:
    refused(job(parts=5), UsageError, "4 classes cannot be split into 5 parts")


def test_a_budget_that_nothing_meets_is_refused_with_needed_and_free_bytes(job: Make) -> None:
    refused(job(memory_budget=1000), PlacementImpossible, "1,?000")


def test_data_that_lacks_a_class_is_refused(job: Make, shared: Path) -> None:
    refused(job(data=write_digits(shared, without=2)), UsageError, "no training images of 2")


def test_data_of_other_classes_is_refused(job: Make, shared: Path) -> None:
    refused(job(data=write_digits(shared, classes=5), classes=4), UsageError, "5 classes and the trunk 4")


def test_a_checkpoint_of_another_model_is_refused(job: Make) -> None:
    refused(job(weights="digits"), UsageError, "digits")


def test_two_ways_to_say_how_much_is_pruned_are_refused() -> None:
    with pytest.raises(UsageError, match="each decide"):
        SplitOptions(parts=2, heads_pruned=1, memory_budget=1)


@pytest.mark.parametrize("option", [{"mode": "pray"}, {"importance": "luck"}, {"partition": "fair"}, {"amp": "fp8"}])
def test_an_unknown_word_is_refused(option: dict[str, str]) -> None:
    with pytest.raises(UnknownName):
        SplitOptions(parts=2, **option)  # type: ignore[arg-type]


def test_the_command_line_says_it_in_one_sentence_with_its_exit_code(model: str, data: str, tmp_path: Path) -> None:
    asked = ["split", model, "--data", data, "--parts", "2", "--memory-budget", "lots", "-o", str(tmp_path / "b")]
    result = CliRunner().invoke(app, asked)
    assert isinstance(result.exception, UsageError)
    assert "not an amount of memory" in str(result.exception)


@pytest.mark.parametrize(
    ("text", "amount"), [("180MB", 180_000_000), ("64 KiB", 65_536), ("1.5gb", 1_500_000_000), ("7", 7)]
)
def test_amounts_of_memory(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


# --- how much is pruned --------------------------------------------------------------------------

SMALL = ViTConfig((8, 8), 4, 96, uniform_blocks(4, 12, 8, 384), 10)


def test_by_default_the_fewest_heads_go_that_leave_the_parts_together_55_percent() -> None:
    config = vit_base().config
    for parts, expected in ((1, 4), (2, 6), (3, 7), (5, 9), (10, 10)):
        groups = [tuple(range(index, 1000, parts)) for index in range(parts)]
        assert choose_heads(config, groups, SplitOptions(parts=parts)).heads_pruned == (expected,) * parts


def test_a_fleet_prunes_only_the_parts_that_fit_nowhere_and_says_so() -> None:
    default = planned_part(SMALL, 0, choose_heads(SMALL, [(0,)] * 2, SplitOptions(parts=2)).heads_pruned[0], 5)
    nodes = [Node("large", default.memory_bytes, 1e9), Node("small", default.memory_bytes - 40_000, 1e9)]
    sizing = fit_fleet(SMALL, [5, 5], nodes, "fleet.toml")
    low, high = sorted(sizing.heads_pruned)
    assert low < high < 12
    assert len(sizing.steps) == high - low
    assert all("free: pruned to" in step for step in sizing.steps)


def test_a_fleet_too_small_for_one_head_is_impossible() -> None:
    with pytest.raises(PlacementImpossible, match="even with one head per block") as error:
        fit_fleet(SMALL, [5, 5], [Node("tiny", 100_000, 1e9)], "fleet.toml")
    assert error.value.needed_bytes > error.value.free_bytes == 100_000


def test_options_at_their_defaults_are_not_in_the_command() -> None:
    plain = SplitJob("vit_edvit", "digits", Path("b"), SplitOptions(parts=5), weights="t.safetensors")
    assert command_line(plain) == "edgevit split vit_edvit --data digits --parts 5 --weights t.safetensors -t onnx -o b"
