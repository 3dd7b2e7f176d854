"""Choices of schedules, built and timed in a process of their own: one that crashes or hangs is a choice not taken.

The child (``tuning_child``) reads requests from its stdin, one line of JSON each. It answers with the number of each
choice before it tries it, and with a list of times at the end: of a child that died, the last number tells on which.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any

from typing_extensions import Self

from edgevit import worker
from edgevit.export.tvm.targets import BuildTarget
from edgevit.export.tvm.tuning_search import Choice

BUILD_TIMEOUT_S = 60.0  # for one choice, and for the start of the child; the slowest we saw took 5 s
CHILD = "edgevit.export.tvm.tuning_child"


class Measurer:
    """Times choices on this machine with a number of threads. A context manager: its child ends with it."""

    def __init__(self, target: BuildTarget, threads: int) -> None:
        self._target = target
        self._threads = threads
        self._child: subprocess.Popen[bytes] | None = None
        self._texts: dict[str, str] = {}
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def times(self, key: str, func: Any, choices: Sequence[Choice], rounds: int = 5) -> list[float | None]:
        """Microseconds of one call for each choice, None where it cannot be built or run. ``key`` names ``func``."""
        import tvm

        if key not in self._texts:
            self._texts[key] = tvm.ir.save_json(tvm.IRModule({"main": func}))
        left = dict(enumerate(choices))
        while left:
            request = {
                "func": self._texts[key],
                "target": asdict(self._target),
                "choices": [dict(choice) for choice in left.values()],
                "rounds": rounds,
            }
            found, reached = self._ask(json.dumps(request), BUILD_TIMEOUT_S)
            if found is not None:
                timed = dict(zip(left, found, strict=True))
                return [timed.get(index) for index in range(len(choices))]
            del left[list(left)[reached]]
        return [None] * len(choices)

    def _ask(self, request: str, timeout: float) -> tuple[list[float | None] | None, int]:
        """The child's times; or None when it died or took too long, and the number of the choice it was at."""
        reached = 0
        try:
            self._send(request)
            while True:
                answer = json.loads(self._receive(timeout))
                if isinstance(answer, list):
                    return answer, reached
                reached = int(answer)
        except (OSError, EOFError, TimeoutError):
            self._end()
            return None, reached

    def _send(self, request: str) -> None:
        stream = self._started().stdin
        if stream is None:
            raise EOFError
        stream.write(request.encode() + b"\n")
        stream.flush()

    def _receive(self, timeout: float) -> bytes:
        """The next line of the child; TimeoutError, or EOFError when it ended."""
        stream = self._started().stdout
        if stream is None:
            raise EOFError
        with selectors.DefaultSelector() as waiting:
            waiting.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not waiting.select(timeout):
                    raise TimeoutError
                if not (read := os.read(stream.fileno(), 1 << 16)):
                    raise EOFError
                self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            threads = str(self._threads)
            self._child = subprocess.Popen(
                worker.program(CHILD),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # LLVM and TVM complain there about choices that do not fit
                env={**os.environ, "TVM_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "TVM_BIND_THREADS": "0"},
            )
        return self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for stream in (self._child.stdin, self._child.stdout):
                if stream is not None:
                    stream.close()
        self._child = None
        self._unread = b""
