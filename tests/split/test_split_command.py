"""``edgevit split`` as installed: for a fleet, killed and gone on with, refused with its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_split import write_digits, write_model

from edgevit.bundle.opened import Bundle
from edgevit.models.families.vit import ViTConfig, uniform_blocks
from edgevit.request import ModelChoice
from edgevit.split.job import SplitResult, run_split
from edgevit.split.options import FusionOptions, SplitJob, SplitOptions
from edgevit.split.sizing import planned_part
from edgevit.train.options import TrainOptions

CONFIG = ViTConfig((8, 8), 4, 24, uniform_blocks(2, 6, 8, 48), 4)
DEFAULT, SMALLEST = 4, 5  # heads pruned of 6, for two parts
EPOCHS = 12
DEADLINE_S = 120


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).parent / "edgevit"), *map(str, arguments)]


def edgevit(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, timeout=300)
    assert "Traceback" not in ran.stderr + ran.stdout, ran.stderr
    return ran


@dataclass(frozen=True)
class Site:
    """A folder with a trunk, its data, and a fleet of two: one part fits as it is, the other when it is pruned more."""

    folder: Path
    model: str
    data: str

    def split(self, out: str, *more: object) -> list[str]:
        return command(
            "split", self.model, "--data", self.data, "--parts", 2, "--fleet", "fleet.toml", "--jobs", 2, "--threads",
            1, "--epochs", EPOCHS, "--device", "cpu", "--no-verify", "-o", out, *more,
        )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("command")
    roomy = planned_part(CONFIG, 0, DEFAULT, 2).memory_bytes
    (folder / "fleet.toml").write_text(
        f'[[node]]\nname = "roomy"\nmemory = {roomy}\nmacs_per_s = "1G"\n'
        f'[[node]]\nname = "narrow"\nmemory = {roomy - 1}\nmacs_per_s = "1G"\n'
    )
    return Site(folder, write_model(folder, heads=6), write_digits(folder, images=120))


@dataclass(frozen=True)
class Killed:
    """What lay in the work folder of a run when it was killed, and the record of the run that went on from there."""

    kept: frozenset[str]
    record: dict[str, Any]


@pytest.fixture(scope="module")
def killed(site: Site) -> Killed:
    work = site.folder / "bundle.split"
    running = subprocess.Popen(
        site.split("bundle"),
        cwd=site.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: held_after_an_epoch(running, work), "an epoch is finished")
        kept = frozenset(path.name for path in work.iterdir())
        running.kill()
        os.killpg(running.pid, signal.SIGCONT)
        running.wait()
        until(lambda: not alive(running.pid), "the workers have ended as well")
    finally:
        end_group(running.pid)
    ran = subprocess.run(
        site.split("bundle", "--resume", "--json"), cwd=site.folder, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return Killed(kept, json.loads(ran.stdout))


@pytest.fixture(scope="module")
def whole(site: Site) -> SplitResult:
    """The same split, never interrupted, in this process."""
    options = SplitOptions(
        2,
        fleet=site.folder / "fleet.toml",
        retraining=TrainOptions(epochs=EPOCHS),
        fusion=FusionOptions(epochs=EPOCHS),
        device="cpu",
        threads=1,
        jobs=1,
    )
    job = SplitJob(ModelChoice(site.model), site.data, site.folder / "whole", options, verify=False)
    return run_split(job, lambda what, share: None)


def files_of(bundle: Bundle) -> list[dict[str, str]]:
    """The hashes of every member's files."""
    return [dict(member.manifest.files) for member in (*bundle.parts(), bundle.fusion())]


def until(happened: Any, what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < end, f"waited {DEADLINE_S} s until {what}"
        time.sleep(0.02)


def held_after_an_epoch(running: subprocess.Popen[bytes], work: Path) -> bool:
    """Whether the run stands still at a moment when an epoch of a part lies in ``work``; it goes on when not."""
    os.killpg(running.pid, signal.SIGSTOP)
    if any(work.glob("part-?.resume")):
        return True
    os.killpg(running.pid, signal.SIGCONT)
    assert running.poll() is None, "it was over before it was killed"
    return False


def alive(group: int) -> bool:
    """Whether a process of this group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def end_group(group: int) -> None:
    if alive(group):
        os.killpg(group, signal.SIGKILL)


def test_a_killed_split_leaves_no_process_and_no_bundle_but_its_epochs(killed: Killed) -> None:
    assert "recipe.json" in killed.kept
    assert {"part-0.resume", "part-1.resume"} & killed.kept
    assert not {"part-0.safetensors", "part-1.safetensors"} <= killed.kept, "it was over before it was killed"


def test_resume_after_a_kill_makes_the_same_bundle(site: Site, killed: Killed, whole: SplitResult) -> None:
    resumed = Bundle.open(site.folder / "bundle")
    assert files_of(resumed) == files_of(whole.bundle)
    assert resumed.manifest.accuracy == whole.accuracy
    assert not (site.folder / "bundle.split").exists()


def test_a_split_for_a_fleet_says_what_it_pruned_and_is_placed_on_that_fleet(site: Site, killed: Killed) -> None:
    assert sorted(part["heads_pruned"] for part in killed.record["parts"]) == [DEFAULT, SMALLEST]
    assert "narrow has" in killed.record["sizing"][0]
    assert "all pruned to 1 of 6 heads" in killed.record["sizing"][0]
    ran = edgevit("assign", "bundle", "--fleet", "fleet.toml", "--json", cwd=site.folder)
    assert ran.returncode == 0, ran.stderr
    assert sorted(part for node in json.loads(ran.stdout)["nodes"] for part in node["parts"]) == ["part-0", "part-1"]


def test_a_budget_that_nothing_meets_ends_with_8_before_any_work(site: Site) -> None:
    ran = edgevit(
        "split", site.model, "--data", site.data, "--parts", 2, "--memory-budget", "1kB", "-o", "b", cwd=site.folder
    )
    assert ran.returncode == 8
    assert "bytes, and the budget is 1,000" in ran.stderr
    assert not list(site.folder.glob("b.*"))
    assert not (site.folder / "b").exists()
