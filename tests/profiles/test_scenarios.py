from __future__ import annotations

import time

import pytest

from edgevit.errors import UnknownName, UsageError
from edgevit.profiles.scenarios import (
    BackToBack,
    Frames,
    Gap,
    Poisson,
    Scenario,
    bound_sentence,
    by_minute,
    drive,
    pace_of,
    parse_scenario,
    several,
    sustained_sentence,
    wait_until,
)

MS = 1_000_000


class Simulated:
    """A clock in ns that only queries and waiting move."""

    def __init__(self, query_ms: float) -> None:
        self.now, self.query_ns, self.starts = 0, int(query_ms * MS), []

    def clock(self) -> int:
        return self.now

    def wait(self, due: int, clock: object) -> None:
        self.now = max(self.now, due)

    def query(self, feed: object) -> None:
        self.starts.append(self.now)
        self.now += self.query_ns


def run(pace, query_ms: float, count: int):
    machine = Simulated(query_ms)
    timeline = drive(machine.query, [{}], machine.clock, lambda _, n: n >= count, pace, machine.wait)
    return machine, timeline


def milliseconds(values) -> list[float]:
    return [round(value / MS, 1) for value in values]


def test_back_to_back_queries_wait_for_nothing() -> None:
    _, timeline = run(BackToBack(), 5, 10)
    assert milliseconds(timeline.samples) == [5.0] * 10
    assert round(timeline.elapsed_ns / MS) == 50


def test_cool_queries_start_200_ms_after_the_last_one_ended() -> None:
    machine, timeline = run(Gap(), 5, 3)
    assert milliseconds(machine.starts) == [200.0, 405.0, 610.0]
    assert milliseconds(timeline.samples) == [5.0] * 3


def test_a_fast_model_keeps_every_frame() -> None:
    machine, timeline = run(Frames(100), 4, 5)
    assert milliseconds(machine.starts) == [0, 10, 20, 30, 40]
    assert timeline.dropped == 0


def test_a_slow_model_drops_frames_and_they_are_counted() -> None:
    machine, timeline = run(Frames(100), 25, 4)
    assert milliseconds(machine.starts) == [0, 30, 60, 90]
    assert timeline.dropped == 6
    assert milliseconds(timeline.samples) == [25.0] * 4


def test_waiting_in_the_queue_counts_as_latency() -> None:
    class Burst:
        def due(self, begun: int, free: int) -> int:
            return begun

    _, timeline = run(Burst(), 10, 3)
    assert milliseconds(timeline.samples) == [10.0, 20.0, 30.0]


def test_poisson_arrivals_have_the_asked_rate_and_are_the_same_every_time() -> None:
    machine, timeline = run(Poisson(50), 0.1, 4000)
    assert timeline.elapsed_ns / 1e9 == pytest.approx(4000 / 50, rel=0.05)
    again, _ = run(Poisson(50), 0.1, 4000)
    assert machine.starts == again.starts
    gaps = [(b - a) / MS for a, b in zip(machine.starts, machine.starts[1:], strict=False)]
    assert sum(gap < 20 * 0.693 for gap in gaps) / len(gaps) == pytest.approx(
        0.5, abs=0.03
    )  # the median of an exponential


def test_a_queue_at_80_percent_load_waits_as_queueing_theory_says() -> None:
    """M/D/1: mean wait = ρ / (2 (1 − ρ)) service times."""
    _, timeline = run(Poisson(80), 10, 60_000)
    waits = [sample / MS - 10 for sample in timeline.samples]
    assert sum(waits) / len(waits) == pytest.approx(10 * 0.8 / (2 * 0.2), rel=0.1)


def test_a_real_wait_ends_at_the_due_time_not_before() -> None:
    clock = time.perf_counter_ns
    due = clock() + 5 * MS
    wait_until(due, clock)
    assert clock() >= due


def test_a_multi_stream_query_is_several_inferences_over_all_feeds() -> None:
    seen: list[int] = []
    query = several(lambda feed: seen.append(feed["n"]), [{"n": 0}, {"n": 1}, {"n": 2}], 4)
    query({})
    query({})
    assert seen == [0, 1, 2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "single-stream"),
        ({"fps": 30.0}, "paced 30 fps"),
        ({"qps": 40.0, "bound_ms": 100.0}, "server 40 qps ≤ 100 ms"),
        ({"minutes": 30.0}, "sustained 30 min"),
        ({"name": "multi-stream"}, "multi-stream of 8"),
        ({"name": "cool"}, "cool"),
        ({"name": "offline"}, "offline"),
    ],
)
def test_a_parameter_implies_its_scenario(given: dict, expected: str) -> None:
    assert str(parse_scenario(**given)) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "server"}, "needs --qps"),
        ({"name": "paced"}, "needs --fps"),
        ({"name": "sustained"}, "needs --minutes"),
        ({"name": "cool", "fps": 3.0}, "--fps does not belong to the scenario cool"),
        ({"fps": -3.0}, "--fps must be over 0"),
        ({"bound_ms": 5.0}, "needs --qps"),
    ],
)
def test_contradictions_are_usage_errors(given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_scenario(**given)


def test_an_unknown_scenario_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownName) as caught:
        parse_scenario("ofline")
    assert caught.value.nearest == ("offline",)


@pytest.mark.parametrize(
    ("name", "kind"), [("server", Poisson), ("paced", Frames), ("cool", Gap), ("offline", BackToBack)]
)
def test_every_scenario_has_its_pace(name, kind) -> None:
    assert isinstance(pace_of(Scenario(name, qps=5, fps=5)), kind)


def test_a_bound_is_judged_by_the_early_stopping_p99_and_never_by_too_few_samples() -> None:
    assert "is kept: p99 is 5 ms" in bound_sentence([5.0] * 1000, 10)
    assert "is NOT kept" in bound_sentence([5.0] * 950 + [50.0] * 50, 10)
    assert "cannot be said" in bound_sentence([5.0] * 100, 10)
    assert "662" in bound_sentence([5.0] * 100, 10)


def test_minutes_are_told_apart_and_a_short_last_one_is_left_out() -> None:
    minutes = by_minute([100.0] * 600 + [150.0] * 400 + [150.0] * 10)
    assert [(part["minute"], part["p50_ms"], part["count"]) for part in minutes] == [(1, 100.0, 600), (2, 150.0, 400)]
    assert sustained_sentence(minutes).startswith("minute 2 takes 1.50× minute 1")
