"""The bus over Eclipse Zenoh. Zenoh's threads only hand over: handlers run on threads of ours, answers excepted."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import zenoh
from zenoh.handlers import Callback

from edgevit.errors import FleetError
from edgevit.fleet.bus.hands import Hands, Inbox, guarded
from edgevit.fleet.bus.harden import harden
from edgevit.fleet.bus.here import Entry
from edgevit.fleet.bus.link import Link, Role
from edgevit.fleet.bus.transport import Answer, Closer, Meta, OnAnswer, OnChange, OnDone, OnMessage, Payload, Question
from edgevit.fleet.bus.zenoh_settings import lease_ms, settings

log = logging.getLogger("edgevit.fleet")
CLOSE_S = 3.0  # that closing may take: Zenoh's waits for links that were cut
_REFUSAL = zenoh.Encoding.TEXT_PLAIN  # of the reason
WAITING = 256  # questions or messages for one handler; what comes beyond is refused as busy, or dropped
CHANGES = 1_000_000  # of membership: none is dropped


class Declared:
    """Anything Zenoh lets one undeclare, and the inbox that it fills."""

    def __init__(self, undeclare: Callable[[], None], inbox: Inbox[Any] | None, held: set[Declared]) -> None:
        self._undeclare: Callable[[], None] | None = undeclare
        self._inbox, self._held, self._lock = inbox, held, threading.Lock()

    def close(self) -> None:
        with self._lock:
            undeclare, self._undeclare = self._undeclare, None
        if undeclare is None:
            return
        self._held.discard(self)
        with contextlib.suppress(zenoh.ZError):  # the session is gone, and what it declared with it
            undeclare()
        if self._inbox is not None:
            self._inbox.close()


class ZenohQuestion:
    """A query, until ``finish`` or ``refuse`` drops it. An asker that is gone is no error."""

    def __init__(self, query: zenoh.Query, served: str) -> None:
        asked = str(query.key_expr)
        self._query: zenoh.Query | None = query
        self._lock = threading.Lock()
        self._payload = query.payload
        attachment = query.attachment
        self.key = served if "*" in asked else asked
        self.meta: Meta = b"{}" if attachment is None else attachment.to_bytes()

    @property
    def size(self) -> int:
        return 0 if self._payload is None else len(self._payload)

    def payload(self) -> bytes:
        return b"" if self._payload is None else self._payload.to_bytes()

    def answer(self, payload: Payload, meta: Meta = b"{}") -> None:
        if (query := self._query) is not None:
            with contextlib.suppress(zenoh.ZError):
                query.reply(self.key, _sendable(payload), attachment=meta, express=True)

    def finish(self) -> None:
        self._end(None)

    def refuse(self, reason: str) -> None:
        self._end(reason)

    def _end(self, reason: str | None) -> None:
        with self._lock:
            query, self._query = self._query, None
        if query is not None:
            with contextlib.suppress(zenoh.ZError):
                if reason is not None:
                    query.reply_err(reason.encode(), encoding=_REFUSAL)
            with contextlib.suppress(zenoh.ZError):
                query.drop()  # type: ignore[no-untyped-call]


class Call:
    """One question that was asked: hands over its answers, then once that it is done, and never raises.

    Zenoh calls back on the thread that reads from the network (one more thread per question would double its latency),
    or within ``get`` itself, where nobody serves the key or this session does. What comes within ``get`` is handed to
    ``later``, with all that comes after it: who asks may hold a lock.
    """

    def __init__(
        self, key: str, on_answer: OnAnswer, on_done: OnDone, later: Callable[[Callable[[], None]], None]
    ) -> None:
        self.key = key
        self._on_answer, self._on_done, self._later = on_answer, on_done, later
        self._lock = threading.Lock()
        self._asking: int | None = None  # the thread that is within ``get``
        self._behind = self._over = False

    def __enter__(self) -> None:
        self._asking = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._asking = None

    def answer(self, reply: zenoh.Reply) -> None:
        if (error := reply.err) is None or error.encoding == _REFUSAL:  # else Zenoh's own word that the time is up
            self._hand_over(lambda: self._on_answer(_answer(self.key, reply)))

    def done(self) -> None:
        with self._lock:
            over, self._over = self._over, True
        if not over:
            self._hand_over(self._on_done)

    def _hand_over(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._behind |= self._asking == threading.get_ident()
            behind = self._behind
        if behind:
            self._later(call)
        else:
            guarded(call)


class ZenohBus:
    """A Zenoh session. Closing it takes what was declared on it along."""

    def __init__(self, link: Link, role: Role, name: str) -> None:
        self.identity = link.identity
        self._entry = Entry(name) if link.here else None
        try:
            self._session = _open(link, role, self._entry)
        except BaseException:
            if self._entry is not None:
                self._entry.close()
            raise
        if self._entry is not None:
            self._entry.listening()
        self._hardened = harden(self._session, user_timeout_ms=lease_ms(link))
        self._later, self._bulk = Hands("fleet-later"), Hands("fleet-bulk")
        self._held: set[Declared] = set()  # Zenoh ends what nobody refers to; here it stays until it is closed
        self._closed = False
        atexit.register(self.close)  # Zenoh's threads must not call into an interpreter that ends

    def serve(self, key: str, handler: Callable[[Question], None]) -> Closer:
        def asked(query: zenoh.Query) -> None:
            question = ZenohQuestion(query, key)
            try:
                handler(question)
            except Exception:
                log.exception("serving %s", key)
                question.refuse("failed")

        inbox = Inbox("fleet-serve", asked, WAITING)

        def came(query: zenoh.Query) -> None:
            if not inbox.put(query):
                ZenohQuestion(query, key).refuse("busy")

        return self._declared(inbox, lambda: self._session.declare_queryable(key, _direct(came)).undeclare)

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
        call = Call(key, on_answer, on_done, self._later.put)
        if bulk:  # may wait for room: not in the caller's thread
            until = time.monotonic() + timeout_s
            self._bulk.put(lambda: self._get(call, payload, meta, until - time.monotonic(), _BULK))
        else:
            self._get(call, payload, meta, timeout_s, _PROMPT)

    def _get(self, call: Call, payload: Payload, meta: Meta, timeout_s: float, how: Mapping[str, Any]) -> None:
        with call:
            if timeout_s <= 0 or self._closed:
                return call.done()
            try:
                self._session.get(
                    call.key,
                    Callback(call.answer, call.done, indirect=False),
                    target=zenoh.QueryTarget.ALL,
                    consolidation=zenoh.ConsolidationMode.NONE,
                    timeout=timeout_s,
                    payload=_sendable(payload),
                    attachment=meta,
                    **how,
                )
            except zenoh.ZError:
                call.done()

    def announce(self, key: str) -> Closer:
        return self._declared(None, lambda: self._session.liveliness().declare_token(key).undeclare)

    def watch(self, pattern: str, on_change: OnChange) -> Closer:
        def changed(sample: zenoh.Sample) -> None:
            on_change(str(sample.key_expr), sample.kind == zenoh.SampleKind.PUT)

        inbox = Inbox("fleet-watch", changed, CHANGES)
        declare = self._session.liveliness().declare_subscriber
        return self._declared(inbox, lambda: declare(pattern, _direct(inbox.put), history=True).undeclare)

    def publish(self, key: str, payload: Payload) -> None:
        if self._closed:
            return
        with contextlib.suppress(zenoh.ZError):
            self._session.put(
                key,
                _sendable(payload),
                congestion_control=zenoh.CongestionControl.DROP,
                priority=zenoh.Priority.DATA_LOW,
            )

    def listen(self, pattern: str, on_message: OnMessage) -> Closer:
        def came(sample: zenoh.Sample) -> None:
            on_message(str(sample.key_expr), sample.payload.to_bytes())

        inbox = Inbox("fleet-listen", came, WAITING)
        return self._declared(inbox, lambda: self._session.declare_subscriber(pattern, _direct(inbox.put)).undeclare)

    def _declared(self, inbox: Inbox[Any] | None, declare: Callable[[], Callable[[], None]]) -> Closer:
        try:
            if self._closed:
                raise FleetError("the bus is closed")
            declared = Declared(declare(), inbox, self._held)
        except (FleetError, zenoh.ZError) as exc:
            if inbox is not None:
                inbox.close()
            if isinstance(exc, zenoh.ZError):
                raise FleetError(f"Zenoh does not declare it: {_said(exc)}") from exc
            raise
        self._held.add(declared)
        return declared

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if self._entry is not None:
            self._entry.close()
        closing = threading.Thread(target=self._close, daemon=True, name="fleet-close")
        closing.start()
        closing.join(CLOSE_S)

    def _close(self) -> None:
        with contextlib.suppress(zenoh.ZError):
            self._session.close()  # type: ignore[no-untyped-call]
        for declared in list(self._held):
            declared.close()


def _said(exc: zenoh.ZError) -> str:
    """What Zenoh said, without where in its sources."""
    return str(exc).partition(" at /")[0]


def _direct(call: Callable[[Any], Any]) -> Callback[Any]:
    """Called on Zenoh's own thread. Its indirect callbacks run on threads that keep a process from ending."""
    return Callback(call, indirect=False)


