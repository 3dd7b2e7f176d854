"""Threads that make calls for the bus, one after another. All are daemons: none keeps a process from ending."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

log = logging.getLogger("edgevit.fleet")
T = TypeVar("T")


def guarded(call: Callable[..., None], *about: Any) -> None:
    """Make a call of the user's. What it raises is logged and goes no further."""
    try:
        call(*about)
    except Exception:
        log.exception("a callback of the bus failed")


class Hands:
    """For calls that are rare: the thread is there only while there are any."""

    def __init__(self, name: str) -> None:
        self._name, self._lock = name, threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._busy = False

    def put(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._calls.append(call)
            if self._busy:
                return
            self._busy = True
        threading.Thread(target=self._run, daemon=True, name=self._name).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._busy = False
                    return
                call = self._calls.popleft()
            guarded(call)


class Inbox(Generic[T]):
    """What arrives for one handler: at most ``most`` wait for it."""

    def __init__(self, name: str, handle: Callable[[T], None], most: int) -> None:
        self._items: SimpleQueue[T | None] = SimpleQueue()
        self._handle, self._most = handle, most
        threading.Thread(target=self._run, daemon=True, name=name).start()

    def put(self, item: T) -> bool:
        """Whether there was room for it. Never blocks."""
        if self._items.qsize() >= self._most:
            return False
        self._items.put(item)
        return True

    def close(self) -> None:
        """Handle what waits, and end."""
        self._items.put(None)

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            guarded(self._handle, item)
