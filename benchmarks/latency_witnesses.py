"""Our p50 beside three outside tools on the same file, in turns, in one run. Run alone.

    python benchmarks/latency_witnesses.py [--models vit_tiny@112,fmvit_s@128] [--rounds 12] [--seconds 2] [--threads 1]
                                           [--only server …]    # measures these anew, and keeps the rest

Blocks of some seconds of our driver and of the witness follow each other in the order A B B A, B A A B, … in one
process and on one opened session, so that both see the same memory, the same threads and the same neighbours; the
figure is the median over rounds of ours ÷ theirs with a 95 % interval. The aim is agreement within 3 %. The
models take some milliseconds: LoadGen's and OpenVINO's interfaces add about 0.05 ms to a call, whatever it computes.

- LoadGen (MLCommons) drives ONNX Runtime: single stream and server (Poisson arrivals at half of what the model can
  do, LoadGen's own, which our driver is given too, others for every pair of blocks) by p50, offline by throughput.
- ONNX Runtime's own trace: the duration of its ``model_run`` events, of the very calls that our loop times.
- OpenVINO's ``benchmark_app -api sync`` in a process of its own, beside our driver on an OpenVINO session.

Writes benchmarks/results/latency_witnesses.json. Needs: pip install mlcommons-loadgen openvino
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import edgevit
from edgevit import registry
from edgevit.profiles import environment
from edgevit.profiles.measure import measured
from edgevit.profiles.scenarios import Scenario, drive, parse_scenario, wait_until
from edgevit.profiles.statistics import median_ratio
from edgevit.runtimes.base import Session

RESULTS = Path(__file__).parent / "results" / "latency_witnesses.json"
AIM = 0.03
PACKAGES = ("edgevit", "onnxruntime", "openvino", "mlcommons-loadgen", "numpy")
LOAD = 0.5  # of the server scenario, as a share of what the model can do
SERVER_BLOCK = 64  # queries; short, as both sides see the same arrivals and the machine changes by the minute
SERVER_ROUNDS = 4  # times as many
WARM_UP = 30
Feeds = Sequence[Mapping[str, Any]]
Measure = Callable[[int], float]  # of the block with this number
WITNESSES = ("single", "server", "offline", "trace", "app")


def rows_of(session: Session) -> Feeds:
    rows = session.artifact.golden()[0]
    return [{name: array[row : row + 1] for name, array in rows.items()} for row in range(4)]


def ours(session: Session, feeds: Feeds, seconds: float, scenario: Scenario) -> tuple[float, float]:
    """p50 in ms and inferences per second, by the driver of ``edgevit profile``."""
    least_ns = seconds * 1e9
    taken = measured(session.infer, feeds, time.perf_counter_ns, lambda ns, _: ns >= least_ns, scenario, 0.0)
    return median(taken.samples) / 1e6, len(taken.samples) / taken.elapsed_ns * 1e9


def arrivals(qps: float, seed: int, seconds: float) -> list[int]:
    """When LoadGen's server scenario schedules its queries, in ns from the start: the gaps are C++'s
    ``exponential_distribution`` of ``mt19937(seed)``, each of two words of it, as GNU's library draws them."""
    generator = np.random.MT19937()
    generator._legacy_seeding(seed)
    times = [0]
    while times[-1] < seconds * 1e9:
        low, high = (int(word) for word in generator.random_raw(2))
        share = min((low + high * 2.0**32) / 2.0**64, 1 - 2.0**-53)
        times.append(times[-1] + int(-math.log(1 - share) / qps * 1e9))
    return times


class Arrivals:
    """A pace that follows given times."""

    def __init__(self, times: Sequence[int]) -> None:
        self.times = iter(times)

    def due(self, begun: int, free: int) -> int:
        return begun + next(self.times)


def ours_server(session: Session, feeds: Feeds, times: Sequence[int]) -> float:
    """p50 in ms of the server scenario with these arrivals."""
    clock = time.perf_counter_ns
    taken = drive(session.infer, feeds, clock, lambda _, count: count == len(times), Arrivals(times), wait_until)
    return median(taken.samples) / 1e6