_PROMPT: dict[str, Any] = {
    "congestion_control": zenoh.CongestionControl.DROP,
    "priority": zenoh.Priority.INTERACTIVE_HIGH,
    "express": True,
}
_BULK: dict[str, Any] = {
    "congestion_control": zenoh.CongestionControl.BLOCK,
    "priority": zenoh.Priority.BACKGROUND,
    "express": False,
}


def _answer(asked: str, reply: zenoh.Reply) -> Answer:
    sample = reply.ok
    if sample is None:
        error = reply.err
        reason = b"" if error is None else error.payload.to_bytes()
        return Answer(asked, b"", b"{}", reason.decode(errors="replace") or "refused")
    attachment = sample.attachment
    meta = b"{}" if attachment is None else attachment.to_bytes()
    return Answer(str(sample.key_expr), sample.payload.to_bytes(), meta)


def _sendable(payload: Payload) -> bytes | bytearray:
    return bytes(payload) if isinstance(payload, memoryview) else payload


def _open(link: Link, role: Role, entry: Entry | None) -> zenoh.Session:
    """A session; FleetError in words where Zenoh gives up."""
    config = zenoh.Config()
    for key, value in settings(link, role, entry).items():
        config.insert_json5(key, json.dumps(value))
    try:
        return zenoh.open(config)
    except zenoh.ZError as exc:
        if "in use" in str(exc):
            taken = f"another process listens on {' or '.join(link.listen)} already"
            raise FleetError(taken, hint="edgevit fleet status shows what runs; or choose another port") from exc
        if link.mode == "client":
            tried = f"no router lets this process in at {' or '.join(link.connect)}"
            fits = "is it this user's, or --insecure at both ends"
            if link.identity is not None:
                fits = "is its CA that of this identity"
            raise FleetError(tried, hint=f"does it run there, and {fits}?") from exc
        raise FleetError(f"Zenoh does not start: {_said(exc)}") from exc
