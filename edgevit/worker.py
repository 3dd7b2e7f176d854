"""Run one function of ours in a fresh process, so that a backend's crash is an error line and not the end of the run.

The parent starts ``python -m edgevit.worker RESULT_FILE [MODULE…]`` and writes one line of JSON to its stdin; the child
imports the modules, calls the function and writes its result, also JSON, to RESULT_FILE (not stdout: libraries print
there). Large arrays travel as .npz paths inside the payload. Nothing is pickled, and only functions of edgevit or of a
registered plug-in are called.

``call`` is one question and its answer. ``talk`` keeps the process for many: each is a line on its stdin, and it says
nothing until it is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from edgevit.errors import EdgeVitError, UnknownName, WorkerFailed

_TAIL_LINES = 40
_EXIT = None  # what the queue of lines ends with
# what -P does, which Python 3.10 has not; the working dir goes first, as it may hold a runpy.py
_SAFE_PATH = """import sys
del sys.path[0]
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)"""
_PROGRESS = "edgevit-progress "  # how lines begin that report progress
_ANSWER = "edgevit-answer "  # … that answer a question of a talk


def call(
    target: str,
    payload: dict[str, Any],
    *,
    timeout: float | None = None,
    on_line: Callable[[str], None] | None = None,
    on_progress: Callable[[str, float | None], None] | None = None,
    waiting: Waiting | None = None,
) -> dict[str, Any]:
    """``target`` ("edgevit.module:function") called with ``payload`` in a fresh process, or ``waiting``; its result.

    ``timeout`` is in seconds. In the caller's thread, ``on_progress`` gets what the function reports (see ``report``)
    and ``on_line`` every other line that the process prints. An EdgeVitError raised inside is raised here as the same
    class, with its hint. WorkerFailed when the process crashed (the signal is named), raised anything else, or ran past
    ``timeout``: its whole process group is then killed, as it is on Ctrl-C.
    """
    _check_target(target)
    with contextlib.nullcontext(waiting) if waiting and not waiting.used else wait() as hired:
        hired.used = True
        process = hired.process
        with _reaped(process):
            _send(process, {"target": target, "payload": payload})
            tail, finished = _follow(process, timeout, on_line or _unheard, on_progress or _unheard)
        return _outcome(hired.result_file, process.returncode, tail, None if finished else timeout, on_line)


@dataclass
class Waiting:
    """A process that waits for its one call."""

    process: subprocess.Popen[str]
    result_file: Path
    used: bool = False


@contextlib.contextmanager
def wait(*modules: str) -> Iterator[Waiting]:
    """A process for one ``call``, which imports ``modules`` while its caller does something else. Gone afterwards."""
    for module in modules:
        _check_target(f"{module}:main")
    with tempfile.TemporaryDirectory(prefix="edgevit-worker-") as folder:
        result_file = Path(folder) / "result.json"
        waiting = Waiting(_start(result_file, modules), result_file)
        with _reaped(waiting.process):
            yield waiting


def program(module: str, *arguments: str) -> list[str]:
    """The command that runs ``module`` in this Python as ``python -m`` does, but never imports from the working dir."""
    how = ["-P", "-m"] if sys.version_info >= (3, 11) else ["-c", _SAFE_PATH]
    return [sys.executable, *how, module, *arguments]


@dataclass
class Talk:
    """A process whose function answers questions, one at a time."""

    process: subprocess.Popen[str]
    result_file: Path
    lines: queue.SimpleQueue[str | None]
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))

    def ask(self, question: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        """Its answer. Raises as ``call`` does."""
        _send(self.process, dict(question))
        return self.hear(timeout=timeout)

    def hear(self, *, timeout: float) -> dict[str, Any]:
        """What it says next: without a question, what it began with."""
        deadline = time.monotonic() + timeout
        try:
            while (line := _next(self.lines, deadline)) is not _EXIT:
                if line.startswith(_ANSWER):
                    found: dict[str, Any] = json.loads(line.removeprefix(_ANSWER))
                    return found
                self.tail.append(line)
        except queue.Empty:
            _kill_group(self.process)
            raise _death(0, list(self.tail), timeout) from None
        _outcome(self.result_file, self.process.returncode, list(self.tail), None, None)
        raise WorkerFailed("the worker ended before it had answered")


@contextlib.contextmanager
def talk(target: str, payload: dict[str, Any]) -> Iterator[Talk]:
    """``target`` called with ``payload`` in a fresh process, where it takes ``questions``. Gone after the block."""
    _check_target(target)
    with wait() as hired:
        hired.used = True
        _send(hired.process, {"target": target, "payload": payload})
        yield Talk(hired.process, hired.result_file, _lines_of(hired.process))


def _start(result_file: Path, modules: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        program("edgevit.worker", str(result_file), *modules),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,  # a group of its own: killed as a whole, and Ctrl-C reaches only the parent
    )


def _send(process: subprocess.Popen[str], request: dict[str, Any]) -> None:
    """One line. stdin then stays open: its end tells the child that the parent is gone."""
    text = json.dumps(request)
    with contextlib.suppress(BrokenPipeError):  # the child died at once: its exit status says more
        stream = _open(process.stdin)
        stream.write(text + "\n")
        stream.flush()


def _open(stream: TextIO | Any) -> Any:
    if stream is None:
        raise ValueError("the worker was started without this pipe")
    return stream


@contextlib.contextmanager
def _reaped(process: subprocess.Popen[str]) -> Iterator[None]:
    """However the block ends, the process and all it started are gone afterwards."""
    try:
        yield
    finally:
        _kill_group(process)
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            _open(process.stdin).close()


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _follow(
    process: subprocess.Popen[str],
    timeout: float | None,
    on_line: Callable[[str], None],
    on_progress: Callable[[str, float | None], None],
) -> tuple[list[str], bool]:
    """Forward lines until the process ends. Its last lines, and whether it ended in time. No polling: a measurement
    may be running inside."""
    lines = _lines_of(process)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            line = _next(lines, deadline)
        except queue.Empty:
            return list(tail), False
        if line is _EXIT:
            return list(tail), True
        if line.startswith(_PROGRESS):
            on_progress(*json.loads(line.removeprefix(_PROGRESS)))
        else:
            tail.append(line)
            on_line(line)


def _lines_of(process: subprocess.Popen[str]) -> queue.SimpleQueue[str | None]:
    """What the process prints, line by line as it comes, and ``_EXIT`` when it has ended."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    threading.Thread(target=_await_exit, args=(process, reader, lines), daemon=True).start()
    return lines


