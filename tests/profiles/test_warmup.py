"""When warm-up ends and how long measuring goes on: on a clock that only inference moves, and on recorded noise."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgevit.profiles import warmup

RECORDED = Path(__file__).parents[2] / "benchmarks/series/vit_tiny_idle_vm.json"


class Bench:
    """A loop whose inference at second ``t`` takes ``times_ms(t)``."""

    def __init__(self, times_ms: Callable[[float], float], spread: float = 0.0, seed: int = 0) -> None:
        self.now, self.times_ms, self.spread = 0, times_ms, spread
        self.rng = np.random.default_rng(seed)
        self.taken: list[int] = []

    def clock(self) -> int:
        return self.now

    def draw(self, enough: warmup.Enough) -> array[int]:
        first, begun = len(self.taken), self.now
        while True:
            noise = 1 + self.spread * self.rng.standard_normal()
            self.taken.append(round(self.times_ms(self.now / 1e9) * noise * 1e6))
            self.now += self.taken[-1]
            if enough(self.now - begun, len(self.taken) - first):
                return array("q", self.taken[first:])


def warm(bench: Bench, cap_s: float = 10.0) -> tuple[array[int], bool]:
    return warmup.warm_up(bench.draw, bench.clock, least_s=1.0, least_runs=10, cap_s=cap_s)


def measure(bench: Bench) -> tuple[array[int], int]:
    return warmup.until_steady(bench.draw, bench.clock, lambda ns, n: ns >= 6e9 and n >= 64, cap_s=24.0)


def test_a_quiet_machine_is_warm_after_the_least_time_and_measured_once() -> None:
    bench = Bench(lambda t: 10.0, spread=0.01)
    taken, settled = warm(bench)
    assert settled
    assert 1e9 <= sum(taken) < 1.1e9
    taken, looks = measure(bench)
    assert looks == 1
    assert 6e9 <= sum(taken) < 6.1e9


def test_warm_up_goes_on_while_inference_gets_faster() -> None:
    bench = Bench(lambda t: 10.0 * (1 + 0.5 * 2.718 ** (-t / 0.5)), spread=0.01)
    taken, settled = warm(bench)
    assert settled
    assert sum(taken) > 2e9
    assert taken[-1] == pytest.approx(10e6, rel=0.05)


def test_a_slow_warm_up_is_not_taken_for_noise() -> None:
    for seed in range(20):
        taken, settled = warm(Bench(lambda t: 10.0 * (1 + 0.3 * 2.718 ** (-t / 2)), spread=0.01, seed=seed))
        assert not settled or sum(taken) > 8e9


def test_warm_up_that_never_settles_ends_at_the_cap() -> None:
    taken, settled = warm(Bench(lambda t: 10.0 * 1.05**t), cap_s=5.0)
    assert not settled
    assert 5e9 <= sum(taken) < 5.1e9


def test_scatter_that_comes_and_goes_does_not_keep_warm_up_from_ending() -> None:
    settled = [warm(Bench(lambda t: 10.0, spread=0.05, seed=seed))[1] for seed in range(30)]
    assert all(settled)


def test_a_slow_model_is_warm_after_few_runs() -> None:
    taken, settled = warm(Bench(lambda t: 500.0, spread=0.002))
    assert settled
    assert len(taken) < 25


def test_samples_that_move_are_measured_on_and_all_are_kept() -> None:
    bench = Bench(lambda t: 10.0 if t < 2 else 11.0, spread=0.01)
    taken, looks = measure(bench)
    assert looks == 2
    assert 18e9 <= sum(taken) < 18.2e9
    assert list(taken) == bench.taken
    assert not warmup.doubtful(taken)  # two of eighteen seconds before the step do not make the median


def test_a_drift_that_goes_on_stays_a_drift() -> None:
    for seed in range(20):
        taken, looks = measure(Bench(lambda t: 10.0 * (1 + 0.05 * t / 3), spread=0.03, seed=seed))
        assert looks > 1
        assert warmup.verdict.doubts_about(taken)[0].verdict == "DRIFTING"


def test_a_step_that_is_no_doubt_yet_is_looked_at_again() -> None:
    levels = [9.7, 10.0, 10.3, 10.0, 9.7, 10.6, 9.7, 10.6, 10.4, 10.3, 10.0, 10.35]
    samples = [level + 0.01 * (number % 20 - 10) for level in levels for number in range(20)]
    assert warmup.doubtful(samples)
    assert not warmup.verdict.doubts_about(samples)


def test_very_many_samples_are_judged_by_a_stride() -> None:
    samples = [0.02] * 200_000 + [0.03] * 100_000
    assert warmup.doubtful(samples)
    assert not warmup.doubtful([0.02] * 300_000)


def replay(series: list[int], start: int) -> Bench:
    """The recorded durations (units of 10 µs) from ``start`` on, around and around."""
    bench = Bench(lambda t: series[(start + len(bench.taken)) % len(series)] / 100)
    return bench


def test_the_recorded_idle_machine_is_called_steady_more_often_than_by_one_short_window() -> None:
    before, after = [], []
    for series in json.loads(RECORDED.read_text())["series"].values():
        for start in range(0, len(series), len(series) // 10):
            bench = replay(series, start)
            _, settled = warm(bench)
            taken, _ = measure(bench)
            after.append(settled and not warmup.verdict.doubts_about(taken))
            before.append(not warmup.verdict.doubts_about(replay(series, start).draw(lambda ns, n: ns >= 3e9)))
    assert sum(after) >= 1.5 * sum(before) > 0
