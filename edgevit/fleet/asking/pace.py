"""How long answers take, and when it is worth asking a second replica. Guarded by the client's lock."""

from __future__ import annotations

from collections import deque

from edgevit.profiles.statistics import raw_percentile

KEPT = 256
ENOUGH = 20  # answers before a 95th percentile means something
OFTEN = 16  # answers after which it is computed anew
FLOOR_S = 0.002  # never hedge sooner: two processes are not compared in microseconds
RECENT = 0.2  # weight of the newest answer in the running mean
MOST = 3.0  # times the mean that an answer counts for at the most


class Pace:
    """The newest round trips of one part, over all its replicas, in seconds."""

    def __init__(self) -> None:
        self._kept: deque[float] = deque(maxlen=KEPT)
        self._since = 0
        self._p95: float | None = None

    def add(self, seconds: float) -> None:
        self._kept.append(seconds)
        self._since += 1
        if self._since >= OFTEN:
            self._p95 = None

    @property
    def p95(self) -> float | None:
        """The 95th percentile; None below ``ENOUGH`` answers."""
        if len(self._kept) < ENOUGH:
            return None
        if self._p95 is None:
            self._since = 0
            self._p95 = raw_percentile(sorted(self._kept), 0.95)
        return self._p95

    def hedge_after(self, left_s: float) -> float:
        """When to ask a second replica, in seconds from the first question, where ``left_s`` are left until the
        deadline: at the 95th percentile, or half-way while there is none."""
        return left_s / 2 if self.p95 is None else max(self.p95, FLOOR_S)


class Mean:
    """A running mean of the newest round trips of one replica, in seconds. None counts for more than ``MOST`` times the
    mean: one moment in which everything stands still makes no node slow, and a slow one is known after some answers."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.seconds += RECENT * (min(seconds, MOST * self.seconds) - self.seconds) if self.seconds else seconds
