"""How a process of the fleet is told to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def until_told(stop: threading.Event | None = None) -> Iterator[threading.Event]:
    """An event, ``stop`` or a new one, that SIGTERM and SIGINT set. In the main thread."""
    stop = stop or threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
