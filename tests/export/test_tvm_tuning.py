"""The tuner: which choice next, which kernel next, when to stop, and that nothing that was found is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgevit.errors import Unsupported
from edgevit.export.tvm import targets, tuning
from edgevit.export.tvm.records.database import Database, read, space_of, write
from edgevit.export.tvm.tuning_search import GAIN, Choice, Search, frozen
from edgevit.export.tvm.tuning_tasks import Task

KNOBS = {"rows": (1, 2, 4, 8), "cols": (8, 16, 32, 64), "unroll": (0, 1)}
START = {"rows": 1, "cols": 8, "unroll": 0}


def landscape(choice: Choice) -> float:
    """Fastest, 10 µs, at rows 4, cols 32, unroll 1; 100 µs at the start or so."""
    return 10.0 * (1 + abs(choice["rows"] - 4)) * (1 + abs(choice["cols"] - 32) / 8) * (2 - choice["unroll"])


class Pretended:
    """A clock over a formula: counts what it is asked, and slows down with every request."""

    def __init__(self, drift: float = 1.0, fails: Choice | None = None) -> None:
        self.asked: list[tuple[str, Choice]] = []
        self._drift, self._pace, self._fails = drift, 1.0, fails

    def times(self, key: str, func: Any, choices: Sequence[Choice], rounds: int = 5) -> list[float | None]:
        self.asked += [(key, dict(choice)) for choice in choices]
        self._pace *= self._drift
        scale = {"heavy": 10.0, "light": 1.0}.get(key, 1.0) * self._pace
        return [None if choice == self._fails else scale * landscape(choice) for choice in choices]


def task(key: str, calls: int = 1) -> Task:
    return Task(key, f"fused_{key}", None, calls, KNOBS, START, space_of(KNOBS))  # type: ignore[arg-type]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "x.json")


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch, database: Database) -> Any:
    """``tuning.tune`` over tasks in place of a module."""

    def run(tasks: Sequence[Task], clock: Any, store: Database = database, **budget: Any) -> dict[str, Choice]:
        monkeypatch.setattr(tuning, "tasks_of", lambda module, target: list(tasks))
        said: list[str] = []
        budget.setdefault("progress", lambda stage, fraction: said.append(stage))
        return tuning.tune(None, targets.host(1), threads=1, database=store, clock=clock, **budget)  # type: ignore[arg-type]

    return run


def test_the_climb_reaches_the_top_of_a_smooth_hill() -> None:
    search = Search(KNOBS, START)
    search.observe(START, landscape(START))
    while search.trials < 25:
        for choice in search.propose(4):
            search.observe(choice, landscape(choice))
    assert search.best == {"rows": 4, "cols": 32, "unroll": 1}


def test_no_choice_is_proposed_twice_and_all_are_in_the_end() -> None:
    search = Search(KNOBS, START)
    search.observe(START, 1.0)
    proposed = []
    while batch := search.propose(5):
        proposed += batch
    assert len({frozen(choice) for choice in proposed}) == len(proposed)
    assert START not in proposed
    assert len(proposed) >= 4 * 4 * 2 - 3


def test_a_gain_within_the_noise_is_no_gain() -> None:
    search = Search(KNOBS, START)
    assert search.observe(START, 100.0)
    assert not search.observe({**START, "rows": 2}, 100.0 * (1 - GAIN / 2))
    assert not search.observe({**START, "rows": 4}, None)
    assert search.best == START
    assert search.observe({**START, "rows": 8}, 90.0)


def test_a_best_choice_that_loses_its_second_race_is_dropped_for_the_rules() -> None:
    search = Search(KNOBS, START)
    search.observe(START, 100.0)
    search.observe({**START, "rows": 8}, 80.0)
    search.settle(200.0, 201.0)
    assert (search.best, search.best_us) == (START, 100.0)
    search.observe({**START, "rows": 4}, 70.0)
    search.settle(200.0, 150.0)
    assert search.best_us == pytest.approx(75.0)


def test_the_choice_is_never_slower_than_the_rules_by_the_tuners_own_record(tune: Any, database: Database) -> None:
    rule_is_best = {"rows": 4, "cols": 32, "unroll": 1}
    tasks = [task("one"), replace(task("two"), start=rule_is_best)]
    choices = tune(tasks, Pretended(drift=1.1), trials=200)
    assert choices == {"one": rule_is_best}, "where nothing was gained the rules choose"
    assert all(0 < record.us <= record.rule_us for record in read(database.path))


def test_the_kernel_that_costs_most_is_searched_first(tune: Any) -> None:
    clock = Pretended()
    tune([task("light"), task("heavy")], clock, trials=2 + tuning.BATCH)
    assert [key for key, _ in clock.asked[2:]] == ["heavy"] * len(clock.asked[2:])


def test_no_budget_measures_nothing_and_writes_nothing(tune: Any, database: Database) -> None:
    clock = Pretended()
    assert tune([task("heavy")], clock, trials=0) == {}
    assert clock.asked == []
    assert not database.path.exists()


def test_calls_count_as_much_as_time(tune: Any) -> None:
    clock = Pretended()
    tune([task("light", calls=100), task("heavy", calls=1)], clock, trials=2 + tuning.BATCH)
    assert {key for key, _ in clock.asked[2:]} == {"light"}


def test_a_kernel_that_gains_nothing_makes_room_for_the_others(tune: Any) -> None:
    settled = replace(task("heavy"), start={"rows": 4, "cols": 32, "unroll": 1})
    clock = Pretended()
    choices = tune([settled, task("light", calls=5)], clock, trials=60)
    assert choices["light"] == {"rows": 4, "cols": 32, "unroll": 1}


def test_a_kernel_of_no_weight_is_not_searched(tune: Any) -> None:
    clock = Pretended()
    tune([task("heavy", calls=10_000), task("light")], clock, trials=500)
    assert sum(key == "light" for key, _ in clock.asked) == 1


def test_a_kernel_with_nothing_to_choose_is_timed_once_for_the_estimate(tune: Any, database: Database) -> None:
    fixed = replace(task("heavy"), knobs={"rows": (1,), "cols": (8,), "unroll": (0,)})
    clock = Pretended()
    assert tune([fixed], clock, trials=50) == {}
    assert clock.asked == [("heavy", START)]
    assert tune([fixed], clock, Database(database.path), trials=50) == {}
    assert len(clock.asked) == 1


def test_a_choice_that_cannot_run_is_not_taken(tune: Any) -> None:
    best = {"rows": 4, "cols": 32, "unroll": 1}
    assert tune([task("one")], Pretended(fails=best), trials=100)["one"] != best


def test_the_second_export_measures_nothing(tune: Any, database: Database) -> None:
    tasks = [task("light"), task("heavy")]
    first = tune(tasks, Pretended(), trials=30)
    again = Pretended()
    assert tune(tasks, again, Database(database.path), trials=30) == first
    assert again.asked == []


def test_a_larger_budget_goes_on_where_the_last_one_ended(tune: Any, database: Database) -> None:
    tasks = [task("heavy")]
    tune(tasks, Pretended(), trials=9)
    clock = Pretended()
    tune(tasks, clock, Database(database.path), trials=17)
    assert 0 < len(clock.asked) <= 17
    assert read(database.path)[0].trials == 17


def test_minutes_spent_before_count(tune: Any, database: Database) -> None:
    tune([task("heavy")], Pretended(), trials=3)
    stored = read(database.path)
    write(database.path, [replace(record, seconds=61.0) for record in stored])
    clock = Pretended()
    tune([task("heavy")], clock, Database(database.path), minutes=1)
    assert clock.asked == []


def test_an_interrupt_keeps_what_was_learnt(tune: Any, database: Database) -> None:
    class Interrupted(Pretended):
        def times(self, key: str, func: Any, choices: Sequence[Choice], rounds: int = 5) -> list[float | None]:
            if len(self.asked) > 30:
                raise KeyboardInterrupt
            return super().times(key, func, choices, rounds)

    with pytest.raises(KeyboardInterrupt):
        tune([task("light"), task("heavy")], Interrupted(), trials=500)
    kept = {record.workload: record for record in read(database.path)}
    assert kept["heavy"].us < kept["heavy"].rule_us
    assert Database(database.path).find("heavy", space_of(KNOBS)) == kept["heavy"]


def test_progress_says_the_estimate_for_the_whole_model(tune: Any) -> None:
    said: list[tuple[str, float | None]] = []
    tune([task("heavy", calls=10)], Pretended(), trials=40, progress=lambda stage, share: said.append((stage, share)))
    rule_ms = 10 * 10 * landscape(START) / 1e3
    assert said[0][0].startswith(f"tune fused_heavy: {rule_ms:.2f} ms, {rule_ms:.2f} ms by rule, 1 trials")
    assert f"tune fused_heavy: 1.00 ms, {rule_ms:.2f} ms by rule" in said[-1][0]
    shares = [share for _, share in said]
    assert shares == sorted(shares)


def test_a_shipped_record_is_used_before_any_search_and_is_raced_when_there_is_one(tune: Any, tmp_path: Path) -> None:
    shipped, best = tmp_path / "s.json.gz", {"rows": 4, "cols": 32, "unroll": 1}
    tune([task("one")], Pretended(), Database(tmp_path / "elsewhere.json"), trials=100)
    write(shipped, read(tmp_path / "elsewhere.json"))
    database = Database(tmp_path / "own.json", shipped)
    assert tuning.choices_of([task("one")], database) == {"one": best}
    clock = Pretended()
    tune([task("one")], clock, database, trials=2)
    assert [choice for _, choice in clock.asked] == [START, best]
    assert read(tmp_path / "own.json")[0].choice == best


def test_other_machines_cannot_be_tuned_for(tune: Any) -> None:
    with pytest.raises(Unsupported, match="aarch64-neon"):
        tuning.tune(
            None,  # type: ignore[arg-type]
            targets.choose(arch="aarch64", cores=1),
            trials=1,
            threads=1,
            progress=lambda stage, share: None,
            database=Database(Path("none.json")),
        )
