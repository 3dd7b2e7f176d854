"""Comparisons in real workers, with a runtime that takes as long as its artifact says; and what is refused before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ranked import ranking
from spins import install_spin, make

from edgevit.artifact.manifest import Parity
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, ParityFailed, UnknownName, Unsupported, UsageError, WorkerFailed
from edgevit.profiles.compare import compare
from edgevit.profiles.difference import Difference, difference_of
from edgevit.profiles.ranking.entrants import Runner, labels_of
from edgevit.profiles.ranking.race import SCHEDULE, Terms


@pytest.fixture(autouse=True)
def spin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    install_spin(tmp_path_factory.mktemp("plugin"), monkeypatch)


# The differences are 30 times: what is tested is what becomes of them, also on a machine whose noise lasts for several
# blocks, which widens intervals to many times what they were.
def quick(first: Path, second: Path | None = None, **options: Any) -> Difference:
    return compare(first, second, **{"threads": 1, "blocks": 15, "seconds": 2.0, **options})


# Real workers.


def test_a_slower_artifact_is_found_twice_and_said_in_one_sentence(tmp_path: Path) -> None:
    stages: list[str] = []
    found = quick(
        make(tmp_path / "a"), make(tmp_path / "b", "30.0"), progress=lambda stage, fraction: stages.append(stage)
    )
    assert found.claimed
    assert len(found.rounds) == 2
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert re.fullmatch(r"b is \d+\.\d\d× slower than a, 95 % CI \d+\.\d\d–\d+\.\d\d", found.sentence())
    assert list(dict.fromkeys(stages)) == [
        "comparing, opening 2", "comparing", "comparing again, opening 2", "comparing again",
    ]  # fmt: skip
    record = json.loads(json.dumps(found.record()))
    assert record["sentence"] == found.sentence()
    assert [len(one["block_ratios"]) for one in record["rounds"]] == [one.blocks for one in found.rounds]
    assert record["first"]["runtime"] == record["second"]["runtime"] == "spin"
    assert found.facts()[-1] == ("", found.sentence())


def test_equal_artifacts_differ_by_nothing(tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    found = quick(path, path)
    assert not found.claimed
    assert found.sentence().startswith("no difference larger than 2 %")
    assert (found.first.label, found.second.label) == ("a (first)", "a (second)")


def test_a_difference_that_stays_with_a_process_is_not_claimed(tmp_path: Path) -> None:
    found = quick(make(tmp_path / "a", f"first {tmp_path / 'opened'} 30.0 1.0"), make(tmp_path / "b", "1.0"))
    assert len(found.rounds) == 2
    assert [one.claimed for one in found.rounds] == [True, False]
    assert found.rounds[0].ratio.value < 0.5
    assert not found.claimed
    assert "another one did not repeat" in found.sentence()


def test_one_artifact_on_two_runtimes(tmp_path: Path) -> None:
    found = quick(make(tmp_path / "a"), runtimes=("spin", "slowspin"))
    assert found.sentence().startswith("a on slowspin is ")
    assert found.sentence().count("slower than a on spin") == 1


def test_a_crash_and_outputs_that_are_no_numbers_end_the_comparison_in_words(tmp_path: Path) -> None:
    fine = make(tmp_path / "a")
    with pytest.raises(WorkerFailed, match="SIGSEGV"):
        quick(fine, make(tmp_path / "b", "segfault"))
    with pytest.raises(WorkerFailed, match="hold NaN or infinity"):
        quick(fine, make(tmp_path / "c", "nan"))


def test_an_altered_artifact_is_refused(tmp_path: Path) -> None:
    one, two = make(tmp_path / "a"), make(tmp_path / "b")
    (two / "model.txt").write_text("0.1")
    with pytest.raises(BadArtifact, match="altered"):
        quick(one, two)


def test_what_is_unverified_is_noted_for_each(tmp_path: Path) -> None:
    unproved = Parity(status="unverified", reason="needs a moon", tolerance=1e-5)
    one, two = (make(tmp_path / name, parity=unproved) for name in "ab")
    assert quick(one, two).notes[:2] == (f"{one} is unverified: needs a moon", f"{two} is unverified: needs a moon")


def test_a_batch_that_both_take_is_used(tmp_path: Path) -> None:
    found = quick(make(tmp_path / "a", batch=(1, 8)), make(tmp_path / "b", batch=(4, 4)))
    assert found.batch == 4


# What is refused before a process is started.


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch": (2, 2)}, "takes a batch of 1, .* of 2"),
        ({"side": 4}, "takes image 3×2×2 float32, .* takes image 3×4×4 float32"),
        ({"dtype": "uint8"}, "takes image 3×2×2 float32, .* takes image 3×2×2 uint8"),
    ],
)
def test_artifacts_that_do_other_work_are_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        quick(make(tmp_path / "a"), make(tmp_path / "b", **options))


def test_a_batch_that_one_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"batch of 1-8, .* of 1-4, not 6"):
        quick(make(tmp_path / "a", batch=(1, 8)), make(tmp_path / "b", batch=(1, 4)), batch=6)


def test_an_artifact_that_failed_its_proof_is_refused(tmp_path: Path) -> None:
    bad = make(tmp_path / "b", parity=Parity(status="failed", reason="wrong", tolerance=1e-5))
    with pytest.raises(ParityFailed, match="its speed means nothing"):
        quick(make(tmp_path / "a"), bad)


def test_requests_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    with pytest.raises(UsageError, match="nothing to compare with"):
        quick(path)
    with pytest.raises(UsageError, match="nothing to compare with"):
        quick(path, runtimes=("spin", "spin"))
    with pytest.raises(UsageError, match="3 runtimes were given"):
        quick(path, runtimes=("spin", "slowspin", "spin"))
    with pytest.raises(UsageError, match="at least 9 blocks"):
        quick(path, path, blocks=8)
    with pytest.raises(UsageError, match="threads must be 1 or more"):
        quick(path, path, threads=0)
    with pytest.raises(UnknownName, match="runtime 'spun'"):
        quick(path, path, runtimes=("spun",))
    with pytest.raises(Unsupported, match="reference"):
        quick(path, path, runtimes=("reference",))


def test_more_blocks_than_the_most_are_run_when_they_are_asked_for() -> None:
    assert Terms().schedule(2) == SCHEDULE
    found = Terms(blocks=1000).schedule(2)
    assert (found.blocks, found.max_blocks) == (1000, 1000)


def difference(*rounds: float) -> Difference:
    """Nine equal blocks in every round."""
    return difference_of(ranking(*([[1.0] * 9, [ratio] * 9] for ratio in rounds)))


def test_only_what_two_processes_show_to_the_same_side_is_claimed() -> None:
    assert not difference(1.5).claimed
    assert difference(1.5, 1.4).claimed
    assert difference(0.5, 0.6).claimed
    assert not difference(1.5, 1.0).claimed
    assert not difference(1.5, 0.5).claimed


def test_the_interval_covers_both_processes() -> None:
    found = difference(1.5, 1.25)
    assert (found.ratio.low, found.ratio.high) == (pytest.approx(1.25), pytest.approx(1.5))
    assert found.sentence() == "b is 1.38× slower than a, 95 % CI 1.25–1.50"


def test_artifacts_of_the_same_folder_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    one, two = (Artifact.open(make(tmp_path / name / "model")) for name in "ab")

    def labels(*found: tuple[Artifact, str]) -> tuple[str, ...]:
        return labels_of([Runner(artifact, runtime).entrant() for artifact, runtime in found])

    assert labels((one, "spin"), (two, "spin")) == (str(one.path), str(two.path))
    assert labels((one, "spin"), (one, "slowspin")) == ("model on spin", "model on slowspin")
    assert labels(*[(one, "spin")] * 4)[2:] == ("model (third)", "model (4th)")
