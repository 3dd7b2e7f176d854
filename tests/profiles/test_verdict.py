"""Verdicts on a recorded run beside CPU hogs, and on series made to pass or to fail by a little."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgevit.profiles import verdict
from edgevit.profiles.verdict import Need, Run

HOGS = Path(__file__).parents[2] / "benchmarks/series/vit_tiny_beside_hogs.json"
QUIET_CPU = [{"t_s": 0.4 * n, "busy_s": 0.4 * n, "own_s": 0.4 * n, "steal_s": 0.0} for n in range(11)]


def run(samples: list[float], series: dict[str, list[dict[str, float]]], timer_ms: float = 0.0001) -> Run:
    return Run(tuple(samples), (samples[0],) * 100, True, 5.0, 12.0, timer_ms, 1 << 20, series, (), sum(samples))


def noisy(count: int = 400, spread: float = 0.01, seed: int = 0) -> np.ndarray:
    return 10 * (1 + spread * np.random.default_rng(seed).standard_normal(count))


def test_a_recorded_run_beside_hogs_is_never_steady() -> None:
    stored = json.loads(HOGS.read_text())
    samples = [value / 100 for value in stored["samples"]]
    beside = run(samples, stored["monitors"])
    evidence = [finding.evidence for finding in verdict.judge(beside, Need(3.0, 64), cores=2)]
    assert any("other processes took 1." in sentence for sentence in evidence)
    assert any("some process waited for a CPU" in sentence for sentence in evidence)


def test_the_hogs_are_seen_even_where_the_samples_look_steady() -> None:
    series = json.loads(HOGS.read_text())["monitors"]
    findings = verdict.judge(run(noisy().tolist(), series), Need(3.0, 64), cores=2)
    assert verdict.worst(findings) == "UNSTABLE"
    assert verdict.judge(run(noisy().tolist(), {"load of other processes": QUIET_CPU}), Need(3.0, 64), cores=2) == []


@pytest.mark.parametrize("step", [0.06, -0.06])
def test_a_step_of_over_five_percent_is_drifting_in_either_direction(step: float) -> None:
    samples = noisy() * np.where(np.arange(400) < 200, 1, 1 + step)
    (finding,) = verdict.doubts_about(samples.tolist())
    assert finding.verdict == "DRIFTING"
    assert f"{step:+.0%}"[0] in finding.evidence


def test_a_steady_ramp_of_five_percent_drifts_in_nearly_all_of_a_hundred_runs() -> None:
    ramp = 1 + 0.05 * np.arange(400) / 400
    found = [verdict.doubts_about((noisy(seed=seed, spread=0.02) * ramp).tolist()) for seed in range(100)]
    assert sum(bool(doubts) for doubts in found) >= 97
    flat = [verdict.doubts_about(noisy(seed=seed, spread=0.02).tolist()) for seed in range(100)]
    assert sum(bool(doubts) for doubts in flat) <= 1


def test_throttling_is_named_before_what_others_did() -> None:
    series = {"load of other processes": json.loads(HOGS.read_text())["monitors"]["load of other processes"]}
    series["temperature"] = [{"t_s": 0.0, "over_c": 1.0}]
    findings = verdict.judge(run(noisy().tolist(), series), Need(3.0, 64), cores=2)
    assert [finding.verdict for finding in findings] == ["THROTTLED", "UNSTABLE"]


def test_a_clock_that_takes_over_two_percent_of_the_median_is_flagged() -> None:
    assert verdict.timer_note(run([0.01] * 9, {}, timer_ms=0.0002)) is None
    assert verdict.timer_note(run([0.01] * 9, {}, timer_ms=0.00025)) == "timing itself takes 2.5% of the median"
