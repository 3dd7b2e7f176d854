"""Workers: results and our errors come back, crashes and hangs become one sentence, nothing is left running."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from plugin import install

from edgevit import worker
from edgevit.errors import MissingDependency, UnknownName, Unsupported, UsageError, WorkerFailed
from edgevit.images import ImageError

PLUGIN = """
import ctypes, os, signal, subprocess, sys, time
from edgevit.errors import MissingDependency, UnknownName, Unsupported, UsageError
from edgevit.images import ImageError
from edgevit.registry import Row

ROW = Row("crashy", "crashy:Runtime", "crashy", (), "misbehaves on purpose")

class PrivateError(UsageError):
    pass

def echo(payload):
    print("a line on stdout")
    print("a line on stderr", file=sys.stderr)
    return {"got": payload, "pid": os.getpid(), "torch": "torch" in sys.modules, "numpy": "numpy" in sys.modules,
            "ahead": "edgevit.info" in sys.modules}

def report(payload):
    from edgevit import worker
    sys.stdout.write("a half line")
    sys.stdout.flush()
    worker.report("größer")
    worker.report("half", 0.5)

def refuse(payload):
    if payload["kind"] == "Unsupported":
        raise Unsupported("this cannot be done", hint="do that")
    if payload["kind"] == "MissingDependency":
        raise MissingDependency("crashy is not installed", hint="pip install crashy")
    if payload["kind"] == "UnknownName":
        raise UnknownName("target", "onx", ["onnx", "tvm"])
    if payload["kind"] == "ImageError":
        raise ImageError("cat.png: the file is empty")
    raise PrivateError("a plug-in's own class")

def die(payload):
    print("about to die", file=sys.stderr, flush=True)
    os.kill(os.getpid(), payload["signal"])
    time.sleep(60)

def segfault(payload):
    ctypes.string_at(0)

def stumble(payload):
    return {"never": 1 // 0}

def leave(payload):
    os._exit(7)

def exhaust(payload):
    raise MemoryError

def hang(payload):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(payload["pids"], "w") as stream:
        stream.write(f"{os.getpid()} {child.pid}")
    print("hanging", flush=True)
    time.sleep(600)

def crash_on_the_way_out(payload):
    import atexit
    atexit.register(os.kill, os.getpid(), signal.SIGSEGV)
    return {"done": True}
"""


@pytest.fixture(autouse=True)
def crashy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed plug-in package whose functions crash, hang and raise."""
    install(tmp_path, "crashy", PLUGIN, {"crashy": "ROW"}, monkeypatch)
    monkeypatch.delenv("EDGEVIT_DEBUG", raising=False)


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie that nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


def test_a_result_comes_back_from_a_fresh_process() -> None:
    payload = {"text": "größer", "number": 1.5, "list": [1, None], "big": "x" * 200_000}
    answer = worker.call("crashy:echo", payload)
    assert answer["got"] == payload
    assert answer["pid"] != os.getpid()


def test_printed_lines_reach_the_caller_and_not_the_result() -> None:
    lines: list[str] = []
    worker.call("crashy:echo", {}, on_line=lines.append)
    assert sorted(lines) == ["a line on stderr", "a line on stdout"]


def test_reports_reach_the_caller_apart_from_what_is_printed() -> None:
    lines: list[str] = []
    reports: list[tuple[str, float | None]] = []
    on_progress = lambda stage, fraction: reports.append((stage, fraction))  # noqa: E731
    worker.call("crashy:report", {}, on_line=lines.append, on_progress=on_progress)
    assert reports == [("größer", None), ("half", 0.5)]
    assert lines == ["a half line"]


def test_the_worker_module_itself_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, edgevit.worker; print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("kind", "expected", "message", "hint"),
    [
        ("Unsupported", Unsupported, "this cannot be done", "do that"),
        ("MissingDependency", MissingDependency, "crashy is not installed", "pip install crashy"),
        ("UnknownName", UnknownName, "unknown target 'onx'", "did you mean onnx?"),
        ("ImageError", ImageError, "cat.png: the file is empty", None),
    ],
)
def test_our_errors_cross_with_class_message_and_hint(
    kind: str, expected: type[Exception], message: str, hint: str | None
) -> None:
    with pytest.raises(expected) as caught:
        worker.call("crashy:refuse", {"kind": kind})
    assert type(caught.value) is expected
    assert str(caught.value) == message
    assert caught.value.hint == hint  # type: ignore[attr-defined]


def test_the_nearest_names_cross_too() -> None:
    with pytest.raises(UnknownName) as caught:
        worker.call("crashy:refuse", {"kind": "UnknownName"})
    assert caught.value.nearest == ("onnx",)


