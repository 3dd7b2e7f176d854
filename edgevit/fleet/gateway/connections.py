"""Connections, before and after a request: how many there are, and how long one may say nothing.

uvicorn bounds neither how long the head of a request may take nor how long a client may leave an answer unread.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """One connection, ended when its head or its reader is late, or when there are too many and it waits longest."""

    open: set[Connection]  # of one server; set by ``connections``
    most: int
    head_s: float
    unread_s: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._since = self.loop.time()
        self.open.add(self)
        if len(self.open) > self.most:
            self._longest_waiting().transport.abort()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.discard(self)
        for timer in (self._late, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._since = self.loop.time()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    @property
    def waiting(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        """The time for a head runs from when it could have begun: a byte now and then does not buy more."""
        if not self.waiting and self._late is not None:
            self._late.cancel()
            self._late = None
        elif self.waiting and self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(self.head_s, self.transport.abort)

    def _longest_waiting(self) -> Connection:
        """Of the connections of the client that has most that wait, the one that waits longest; else this one."""
        idle = [one for one in self.open if one.waiting]
        crowd = Counter(one.client[0] if one.client else "" for one in idle)
        most = max(crowd.values(), default=0)
        crowding = [one for one in idle if crowd[one.client[0] if one.client else ""] == most]
        return min(crowding, key=lambda one: one._since, default=self)


def connections(*, most: int, head_s: float, unread_s: float) -> type[Connection]:
    """What uvicorn makes a connection of, for one server."""
    own: dict[str, Any] = {"open": set(), "most": most, "head_s": head_s, "unread_s": unread_s}
    return type("Connection", (Connection,), own)
