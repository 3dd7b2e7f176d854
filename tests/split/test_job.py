from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_split import write_digits, write_model
from typer.testing import CliRunner

from edgevit.amounts import parse_bytes
from edgevit.bundle.assign import Node
from edgevit.bundle.embedded import BundleSession
from edgevit.bundle.opened import Bundle
from edgevit.cli import app
from edgevit.data.labelled import LabelledData
from edgevit.data.source import open_data
from edgevit.errors import Interrupted, PlacementImpossible, UnknownName, UsageError
from edgevit.models.families.vit import ViTConfig, uniform_blocks
from edgevit.models.loading.checkpoint import CheckpointMeta, save_checkpoint
from edgevit.request import ModelChoice
from edgevit.split.job import SplitResult, check_classes, run_split
from edgevit.split.options import FusionOptions, SplitJob, SplitOptions, command_line
from edgevit.split.parts import PartTask, load_source, make_parts
from edgevit.split.prune import smallest_hp
from edgevit.split.sizing import choose_heads, fit_fleet, planned_part
from edgevit.split.trunk import load_trunk
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
        chosen = ModelChoice(model, **{name: changes.pop(name) for name in ("weights", "classes") if name in changes})
        asked = {name: changes.pop(name) for name in ("data", "resume", "force") if name in changes}
        return SplitJob(
            **{"model": chosen, "data": data, "out": tmp_path / "b", "options": replace(QUICK, **changes), **asked}
        )  # type: ignore[arg-type]

    return make


@dataclass(frozen=True)
class Story:
    """A split that was interrupted in its second part, refused twice, and gone on with by other means."""

    job: SplitJob
    stopped: Interrupted
    kept: tuple[str, ...]
    refusals: tuple[str, ...]
    result: SplitResult
    said: tuple[str, ...]


def interrupted_at(sentence: str) -> Callable[[str, float | None], None]:
    def progress(what: str, share: float | None) -> None:
        if what.startswith(sentence):
            raise KeyboardInterrupt

    return progress


def write_folders(folder: Path, digits: LabelledData) -> str:
    """``folder:PATH``: a sub-folder of PNG files per class."""
    for number, label in enumerate(digits.labels):
        path = folder / "pictures" / f"class-{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[number]).save(path)
    return f"folder:{folder / 'pictures'}"


def write_cifar(folder: Path, digits: LabelledData) -> str:
    """``cifar100:PATH``: the published binary files, with few images; every record begins with a coarse label."""
    records = [
        bytes([99, label]) + np.asarray(Image.fromarray(image).resize((32, 32))).transpose(2, 0, 1).tobytes()
        for image, label in zip(digits.images, digits.labels, strict=True)
    ]
    (folder / "train.bin").write_bytes(b"".join(records[:80]))
    (folder / "test.bin").write_bytes(b"".join(records[80:]))
    (folder / "fine_label_names.txt").write_text("\n".join(f"class-{label}" for label in range(4)))
    return f"cifar100:{folder}"


@pytest.fixture(scope="module")
def story(model: str, data: str, shared: Path) -> Story:
    job = SplitJob(ModelChoice(model), data, shared / "whole", replace(QUICK, mode="distil"))
    with pytest.raises(Interrupted) as stopped:
        run_split(job, interrupted_at("part-1: epoch 1/2"))
    kept = tuple(sorted(path.name for path in job.work().iterdir()))
    refusals = []
    for again in (job, replace(job, resume=True, options=replace(job.options, seed=1))):
        with pytest.raises(UsageError) as refused:
            run_split(again, quiet)
        refusals.append(str(refused.value))
    said: list[str] = []
    by_processes = replace(job, resume=True, options=replace(job.options, jobs=2))
    result = run_split(by_processes, lambda what, share: said.append(what))
    return Story(job, stopped.value, kept, tuple(refusals), result, tuple(said))


# --- the whole of it -----------------------------------------------------------------------------


def test_a_split_is_a_bundle_whose_members_are_all_proved(story: Story) -> None:
    bundle = Bundle.open(story.result.bundle.path)
    assert sorted(label for part in bundle.manifest.parts for label in part.classes) == ["0", "1", "2", "3"]
    for artifact in (*bundle.parts(), bundle.fusion()):
        assert artifact.manifest.parity.status == "verified"
    assert tuple(part.heads_pruned for part in bundle.manifest.parts) == story.result.sizing.heads_pruned