def test_a_plug_ins_own_error_class_becomes_the_nearest_of_ours() -> None:
    with pytest.raises(UsageError, match="a plug-in's own class") as caught:
        worker.call("crashy:refuse", {"kind": "private"})
    assert caught.value.exit_code == 2


def test_a_segfault_is_a_sentence_that_names_the_signal() -> None:
    with pytest.raises(WorkerFailed, match="killed by SIGSEGV"):
        worker.call("crashy:segfault", {})


def test_death_by_a_signal_shows_the_last_line() -> None:
    with pytest.raises(WorkerFailed, match="killed by SIGABRT; its last line: about to die"):
        worker.call("crashy:die", {"signal": 6})


def test_sigkill_suggests_that_memory_ran_out() -> None:
    with pytest.raises(WorkerFailed, match=r"SIGKILL.*lack of memory") as caught:
        worker.call("crashy:die", {"signal": 9})
    assert "smaller" in (caught.value.hint or "")


def test_an_unexpected_exception_is_its_last_line() -> None:
    with pytest.raises(WorkerFailed, match=r"^ZeroDivisionError: integer division or modulo by zero$") as caught:
        worker.call("crashy:stumble", {})
    assert not hasattr(caught.value, "__notes__")


def test_debug_adds_the_workers_own_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_DEBUG", "1")
    with pytest.raises(WorkerFailed) as caught:
        worker.call("crashy:stumble", {})
    assert "in stumble" in caught.value.__notes__[0]


def test_an_exit_without_a_result_gives_the_status() -> None:
    with pytest.raises(WorkerFailed, match="exited with status 7"):
        worker.call("crashy:leave", {})


def test_memory_error_is_said_in_words() -> None:
    with pytest.raises(WorkerFailed, match="ran out of memory"):
        worker.call("crashy:exhaust", {})


def test_a_crash_after_the_result_keeps_the_result_and_says_so() -> None:
    lines: list[str] = []
    assert worker.call("crashy:crash_on_the_way_out", {}, on_line=lines.append) == {"done": True}
    assert "SIGSEGV after it had finished" in lines[-1]


def test_a_timeout_kills_the_worker_and_what_it_started(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match="within 5 s"):
        worker.call("crashy:hang", {"pids": str(tmp_path / "pids")}, timeout=5.0)
    assert all_gone([int(pid) for pid in (tmp_path / "pids").read_text().split()])


def test_ctrl_c_in_the_parent_kills_the_worker_and_is_raised_again(tmp_path: Path) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.call("crashy:hang", {"pids": str(tmp_path / "pids")}, on_line=interrupt)
    assert all_gone([int(pid) for pid in (tmp_path / "pids").read_text().split()])


def test_a_worker_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = f"from edgevit import worker; worker.call('crashy:hang', {{'pids': {str(pids)!r}}}, on_line=print)"
    parent = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    assert parent.stdout.readline().strip() == "hanging"
    parent.kill()
    parent.communicate()
    assert all_gone([int(pid) for pid in pids.read_text().split()])


@pytest.mark.parametrize("target", ["os:system", "subprocess:run", "edgevit.worker", "crashy:not a name", "edgevitx:f"])
def test_only_our_own_and_plug_in_functions_may_be_called(target: str) -> None:
    with pytest.raises(ValueError, match=r"module:function|plug-in"):
        worker.call(target, {})


def test_a_module_in_the_working_folder_shadows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "cwd"
    trap.mkdir()
    (trap / "json.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(trap)
    assert worker.call("crashy:echo", {})["got"] == {}


def test_a_process_that_waits_has_imported_ahead_and_is_used_for_one_call() -> None:
    with worker.wait("crashy", "edgevit.info") as waiting:
        first = worker.call("crashy:echo", {}, waiting=waiting)
        second = worker.call("crashy:echo", {}, waiting=waiting)
    assert first["pid"] == waiting.process.pid != second["pid"]
    assert (first["ahead"], second["ahead"]) == (True, False)


def test_what_cannot_be_imported_ahead_is_the_calls_own_error() -> None:
    with worker.wait("edgevit.no_such_module") as waiting:
        assert worker.call("crashy:echo", {"x": 1}, waiting=waiting)["got"] == {"x": 1}


def test_a_process_that_nobody_called_is_gone_and_outlives_no_parent() -> None:
    with worker.wait("edgevit.artifact.manifest") as waiting:
        assert alive(waiting.process.pid)
    assert all_gone([waiting.process.pid])
    code = (
        "import os; from edgevit import worker\nwith worker.wait() as w: print(w.process.pid, flush=True); os._exit(1)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    assert all_gone([pid])
