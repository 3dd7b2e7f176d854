"""Is B faster than A? Measured in turns, so that what the machine does meanwhile hits both alike.

Each block runs every candidate twice, in a random order and then in its reverse (ABBA or BAAB for two): a linear drift
within a block cancels. The figure is the median over blocks of the ratio of the block's times, with the confidence
interval that the order of the blocks' ratios supports, whatever their distribution; blocks are added until it is narrow
enough. How wide it is may end the measurement, where it lies never does: stopping on a result that pleases would find
differences that are not there.

Of more than two candidates every pair is a chance to find a difference that is not there, and the fastest was picked by
its own luck. So the 95 % are shared out among all pairs: the intervals of a ranking hold together.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from edgevit.errors import UsageError
from edgevit.profiles.statistics import CI_RISK, Ratio, median_ratio

MIN_BLOCKS = 9
BAND = 0.02  # changes smaller than this are never claimed
MAX_CORRELATION = 0.9
Candidate = Callable[[], object]
Clock = Callable[[], int]  # ns
Turn = Callable[[], tuple[float, ...]]  # takes one turn of a candidate: ms of each call that counts
Turns = tuple[tuple[float, ...], ...]  # ms of each call, by turn


@dataclass(frozen=True, slots=True)
class Schedule:
    """At least ``blocks`` blocks; each turn of a candidate lasts at least ``turn_s`` and ``turn_runs`` calls.

    ``warm_runs`` calls and ``warm_s`` before them are not counted: they refill the caches that the other candidate
    emptied, and its threads go to sleep. With ``max_blocks`` there are more blocks, until half the interval's width is
    at most ``half_width`` of the ratio. After ``limit_s`` no block is begun, once there are 9.
    """

    blocks: int = 15
    turn_s: float = 0.15
    turn_runs: int = 5
    warm_runs: int = 1
    seed: int = 0
    warm_s: float = 0.0
    max_blocks: int | None = None
    half_width: float = 0.01
    limit_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Comparison:
    """``second`` against ``first``: ``ratio`` is second's time ÷ first's, so below 1 second is faster.

    correlation   of the ratios of neighbouring blocks, which widened the interval where it is above 0
    """

    first: str
    second: str
    ratio: Ratio
    blocks: int
    correlation: float = 0.0

    @property
    def claimed(self) -> bool:
        """Whether a difference may be claimed: the interval lies outside ±2 %."""
        return outside_band(self.ratio) != 0

    def sentence(self) -> str:
        """What may be said, and no more."""
        return sentence(self.first, self.second, self.ratio, claimed=self.claimed)


def outside_band(ratio: Ratio) -> int:
    """1 when the whole interval is above +2 %, -1 when it is below -2 %, else 0."""
    return int(ratio.low > 1 + BAND) - int(ratio.high < 1 / (1 + BAND))


def speed(ratio: Ratio) -> tuple[str, Ratio]:
    """A ratio of times as people say it: "faster" and how many times, with the interval turned round, or "slower"."""
    if ratio.value > 1:
        return "slower", ratio
    return "faster", Ratio(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)


def sentence(first: str, second: str, ratio: Ratio, *, claimed: bool) -> str:
    """The ratio of second's time to first's in words."""
    value, low, high = ratio.value, ratio.low, ratio.high
    if claimed:
        word, times = speed(ratio)
        return f"{second} is {times.value:.2f}× {word} than {first}, 95 % CI {times.low:.2f}–{times.high:.2f}"
    interval = f"{second} ÷ {first} = {value:.3f}, 95 % CI {low:.3f}–{high:.3f}"
    if low >= 1 / (1 + BAND) and high <= 1 + BAND:
        return f"no difference larger than {BAND * 100:g} % ({interval})"
    return f"no difference larger than {BAND * 100:g} % can be claimed ({interval})"


@dataclass(frozen=True)
class Interleaved:
    """Milliseconds of every call, by candidate, block and turn, in the order they ran."""

    turns_ms: Mapping[str, tuple[Turns, ...]]

    @property
    def samples_ms(self) -> dict[str, tuple[tuple[float, ...], ...]]:
        """By candidate and block."""
        return {
            name: tuple(tuple(sample for turn in block for sample in turn) for block in blocks)
            for name, blocks in self.turns_ms.items()
        }

    def block_medians(self, name: str) -> list[float]:
        """One time per block: the geometric mean of its turns' medians, so that a drift cancels in the ratio."""
        return [block_time(block) for block in self.turns_ms[name]]

    def p50_ms(self, name: str) -> float:
        """Median of all samples of a candidate."""
        return median(sample for block in self.turns_ms[name] for turn in block for sample in turn)

    def compare(self, first: str, second: str) -> Comparison:
        """``second`` against ``first``."""
        return compare_ratios(first, second, block_ratios(self.turns_ms[first], self.turns_ms[second]))


def block_time(block: Turns) -> float:
    """Geometric mean of the medians of a candidate's turns in one block."""
    return math.exp(sum(math.log(median(turn)) for turn in block) / len(block))


def block_ratios(first: Sequence[Turns], second: Sequence[Turns]) -> list[float]:
    """Second's time ÷ first's in every block."""
    return [block_time(other) / block_time(base) for base, other in zip(first, second, strict=True)]


def compare_ratios(first: str, second: str, ratios: Sequence[float], candidates: int = 2) -> Comparison:
    """The comparison that block ratios, in the order of the blocks, support: one of all pairs of ``candidates``.

    ValueError for fewer blocks than ``least_blocks(candidates)``."""
    correlation = neighbour_correlation(ratios)
    found = median_ratio(ratios, risk=risk_of_pair(candidates))
    return Comparison(first, second, widened(found, correlation), len(ratios), correlation)


