"""Search for faster schedules than the rules', kernel by kernel, on the machine the model is built for.

The kernels that cost an inference most (calls × time) come first. One that stops gaining is left for one that may
still gain, and what was found is in the database after every gain, so an interrupted search has lost nothing.
TVM's MetaSchedule is not used: its sketches and its learnt cost model are for spaces of millions of programs, and ours
are a few hundred variants of a schedule that is near the best already, each of which can be measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tvm

from edgevit.errors import Unsupported
from edgevit.export.tvm.records.database import Database, Record
from edgevit.export.tvm.targets import BuildTarget
from edgevit.export.tvm.tuning_measure import Measurer
from edgevit.export.tvm.tuning_search import Choice, Search
from edgevit.export.tvm.tuning_tasks import Task, tasks_of

Report = Callable[[str, float | None], None]
Choices = dict[str, Choice]  # by workload

BATCH = 8  # choices built and raced at a time
HOPE_LOST = 0.5  # what a batch without a gain leaves of the hope for a kernel
GIVE_UP = 0.1  # below this much hope a kernel is done
FINAL_ROUNDS = 15
SHARE_WORTH = 0.001  # of the model's time: a kernel below it is not searched


class Clock(Protocol):
    """Times choices of a kernel; ``Measurer`` in earnest."""

    def times(self, key: str, func: Any, choices: Sequence[Choice], rounds: int = 5) -> list[float | None]:
        """Microseconds for each choice, None for one that does not work."""
        ...


@dataclass
class Climb:
    """A task with its search, and what the database had of it.

    hope  how much of its time a further batch may save, in the eyes of the scheduler: 1 at first and after a gain
    """

    task: Task
    search: Search
    before: Record | None = None
    hope: float = 1.0
    seconds: float = 0.0
    done: bool = False

    @property
    def us(self) -> float:
        """Of one inference, with the best choice."""
        return self.task.calls * (self.search.best_us or 0.0)

    @property
    def rule_us(self) -> float:
        """Of one inference, with the rules' choice."""
        return self.task.calls * (self.search.start_us or 0.0)

    def record(self) -> Record:
        """What the database keeps: never slower than the rules, by the search's own times."""
        task, search, before = self.task, self.search, self.before
        return Record(
            workload=task.key,
            name=task.name,
            choice=dict(search.best),
            space=task.space,
            us=round(search.best_us or 0.0, 3),
            rule_us=round(search.start_us or 0.0, 3),
            trials=search.trials + (before.trials if before else 0),
            seconds=round(self.seconds + (before.seconds if before else 0.0), 3),
            finished=self.done,
        )


class Budget:
    """What a search may spend: ``trials`` and ``seconds``, None where there is no bound."""

    def __init__(self, trials: int | None, seconds: float | None) -> None:
        self.trials = trials
        self.seconds = seconds
        self.spent = 0
        self._started = self._lap = time.monotonic()

    def left(self) -> int:
        """Trials that may still be made; a batch at a time where only the clock bounds."""
        if self.seconds is not None and time.monotonic() - self._started >= self.seconds:
            return 0
        return BATCH if self.trials is None else max(0, self.trials - self.spent)

    def lap(self) -> float:
        """Seconds since the last lap: every second of a search belongs to one kernel."""
        before, self._lap = self._lap, time.monotonic()
        return self._lap - before

    def fraction(self) -> float:
        """Of the budget that is gone."""
        shares = [0.0]
        if self.trials:
            shares.append(self.spent / self.trials)
        if self.seconds:
            shares.append((time.monotonic() - self._started) / self.seconds)
        return min(1.0, max(shares))


def budget_for(tasks: Sequence[Task], database: Database, trials: int | None, minutes: float | None) -> Budget:
    """What is left of a model's budget after what its kernels were given before: the second export costs no search."""
    own = [record for task in tasks if (record := database.own(task.key, task.space)) is not None]
    seconds = None if minutes is None else max(0.0, 60 * minutes - sum(record.seconds for record in own))
    return Budget(None if trials is None else max(0, trials - sum(record.trials for record in own)), seconds)


def tune(
    module: tvm.ir.IRModule,
    target: BuildTarget,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    threads: int,
    progress: Report,
    database: Database,
    clock: Clock | None = None,
) -> Choices:
    """Choices by workload for ``schedules.apply``: what beats the rules of the database and of what is found now.

    ``module`` is lowered and unscheduled. ``trials`` bounds the choices that are measured, ``minutes`` the time, both
    counted over all searches of these kernels on this target; with both the first to be reached ends the search.
    Unsupported for a target other than this machine: its schedules can only be measured on it.
    """
    if not target.host or target.kind != "llvm":
        raise Unsupported(
            f"tuning measures on the machine it tunes for, and this is not {target.describe()}",
            hint="leave trials and minutes out, or export on the device",
        )
    tasks = tasks_of(module, target)
    budget = budget_for(tasks, database, trials, minutes)
    climbs = [_climb(task, database) for task in tasks]
    if clock is not None:
        _search(climbs, clock, budget, progress, database)
    else:
        with Measurer(target, threads) as measurer:
            _search(climbs, measurer, budget, progress, database)
    return choices_of(tasks, database)


