"""A process's log: one JSON object a line on stderr, the newest of them in memory for whoever asks over the bus.

    {"at": "2026-11-21T18:00:00.123456+00:00", "node": "pi-3", "level": "info", "event": "ready", "part": "part-0", …}

``trace`` is the trace id of the request that a line is about, so that its way through the fleet can be put together
from the logs of all nodes. Lines of ``note`` are kept in memory only: one for every answer would be too many for a
disk. What a stranger can cause is written at most ``PER_SECOND`` times a second.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, TextIO

from edgevit.fleet.bus.messages import BadMessage, record
from edgevit.fleet.bus.transport import Question

NEWEST = 2000  # lines kept
ANSWER_BYTES = 256 << 10  # of lines in one answer
PER_SECOND = 20  # lines of refusals written; the rest is in memory only
_UNWRITTEN = 1000  # lines that wait while nobody reads stderr; more are not written

_Line = tuple[float, str, str, dict[str, Any]]  # time, level, event, fields


class Log:
    """Thread-safe. Nothing here waits for whoever reads ``stream``."""

    def __init__(self, node: str, stream: TextIO | None = None) -> None:
        self.node = node
        self._stream = stream if stream is not None else sys.stderr
        self._lines: deque[_Line] = deque(maxlen=NEWEST)
        self._unwritten: queue.Queue[_Line | None] = queue.Queue(_UNWRITTEN)
        self._second, self._written = 0, 0
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def note(self, event: str, **fields: Any) -> None:
        """Into memory only. Costs a microsecond."""
        self._lines.append((time.time(), "note", event, fields))

    def info(self, event: str, **fields: Any) -> None:
        self._say("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._say("warning", event, fields)

    def refusal(self, event: str, **fields: Any) -> None:
        """A warning that others may cause as often as they like."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._written = second, 0
        self._written += 1
        if self._written > PER_SECOND:
            self._lines.append((time.time(), "warning", event, fields))
        else:
            self._say("warning", event, fields)

    def newest(self, lines: int = 100, trace: str | None = None) -> list[dict[str, Any]]:
        """The newest lines, oldest of them first; with ``trace``, only those about that request."""
        found = [line for line in self._lines.copy() if trace is None or line[3].get("trace") == trace]
        return [self._record(line) for line in found[-lines:]] if lines > 0 else []

    def serve(self, question: Question) -> None:
        """Answer ``log/<node>``. Asked with ``{"lines": 100, "trace": "…"}``, both optional; JSON lines, cut to the
        newest ``ANSWER_BYTES``."""
        try:
            asked = record(question.meta)
            lines, trace = asked.get("lines", 100), asked.get("trace")
            if not isinstance(lines, int) or not isinstance(trace, str | None):
                raise BadMessage("lines is a number and trace a trace id")
        except BadMessage as exc:
            question.refuse(str(exc))
            return
        kept: deque[bytes] = deque()
        size = 0
        for line in reversed(self.newest(min(lines, NEWEST), trace)):
            encoded = _encode(line)
            size += len(encoded)
            if size > ANSWER_BYTES:
                break
            kept.appendleft(encoded)
        question.answer(b"".join(kept))
        question.finish()

    def close(self) -> None:
        """Write what is left, unless nobody takes it."""
        with suppress(queue.Full):
            self._unwritten.put_nowait(None)
            self._writer.join(0.2)

    def _say(self, level: str, event: str, fields: dict[str, Any]) -> None:
        line = (time.time(), level, event, fields)
        self._lines.append(line)
        with suppress(queue.Full):
            self._unwritten.put_nowait(line)

    def _record(self, line: _Line) -> dict[str, Any]:
        at, level, event, fields = line
        when = datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="microseconds")
        return {"at": when, "node": self.node, "level": level, "event": event, **fields}

    def _write(self) -> None:
        while (line := self._unwritten.get()) is not None:
            with suppress(OSError, ValueError):  # stderr was closed
                self._stream.write(_encode(self._record(line)).decode())
                self._stream.flush()


class Heard(logging.Handler):
    """What the fleet's modules say through ``logging``, as lines of a ``Log``."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, said: logging.LogRecord) -> None:
        error = said.exc_info[1] if said.exc_info else None
        fields = {"error": f"{type(error).__name__}: {error}"} if error else {}
        (self._log.warning if said.levelno > logging.INFO else self._log.info)(said.getMessage(), **fields)


def _encode(line: dict[str, Any]) -> bytes:
    return json.dumps(line, default=str).encode() + b"\n"