def loadgen(
    session: Session, feeds: Feeds, seconds: float, scenario: str, qps: float, seed: int = 0
) -> tuple[float, float]:
    """The same two figures out of LoadGen's own summary."""
    import mlperf_loadgen as lg

    def issue(samples: Any) -> None:
        for sample in samples:
            session.infer(feeds[sample.index % len(feeds)])
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])

    settings = lg.TestSettings()
    settings.scenario, settings.mode = getattr(lg.TestScenario, scenario), lg.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = int(seconds * 1e3), 1
    settings.server_target_qps, settings.server_target_latency_ns = qps, 10**12
    settings.offline_expected_qps, settings.schedule_rng_seed = qps, seed
    with tempfile.TemporaryDirectory() as folder:
        output = lg.LogOutputSettings()
        output.outdir, output.copy_summary_to_stdout = folder, False
        logging = lg.LogSettings()
        logging.log_output, logging.enable_trace = output, False
        sut = lg.ConstructSUT(issue, lambda: None)
        qsl = lg.ConstructQSL(1024, 1024, lambda samples: None, lambda samples: None)
        lg.StartTestWithLogSettings(sut, qsl, settings, logging)
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
        text = (Path(folder) / "mlperf_log_summary.txt").read_text()
    if scenario == "Server":
        check_arrivals(text, arrivals(qps, seed, seconds))
    return summary(text)


def check_arrivals(text: str, times: Sequence[int]) -> None:
    """That LoadGen scheduled what we take its schedule to be."""
    theirs = re.search(r"^Scheduled samples per second : ([\d.]+)", text, re.MULTILINE)
    rate = (len(times) - 1) / times[-1] * 1e9
    if not theirs or abs(float(theirs[1]) - rate) > 0.01:
        raise SystemExit(f"LoadGen's arrivals are not as thought: {rate:.2f} a second against {theirs and theirs[1]}")


def summary(text: str) -> tuple[float, float]:
    """p50 in ms and throughput of mlperf_log_summary.txt; NaN for one that the scenario has not."""
    p50 = re.search(r"^50.00 percentile latency \(ns\)\s*: (\d+)", text, re.MULTILINE)
    rate = re.search(
        r"^(?:QPS w/o loadgen overhead|Samples per second|Completed samples per second)\s*: ([\d.e+]+)", text, re.M
    )
    return (int(p50[1]) / 1e6 if p50 else float("nan")), (float(rate[1]) if rate else float("nan"))


def ort_trace(path: Path, threads: int, calls: int = 400) -> dict[str, Any]:
    """The median of our own times of ``calls`` ÷ that of ONNX Runtime's ``model_run`` events of the same calls."""
    import onnxruntime as ort

    artifact = edgevit.Artifact.open(path)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "trace")
        session = ort.InferenceSession(str(artifact.entry), options, providers=["CPUExecutionProvider"])
        feed = {name: array[:1] for name, array in artifact.golden()[0].items()}
        loop = []
        for _ in range(calls):  # the trace holds a million events at most
            start = time.perf_counter_ns()
            session.run(None, feed)
            loop.append((time.perf_counter_ns() - start) / 1e6)
        events = json.loads(Path(session.end_profiling()).read_text())
    runs = [event["dur"] / 1e3 for event in events if event.get("name") == "model_run"]
    return judged([mine / theirs for mine, theirs in zip(loop[WARM_UP:], runs[WARM_UP:], strict=True)])


def benchmark_app(artifact: edgevit.Artifact, threads: int, seconds: float) -> float:
    """p50 in ms by OpenVINO's own tool: synchronous, one stream."""
    tool = Path(sys.executable).with_name("benchmark_app")
    with tempfile.TemporaryDirectory() as folder:
        row = Path(folder) / "image.npy"
        np.save(row, next(iter(artifact.golden()[0].values()))[:1])
        command = [
            str(tool), "-m", str(artifact.entry), "-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1",
            "-nthreads", str(threads), "-t", str(int(seconds)), "-i", str(row), "-ip", "f32", "-infer_precision", "f32",
            "-shape", f"[{','.join(str(side) for side in artifact.manifest.inputs[0].shape)}]",
        ]  # fmt: skip
        ran = subprocess.run(command, capture_output=True, text=True)
    match = re.search(r"Median:\s+([\d.]+) ms", ran.stdout)
    if not match:
        raise SystemExit(f"benchmark_app printed no median:\n{ran.stdout}\n{ran.stderr}")
    return float(match[1])


def judged(ratios: Sequence[float]) -> dict[str, Any]:
    ratio = median_ratio(ratios)
    return {
        "ratio": ratio.value, "low": ratio.low, "high": ratio.high, "within_3_percent": abs(ratio.value - 1) <= AIM,
        "n": len(ratios),
    }  # fmt: skip


