"""Where a node hears orders, ``order/<node>/{check,apply,drain}``, and tells those that it knows, ``place/*``.

On a thread of its own, so that a node that pulls for minutes still answers. What only has to be looked at is answered
here. What is to be done becomes a job, once however often it is ordered, and waits for whoever takes the ``next``.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from contextlib import ExitStack

from edgevit.errors import EdgeVitError
from edgevit.fleet.agent.orders import Job, Orders
from edgevit.fleet.agent.station import Station, sentence
from edgevit.fleet.bus.messages import Placement, Progress
from edgevit.fleet.bus.transport import Question, take_or_refuse

ORDERS = 16  # that wait to be heard
CLOSE_S = 5.0


class Desk:
    """One node's. ``check`` raises an EdgeVitError for an order that the node could not carry out."""

    def __init__(self, station: Station, book: Orders, check: Callable[[Placement], object]) -> None:
        self._station, self._book, self._check = station, book, check
        self._heard: queue.Queue[Question | None] = queue.Queue(ORDERS)
        self._lock = threading.Lock()  # of the list below
        self._jobs: list[Job] = []  # that wait or are in work
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._declared = ExitStack()
        self._thread = threading.Thread(target=self._listen, name="orders", daemon=True)

    def open(self) -> None:
        bus, names, node = self._station.bus, self._station.names, self._station.node
        self._declared.callback(bus.serve(names.place("*"), self._tell).close)
        for verb in ("check", "apply", "drain"):
            self._declared.callback(bus.serve(names.order(node, verb), self._hear).close)
        self._thread.start()

    def close(self) -> None:
        """Hear nothing more, and let go of whoever waits for the next job."""
        self._declared.close()
        self._heard.put(None)
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)

    # --- for whoever does the work ---------------------------------------------------------------------------------

    def next(self, timeout_s: float | None) -> Job | None:
        """The job that waits longest; None when there is none within that time, or the desk was closed."""
        try:
            return self._waiting.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def overtakes(self, placement: Placement | None) -> bool:
        """Whether an order waits to which the work on ``placement`` gives way: a newer one of its deployment. Work on
        none (what is done between orders) gives way to any."""
        with self._lock:
            waiting = [job.placement for job in self._jobs]
        if placement is None:
            return bool(waiting)
        return any(one.name == placement.name and one.generation > placement.generation for one in waiting)

    def done(self, job: Job, end: Progress) -> None:
        """The job is over, as ``end`` says, and whoever asked hears it."""
        with self._lock:
            self._jobs.remove(job)
        job.end(end)

    # --- on the bus's threads, and its own ---------------------------------------------------------------------------

    def _hear(self, question: Question) -> None:
        take_or_refuse(self._heard, question)

    def _tell(self, question: Question) -> None:
        name = question.key.rpartition("/")[2]
        meta = json.dumps({"node": self._station.node}).encode()
        for known, kept in self._book.kept().items():
            for placement in (kept.before, kept.newest) if name in ("*", known) else ():
                if placement is not None:
                    question.answer(placement.encode(), meta)
        question.finish()

    def _listen(self) -> None:
        while (question := self._heard.get()) is not None:
            try:
                self._take(question)
            except EdgeVitError as exc:
                self._refuse(question, "refused", sentence(exc))
            except OSError as exc:  # a disk that fails
                self._refuse(question, "order failed", sentence(exc))
            except Exception as exc:  # what nobody thought of: the next order is heard
                self._refuse(question, "order failed", f"failed: {type(exc).__name__}")

    def _refuse(self, question: Question, event: str, reason: str) -> None:
        self._station.log.warning(event, order=question.key, reason=reason)
        question.refuse(reason)

    def _take(self, question: Question) -> None:
        verb = question.key.rpartition("/")[2]
        if verb == "drain":
            drained = self._book.drain(question)
            self._station.log.info("drained" if drained else "taking parts again")
            self._answer(question, Progress(node=self._station.node, stage="ready"))
            return
        placement = self._book.read(question)
        if verb == "check":
            self._check(placement)
            self._answer(question, Progress(node=self._station.node, stage="checking"))
        else:
            self._enqueue(placement, question)

    @staticmethod
    def _answer(question: Question, progress: Progress) -> None:
        question.answer(b"", progress.encode())
        question.finish()

    def _enqueue(self, placement: Placement, question: Question) -> None:
        with self._lock:
            jobs = [job for job in self._jobs if job.placement == placement]
        if any(job.join(question) for job in jobs):
            return
        job = Job(placement, askers=[question])
        with self._lock:
            self._jobs.append(job)
        self._waiting.put(job)