def known(module: tvm.ir.IRModule, target: BuildTarget, database: Database) -> Choices:
    """Choices by workload for what the database has; nothing is measured."""
    return choices_of(tasks_of(module, target), database)


def choices_of(tasks: Iterable[Task], database: Database) -> Choices:
    """The recorded choice of each task that has one which beats the rules."""
    found = ((task.key, database.find(task.key, task.space)) for task in tasks)
    return {key: record.choice for key, record in found if record is not None and record.gains}


def sources(module: tvm.ir.IRModule, target: BuildTarget, database: Database) -> dict[str, int]:
    """How many kernels are scheduled from the user's own records ("own"), from shipped ones, and by the rules."""
    found = {"own": 0, "shipped": 0, "rules": 0}
    for task in filter(lambda task: task.tunable, tasks_of(module, target)):
        record = database.find(task.key, task.space)
        source = "own" if record is None or not database.ships(record) else "shipped"
        found[source if record is not None and record.gains else "rules"] += 1
    return found


def _climb(task: Task, database: Database) -> Climb:
    """A search from where the database has it, else from nothing."""
    before = database.own(task.key, task.space)
    climb = Climb(task, Search(task.knobs, task.start, seed=before.trials if before else 0), before)
    if before is not None:
        climb.search.resume(before.choice, before.us, before.rule_us)
        climb.done = before.finished
    return climb


def _search(climbs: list[Climb], clock: Clock, budget: Budget, report: Report, database: Database) -> None:
    """Spend the budget. Whatever ends it, what was measured is in the database."""

    def keep(climb: Climb) -> None:
        climb.seconds += budget.lap()
        if climb.search.start_us is not None:
            database.put(climb.record())
        now, rule = sum(each.us for each in climbs) / 1e3, sum(each.rule_us for each in climbs) / 1e3
        stage = f"tune {climb.task.name}: {now:.2f} ms, {rule:.2f} ms by rule, {budget.spent} trials"
        report(stage, budget.fraction())

    for climb in climbs:
        if climb.before is None and budget.left():
            _begin(climb, clock, budget, database)
            keep(climb)
    worth = SHARE_WORTH * sum(climb.us for climb in climbs)
    while budget.left() and (waiting := [climb for climb in climbs if not climb.done and climb.us > worth]):
        climb = max(waiting, key=lambda each: each.hope * each.us)
        _step(climb, clock, budget)
        keep(climb)


def _begin(climb: Climb, clock: Clock, budget: Budget, database: Database) -> None:
    """Time the rules' choice of a kernel, beside the recorded one where there is any."""
    task, search = climb.task, climb.search
    record = database.find(task.key, task.space)
    choices = [search.start]
    if record is not None and dict(record.choice) != search.start:
        choices.append(dict(record.choice))
    times = clock.times(task.key, task.func, choices)
    budget.spent += len(choices)
    for choice, us in zip(choices, times, strict=True):
        search.observe(choice, us)
    climb.done = not task.tunable


def _step(climb: Climb, clock: Clock, budget: Budget) -> None:
    """One batch of a kernel, raced against its best so far."""
    task, search = climb.task, climb.search
    choices = search.propose(min(BATCH, budget.left()))
    if not choices:
        climb.done = True
        return
    held, *times = clock.times(task.key, task.func, [search.best, *choices])
    budget.spent += len(choices)
    # Times are kept at the machine's pace of the first measurement: only ratios within one race are compared.
    pace = search.best_us / held if held and search.best_us else 1.0
    before = search.best
    for choice, us in zip(choices, times, strict=True):
        search.observe(choice, us and us * pace)
    if search.best != before:
        _confirm(climb, clock)
    climb.hope = 1.0 if search.best != before else climb.hope * HOPE_LOST
    climb.done = climb.hope < GIVE_UP


def _confirm(climb: Climb, clock: Clock) -> None:
    """Race the best against the rules' choice for longer; the rules' stays unless it loses again."""
    search = climb.search
    rule, best = clock.times(climb.task.key, climb.task.func, [search.start, search.best], FINAL_ROUNDS)
    search.settle(rule, best)
