"""Leaves a node alone that is there but does not answer in time, or not with what was asked for.

Being alive is not being well (docs/explanation/fleet.md, rule 6). Closed, it lets everything pass. After ``LIMIT``
failures in a row, over ``LASTING_S`` or more, it opens for ``REST_S``; then one question at a time may probe, and its
answer closes it again. Every failed probe doubles the rest. A moment in which everything is late, because this machine
was busy, opens nothing. Pure; times are in seconds.
"""

from __future__ import annotations

from typing import Literal

LIMIT, LASTING_S = 3, 0.5
REST_S, LONGEST_REST_S = 0.5, 8.0

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Of one node, as one client sees it."""

    def __init__(self) -> None:
        self._failures = 0
        self._since = 0.0  # of the first failure in the row
        self._rest_s = REST_S
        self._opened: float | None = None  # when, of an open one
        self._probed: float | None = None  # when the probe that is under way was sent

    def state(self, now: float) -> State:
        if self._opened is None:
            return "closed"
        return "half-open" if now >= self._opened + self._rest_s else "open"

    def allows(self, now: float) -> bool:
        """Whether the node may be asked: always when closed, one probe at a time when half-open."""
        state = self.state(now)
        if state == "half-open":
            return self._probed is None or now >= self._probed + self._rest_s
        return state == "closed"

    def asked(self, now: float) -> None:
        """A question was sent. In a half-open one that is the probe."""
        if self._opened is not None:
            self._probed = now

    def succeeded(self) -> None:
        """A good answer, in time."""
        self._failures = 0
        self._rest_s = REST_S
        self._opened = self._probed = None

    def failed(self, now: float) -> None:
        """A missed deadline, a bad answer, or no answer."""
        self._failures += 1
        if self._failures == 1:
            self._since = now
        if self._opened is None:
            if self._failures >= LIMIT and now >= self._since + LASTING_S:
                self._opened = now
        elif self._probed is not None:
            self._opened, self._probed = now, None
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
