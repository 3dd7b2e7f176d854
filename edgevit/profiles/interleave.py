"""Is B faster than A? Measured in turns, so that what the machine does meanwhile hits both alike.

Each block runs every candidate twice, in a random order and then in its reverse (ABBA or BAAB for two): a linear drift
within a block cancels. The figure is the median over blocks of the ratio of the block's medians, with a bootstrap
confidence interval over blocks.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from edgevit.errors import UsageError
from edgevit.profiles.statistics import Ratio, bootstrap_median

MIN_BLOCKS = 9
BAND = 0.02  # changes smaller than this are never claimed
Candidate = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Schedule:
    """``blocks`` blocks; each turn of a candidate lasts at least ``turn_s`` and ``turn_runs`` calls.

    ``warm_runs`` calls before them are not counted: they refill the caches that the other candidate emptied.
    """

    blocks: int = 15
    turn_s: float = 0.15
    turn_runs: int = 5
    warm_runs: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """``second`` against ``first``: ``ratio`` is second's time ÷ first's, so below 1 second is faster."""

    first: str
    second: str
    ratio: Ratio
    blocks: int

    @property
    def claimed(self) -> bool:
        """Whether a difference may be claimed: the interval lies outside ±2 %."""
        return self.ratio.low > 1 + BAND or self.ratio.high < 1 / (1 + BAND)

    def sentence(self) -> str:
        """What may be said, and no more."""
        low, high = self.ratio.low, self.ratio.high
        if self.claimed:
            slower = self.ratio.value > 1
            value, low, high = (self.ratio.value, low, high) if slower else (1 / self.ratio.value, 1 / high, 1 / low)
            word = "slower" if slower else "faster"
            return f"{self.second} is {value:.2f}× {word} than {self.first}, 95 % CI {low:.2f}–{high:.2f}"
        interval = f"{self.second} ÷ {self.first} = {self.ratio.value:.3f}, 95 % CI {low:.3f}–{high:.3f}"
        if low >= 1 / (1 + BAND) and high <= 1 + BAND:
            return f"no difference larger than {BAND:.0%} ({interval})"
        return f"no difference larger than {BAND:.0%} can be claimed ({interval})"


@dataclass(frozen=True)
class Interleaved:
    """Samples in ms by candidate and block, in the order they ran."""

    samples_ms: Mapping[str, tuple[tuple[float, ...], ...]]

    def block_medians(self, name: str) -> list[float]:
        return [median(block) for block in self.samples_ms[name]]

    def p50_ms(self, name: str) -> float:
        """Median of all samples of a candidate."""
        return median(sample for block in self.samples_ms[name] for sample in block)

    def compare(self, first: str, second: str) -> Comparison:
        """``second`` against ``first``."""
        pairs = zip(self.block_medians(first), self.block_medians(second), strict=True)
        ratios = [other / base for base, other in pairs]
        return Comparison(first, second, bootstrap_median(ratios), len(ratios))


def interleave(
    candidates: Mapping[str, Candidate],
    schedule: Schedule | None = None,
    *,
    clock: Callable[[], int] = time.perf_counter_ns,
    on_block: Callable[[int, int], None] | None = None,
) -> Interleaved:
    """Run the candidates in turns. ``clock`` gives ns; ``on_block(done, blocks)`` is called between blocks.

    UsageError below 9 blocks or 2 candidates: no interval would mean anything.
    """
    schedule = schedule or Schedule()
    if schedule.blocks < MIN_BLOCKS or len(candidates) < 2:
        raise UsageError(f"a comparison needs at least {MIN_BLOCKS} blocks and 2 candidates")
    rng = random.Random(schedule.seed)
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in candidates}
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for block in range(schedule.blocks):
            samples: dict[str, list[float]] = {name: [] for name in candidates}
            for name in block_order(list(candidates), rng):
                samples[name] += _turn(candidates[name], schedule, clock)
            for name, found in samples.items():
                taken[name].append(tuple(found))
            if on_block:
                on_block(block + 1, schedule.blocks)
    finally:
        if enabled:
            gc.enable()
    return Interleaved({name: tuple(blocks) for name, blocks in taken.items()})


def block_order(names: Sequence[str], rng: random.Random) -> list[str]:
    """A random order followed by its reverse: A B B A, or B A A B."""
    order = rng.sample(list(names), len(names))
    return order + order[::-1]


def _turn(call: Candidate, schedule: Schedule, clock: Callable[[], int]) -> list[float]:
    """Milliseconds of each call of one turn."""
    for _ in range(schedule.warm_runs):
        call()
    found: list[float] = []
    begun = clock()
    while True:
        start = clock()
        call()
        end = clock()
        found.append((end - start) / 1e6)
        if len(found) >= schedule.turn_runs and end - begun >= schedule.turn_s * 1e9:
            return found
