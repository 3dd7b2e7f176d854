"""A bus on which nobody reads a question to somebody else, or answers for somebody else.

Zenoh's rules are by role (acl.py), so that a node could declare the keys of another one: it would be sent its
questions, and could answer them. Here questions are sealed for the node that they are to, and answers count only from
the node whose they should be. What does not open, or is not signed, is as if it had never come. Announced keys are not
signed: they say where it is worth asking, and nothing more.

Whoever asks a node needs its certificate. It is asked for once, under ``hello/<node>``, and again when nothing comes
back that opens: the node may have a new one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from edgevit.fleet.bus import envelopes
from edgevit.fleet.bus.envelopes import Opened, whose
from edgevit.fleet.bus.hands import Hands
from edgevit.fleet.bus.messages import BadMessage
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.papers import Papers
from edgevit.fleet.bus.seals import KEY, NONCE, TAG, Seals, opened_once, sealed_once
from edgevit.fleet.bus.transport import (
    Answer,
    Bus,
    Closer,
    Meta,
    OnAnswer,
    OnChange,
    OnDone,
    OnMessage,
    Payload,
    Question,
)

log = logging.getLogger("edgevit.fleet")
HELLO_S = 1.0  # for a certificate
AGAIN_S = 1.0  # before it is asked for again

OnPapers = Callable[[Papers | None], None]


class SealedQuestion:
    """A question that was sealed for this process."""

    def __init__(self, asked: Question, found: Opened, seals: Seals) -> None:
        self.key, self.meta = asked.key, found.meta
        self._asked, self._found = asked, found
        self._seal = seals.for_answers(found.asker, asking=False)

    @property
    def size(self) -> int:
        return max(self._asked.size - TAG, 0)

    def payload(self) -> bytes:
        """BadMessage where it was altered on the way."""
        return opened_once(self._found.content, self._asked.payload()) if self._asked.size else b""

    def answer(self, payload: Payload, meta: Meta = b"{}") -> None:
        self._asked.answer(*envelopes.sealed_answer(self._seal, self._found.nonce, self.key, False, payload, meta))

    def finish(self) -> None:
        self._asked.finish()

    def refuse(self, reason: str) -> None:
        said = reason.encode()
        self._asked.answer(*envelopes.sealed_answer(self._seal, self._found.nonce, self.key, True, said, b"{}"))
        self._asked.finish()


class OpenQuestion:
    """A question to whoever answers."""

    def __init__(self, asked: Question, seals: Seals) -> None:
        self.key = asked.key
        self._nonce, self.meta = asked.meta[1 : 1 + NONCE], asked.meta[1 + NONCE :]
        self._asked, self._seals = asked, seals

    @property
    def size(self) -> int:
        return self._asked.size

    def payload(self) -> bytes:
        return self._asked.payload()

    def answer(self, payload: Payload, meta: Meta = b"{}") -> None:
        self._say(False, payload, meta)

    def finish(self) -> None:
        self._asked.finish()

    def refuse(self, reason: str) -> None:
        self._say(True, reason.encode(), b"{}")
        self._asked.finish()

    def _say(self, refused: bool, payload: Payload, meta: Meta) -> None:
        beside = envelopes.signed_answer(self._seals, self._nonce, self.key, refused, payload, meta)
        self._asked.answer(payload, beside)


class SealedBus:
    """``bus`` for a process with an identity, which others ask as ``name``. Closing it closes ``bus``."""

    def __init__(self, bus: Bus, seals: Seals, names: Names, name: str) -> None:
        self.identity = bus.identity
        self._bus, self._seals, self._names = bus, seals, names
        self._lock = threading.Lock()
        self._papers: dict[str, tuple[Papers, float]] = {}  # of nodes, and when they were asked for
        self._asked_for: dict[tuple[str, bytes], list[OnPapers]] = {}
        self.later = Hands("fleet-met").put  # nothing is asked on the threads that Zenoh calls back on
        self._sealed: tuple[Payload, bytes, bytes] = b"", b"", b""  # what was sealed last, its key, and sealed
        if seals.own.role in ("node", "operator"):
            self.serve(names.hello(name), _greet)

    def serve(self, key: str, handler: Callable[[Question], None]) -> Closer:
        if whose(key)[0] is None:
            return self._bus.serve(key, handler)
        return self._bus.serve(key, lambda asked: self._came(asked, handler))

    def _came(self, asked: Question, handler: Callable[[Question], None]) -> None:
        try:
            question = self._opened(asked)
        except BadMessage as exc:
            log.debug("a question to %s is not taken: %s", asked.key, exc)
            question = None
        if question is None:
            asked.finish()
            return
        try:
            handler(question)
        except Exception:
            log.exception("serving %s", asked.key)
            question.refuse("failed")

    def _opened(self, asked: Question) -> Question | None:
        kind, beside = asked.meta[:1], asked.meta
        if kind == envelopes.OPEN:
            return OpenQuestion(asked, self._seals)
        if kind != envelopes.SEALED:
            raise BadMessage("it is neither sealed nor open")
        found = envelopes.opened_question(self._seals, asked.key, beside)
        return None if found is None else SealedQuestion(asked, found, self._seals)

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
        kind, name = whose(key)
        if kind is None:
            self._bus.ask(key, on_answer, on_done, payload=payload, meta=meta, timeout_s=timeout_s, bulk=bulk)
        elif name is None or "*" in key:
            took = lambda answer, _: on_answer(answer)  # noqa: E731
            self._ask_openly(key, took, on_done, payload=payload, meta=meta, timeout_s=timeout_s, bulk=bulk)
        else:
            _Call(self, name, key, on_answer, on_done, payload, meta, time.monotonic() + timeout_s, bulk).begin()

    def _ask_openly(
        self,
        key: str,
        took: Callable[[Answer, Papers], None],
        on_done: OnDone,
        *,
        payload: Payload = b"",
        meta: Meta = b"{}",
        timeout_s: float,
        bulk: bool = False,
    ) -> None:
        nonce, beside = envelopes.open_question(meta)

        def came(answer: Answer) -> None:
            with suppress(BadMessage):
                took(*envelopes.checked_answer(self._seals, nonce, answer))

        self._bus.ask(key, came, on_done, payload=payload, meta=beside, timeout_s=timeout_s, bulk=bulk)

    # --- certificates of those that are asked -----------------------------------------------------------------------

    def papers(self, name: str) -> Papers | None:
        """What is known of a node."""
        known = self._papers.get(name)
        return known[0] if known and known[0].good() else None

    def renewable(self, name: str) -> bool:
        """Whether it is worth asking a node for its certificate again."""
        known = self._papers.get(name)
        return known is None or time.monotonic() - known[1] > AGAIN_S

    def meet(self, name: str, timeout_s: float, then: OnPapers, besides: bytes = b"") -> None:
        """Ask a node for its certificate, or one ``besides`` that of this mark, and go on with it, or with None.

        A node that renews its certificate has two for a moment."""
        wanted = name, besides
        with self._lock:
            if wanted in self._asked_for:
                self._asked_for[wanted].append(then)
                return
            self._asked_for[wanted] = [then]

        def met(_: Answer, papers: Papers) -> None:
            if papers.mark != besides:
                self._met(wanted, papers)

        self._ask_openly(
            self._names.hello(name), met, lambda: self._met(wanted, None), timeout_s=min(timeout_s, HELLO_S)
        )

    def _met(self, wanted: tuple[str, bytes], papers: Papers | None) -> None:
        with self._lock:
            waiting = self._asked_for.pop(wanted, [])
            if papers is not None and waiting:
                self._papers[wanted[0]] = papers, time.monotonic()
        for then in waiting:
            self.later(partial(then, papers))

    # --- sealing ----------------------------------------------------------------------------------------------------

    def send(self, call: _Call, papers: Papers, timeout_s: float) -> None:
        content, data = self._content(call.payload)
        nonce, beside = envelopes.sealed_question(self._seals, papers, call.key, content, call.meta)
        seal = self._seals.for_answers(papers, asking=True)

        def came(answer: Answer) -> None:
            with suppress(BadMessage):
                call.took(envelopes.opened_answer(seal, nonce, papers.name, answer))

        done = lambda: call.done(papers)  # noqa: E731
        self._bus.ask(call.key, came, done, payload=data, meta=beside, timeout_s=timeout_s, bulk=call.bulk)

    def _content(self, payload: Payload) -> tuple[bytes, bytes]:
        """A key, and the bytes sealed under it: once, where several nodes are asked with the same."""
        if not payload:
            return bytes(KEY), b""
        last = self._sealed
        if payload is last[0] and isinstance(payload, bytes):
            return last[1], last[2]
        content, data = sealed_once(bytes(payload))
        self._sealed = payload, content, data
        return content, data

    # --- what is said to all ----------------------------------------------------------------------------------------

    def announce(self, key: str) -> Closer:
        return self._bus.announce(key)

    def watch(self, pattern: str, on_change: OnChange) -> Closer:
        return self._bus.watch(pattern, on_change)

    def publish(self, key: str, payload: Payload) -> None:
        self._bus.publish(key, envelopes.signed_message(self._seals, key, payload))

    def listen(self, pattern: str, on_message: OnMessage) -> Closer:
        def came(key: str, message: bytes) -> None:
            with suppress(BadMessage):
                on_message(key, envelopes.checked_message(self._seals, key, message))

        return self._bus.listen(pattern, came)

    def close(self) -> None:
        self._bus.close()


class _Call:
    """One question to one node: once more, if nothing came back that opens and the node has another certificate."""

    def __init__(
        self,
        bus: SealedBus,
        name: str,
        key: str,
        on_answer: OnAnswer,
        on_done: OnDone,
        payload: Payload,
        meta: Meta,
        until: float,
        bulk: bool,
    ) -> None:
        self._bus, self._name = bus, name
        self.key, self._on_answer, self._on_done = key, on_answer, on_done
        self.payload, self.meta, self._until, self.bulk = payload, meta, until, bulk
        self._heard = self._again = False

    def begin(self) -> None:
        papers = self._bus.papers(self._name)
        if papers is None:
            self._again = True
            self._bus.meet(self._name, self._left(), self._go_on)
        else:
            self._go_on(papers)

    def _go_on(self, papers: Papers | None) -> None:
        if papers is None:
            self._on_done()
        else:
            self._bus.send(self, papers, self._left())

    def took(self, answer: Answer) -> None:
        self._heard = True
        self._on_answer(answer)

    def done(self, papers: Papers) -> None:
        if self._heard or self._again or self._left() <= 0 or not self._bus.renewable(self._name):
            self._on_done()
            return
        self._again = True
        self._bus.later(lambda: self._bus.meet(self._name, self._left(), self._go_on, besides=papers.mark))

    def _left(self) -> float:
        return self._until - time.monotonic()


def _greet(question: Question) -> None:
    """Who asks needs nothing but the certificate that goes beside every answer."""
    question.answer(b"")
    question.finish()
