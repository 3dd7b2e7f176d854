"""How much each entrant runs in a turn, so that a race fits its time: slow ones run once, and one that would take more
than there is does not take part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgevit.profiles.interleave import Schedule, least_blocks

SLOW_S = 0.1  # beside a call of so long, what others left in the caches costs nothing
FAR = 2.0  # times the fastest: so far apart that one call a turn tells as much as the median of three


@dataclass(frozen=True)
class Plan:
    """``turns``: how each entrant takes a turn. ``left_out``: why others do not take part."""

    turns: Mapping[int, Schedule]
    left_out: Mapping[int, str]

    def seconds(self, calls_s: Mapping[int, float], blocks: int) -> float:
        """What so many blocks take at least."""
        return sum(_cost(calls_s[index], turn, blocks) for index, turn in self.turns.items())


def planned(calls_s: Mapping[int, float], schedule: Schedule, budget_s: float, *, strict: bool) -> Plan:
    """A plan by the seconds of one call of each. ``strict`` leaves nobody out, however long it takes; else the two
    fastest always take part, and as many more as the fewest blocks fit into ``budget_s``."""
    order = sorted(calls_s, key=lambda index: calls_s[index])
    blocks, fastest = least_blocks(len(order)), calls_s[order[0]]
    near = replace(schedule, turn_runs=1) if _tight(calls_s, schedule, blocks, budget_s) else schedule
    far = replace(schedule, turn_runs=1, warm_runs=0)
    turns: dict[int, Schedule] = {}
    left_out: dict[int, str] = {}
    spent = 0.0
    for index in order:
        slow = calls_s[index] > max(SLOW_S, FAR * fastest)
        spent += (cost := _cost(calls_s[index], far if slow else near, blocks))
        if strict or len(turns) < 2 or spent <= budget_s:
            turns[index] = far if slow else near
        else:
            left_out[index] = (
                f"one call takes {calls_s[index]:.2g} s, {calls_s[index] / fastest:,.0f} times the fastest: {blocks} "
                f"blocks of it need {cost:.0f} s of a round that has {budget_s:.0f}"
            )
    return Plan(turns, left_out)


def _tight(calls_s: Mapping[int, float], schedule: Schedule, blocks: int, budget_s: float) -> bool:
    """Whether those near the fastest need more than there is."""
    fastest = min(calls_s.values())
    near = [seconds for seconds in calls_s.values() if seconds <= FAR * fastest]
    return sum(_cost(seconds, schedule, blocks) for seconds in near) > budget_s


def _cost(call_s: float, turn: Schedule, blocks: int) -> float:
    """Seconds that the turns of ``blocks`` blocks take."""
    return 2 * blocks * (turn.warm_runs + turn.turn_runs) * call_s
