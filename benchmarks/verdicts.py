"""How often is a quick run STEADY when it should be, and when it should not: the rules before issue 4 against today's.

    python benchmarks/verdicts.py [--trials 200]

Latencies are made: a noise times an effect whose truth is known. The noise is white, or recorded on a virtual machine
with nothing else to do (series/vit_tiny_idle_vm.json; its host has other guests). Both rules see the same series; the
new one runs the package's own code on a clock that only inference moves. Writes results/verdicts.json.
"""

from __future__ import annotations

import argparse
import json
import math
from array import array
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from statistics import median

import numpy as np

from edgevit.profiles import statistics, verdict, warmup

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SERIES = HERE / "series" / "vit_tiny_idle_vm.json"
LENGTH_S, MEAN_MS = 60.0, 17.5
QUICK_RUNS, WARM_CAP_S = 64, 10.0
BEFORE_S = 3.0
AFTER_S, AFTER_CAP_S = 6.0, 24.0  # the quick tier's min_s and steady_cap_s
RIGHT = 0.05  # of the level that the series settles at
Rng = np.random.Generator
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def recorded() -> list[Floats]:
    """Recorded series in ms."""
    return [np.asarray(series) / 100 for series in json.loads(SERIES.read_text())["series"].values()]


Noise = Callable[[Rng], tuple[Floats, float]]  # a series in ms of at least LENGTH_S, and its level


def noise_white(spread: float) -> Noise:
    count = int(LENGTH_S * 1e3 / MEAN_MS)
    return lambda rng: (MEAN_MS * (1 + spread * rng.standard_normal(count)), MEAN_MS)


def noise_recorded() -> Noise:
    """A recorded series from a random place on, repeated; its level is its own median."""
    series = recorded()

    def draw(rng: Rng) -> tuple[Floats, float]:
        chosen = series[rng.integers(len(series))]
        count = int(LENGTH_S * 1e3 / chosen.mean())
        return np.resize(np.roll(chosen, -rng.integers(len(chosen))), count), float(np.median(chosen))

    return draw


# Effects: seconds -> factor, and the factor at which the series settles (None: it never does).
EFFECTS: dict[str, tuple[Callable[[Floats], Floats], float | None]] = {
    "none": (lambda t: np.ones_like(t), 1.0),
    "warm-up from 30 % more, 0.3 s": (lambda t: 1 + 0.3 * np.exp(-t / 0.3), 1.0),
    "warm-up from 30 % more, 2 s": (lambda t: 1 + 0.3 * np.exp(-t / 2), 1.0),
    "5 % step up at 2.5 s": (lambda t: np.where(t < 2.5, 1.0, 1.05), 1.05),
    "10 % step up at 2.5 s": (lambda t: np.where(t < 2.5, 1.0, 1.1), 1.1),
    "10 % step up at 4 s": (lambda t: np.where(t < 4, 1.0, 1.1), 1.1),
    "drift of 5 % every 3 s": (lambda t: 1 + 0.05 * t / 3, None),
    "drift of 10 % every 3 s": (lambda t: 1 + 0.10 * t / 3, None),
    "throttling to 25 % more within 10 s": (lambda t: 1 + 0.25 * (1 - np.exp(-t / 4)), 1.25),
    "two levels 20 % apart, 1 s each": (lambda t: np.where(t % 2 < 1, 1.0, 1.2), None),
}


class Machine:
    """Durations in ns that a loop draws one after another."""

    def __init__(self, durations: array[int]) -> None:
        self.durations, self.place = durations, 0
        self.ends = [0, *accumulate(durations)]

    def clock(self) -> int:
        return self.ends[self.place]

    def draw(self, enough: warmup.Enough) -> array[int]:
        first = self.place
        while True:
            self.place += 1
            if enough(self.ends[self.place] - self.ends[first], self.place - first):
                return self.durations[first : self.place]


def lasting(seconds: float) -> warmup.Enough:
    return lambda ns, count: ns >= seconds * 1e9 and count >= QUICK_RUNS