def risk_of_pair(candidates: int) -> float:
    """The risk that each pair's interval may take for that of all of them together to be 5 %."""
    return CI_RISK / math.comb(candidates, 2)


def least_blocks(candidates: int) -> int:
    """The fewest blocks whose least and greatest ratio are an interval of that risk, and never fewer than 9."""
    return max(MIN_BLOCKS, math.ceil(1 - math.log2(risk_of_pair(candidates))))


def neighbour_correlation(values: Sequence[float]) -> float:
    """Rank correlation of each value with the next one: 0 for independent blocks, towards 1 where noise lasts longer
    than a block. Ranks, so that one stray block does not decide; 0 where all values are equal."""
    ranks = _ranks(values)
    before, after = ranks[:-1] - ranks.mean(), ranks[1:] - ranks.mean()
    spread = float((ranks - ranks.mean()) @ (ranks - ranks.mean()))
    return float(before @ after) / spread if spread else 0.0


def _ranks(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """0 for the smallest; equal values share the mean of their places."""
    data = np.asarray(values, np.float64)
    below = (data[:, None] > data[None, :]).sum(axis=1)
    return np.asarray(below + ((data[:, None] == data[None, :]).sum(axis=1) - 1) / 2, np.float64)


def widened(ratio: Ratio, correlation: float) -> Ratio:
    """The interval that correlated blocks support: n of them tell as much as n(1-ρ)/(1+ρ) independent ones."""
    rho = min(max(correlation, 0.0), MAX_CORRELATION)
    factor = math.sqrt((1 + rho) / (1 - rho))
    return Ratio(
        ratio.value,
        ratio.value * (ratio.low / ratio.value) ** factor,
        ratio.value * (ratio.high / ratio.value) ** factor,
    )


def interleave(
    candidates: Mapping[str, Candidate],
    schedule: Schedule | None = None,
    *,
    clock: Clock = time.perf_counter_ns,
    on_block: Callable[[int, int], None] | None = None,
) -> Interleaved:
    """Run the candidates in turns in this process, with no garbage collected meanwhile; else as ``in_turns``."""
    schedule = schedule or Schedule()
    turns = {name: partial(take_turn, call, schedule, clock) for name, call in candidates.items()}
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        return in_turns(turns, schedule, clock=clock, on_block=on_block)
    finally:
        if enabled:
            gc.enable()


def in_turns(
    candidates: Mapping[str, Turn],
    schedule: Schedule,
    *,
    clock: Clock = time.perf_counter_ns,
    on_block: Callable[[int, int], None] | None = None,
) -> Interleaved:
    """Blocks of turns, wherever they are taken. ``clock`` gives ns; ``on_block(done, blocks)`` is called between
    blocks, and ``blocks`` grows where more are needed.

    UsageError below the blocks that so many candidates need, or 2 candidates: no interval would mean anything.
    """
    least = least_blocks(max(2, len(candidates)))
    if schedule.blocks < least or len(candidates) < 2:
        raise UsageError(f"a comparison needs at least {least} blocks and 2 candidates")
    rng = random.Random(schedule.seed)
    taken: dict[str, list[Turns]] = {name: [] for name in candidates}
    wanted, begun = schedule.blocks, clock()
    while (done := len(next(iter(taken.values())))) < wanted and not (
        done >= least and clock() - begun >= schedule.limit_s * 1e9
    ):
        turns: dict[str, list[tuple[float, ...]]] = {name: [] for name in candidates}
        for name in block_order(list(candidates), rng):
            turns[name].append(candidates[name]())
        for name, found in turns.items():
            taken[name].append(tuple(found))
        if done + 1 == wanted:
            wanted = _extended(schedule, wanted, taken)
        if on_block:
            on_block(done + 1, wanted)
    return Interleaved({name: tuple(blocks) for name, blocks in taken.items()})


def block_order(names: Sequence[str], rng: random.Random) -> list[str]:
    """A random order followed by its reverse: A B B A, or B A A B."""
    order = rng.sample(list(names), len(names))
    return order + order[::-1]


def _extended(schedule: Schedule, blocks: int, taken: Mapping[str, Sequence[Turns]]) -> int:
    """How many blocks to run in all: a quarter more while an interval is wider than the schedule asks for."""
    times = [[block_time(block) for block in found] for found in taken.values()]
    base = min(times, key=median)  # the others are held against the one that seems fastest
    if schedule.max_blocks is None or all(_narrow(base, other, schedule, len(times)) for other in times):
        return blocks
    return max(blocks, min(blocks + math.ceil(blocks / 4), schedule.max_blocks))


def _narrow(base: Sequence[float], other: Sequence[float], schedule: Schedule, candidates: int) -> bool:
    ratios = [two / one for one, two in zip(base, other, strict=True)]
    ratio = compare_ratios("", "", ratios, candidates).ratio
    return ratio.high - ratio.low <= 2 * schedule.half_width * ratio.value


def take_turn(call: Candidate, schedule: Schedule, clock: Clock = time.perf_counter_ns) -> tuple[float, ...]:
    """Milliseconds of each call of one turn."""
    begun, warm = clock(), 0
    while warm < schedule.warm_runs or clock() - begun < schedule.warm_s * 1e9:
        call()
        warm += 1
    found: list[float] = []
    begun = clock()
    while True:
        start = clock()
        call()
        end = clock()
        found.append((end - start) / 1e6)
        if len(found) >= schedule.turn_runs and end - begun >= schedule.turn_s * 1e9:
            return tuple(found)
