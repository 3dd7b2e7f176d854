"""The worker's side of a race: one model, opened and warm, that runs only when it is its turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from edgevit import worker
from edgevit.artifact.manifest import Array
from edgevit.errors import WorkerFailed
from edgevit.profiles.interleave import Schedule, take_turn
from edgevit.profiles.measure import all_finite, load_feeds, resident_bytes
from edgevit.runtimes.base import Session, open_session

WARM_S = 0.1  # of first inferences, which allocate and compile
REST_S, REST_CAP_S = 0.0005, 0.01
Call = Callable[[], Mapping[str, Array]]


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target of a talk: open, warm up, and take a turn whenever it is asked for one. Says first what it opened;
    each answer holds the ms of the turn's calls and the process's CPU seconds so far.

    Raises what ``open_session`` raises, and WorkerFailed for outputs that are no numbers.
    """
    opening = {key: payload[key] for key in ("threads", "provider", "trust", "options")}
    with open_session(payload["artifact"], payload["runtime"], **opening) as session:
        call = _call(session, load_feeds(Path(payload["feeds"])))
        _check_finite(payload, call())
        seconds = _warm_up(call)
        gc.collect()
        gc.disable()
        worker.answer(_opened(session, seconds))
        for question in worker.questions():
            if question.get("check"):
                _check_finite(payload, call())
                taken: Sequence[float] = ()
            else:
                taken = take_turn(call, Schedule(**question["schedule"]))
                _rest()
            worker.answer({"ms": list(taken), "cpu_s": time.process_time()})
    return {}


def _opened(session: Session, seconds: float) -> dict[str, Any]:
    return {
        "provider": session.provider,
        "threads": session.threads,
        "precision": session.precision,
        "details": dict(session.details),
        "call_s": seconds,
        "resident_bytes": resident_bytes("VmRSS"),
        "cpu_s": time.process_time(),
    }


def _call(session: Session, rows: Sequence[Mapping[str, Array]]) -> Call:
    """Runs the session on the next inputs, in rotation."""
    turn, infer, count = 0, session.infer, len(rows)

    def call() -> Mapping[str, Array]:
        nonlocal turn
        turn = (turn + 1) % count
        return infer(rows[turn])

    return call


def _warm_up(call: Call) -> float:
    """Seconds of one call, once the first ones are over."""
    begun = time.perf_counter()
    taken: list[float] = []
    while not taken or time.perf_counter() - begun < WARM_S:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken[len(taken) // 2 :])


def _rest() -> None:
    """Wait until this engine's own threads have stopped spinning: the next turn belongs to another process."""
    begun, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < REST_CAP_S:
        time.sleep(REST_S)
        before, used = used, time.process_time()
        if used - before < REST_S / 4:
            return


def _check_finite(payload: Mapping[str, Any], outputs: Mapping[str, Array]) -> None:
    if not all_finite(outputs.values()):
        raise WorkerFailed(
            f"the outputs of {payload['artifact']} on {payload['runtime']} hold NaN or infinity",
            hint="run edgevit verify, then export again",
        )