def before(machine: Machine) -> tuple[array[int], bool]:
    """The first rules: 3 windows of ≥ 0.15 s and ≥ 10 runs within 1 %, then 3 s, whatever they show."""
    medians: list[float] = []
    steady = False
    while not steady and machine.clock() < WARM_CAP_S * 1e9:
        medians.append(median(machine.draw(lambda ns, n: ns >= 0.15e9 and n >= 10)))
        last = medians[-3:]
        steady = machine.clock() >= 0.5e9 and len(last) == 3 and max(last) < 1.01 * min(last)
    return machine.draw(lasting(BEFORE_S)), steady


def after(machine: Machine) -> tuple[array[int], bool]:
    _, steady = warmup.warm_up(machine.draw, machine.clock, least_s=1.0, least_runs=10, cap_s=WARM_CAP_S)
    return warmup.until_steady(machine.draw, machine.clock, lasting(AFTER_S), cap_s=AFTER_CAP_S)[0], steady


def trial(rules: Callable[[Machine], tuple[array[int], bool]], durations: array[int]) -> tuple[bool, float, float]:
    """Whether the run is STEADY, its median in ms, and the seconds it took."""
    machine = Machine(durations)
    taken, warm = rules(machine)
    steady = warm and not verdict.doubts_about(taken)
    return steady, median(taken) / 1e6, machine.clock() / 1e9


def simulate(noise: Noise, effect: str, trials: int) -> dict[str, dict[str, float]]:
    """Both rules on the same ``trials`` series."""
    shape, settles = EFFECTS[effect]
    rng = np.random.default_rng(0)
    seen: dict[str, list[tuple[bool, bool, float]]] = {"before": [], "after": []}
    for _ in range(trials):
        times, level = noise(rng)
        durations = array("q", np.rint(times * shape(np.cumsum(times) / 1e3) * 1e6).astype(np.int64).tolist())
        truth = math.inf if settles is None else settles * level
        for name, rules in (("before", before), ("after", after)):
            steady, p50, seconds = trial(rules, durations)
            seen[name].append((steady, steady and abs(p50 / truth - 1) > RIGHT, seconds))
    return {name: _summary(outcomes) for name, outcomes in seen.items()}


def _summary(outcomes: list[tuple[bool, bool, float]]) -> dict[str, float]:
    """``wrong``: called STEADY, though the series never settles or at a level over 5 % from the median given."""
    steady, wrong, seconds = (float(np.mean(column)) for column in zip(*outcomes, strict=True))
    return {"steady": round(steady, 3), "steady_and_wrong": round(wrong, 3), "seconds": round(seconds, 1)}


def trend_alarms(trials: int) -> dict[str, float]:
    """Share of 3 s series with no effect, and with a drift of 5 % over them, that the drift rule calls drifting."""
    rng, count = np.random.default_rng(1), int(BEFORE_S * 1e3 / MEAN_MS)
    found = {}
    for spread in (0.01, 0.03):
        for slope in (0.0, 0.05):
            made = [noise_white(spread)(rng)[0][:count] * (1 + slope * np.arange(count) / count) for _ in range(trials)]
            moved = [statistics.drift(series.tolist()) for series in made]
            found[f"white {spread:.0%}, drift {slope:.0%}"] = sum(bool(one and one.drifting) for one in moved) / trials
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    noises = {"white 1 %": noise_white(0.01), "white 3 %": noise_white(0.03), "recorded": noise_recorded()}
    rows = {}
    print("| noise | effect | STEADY before | after | STEADY and wrong before | after | s before | after |")
    print("|---|---|---|---|---|---|---|---|")
    for noise, make in noises.items():
        for effect in EFFECTS:
            found = rows[f"{noise}; {effect}"] = simulate(make, effect, trials)
            figures = [f"{found[rules][key]:g}" for key in found["before"] for rules in ("before", "after")]
            print(f"| {noise} | {effect} | {' | '.join(figures)} |", flush=True)
    alarms = trend_alarms(5 * trials)
    record = {"trials": trials, "right_within": RIGHT, "rows": rows, "drift_rule_alone_on_3_s": alarms}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "verdicts.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nthe drift rule alone on 3 s: {alarms}")


if __name__ == "__main__":
    main()