def _next(lines: queue.SimpleQueue[str | None], deadline: float | None) -> str | None:
    """The next line; queue.Empty at the deadline (time.monotonic)."""
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise queue.Empty
    return lines.get(timeout=left)


def _unheard(*_: Any) -> None:
    """Lines and reports that nobody asked for."""


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    with contextlib.suppress(ValueError):  # the pipe was closed under us
        for line in _open(process.stdout):
            if text := line.rstrip():
                lines.put(text)


def _await_exit(process: subprocess.Popen[str], reader: threading.Thread, lines: queue.SimpleQueue[str | None]) -> None:
    process.wait()
    reader.join(1.0)  # a grandchild may hold the pipe open for ever
    lines.put(_EXIT)


def _outcome(
    result_file: Path, status: int, tail: list[str], timeout: float | None, on_line: Callable[[str], None] | None
) -> dict[str, Any]:
    """The result, or the error that it describes. ``timeout`` is given when the process had to be killed for it."""
    if not result_file.exists():
        raise _death(status, tail, timeout)
    answer: dict[str, Any] = json.loads(result_file.read_text("utf-8"))
    if "error" in answer:
        raise revive(answer["error"])
    if status and on_line:
        on_line(f"the worker {_manner(status)} after it had finished its work")
    result: dict[str, Any] = answer["result"]
    return result


def _death(status: int, tail: list[str], timeout: float | None) -> EdgeVitError:
    """Why a process ended without a result."""
    said = f"; its last line: {tail[-1]}" if tail else ""
    if timeout is not None:
        return WorkerFailed(f"the worker did not finish within {timeout:g} s and was killed{said}")
    if status == -getattr(signal, "SIGKILL", 9):
        return WorkerFailed(
            f"the worker was killed by SIGKILL, most likely by the system for lack of memory{said}",
            hint="close other programs, or use a smaller model, batch or image size",
        )
    return _with_note(WorkerFailed(f"the worker {_manner(status)}{said}"), "\n".join(tail))


