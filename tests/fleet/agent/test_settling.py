"""When a node tries again what it could not have."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edgevit.fleet.agent.settling import LONGEST_RETRY_S, RETRY_S, Backoff


def test_what_fails_again_and_again_is_tried_less_and_less_often_but_never_given_up() -> None:
    backoff, now, waits = Backoff(due=0.0), 0.0, []
    for _ in range(8):
        assert backoff.take(now)
        waits.append(backoff.failed(now))
        assert not backoff.take(now + waits[-1] - 0.1)
        now += waits[-1]
    assert waits == [30.0, 60.0, 120.0, 240.0, 480.0, 480.0, 480.0, 480.0]


def test_several_failures_at_once_are_one() -> None:
    backoff = Backoff()
    assert backoff.failed(0.0) == RETRY_S
    assert backoff.failed(10.0) == RETRY_S - 10.0
    assert backoff.take(RETRY_S)
    assert not backoff.pending


def test_an_order_that_was_carried_out_lets_what_failed_be_tried_at_once() -> None:
    backoff = Backoff()
    for now in itertools.accumulate([0.0, RETRY_S, 2 * RETRY_S]):
        backoff.failed(now)
        backoff.take(now + LONGEST_RETRY_S)
    backoff.failed(1000.0)
    backoff.changed(1001.0)
    assert backoff.take(1001.0)
    assert backoff.failed(1001.0) == RETRY_S


def test_where_nothing_failed_a_change_makes_nothing_pending() -> None:
    backoff = Backoff()
    backoff.changed(0.0)
    assert not backoff.pending


@given(st.lists(st.tuples(st.sampled_from(["fail", "take", "work", "change"]), st.floats(0, 1000)), max_size=60))
def test_whatever_happens_what_failed_is_tried_within_the_longest_wait(steps) -> None:
    backoff, now = Backoff(), 0.0
    for verb, seconds in steps:
        now += seconds
        if verb == "fail":
            assert 0 <= backoff.failed(now) <= LONGEST_RETRY_S
        elif verb == "take":
            assert not backoff.take(now) or not backoff.pending
        elif verb == "work":
            backoff.worked()
        else:
            backoff.changed(now)
    if backoff.pending:
        assert backoff.take(now + LONGEST_RETRY_S)
