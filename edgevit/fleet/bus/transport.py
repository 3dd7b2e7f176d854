"""The seam to the network. The fleet talks in these seven verbs and knows nothing else about the engine beneath.

    serve · ask        a question to whoever serves a key, and its answers
    announce · watch   that something is there, and who is: membership
    publish · listen   one-way messages, dropped rather than queued
    close

Callbacks run on the engine's own threads: they hand over and return, and never compute or block.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Meta = bytes  # a small JSON object (messages.py)
Payload = bytes | bytearray | memoryview


class Closer(Protocol):
    """Something declared on the bus, until it is closed. Closing twice is fine."""

    def close(self) -> None: ...


class Question(Protocol):
    """One question as who serves it sees it. It may be kept and answered later from another thread; exactly one of
    ``finish`` and ``refuse`` must be called in the end, or the asker waits for its timeout."""

    key: str
    meta: Meta

    def payload(self) -> bytes:
        """The bytes asked with. ``size`` says how many without copying them."""
        ...

    @property
    def size(self) -> int: ...

    def answer(self, payload: Payload, meta: Meta = b"{}") -> None:
        """One answer; more may follow."""
        ...

    def finish(self) -> None:
        """There are no more answers."""
        ...

    def refuse(self, reason: str) -> None:
        """No answer, and why, in one sentence or word such as "busy"."""
        ...


def take_or_refuse(waiting: queue.Queue[Any], question: Question) -> None:
    """Put a question into a bounded queue; refuse it as busy, at once, where that is full."""
    try:
        waiting.put_nowait(question)
    except queue.Full:
        question.refuse("busy")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a question. ``refused`` is the reason where it is a refusal; then payload is empty. ``by`` is who
    gave it, where both ends have identities: else nobody knows."""

    key: str
    payload: bytes
    meta: Meta
    refused: str | None = None
    by: str | None = None


OnAnswer = Callable[[Answer], None]
OnDone = Callable[[], None]  # all that answer have: or they are gone, or the time is up
OnChange = Callable[[str, bool], None]  # an announced key, and whether it is there (True) or gone
OnMessage = Callable[[str, bytes], None]


class Bus(Protocol):
    """A session. Keys are full key expressions of ``names``; ``*`` stands for one step, ``**`` for any.

    ``identity`` is the folder of who this process is, where its links ask for that.
    """

    identity: Path | None

    def serve(self, key: str, handler: Callable[[Question], None]) -> Closer:
        """Answer questions to ``key``. Declare it before announcing that it can be asked (docs/explanation/fleet.md,
        rule 4)."""
        ...

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
        """Ask, and return at once. Never blocks: what the network cannot take is dropped, and ``on_done`` comes with no
        answer. Both callbacks come on the thread that reads from the network: hand over, and nothing else; never within
        ``ask``, so the caller may hold a lock. ``bulk`` is for file chunks: background priority, and between peers it
        waits for room instead of being dropped (a router drops it, or one node that is gone would hold up all others).
        Of a key without ``*``, stop at the first answer: ``on_done`` may come as late as the timeout (rule 5)."""
        ...

    def announce(self, key: str) -> Closer:
        """Say that something is there, until it is closed or this process is gone."""
        ...

    def watch(self, pattern: str, on_change: OnChange) -> Closer:
        """Be told of every announced key, those that are there already first."""
        ...

    def publish(self, key: str, payload: Payload) -> None:
        """Tell whoever listens. Never blocks."""
        ...

    def listen(self, pattern: str, on_message: OnMessage) -> Closer: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """What ``gather`` found: the answers, refusals among them, in the order they came."""

    answers: tuple[Answer, ...]

    @property
    def good(self) -> tuple[Answer, ...]:
        return tuple(one for one in self.answers if one.refused is None)

    @property
    def refusals(self) -> tuple[str, ...]:
        return tuple(one.refused for one in self.answers if one.refused is not None)


def gather(
    bus: Bus,
    key: str,
    *,
    payload: Payload = b"",
    meta: Meta = b"{}",
    timeout_s: float,
    expected: int | None = 1,
    bulk: bool = False,
) -> Reply:
    """Ask and wait for ``expected`` answers (None: all there are), or ``timeout_s``. Never in a callback."""
    lock, over = threading.Lock(), threading.Event()
    found: list[Answer] = []

    def took(answer: Answer) -> None:
        with lock:
            found.append(answer)
            if expected is not None and len(found) >= expected:
                over.set()

    bus.ask(key, took, over.set, payload=payload, meta=meta, timeout_s=timeout_s, bulk=bulk)
    over.wait(timeout_s + 0.25)
    with lock:
        return Reply(tuple(found))
