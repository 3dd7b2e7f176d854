"""Interleaved comparison on a clock that only the candidates move."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import asdict

import pytest

from edgevit.errors import UsageError
from edgevit.profiles.interleave import (
    Comparison,
    Interleaved,
    Schedule,
    block_order,
    compare_ratios,
    interleave,
    neighbour_correlation,
    outside_band,
    widened,
)
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


def test_no_garbage_is_collected_between_the_blocks_and_all_is_as_before_afterwards() -> None:
    seen: set[bool] = set()
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            interleave({"a": lambda: seen.add(gc.isenabled()), "b": lambda: None}, PLAN)
            assert gc.isenabled() is enabled
        finally:
            gc.enable()
    assert seen == {False}


def test_exact_times_give_the_exact_ratio_and_no_interval_width() -> None:
    bench = Bench()
    found = interleave(
        {"a": bench.candidate("a", lambda: 10.0), "b": bench.candidate("b", lambda: 8.0)}, PLAN, clock=bench.clock
    )
    assert found.p50_ms("a") == 10.0
    comparison = found.compare("a", "b")
    assert (comparison.first, comparison.second, comparison.blocks, comparison.correlation) == ("a", "b", 9, 0.0)
    assert asdict(comparison.ratio) == pytest.approx({"value": 0.8, "low": 0.8, "high": 0.8})
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
    assert sum(simulated(1.0, seed).claimed for seed in range(10)) == 0
    assert sum(simulated(1.05, seed).claimed for seed in range(10)) >= 9


def test_sentences_say_what_may_be_said() -> None:
    def says(value: float, low: float, high: float) -> str:
        return Comparison("A", "B", Ratio(value, low, high), 9).sentence()

    assert says(0.7634, 0.746, 0.781) == "B is 1.31× faster than A, 95 % CI 1.28–1.34"
    assert says(1.10, 1.05, 1.15) == "B is 1.10× slower than A, 95 % CI 1.05–1.15"
    assert says(1.001, 0.99, 1.01).startswith("no difference larger than 2 % (")
    assert says(1.03, 1.01, 1.05).startswith("no difference larger than 2 % can be claimed")


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


def test_a_step_within_a_block_hits_both_alike() -> None:
    """The machine slows down by a half between the two turns of each candidate."""
    block = {"a": ((10.0, 10.0), (15.0, 15.0)), "b": ((10.0, 10.0), (15.0, 15.0))}
    found = Interleaved({name: (turns,) * 9 for name, turns in block.items()})
    assert found.block_medians("a") == pytest.approx([150**0.5] * 9)
    assert found.compare("a", "b").ratio.value == 1.0


def test_uncounted_calls_last_their_time() -> None:
    bench = Bench()
    plan = Schedule(blocks=9, turn_s=0.0, turn_runs=1, warm_runs=1, warm_s=0.03)
    interleave({name: bench.candidate(name, lambda: 10.0) for name in "ab"}, plan, clock=bench.clock)
    assert len(bench.order) == 9 * 4 * (3 + 1)


def counted(spread: float, **limits: float) -> int:
    """Blocks that were run of two equal candidates whose calls scatter by ``spread``."""
    rng, bench = random.Random(1), Bench()
    plan = Schedule(blocks=9, turn_s=0.0, turn_runs=3, **limits)  # type: ignore[arg-type]
    candidates = {name: bench.candidate(name, lambda: 10 * rng.lognormvariate(0, spread)) for name in "ab"}
    return len(interleave(candidates, plan, clock=bench.clock).turns_ms["a"])


def test_blocks_are_added_until_the_interval_is_narrow() -> None:
    assert counted(0.0, max_blocks=100) == 9
    assert counted(0.05) == 9
    assert 15 < counted(0.05, max_blocks=100) < 100
    assert counted(0.5, max_blocks=40) == 40


def test_after_the_time_limit_there_are_nine_blocks_and_no_more() -> None:
    assert counted(0.5, max_blocks=1000, limit_s=0.01) == 9
    assert 9 < counted(0.5, max_blocks=1000, limit_s=5.0) < 1000


def test_noise_that_outlasts_a_block_widens_the_interval() -> None:
    rng = random.Random(0)
    independent = [rng.gauss(1.0, 0.02) for _ in range(60)]
    lasting = [1.0 + 0.02 * (block // 10 % 2) + rng.gauss(0, 0.002) for block in range(60)]
    assert abs(neighbour_correlation(independent)) < 0.3
    assert neighbour_correlation(lasting) > 0.5
    assert neighbour_correlation([1.0] * 9) == 0.0
    found = compare_ratios("a", "b", lasting)
    shuffled = compare_ratios("a", "b", random.Random(1).sample(lasting, 60))
    assert found.ratio.high - found.ratio.low > 1.5 * (shuffled.ratio.high - shuffled.ratio.low)


def test_a_correlation_widens_on_both_sides_and_an_anticorrelation_not_at_all() -> None:
    ratio = Ratio(1.0, 0.99, 1.02)
    assert widened(ratio, -0.5) == ratio
    wide = widened(ratio, 0.6)  # factor 2
    assert wide.low == pytest.approx(0.99**2)
    assert wide.high == pytest.approx(1.02**2)


def test_which_side_of_the_band() -> None:
    assert outside_band(Ratio(1.05, 1.021, 1.08)) == 1
    assert outside_band(Ratio(0.9, 0.85, 0.97)) == -1
    assert outside_band(Ratio(1.05, 1.019, 1.08)) == outside_band(Ratio(0.99, 0.9, 0.99)) == 0
