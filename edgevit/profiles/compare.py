"""``edgevit compare``: is B faster than A? Both in one process and in turns; what is claimed was found twice.

A difference that the first process shows is measured again in another fresh one that opens B before A: where a process
happens to put a model in memory lasts as long as the process, can cost a few percent, and looks like a difference.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgevit import registry, worker
from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.cpu import allowed_cores, checked_threads, crowding
from edgevit.errors import ParityFailed, Unsupported, UsageError, WorkerFailed
from edgevit.profiles import environment
from edgevit.profiles.difference import Difference, Side, combined
from edgevit.profiles.interleave import MIN_BLOCKS, Interleaved, Schedule, compare_ratios, interleave
from edgevit.profiles.measure import all_finite, load_feeds
from edgevit.profiles.monitors import CpuTime, Watch, others_share, standard_monitors
from edgevit.runtimes import feeds
from edgevit.runtimes.base import Session, default_runtime, open_session

Progress = Callable[[str, float | None], None]

SCHEDULE = Schedule(blocks=15, turn_s=0.005, turn_runs=3, warm_runs=1, warm_s=0.001, max_blocks=1000, limit_s=30)
WARM_S = 0.1  # of each candidate, before the first block
TIMEOUT_S = 1800.0
MAX_OTHERS = 0.10  # of the cores


def compare(
    first: Path | str,
    second: Path | str | None = None,
    *,
    runtimes: Sequence[str] = (),
    threads: int | None = None,
    provider: str | None = None,
    batch: int | None = None,
    data: str | None = None,
    blocks: int | None = None,
    seconds: float | None = None,
    trust: bool = False,
    options: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Difference:
    """Measure two artifacts, or one on two runtimes, in turns.

    ``runtimes`` is none (each target's own), one for both, or one each. Every artifact gets its own golden rows, or the
    images of ``data``, in rotation. ``blocks`` is the fewest blocks, at least 9; ``seconds`` the time after which a
    round gets no more than it has. ``trust`` and ``options`` (for both) are those of ``open_session``.
    Raises ParityFailed for an artifact that failed verification; UsageError when the two do not take the same inputs;
    Unsupported for a runtime whose time means nothing; WorkerFailed when the process crashed; open_session's errors.
    """
    if second is None and len(set(runtimes)) < 2:
        raise UsageError("there is nothing to compare with", hint="give two artifacts, or --runtime twice")
    if len(runtimes) > 2:
        raise UsageError(f"a comparison is of two, and {len(runtimes)} runtimes were given", hint="give one or two")
    opened = Artifact.open(first), Artifact.open(first if second is None else second)
    names = _runtimes(opened, runtimes)
    for artifact, name in zip(opened, names, strict=True):
        _check(artifact, name)
    rows = _common_batch(opened, batch)
    number = checked_threads(threads)
    schedule = _schedule(blocks, seconds)
    with tempfile.TemporaryDirectory(prefix="edgevit-compare-") as folder:
        payload = {
            "sides": [
                {
                    "artifact": str(artifact.path),
                    "runtime": name,
                    "feeds": str(feeds.write(artifact, Path(folder) / f"{index}.npz", batch=rows, data=data)),
                }
                for index, (artifact, name) in enumerate(zip(opened, names, strict=True))
            ],
            "threads": number,
            "provider": provider,
            "trust": trust,
            "options": dict(options or {}),
        }
        answers = _rounds(payload, schedule, progress or (lambda stage, fraction: None))
    return _difference(opened, names, answers, rows, data or "golden")


def _schedule(blocks: int | None, seconds: float | None) -> Schedule:
    if blocks is not None and blocks < MIN_BLOCKS:
        raise UsageError(f"a comparison needs at least {MIN_BLOCKS} blocks, got {blocks}")
    least = blocks or SCHEDULE.blocks
    most = max(least, SCHEDULE.max_blocks or least)
    return replace(SCHEDULE, blocks=least, max_blocks=most, limit_s=seconds or SCHEDULE.limit_s)


def _runtimes(artifacts: tuple[Artifact, Artifact], asked: Sequence[str]) -> tuple[str, str]:
    if asked:
        return asked[0], asked[-1]
    one, two = (default_runtime(artifact, timed=True) for artifact in artifacts)
    return one, two


def _check(artifact: Artifact, runtime: str) -> None:
    parity = artifact.manifest.parity
    if parity.status == "failed":
        raise ParityFailed(
            f"{artifact.path} failed verification ({parity.reason}), so its speed means nothing", hint="export it again"
        )
    if not registry.row("runtime", runtime).can_profile:
        raise Unsupported(
            f"{runtime} is a reference, not an engine: its time means nothing", hint="use another --runtime"
        )


def _common_batch(artifacts: tuple[Artifact, Artifact], asked: int | None) -> int:
    """Rows per call that both take. UsageError when there are none, or the inputs are not the same."""
    one, two = (artifact.manifest for artifact in artifacts)
    shown = [_inputs(manifest.inputs) for manifest in (one, two)]
    if shown[0] != shown[1]:
        raise UsageError(
            f"{artifacts[0].path} takes {shown[0]}, {artifacts[1].path} takes {shown[1]}: their times are of different "
            "work",
            hint="export both with the same image size and preprocessing",
        )
    low, high = max(one.batch.min, two.batch.min), min(one.batch.max, two.batch.max)
    rows = asked or low
    if low > high or not low <= rows <= high:
        wanted = "" if asked is None else f", not {asked}"
        raise UsageError(
            f"{artifacts[0].path} takes a batch of {one.batch}, {artifacts[1].path} of {two.batch}{wanted}",
            hint="export both with the same --batch",
        )
    return rows


def _inputs(specs: Sequence[TensorSpec]) -> str:
    """Inputs as words, without their batch."""
    return ", ".join(
        sorted(f"{spec.name} {'×'.join(str(side) for side in spec.shape[1:])} {spec.dtype}" for spec in specs)
    )


def _rounds(payload: dict[str, Any], schedule: Schedule, progress: Progress) -> list[dict[str, Any]]:
    """One round, and a second one in a fresh process that opens B first when the first one shows a difference."""
    answers: list[dict[str, Any]] = []
    for stage, order in (("comparing", (0, 1)), ("comparing again", (1, 0))):
        used = asdict(replace(schedule, seed=random.randrange(2**32)))
        progress(stage, None)
        answers.append(
            worker.call(
                "edgevit.profiles.compare:run",
                {**payload, "order": order, "schedule": used},
                timeout=TIMEOUT_S,
                on_progress=_named(stage, progress),
            )
        )
        if not compare_ratios("", "", answers[-1]["ratios"]).claimed:
            break
    return answers


def _named(stage: str, progress: Progress) -> Progress:
    return lambda _, fraction: progress(stage, fraction)


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: one round. Sessions are opened in ``payload["order"]``; the answer is in the order of the sides.

    Raises what ``open_session`` raises, and WorkerFailed for outputs that are no numbers.
    """
    sides, schedule = payload["sides"], Schedule(**payload["schedule"])
    opening = {key: payload[key] for key in ("threads", "provider", "trust", "options")}
    sessions: dict[int, Session] = {}
    try:
        for index in payload["order"]:
            sessions[index] = open_session(sides[index]["artifact"], sides[index]["runtime"], **opening)
        calls = {str(index): _call(sessions[index], load_feeds(Path(sides[index]["feeds"]))) for index in (0, 1)}
        for call in calls.values():
            _warm_up(call)
        with Watch(standard_monitors()) as watch:
            found = interleave(calls, schedule, on_block=_report)
        for index, call in calls.items():
            _check_finite(sides[int(index)], call())
        return _answer(found, [sessions[index] for index in (0, 1)], watch)
    finally:
        for session in sessions.values():
            session.close()


def _call(session: Session, rows: Sequence[Mapping[str, Array]]) -> Callable[[], Mapping[str, Array]]:
    """Runs the session on the next inputs, in rotation."""
    turn, infer, count = 0, session.infer, len(rows)

    def call() -> Mapping[str, Array]:
        nonlocal turn
        turn = (turn + 1) % count
        return infer(rows[turn])

    return call


def _warm_up(call: Callable[[], object], seconds: float = WARM_S) -> None:
    """First inferences allocate and compile; they belong to no block."""
    call()
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        call()


def _check_finite(side: Mapping[str, Any], outputs: Mapping[str, Array]) -> None:
    if not all_finite(outputs.values()):
        raise WorkerFailed(
            f"the outputs of {side['artifact']} on {side['runtime']} hold NaN or infinity",
            hint="run edgevit verify, then export again",
        )


def _report(done: int, blocks: int) -> None:
    worker.report("comparing", done / blocks)


def _answer(found: Interleaved, sessions: Sequence[Session], watch: Watch) -> dict[str, Any]:
    cores = len(allowed_cores())
    shares = others_share(watch.series.get(CpuTime.name, ()), cores)
    one, two = found.block_medians("0"), found.block_medians("1")
    return {
        "ratios": [other / base for base, other in zip(one, two, strict=True)],
        "p50_ms": [found.p50_ms("0"), found.p50_ms("1")],
        "sides": [
            {
                "provider": session.provider,
                "threads": session.threads,
                "precision": session.precision,
                "details": session.details,
            }
            for session in sessions
        ],
        "others": None if shares is None else shares[0] / cores,
    }


def _difference(
    artifacts: tuple[Artifact, Artifact],
    runtimes: tuple[str, str],
    answers: Sequence[dict[str, Any]],
    batch: int,
    inputs: str,
) -> Difference:
    labels = _labels(artifacts, runtimes)
    sides = [_side(index, labels[index], artifacts[index], runtimes[index], answers) for index in (0, 1)]
    rounds = tuple(compare_ratios(*labels, answer["ratios"]) for answer in answers)
    return Difference(
        sides[0],
        sides[1],
        rounds,
        combined(rounds, [answer["ratios"] for answer in answers]),
        batch,
        inputs,
        environment.collect().record(),
        _notes(artifacts, sides, answers),
        tuple(tuple(answer["ratios"]) for answer in answers),
    )


def _side(index: int, label: str, artifact: Artifact, runtime: str, answers: Sequence[dict[str, Any]]) -> Side:
    used = answers[0]["sides"][index]
    packages = registry.row("runtime", runtime).packages
    p50s = [answer["p50_ms"][index] for answer in answers]
    return Side(
        label=label,
        artifact=str(artifact.path),
        runtime=runtime,
        version=registry.version_of(packages[0]) if packages else None,
        provider=used["provider"],
        threads=used["threads"],
        details=used["details"],
        p50_ms=sum(p50s) / len(p50s),
    )


def _labels(artifacts: tuple[Artifact, Artifact], runtimes: tuple[str, str]) -> tuple[str, str]:
    """The shortest names that tell the two apart."""
    paths = [artifact.path for artifact in artifacts]
    names = [path.name or str(path) for path in paths]
    if names[0] == names[1] and paths[0].resolve() != paths[1].resolve():
        names = [str(path) for path in paths]
    if runtimes[0] != runtimes[1]:
        names = [f"{name} on {runtime}" for name, runtime in zip(names, runtimes, strict=True)]
    return (names[0], names[1]) if names[0] != names[1] else (f"{names[0]} (first)", f"{names[1]} (second)")


def _unverified(artifacts: tuple[Artifact, Artifact]) -> list[str]:
    """A sentence for each that is unverified, and one for both where an artifact is compared with itself."""
    found = {
        str(artifact.path): f"{artifact.path} is unverified: {artifact.manifest.parity.reason}"
        for artifact in artifacts
        if artifact.manifest.parity.status == "unverified"
    }
    return list(found.values())


def _notes(
    artifacts: tuple[Artifact, Artifact], sides: Sequence[Side], answers: Sequence[dict[str, Any]]
) -> tuple[str, ...]:
    found = _unverified(artifacts)
    one, two = sides
    precisions = [answers[0]["sides"][index]["precision"] for index in (0, 1)]
    if precisions[0] != precisions[1]:
        found.append(f"{one.label} computed in {precisions[0]}, {two.label} in {precisions[1]}")
    found += filter(None, [crowding(one.threads)])
    if one.threads != two.threads:
        found.append(f"{one.label} ran on {one.threads} threads, {two.label} on {two.threads}")
    known = [answer["others"] for answer in answers if answer["others"] is not None]
    if known and max(known) > MAX_OTHERS:
        found.append(
            f"other processes took {max(known):.0%} of the cores meanwhile: a quieter machine gives a narrower interval"
        )
    return tuple(found)
