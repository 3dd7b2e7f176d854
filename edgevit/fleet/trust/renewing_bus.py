"""A bus that outlives its certificate: the same declarations over one session after another.

When the identity folder holds another certificate, a new session is opened, everything is declared on it, and only then
the old one is closed. Others see no node leave and come back, as the same key is announced by both meanwhile.

A port cannot be listened on twice. A node with a fixed one goes on at another port meanwhile, which its peers hear of
from each other, and then back to its own; a client that is linked to a node's fixed port has to try again for some
seconds. A router closes its old session first: whoever is linked to it tries again until it finds the new one, within
about a second, or uses another router.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from edgevit.errors import EdgeVitError
from edgevit.fleet.bus.link import Link, Role
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus, Closer, Meta, OnAnswer, OnChange, OnDone, OnMessage, Payload, Question
from edgevit.fleet.trust.identity import open_identity
from edgevit.fleet.trust.renewal import POLL_S, RenewalClient

log = logging.getLogger("edgevit.fleet")
SETTLE_S = 1.0  # until others have heard of what the new session declares
ANSWER_S = 3.0  # for answers that the old session still owes or expects
AGAIN_S = 1.0  # between attempts to open a session where the old one had to be closed first
_Kind = Literal["serve", "listen", "watch", "announce"]
_ORDER: tuple[_Kind, ...] = ("serve", "listen", "watch", "announce")  # what is announced is served already


def open_renewing_bus(link: Link, role: Role, name: str | None = None, *, poll_s: float = POLL_S) -> Bus:
    """``open_bus`` for processes that stay: an identity's certificate is renewed, and sessions follow each other.

    FleetError when the identity cannot be used, or is for another role.
    """
    if link.identity is None:
        return open_bus(link, role, name)
    open_identity(link.identity, role=role)
    return RenewingBus(link, lambda link: open_bus(link, role, name), poll_s)


class RenewingBus:
    """Closing it ends the renewal too."""

    def __init__(self, link: Link, open: Callable[[Link], Bus], poll_s: float) -> None:
        if link.identity is None:
            raise ValueError("only an identity can be renewed")
        self.identity: Path | None = link.identity
        self._link, self._open = link, open
        self._fixed = _any_port(link.listen) != link.listen
        self._lock = threading.RLock()
        self._declared: list[_Declared] = []
        self._over = threading.Event()
        self._bus = self._newest = open(link)  # during a swap, what is asked goes over the old one
        names = Names(link.cluster)
        self._renewal = RenewalClient(lambda: self._bus, names, link.identity, lambda _: self.swap(), poll_s=poll_s)

    def serve(self, key: str, handler: Callable[[Question], None]) -> Closer:
        return self._declare("serve", lambda bus, _: bus.serve(key, handler))

    def ask(
        self,
        key: str,
        on_answer: OnAnswer,
        on_done: OnDone,
        *,
        payload: Payload = b"",
        meta: Meta = b"{}",
        timeout_s: float,
        bulk: bool = False,
    ) -> None:
        self._bus.ask(key, on_answer, on_done, payload=payload, meta=meta, timeout_s=timeout_s, bulk=bulk)

    def announce(self, key: str) -> Closer:
        return self._declare("announce", lambda bus, _: bus.announce(key))

    def watch(self, pattern: str, on_change: OnChange) -> Closer:
        seen = _Seen(on_change)
        return self._declare(
            "watch",
            lambda bus, session: bus.watch(pattern, lambda key, there: seen.changed(session, key, there)),
            seen.forget,
        )

    def publish(self, key: str, payload: Payload) -> None:
        self._bus.publish(key, payload)

    def listen(self, pattern: str, on_message: OnMessage) -> Closer:
        def came(session: int, key: str, payload: bytes) -> None:
            if session == declared.oldest(
                session
            ):  # of two that both hear it, one; at the change, once in a while both
                on_message(key, payload)

        declared = _Declared("listen", lambda bus, n: bus.listen(pattern, lambda key, data: came(n, key, data)))
        return self._add(declared)

    def close(self) -> None:
        self._over.set()
        self._renewal.close()
        self._newest.close()
        self._bus.close()

    def swap(self) -> None:
        """Go on over a new session."""
        if self._fixed and self._link.mode == "router":
            self._bus.close()
            self._follow(self._reopened)
        elif self._fixed:
            self._follow(lambda: self._open(replace(self._link, listen=_any_port(self._link.listen))))
            self._follow(self._reopened)
        else:
            self._follow(lambda: self._open(self._link))

    def _follow(self, opened: Callable[[], Bus]) -> None:
        """One session after another: everything is on both for a while."""
        old, new = self._bus, opened()
        try:
            with self._lock:
                previous = [each.declare(new) for kind in _ORDER for each in self._declared if each.kind == kind]
                self._newest = new
        except BaseException:
            new.close()
            raise
        self._over.wait(SETTLE_S)
        self._bus = new
        for close in previous:
            close()
        self._over.wait(ANSWER_S)
        old.close()

    def _reopened(self) -> Bus:
        while True:
            try:
                return self._open(self._link)
            except EdgeVitError as exc:
                log.warning("%s", exc)
                if self._over.wait(AGAIN_S):
                    raise

    def _declare(
        self, kind: _Kind, on: Callable[[Bus, int], Closer], forget: Callable[[int], None] | None = None
    ) -> Closer:
        return self._add(_Declared(kind, on, forget))

    def _add(self, declared: _Declared) -> Closer:
        with self._lock:
            declared.declare(self._newest)
            self._declared.append(declared)
        return _Withdrawal(self, declared)

    def withdraw(self, declared: _Declared) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._declared.remove(declared)
        declared.close()


class _Declared:
    """One declaration, on one session or, for a while, on two. ``session`` counts them."""

    def __init__(
        self, kind: _Kind, on: Callable[[Bus, int], Closer], forget: Callable[[int], None] | None = None
    ) -> None:
        self.kind, self.session = kind, 0
        self._on, self._forget = on, forget
        self._open: dict[int, Closer] = {}

    def declare(self, bus: Bus) -> Callable[[], None]:
        """On another session; what is returned takes it back from all before."""
        self.session = session = self.session + 1
        self._open[session] = self._on(bus, session)
        return lambda: self._end_before(session)

    def oldest(self, default: int) -> int:
        """Of those that it is declared on."""
        return min(tuple(self._open), default=default)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _end_before(self, session: int) -> None:
        for older in [each for each in tuple(self._open) if each < session]:
            if (closer := self._open.pop(older, None)) is not None:
                closer.close()
                if self._forget is not None:
                    self._forget(older)


class _Withdrawal:
    def __init__(self, bus: RenewingBus, declared: _Declared) -> None:
        self._bus, self._declared = bus, declared

    def close(self) -> None:
        self._bus.withdraw(self._declared)


class _Seen:
    """What is announced, as one or two sessions see it: there while either does, and told once."""

    def __init__(self, on_change: OnChange) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._by: dict[int, set[str]] = {}

    def changed(self, session: int, key: str, there: bool) -> None:
        with self._lock:
            before = self._there(key)
            keys = self._by.setdefault(session, set())
            (keys.add if there else keys.discard)(key)
            if self._there(key) != before:
                self._on_change(key, not before)

    def forget(self, session: int) -> None:
        with self._lock:
            for key in self._by.pop(session, set()):
                if not self._there(key):
                    self._on_change(key, False)

    def _there(self, key: str) -> bool:
        return any(key in keys for keys in self._by.values())


def _any_port(listen: tuple[str, ...]) -> tuple[str, ...]:
    """The same endpoints, each at whatever port is free."""
    return tuple(re.sub(r":\d+(?=$|[?#])", ":0", endpoint) for endpoint in listen)
