"""How a process of the fleet is told to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOOK_S = 0.2  # between two looks for a signal that woke nobody


@contextmanager
def until_told(stop: threading.Event | None = None) -> Iterator[threading.Event]:
    """An event, ``stop`` or a new one, that SIGTERM and SIGINT set. In the main thread, which waits for it with
    ``wait_until``."""
    stop = stop or threading.Event()

    def told(*_: object) -> None:
        # not here: it may be the main thread's own wait that is interrupted, and that holds the event's lock
        threading.Thread(target=stop.set, daemon=True, name="fleet-told").start()

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_until(stop: threading.Event) -> None:
    """Until the event is set. The system may hand a signal to a thread of Zenoh's, which does not wake this one: its
    handler runs when the main thread next does, so that this one wakes every ``LOOK_S``."""
    while not stop.wait(LOOK_S):
        pass