def test_its_accuracy_table_is_what_the_artifacts_do_on_held_out_images(story: Story, data: str) -> None:
    result = story.result
    held_out = open_data(data, split="held-out")
    assert held_out.labels is not None
    with BundleSession(result.bundle.path) as session:
        feeds = session.rows(list(held_out.images))
        for lost, expected in (((), result.accuracy.fused), ((0,), result.accuracy.losses[0].top1)):
            present = [part not in lost for part in range(2)]
            right = session.infer(feeds, present)["logits"].argmax(1) == held_out.labels
            assert np.mean(right) == pytest.approx(expected, abs=1 / len(held_out) + 1e-9)


@pytest.mark.parametrize("write", [write_folders, write_cifar])
def test_image_folders_and_cifar_copies_are_split_like_digits(
    job: Make, data: str, tmp_path: Path, write: Callable[[Path, LabelledData], str]
) -> None:
    source = write(tmp_path, open_data(data).take(range(120)))
    found = run_split(job(data=source, retraining=TrainOptions(epochs=1)), quiet)
    assert found.bundle.manifest.classes == tuple(f"class-{label}" for label in range(4))
    assert found.accuracy.data == source
    assert found.accuracy.images == len(open_data(source, split="held-out"))


def test_what_is_going_on_is_said_part_by_part_and_epoch_by_epoch(story: Story) -> None:
    for sentence in ("part-1: epoch 2/2, accuracy", "features of part-0", "train the fusion head", "export"):
        assert any(said.startswith(sentence) for said in story.said), sentence


def test_the_record_and_the_table_name_every_part(story: Story) -> None:
    result = story.result
    record = json.loads(json.dumps(result.record()))
    assert [part["name"] for part in record["parts"]] == [row[0] for row in result.rows()] == ["part-0", "part-1"]
    assert record["accuracy"]["fused"] == result.accuracy.fused
    assert record["trunk"]["bytes"] > record["parts"][0]["bytes"]
    assert any("one missing" in name for name, _ in result.facts())


def test_the_work_folder_is_gone_once_the_bundle_is_there(story: Story, shared: Path) -> None:
    assert (shared / "whole" / "bundle.json").is_file()
    assert not (shared / "whole.split").exists()


def test_the_lineage_holds_a_command_that_makes_the_same(story: Story) -> None:
    (command,) = story.result.bundle.manifest.lineage.commands
    assert command.startswith("edgevit split ")
    assert "--parts 2" in command
    assert "--epochs 2" in command
    assert "--seed" not in command, "the default"


# --- interrupted ---------------------------------------------------------------------------------


def test_ctrl_c_says_where_it_stopped_and_how_to_go_on(story: Story) -> None:
    assert "part-1: stopped after epoch 1 of 2" in str(story.stopped)
    assert "--resume" in str(story.stopped.hint)
    assert story.stopped.exit_code == 130


def test_finished_parts_scores_and_the_last_epoch_are_kept(story: Story) -> None:
    assert {"part-0.safetensors", "part-1.resume", "importance-1.safetensors", "recipe.json"} <= set(story.kept)
    assert "part-1.safetensors" not in story.kept


def test_an_unfinished_split_is_neither_overwritten_nor_gone_on_with_by_another_recipe(story: Story) -> None:
    assert "unfinished split" in story.refusals[0]
    assert "seed 0" in story.refusals[1]


def test_resuming_does_only_what_was_left(story: Story) -> None:
    assert not [what for what in story.said if what.startswith(("part-0: ", "part-1: importance", "part-1: epoch 1/2"))]
    assert [what for what in story.said if what.startswith("part-1: epoch 2/2")]


def test_parts_finished_in_other_processes_after_a_break_are_as_good_as_uninterrupted_ones(
    story: Story, tmp_path: Path
) -> None:
    source, work = load_source(story.job), open_work(tmp_path / "work", {}, resume=False, force=False)
    groups = [
        tuple(source.labels.index(label) for label in part.classes) for part in story.result.bundle.manifest.parts
    ]
    pruned = story.result.sizing.heads_pruned
    tasks = [PartTask(story.job, work, index, groups[index], pruned[index], "cpu") for index in range(2)]
    assert make_parts(tasks, source, quiet) == list(story.result.own)


def test_there_must_be_something_to_resume(job: Make) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        run_split(job(resume=True), quiet)


