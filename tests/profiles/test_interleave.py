"""Interleaved comparison on a clock that only the candidates move."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from edgevit.errors import UsageError
from edgevit.profiles.interleave import Comparison, Schedule, block_order, interleave
from edgevit.profiles.statistics import Ratio


class Bench:
    """A clock in ns, moved by the calls that are timed; ``drag`` slows everything as time passes."""

    def __init__(self, drag: float = 0.0) -> None:
        self.now, self.drag, self.order = 0, drag, ""

    def clock(self) -> int:
        return self.now

    def candidate(self, name: str, ms: Callable[[], float]) -> Callable[[], None]:
        def call() -> None:
            self.order += name
            self.now += round(ms() * 1e6 * (1 + self.drag * self.now / 1e9))

        return call


PLAN = Schedule(blocks=9, turn_s=0.0, turn_runs=3, warm_runs=1)


def test_a_block_is_an_order_and_its_reverse_and_both_orders_occur() -> None:
    rng = random.Random(0)
    orders = {"".join(block_order("ab", rng)) for _ in range(20)}
    assert orders == {"abba", "baab"}
    three = block_order("abc", rng)
    assert three[:3] == three[:2:-1]
    assert sorted(three[:3]) == ["a", "b", "c"]


def test_exact_times_give_the_exact_ratio_and_no_interval_width() -> None:
    bench = Bench()
    found = interleave(
        {"a": bench.candidate("a", lambda: 10.0), "b": bench.candidate("b", lambda: 8.0)}, PLAN, clock=bench.clock
    )
    assert found.p50_ms("a") == 10.0
    assert found.compare("a", "b") == Comparison("a", "b", Ratio(0.8, 0.8, 0.8), 9)
    assert found.compare("b", "a").ratio.value == pytest.approx(1.25)


def test_every_turn_runs_and_warm_calls_are_not_counted() -> None:
    bench = Bench()
    found = interleave({name: bench.candidate(name, lambda: 1.0) for name in "ab"}, PLAN, clock=bench.clock)
    assert [len(block) for block in found.samples_ms["a"]] == [6] * 9
    assert len(bench.order) == 9 * 2 * 2 * (3 + 1)
    assert bench.order[:16] in ("aaaabbbbbbbbaaaa", "bbbbaaaaaaaabbbb")


def test_a_turn_lasts_its_time() -> None:
    bench = Bench()
    plan = Schedule(blocks=9, turn_s=0.05, turn_runs=1, warm_runs=0)
    found = interleave({name: bench.candidate(name, lambda: 10.0) for name in "ab"}, plan, clock=bench.clock)
    assert [len(block) for block in found.samples_ms["b"]] == [10] * 9


def test_a_machine_that_slows_down_steadily_does_not_bias_the_ratio() -> None:
    bench = Bench(drag=0.2)
    found = interleave({name: bench.candidate(name, lambda: 10.0) for name in "ab"}, PLAN, clock=bench.clock)
    comparison = found.compare("a", "b")
    assert found.block_medians("a")[-1] > 1.1 * found.block_medians("a")[0]
    assert comparison.ratio.value == pytest.approx(1.0, abs=0.01)
    assert not comparison.claimed


def simulated(slowdown: float, seed: int) -> Comparison:
    rng = random.Random(seed)
    bench = Bench()
    times = {"a": lambda: 10 * rng.lognormvariate(0, 0.05), "b": lambda: 10 * slowdown * rng.lognormvariate(0, 0.05)}
    plan = Schedule(blocks=15, turn_s=0.0, turn_runs=10, warm_runs=0, seed=seed)
    candidates = {name: bench.candidate(name, ms) for name, ms in times.items()}
    return interleave(candidates, plan, clock=bench.clock).compare("a", "b")


def test_a_against_a_claims_nothing_and_a_true_slowdown_is_claimed() -> None:
    assert sum(simulated(1.0, seed).claimed for seed in range(25)) == 0
    assert sum(simulated(1.05, seed).claimed for seed in range(25)) >= 23


def test_sentences_say_what_may_be_said() -> None:
    def says(value: float, low: float, high: float) -> str:
        return Comparison("A", "B", Ratio(value, low, high), 9).sentence()

    assert says(0.7634, 0.746, 0.781) == "B is 1.31× faster than A, 95 % CI 1.28–1.34"
    assert says(1.10, 1.05, 1.15) == "B is 1.10× slower than A, 95 % CI 1.05–1.15"
    assert says(1.001, 0.99, 1.01).startswith("no difference larger than 2% (")
    assert says(1.03, 1.01, 1.05).startswith("no difference larger than 2% can be claimed")


@pytest.mark.parametrize(("blocks", "names"), [(8, "ab"), (9, "a")])
def test_too_few_blocks_or_candidates_are_refused(blocks: int, names: str) -> None:
    with pytest.raises(UsageError, match="9 blocks and 2 candidates"):
        interleave({name: lambda: None for name in names}, Schedule(blocks=blocks))


def test_blocks_are_reported() -> None:
    bench = Bench()
    seen: list[tuple[int, int]] = []
    candidates = {name: bench.candidate(name, lambda: 1.0) for name in "ab"}
    interleave(candidates, PLAN, clock=bench.clock, on_block=lambda done, blocks: seen.append((done, blocks)))
    assert seen == [(n, 9) for n in range(1, 10)]