def _manner(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def revive(error: Mapping[str, Any]) -> EdgeVitError:
    """The error object that a record written by ``describe`` stands for; its class decides the exit code."""
    kind: type[EdgeVitError] = WorkerFailed
    if error["module"].partition(".")[0] == "edgevit":
        found = getattr(import_module(error["module"]), error["kind"], None)
        kind = found if isinstance(found, type) and issubclass(found, EdgeVitError) else kind
    revived = kind.__new__(kind)
    EdgeVitError.__init__(revived, error["message"], hint=error["hint"])
    if isinstance(revived, UnknownName):
        revived.nearest = tuple(error["nearest"])
    return _with_note(revived, error["trace"])


def _with_note(error: EdgeVitError, note: str) -> EdgeVitError:
    """The worker's own traceback or last lines, where EDGEVIT_DEBUG=1 asks for them."""
    if note and os.environ.get("EDGEVIT_DEBUG"):
        vars(error)["__notes__"] = [note]  # as add_note does, which Python 3.10 has not
    return error


def _check_target(target: str) -> None:
    """ValueError unless ``target`` is a function of edgevit or of the package of a registered exporter or runtime."""
    module, colon, function = target.partition(":")
    package = module.partition(".")[0]
    if not colon or not function.isidentifier():
        raise ValueError(f"{target!r} is not module:function")
    if package == "edgevit":
        return
    from edgevit import registry

    rows = [*registry.rows("exporter").values(), *registry.rows("runtime").values()]
    if package not in {row.path.partition(":")[0].partition(".")[0] for row in rows}:
        raise ValueError(f"{target!r} is neither part of edgevit nor of a registered plug-in")


# The child's side.


_ASKED: queue.SimpleQueue[str] = queue.SimpleQueue()  # lines that came on stdin after the request


def report(stage: str, fraction: float | None = None) -> None:
    """Tell the caller's ``on_progress`` how far the work is. Thread-safe: one line in one write."""
    _say(_PROGRESS, [stage, fraction])


def answer(value: Mapping[str, Any]) -> None:
    """Tell the other side of a ``talk``: first that it may ask, then what it asked for."""
    _say(_ANSWER, dict(value))


def questions() -> Iterator[dict[str, Any]]:
    """What the other side of a ``talk`` asks, each answered before the next one comes; there is no last one."""
    while True:
        yield json.loads(_ASKED.get())


def _say(prefix: str, value: Any) -> None:
    sys.stderr.write(f"\n{prefix}{json.dumps(value)}\n")
    sys.stderr.flush()


def main() -> None:
    """Read the request, call the function, write the answer in one rename, so that a half-written one is never read."""
    result_file = Path(sys.argv[1])
    _import_ahead(sys.argv[2:])
    line = sys.stdin.readline()
    if not line:  # it was not needed
        return
    request = json.loads(line)
    threading.Thread(target=_listen, daemon=True).start()
    answer = _answer(request)
    scratch = result_file.with_suffix(".part")
    scratch.write_text(json.dumps(answer), "utf-8")
    scratch.replace(result_file)


def _import_ahead(modules: Sequence[str]) -> None:
    """What cannot be imported is left to the call, whose error says so."""
    for module in modules:
        with contextlib.suppress(Exception):
            import_module(module)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    import traceback

    try:
        _check_target(request["target"])
        module, _, function = request["target"].partition(":")
        return {"result": getattr(import_module(module), function)(request["payload"])}
    except Exception as exc:
        return {"error": describe(exc, traceback.format_exc())}


def describe(exc: Exception, trace: str = "") -> dict[str, Any]:
    """An exception as a record. Ours keep their class; anything else becomes WorkerFailed with its last line."""
    record: dict[str, Any] = {"module": "edgevit.errors", "trace": trace, "hint": None, "nearest": []}
    if isinstance(exc, EdgeVitError):
        # a plug-in's own subclass crosses as the class of ours that it extends
        ours = next(kind for kind in type(exc).__mro__ if kind.__module__.partition(".")[0] == "edgevit")
        record |= {"kind": ours.__name__, "module": ours.__module__, "nearest": list(getattr(exc, "nearest", ()))}
        return record | {"message": str(exc), "hint": exc.hint}
    if isinstance(exc, MemoryError):
        hint = "close other programs, or use a smaller model, batch or image size"
        return record | {"kind": "WorkerFailed", "message": "the worker ran out of memory", "hint": hint}
    return record | {"kind": "WorkerFailed", "message": trace.strip().rpartition("\n")[2]}


def _listen() -> None:
    """Put what is asked where ``questions`` finds it. The end of stdin ends this process group: the parent was killed
    and nobody waits for the answer."""
    rest = b""
    while chunk := os.read(0, 1 << 16):  # not sys.stdin: a thread inside it would hinder the interpreter's end
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            _ASKED.put(line.decode())
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    import_module("edgevit.worker").main()  # the module that others import, whose queue of questions they read
