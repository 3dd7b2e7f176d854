"""Which schedule to try next: a climb over the knobs of one kernel, from what the rules chose.

Pure: it is told times and asked for choices. Most kernels have a few hundred choices of which the rules' is near a good
one, so neighbours of the best come first, then changes of two or more knobs at once. No model of the machine is learnt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

Choice = Mapping[str, int]
GAIN = 0.02  # a smaller gain than this is not told from noise
ELITE = 4  # the best choices that pairs of changes start from
RANDOM_TRIES = 50  # draws in search of a choice that was not tried before


def frozen(choice: Choice) -> tuple[tuple[str, int], ...]:
    """A choice as a key of dictionaries."""
    return tuple(sorted(choice.items()))


class Search:
    """The climb of one kernel.

    knobs   name -> the values it may take, in their natural order
    start   the rules' choice: measured first, and what everything is compared with
    """

    def __init__(self, knobs: Mapping[str, Sequence[int]], start: Choice, seed: int = 0) -> None:
        self.knobs = {name: tuple(values) for name, values in knobs.items() if len(values) > 1}
        self.start: Choice = dict(start)
        self.best: Choice = self.start
        self.best_us: float | None = None
        self.start_us: float | None = None
        self.trials = 0
        self._times: dict[tuple[tuple[str, int], ...], float] = {}
        self._seen = {frozen(self.start)}
        self._random = random.Random(seed)

    def propose(self, count: int) -> list[Choice]:
        """Up to ``count`` choices that were never proposed; none when nothing is left to try."""
        found = list(islice(self._neighbours(self.best), count))
        for choice in found:
            self._seen.add(frozen(choice))
        while len(found) < count and (mutant := self._mutant()):
            self._seen.add(frozen(mutant))
            found.append(mutant)
        return found

    def observe(self, choice: Choice, us: float | None) -> bool:
        """Take the time of a choice, None when it could not be built or run; whether it is the best by more than noise.

        The first call is for the rules' choice.
        """
        self.trials += 1
        if us is None:
            return False
        self._times[frozen(choice)] = us
        if frozen(choice) == frozen(self.start):
            self.start_us = us
        if self.best_us is None or us < self.best_us * (1 - GAIN):
            self.best, self.best_us = dict(choice), us
            return True
        return False

    def resume(self, best: Choice, best_us: float, start_us: float) -> None:
        """Go on from what an earlier search found."""
        self.best, self.best_us, self.start_us = dict(best), best_us, start_us
        self._times = {frozen(self.start): start_us, frozen(best): best_us}
        self._seen = set(self._times)

    def settle(self, start_us: float | None, best_us: float | None) -> None:
        """The rules' choice and the best raced again, longer: the best stays only where it wins again."""
        if best_us is None or (start_us is not None and best_us >= start_us):
            self._times.pop(frozen(self.best), None)
            self.best, self.best_us = self.start, self.start_us
        elif start_us is not None and self.start_us is not None:
            self.best_us = self._times[frozen(self.best)] = best_us / start_us * self.start_us

    def _neighbours(self, centre: Choice) -> Iterator[Choice]:
        """Choices that differ in one knob, the nearest values of every knob first."""
        ranked: list[tuple[int, int, Choice]] = []
        for order, (name, values) in enumerate(self.knobs.items()):
            here = values.index(centre[name]) if centre[name] in values else 0
            for index, value in enumerate(values):
                if value != centre[name]:
                    ranked.append((abs(index - here), order, {**centre, name: value}))
        for _, _, choice in sorted(ranked, key=lambda entry: entry[:2]):
            if frozen(choice) not in self._seen:
                yield choice

    def _mutant(self) -> Choice | None:
        """One of the best with two or three knobs changed, not seen before; None when there seems to be none."""
        if not self.knobs:
            return None
        ranked = sorted(self._times, key=self._times.__getitem__)[:ELITE] or [frozen(self.start)]
        for _ in range(RANDOM_TRIES):
            choice = dict(self._random.choice(ranked))
            names = list(self.knobs)
            for name in self._random.sample(names, min(len(names), self._random.choice((2, 2, 3)))):
                choice[name] = self._random.choice(self.knobs[name])
            if frozen(choice) not in self._seen:
                return choice
        return None