def test_force_starts_an_unfinished_split_over(job: Make) -> None:
    with pytest.raises(Interrupted):
        run_split(job(), interrupted_at("part-0: epoch 1/2"))
    with pytest.raises(Interrupted):
        run_split(job(force=True, seed=3), interrupted_at("part-0: epoch 1/2"))
    assert json.loads((job().work() / "recipe.json").read_text())["seed"] == 3


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


def test_data_that_counts_the_trunks_classes_in_another_order_is_split_by_their_names(
    job: Make, data: str, shared: Path
) -> None:
    weights = shared / "trunk.safetensors"
    state, names = load_trunk(job().model).state_dict(), ("0", "1", "2", "3")
    save_checkpoint(
        weights, state, CheckpointMeta(model=str(job().model.source), num_classes=4, image_size=(8, 8), labels=names)
    )
    with np.load(data.removeprefix("npz:")) as stored:
        images, labels = stored["images"], stored["labels"]
    np.savez(shared / "turned.npz", images=images, labels=3 - labels, classes=np.array(names[::-1]))
    turned, plain = (
        load_source(job(data=source, weights=str(weights))) for source in (f"npz:{shared / 'turned.npz'}", data)
    )
    check_classes(job(), turned)
    assert turned.labels == names
    assert sorted(turned.held_out.labels.tolist()) == sorted(plain.held_out.labels.tolist())


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
    config = ViTConfig((224, 224), 16, 768, uniform_blocks(12, 12, 64, 3072), 1000)
    for parts, expected in ((1, 4), (2, 6), (3, 7), (5, 9), (10, 10)):
        groups = [tuple(range(index, 1000, parts)) for index in range(parts)]
        assert choose_heads(config, groups, SplitOptions(parts=parts)).heads_pruned == (expected,) * parts


def need(pruned: int) -> int:
    """Bytes of memory of a part of five classes."""
    return planned_part(SMALL, 0, pruned, 5).memory_bytes


def test_a_fleet_prunes_only_the_parts_that_fit_nowhere_and_says_so() -> None:
    default = smallest_hp(SMALL, 2)
    sizing = fit_fleet(
        SMALL, [5, 5], [Node("large", need(default), 1e9), Node("small", need(default) - 40_000, 1e9)], "f"
    )
    low, high = sorted(sizing.heads_pruned)
    assert low == default < high < 12
    *pruned, given_back = sizing.steps
    assert len(pruned) == high - low
    assert all("free: all pruned to" in step for step in pruned)
    assert given_back == f"room is left for {12 - low} heads of part-0"


def test_parts_that_share_a_node_are_pruned_alike() -> None:
    default = smallest_hp(SMALL, 5)
    room = 3 * need(default + 1) + 2 * need(default)
    sizing = fit_fleet(SMALL, [5] * 5, [Node("only", room, 1e9)], "f")
    assert sizing.heads_pruned == (default, default, *[default + 1] * 3)
    assert fit_fleet(SMALL, [5] * 5, [Node("only", 5 * need(11), 1e9)], "f").heads_pruned == (11,) * 5


def test_a_fleet_is_pruned_for_although_nothing_says_how_fast_its_nodes_are() -> None:
    assert fit_fleet(SMALL, [5], [Node("pi", need(10))], "f").heads_pruned == (10,)


def test_a_fleet_may_hold_more_than_55_percent_of_the_trunk() -> None:
    few = ViTConfig((8, 8), 4, 24, uniform_blocks(2, 3, 8, 48), 10)
    with pytest.raises(PlacementImpossible, match="and 55% of the trunk is"):
        choose_heads(few, [(0,)] * 10, SplitOptions(parts=10))
    assert fit_fleet(few, [1] * 10, [Node("server", 10**9)], "f").heads_pruned == (2,) * 10


def test_a_fleet_too_small_for_one_head_is_impossible() -> None:
    with pytest.raises(PlacementImpossible, match="even with one head per block") as error:
        fit_fleet(SMALL, [5, 5], [Node("tiny", 100_000, 1e9)], "fleet.toml")
    assert error.value.needed_bytes > error.value.free_bytes == 100_000


def test_options_at_their_defaults_are_not_in_the_command() -> None:
    plain = SplitJob(ModelChoice("vit_edvit", weights="t.safetensors"), "digits", Path("b"), SplitOptions(parts=5))
    assert command_line(plain) == "edgevit split vit_edvit --data digits --parts 5 --weights t.safetensors -t onnx -o b"