def agreement(mine: Measure, theirs: Measure, rounds: int) -> dict[str, Any]:
    """Ours ÷ theirs over ``rounds`` of four blocks; both sides of a round measure the same two block numbers."""
    ratios, pairs = [], []
    for number in range(rounds):
        first, second = (mine, theirs) if number % 2 == 0 else (theirs, mine)
        found: dict[Measure, list[float]] = {mine: [], theirs: []}
        for block, order in ((2 * number, (first, second)), (2 * number + 1, (second, first))):
            for call in order:
                found[call].append(call(block))
        pairs.append((sum(found[mine]) / 2, sum(found[theirs]) / 2))
        ratios.append(pairs[-1][0] / pairs[-1][1])
        say(f"  round {number + 1}: ours {pairs[-1][0]:.3f}, theirs {pairs[-1][1]:.3f}, ratio {ratios[-1]:.3f}")
    return {**judged(ratios), "pairs": pairs}


def witnesses(path: Path, threads: int, seconds: float, rounds: int, only: Sequence[str]) -> dict[str, Any]:
    """Those of ``only`` of one artifact."""
    found: dict[str, Any] = {}
    single = parse_scenario("single-stream")
    with edgevit.open_session(path, "onnxruntime", threads=threads) as session:
        feeds = rows_of(session)
        for _ in range(WARM_UP):
            session.infer(feeds[0])
        if "single" in only:
            say(f"{path.name}: LoadGen, single stream")
            found["loadgen single-stream p50"] = agreement(
                lambda _: ours(session, feeds, seconds, single)[0],
                lambda _: loadgen(session, feeds, seconds, "SingleStream", 1.0)[0],
                rounds,
            )
        able = 1e3 / ours(session, feeds, seconds, single)[0]
        if "server" in only:
            rate = LOAD * able
            block = round(SERVER_BLOCK / rate, 3)  # LoadGen counts milliseconds
            say(f"{path.name}: LoadGen, server at {rate:.1f} queries/s, blocks of {block:.1f} s")
            found["loadgen server p50"] = agreement(
                lambda number: ours_server(session, feeds, arrivals(rate, number, block)),
                lambda number: loadgen(session, feeds, block, "Server", rate, number)[0],
                SERVER_ROUNDS * rounds,
            ) | {"qps": rate}
        if "offline" in only:
            say(f"{path.name}: LoadGen, offline")
            found["loadgen offline throughput"] = agreement(
                lambda _: ours(session, feeds, seconds, parse_scenario("offline"))[1],
                lambda _: loadgen(session, feeds, seconds, "Offline", able)[1],
                rounds,
            )
    if "trace" in only:
        say(f"{path.name}: ONNX Runtime's own trace")
        found["onnxruntime model_run event p50"] = ort_trace(path, threads)
    if "app" in only:
        say(f"{path.name}: OpenVINO's benchmark_app")
        with edgevit.open_session(path, "openvino", threads=threads) as session:
            for _ in range(WARM_UP):
                session.infer(feeds[0])
            found["openvino benchmark_app p50"] = agreement(
                lambda _: ours(session, feeds, seconds, single)[0],
                lambda _: benchmark_app(session.artifact, threads, seconds),
                rounds,
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="vit_tiny@112,fmvit_s@128", help="NAME@IMAGE_SIZE, …")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--threads", type=int, default=1, help="the tools' own threads need a core, too")
    parser.add_argument("--only", nargs="+", choices=WITNESSES, default=WITNESSES)
    asked = parser.parse_args()
    kept = asked.only != WITNESSES and RESULTS.exists()
    results: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text())["results"] if kept else {}
    with tempfile.TemporaryDirectory() as folder:
        for model in asked.models.split(","):
            name, _, side = model.partition("@")
            module = edgevit.create_model(name, image_size=int(side) if side else None)
            artifact = edgevit.export(module, "onnx", out=Path(folder) / model, threads=asked.threads)
            gc.collect()
            gc.disable()
            found = witnesses(artifact.path, asked.threads, asked.seconds, asked.rounds, asked.only)
            results.setdefault(model, {}).update(found)
            gc.enable()
    record = {
        "environment": environment.collect().record(),
        "versions": {name: registry.version_of(name) for name in PACKAGES},
        "threads": asked.threads,
        "rounds": asked.rounds,
        "results": results,
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    for model, found in results.items():
        for name, value in found.items():
            word = "within 3 %" if value["within_3_percent"] else "APART"
            print(f"{model:20s} {name:40s} ours ÷ theirs {value['ratio']:.3f} "
                  f"({value['low']:.3f}–{value['high']:.3f})  {word}")  # fmt: skip


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
