"""Races of many in real processes, with a runtime that takes as long as its artifact says."""

from __future__ import annotations

from pathlib import Path

import pytest
from spins import install_spin, make

from edgevit.errors import UsageError, WorkerFailed
from edgevit.profiles.ranking import processes, race
from edgevit.profiles.ranking.entrants import Runner, runners
from edgevit.profiles.ranking.race import Terms, run
from edgevit.profiles.ranking.record import content_of


@pytest.fixture(autouse=True)
def spin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    install_spin(tmp_path_factory.mktemp("plugin"), monkeypatch)


QUICK = Terms(threads=1, seconds=3.0)
TOLERANT = Terms(threads=1, seconds=3.0, strict=False)


def quiet(stage: str, fraction: float | None) -> None:
    """Nobody looks."""


def test_three_are_ranked_and_bound_to_their_files(tmp_path: Path) -> None:
    paths = [make(tmp_path / name, ms) for name, ms in (("slow", "36.0"), ("fast", "1.0"), ("middle", "6.0"))]
    stages: list[str] = []
    found = race(paths, terms=QUICK, progress=lambda stage, fraction: stages.append(stage))
    assert [one.label for one in found.standings] == ["fast", "middle", "slow"]
    assert found.standings[2].claimed
    assert " of 3: " in found.sentence() or "the other one is slower" in found.sentence()
    assert list(dict.fromkeys(stages))[::2] == ["comparing, opening 3", "comparing again, opening 3"]
    for one, runner in zip(found.record.entrants, runners(paths, ()), strict=True):
        assert one.content == content_of(runner.artifact.manifest.files)
    assert found.record.held_bytes
    assert "3 processes held open" in found.measured()


def test_one_artifact_runs_on_every_runtime_that_opens_it_here(tmp_path: Path) -> None:
    found = race([make(tmp_path / "a")], ("all",), QUICK)
    assert [one.label for one in found.standings] == ["a on spin", "a on slowspin"]


def test_one_that_fails_ends_a_race_of_named_ones_and_leaves_another_race(tmp_path: Path) -> None:
    paths = [make(tmp_path / name, mode) for name, mode in (("a", "1.0"), ("dies", "segfault"), ("b", "30.0"))]
    with pytest.raises(WorkerFailed, match="SIGSEGV"):
        race(paths, terms=QUICK)
    found = run(runners(paths, ()), TOLERANT, quiet)
    assert [one.label for one in found.standings] == ["a", "b"]
    assert [one.name for one in found.record.left_out] == ["dies on spin"]
    assert "SIGSEGV" in found.record.left_out[0].why


def test_where_memory_is_short_fewer_are_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [make(tmp_path / name) for name in "abc"]
    free = iter([1 << 40, 1, 1 << 40, 1 << 40])
    monkeypatch.setattr(processes, "available_memory", lambda: next(free, 1 << 40))
    found = run(runners(paths, ()), TOLERANT, quiet)
    assert len(found.labels) == 2
    assert "no memory to hold it open beside 1 others" in found.record.left_out[0].why


def test_what_does_not_pair_and_what_is_too_much_is_refused(tmp_path: Path) -> None:
    paths = [make(tmp_path / str(number)) for number in range(13)]
    with pytest.raises(UsageError, match="13 are too many: 12 are held open"):
        runners(paths, ())
    with pytest.raises(UsageError, match="3 artifacts and 2 runtimes do not pair"):
        runners(paths[:3], ("spin", "slowspin"))
    assert [one.runtime for one in runners(paths[:2], ("spin", "slowspin"))] == ["spin", "slowspin"]
    assert [one.runtime for one in runners(paths[:2], ("slowspin",))] == ["slowspin"] * 2
    assert len(runners(paths[:2], ("all",))) == 4
    with pytest.raises(UsageError, match="of 12 needs at least 12 blocks, got 9"):
        Terms(blocks=9).schedule(12)


def test_what_is_known_of_a_runtime_stands_before_what_the_manifest_says(tmp_path: Path) -> None:
    (one,) = runners([make(tmp_path / "a"), make(tmp_path / "b")], ())[:1]
    known = {"parity": "verified", "max_rel": 2e-6}
    assert Runner(one.artifact, "spin", known).entrant().max_rel == 2e-6
