"""Our p50 beside three outside tools on the same file, in turns, in one run. Run alone.

    python benchmarks/latency_witnesses.py [--models vit_tiny,fmvit_s] [--rounds 6] [--seconds 6] [--threads 1]

Each round runs ours and the witness in fresh processes, in the order A B B A; the figure is the median over rounds of
ours ÷ theirs with a bootstrap 95 % interval. The aim is agreement within 3 %.

- LoadGen (MLCommons) drives ONNX Runtime: single stream (p50, p90), and server and offline once each.
- ONNX Runtime's own trace: the duration of its ``model_run`` events, while our loop calls it.
- OpenVINO's ``benchmark_app -api sync`` against our profile with the openvino runtime.

Writes benchmarks/results/latency_witnesses.json. Needs: pip install mlcommons-loadgen openvino
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import edgevit
from edgevit import registry
from edgevit.profiles import environment, latency
from edgevit.profiles.measure import Plan
from edgevit.profiles.scenarios import parse_scenario
from edgevit.profiles.statistics import bootstrap_median

RESULTS = Path(__file__).parent / "results" / "latency_witnesses.json"
AIM = 0.03
PACKAGES = ("edgevit", "onnxruntime", "openvino", "mlcommons-loadgen", "numpy")
Measure = Callable[[], dict[str, float]]


def ours(path: Path, runtime: str, threads: int, **scenario: Any) -> dict[str, float]:
    """p50 and p90 in ms from ``edgevit profile``."""
    found = latency.profile(path, runtime=runtime, threads=threads, **scenario)
    raw = {p: found.percentile(p).raw for p in (0.5, 0.9, 0.99)}
    figures = {"p50": raw[0.5], "p90": raw[0.9], "p99": raw[0.99], "throughput": found.throughput}
    return {name: float(value) for name, value in figures.items() if value is not None}


def in_child(name: str, *arguments: object) -> dict[str, float]:
    """One of the functions below in a fresh process."""
    command = [sys.executable, __file__, "--child", name, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(ran.stdout.strip().rpartition("\n")[2])
    return found


def loadgen(path: str, threads: str, seconds: str, scenario: str = "SingleStream", qps: str = "0") -> dict[str, float]:
    """LoadGen's own summary of ONNX Runtime on the golden rows."""
    import mlperf_loadgen as lg

    session = edgevit.open_session(path, "onnxruntime", threads=int(threads))
    rows = session.artifact.golden()[0]
    feeds = [{name: array[row : row + 1] for name, array in rows.items()} for row in range(4)]

    def issue(samples: Any) -> None:
        for sample in samples:
            session.infer(feeds[sample.index % len(feeds)])
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])

    for _ in range(30):
        session.infer(feeds[0])
    settings = lg.TestSettings()
    settings.scenario, settings.mode = getattr(lg.TestScenario, scenario), lg.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = int(float(seconds) * 1e3), 64
    settings.server_target_qps, settings.server_target_latency_ns = float(qps), 10**12
    settings.offline_expected_qps = float(qps) or 1.0
    with tempfile.TemporaryDirectory() as folder:
        output = lg.LogOutputSettings()
        output.outdir, output.copy_summary_to_stdout = folder, False
        logging = lg.LogSettings()
        logging.log_output, logging.enable_trace = output, False
        sut, qsl = (
            lg.ConstructSUT(issue, lambda: None),
            lg.ConstructQSL(1024, 1024, lambda samples: None, lambda samples: None),
        )
        lg.StartTestWithLogSettings(sut, qsl, settings, logging)
        return summary((Path(folder) / "mlperf_log_summary.txt").read_text())


def summary(text: str) -> dict[str, float]:
    """Figures of mlperf_log_summary.txt in ms."""
    found = {}
    for name, label in (("p50", "50.00"), ("p90", "90.00"), ("p99", "99.00")):
        if match := re.search(rf"^{label} percentile latency \(ns\)\s*: (\d+)", text, re.MULTILINE):
            found[name] = int(match[1]) / 1e6
    for label in ("QPS w/o loadgen overhead", "Samples per second", "Completed samples per second"):
        if match := re.search(rf"^{label}\s*: ([\d.e+]+)", text, re.MULTILINE):
            found["throughput"] = float(match[1])
    return found


def ort_trace(path: str, threads: str, seconds: str) -> dict[str, float]:
    """Durations of ONNX Runtime's own ``model_run`` events while a loop calls it for ``seconds``."""
    import time

    import onnxruntime as ort

    artifact = edgevit.Artifact.open(path)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = int(threads), 4
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "trace")
        session = ort.InferenceSession(str(artifact.entry), options, providers=["CPUExecutionProvider"])
        feed = {name: array[:1] for name, array in artifact.golden()[0].items()}
        end = time.monotonic() + float(seconds)
        loop = []
        while time.monotonic() < end and len(loop) < 400:  # the trace holds a million events at most
            start = time.perf_counter_ns()
            session.run(None, feed)
            loop.append((time.perf_counter_ns() - start) / 1e6)
        events = json.loads(Path(session.end_profiling()).read_text())
    runs = [event["dur"] / 1e3 for event in events if event.get("name") == "model_run"]
    half = len(runs) // 2
    return {"p50": median(runs[half:]), "loop_p50": median(loop[half:])}


def benchmark_app(path: str, threads: int, seconds: float) -> dict[str, float]:
    """OpenVINO's own tool: synchronous, one stream."""
    artifact = edgevit.Artifact.open(path)
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
    return {"p50": float(match[1])}


def agreement(mine: Measure, theirs: Measure, rounds: int, figure: str = "p50") -> dict[str, Any]:
    """Ours ÷ theirs over ``rounds`` of A B B A."""
    ratios, pairs = [], []
    for number in range(rounds):
        order = (mine, theirs, theirs, mine) if number % 2 == 0 else (theirs, mine, mine, theirs)
        found: dict[Measure, list[float]] = {mine: [], theirs: []}
        for call in order:
            found[call].append(call()[figure])
        pairs.append((median(found[mine]), median(found[theirs])))
        ratios.append(pairs[-1][0] / pairs[-1][1])
        say(f"  round {number + 1}: ours {pairs[-1][0]:.3f}, theirs {pairs[-1][1]:.3f}, ratio {ratios[-1]:.3f}")
    ratio = bootstrap_median(ratios)
    return {
        "ratio": ratio.value, "low": ratio.low, "high": ratio.high, "within_3_percent": abs(ratio.value - 1) <= AIM,
        "pairs": pairs, "figure": figure,
    }  # fmt: skip


def witnesses(path: Path, threads: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Every witness of one artifact."""
    found = {}
    say(f"{path.name}: LoadGen, single stream")
    mine: Measure = lambda: ours(path, "onnxruntime", threads)  # noqa: E731
    found["loadgen single-stream p50"] = agreement(mine, lambda: in_child("loadgen", path, threads, seconds), rounds)
    rate = 0.6e3 / median(pair[0] for pair in found["loadgen single-stream p50"]["pairs"])
    say(f"{path.name}: LoadGen, server at {rate:.1f} qps")
    found[f"loadgen server p50 at {rate:.1f} qps"] = agreement(
        lambda: ours(path, "onnxruntime", threads, scenario=parse_scenario("server", qps=rate)),
        lambda: in_child("loadgen", path, threads, 4 * seconds, "Server", rate),
        rounds,
    )
    say(f"{path.name}: LoadGen, offline")
    found["loadgen offline throughput"] = agreement(
        lambda: ours(path, "onnxruntime", threads, scenario="offline"),
        lambda: in_child("loadgen", path, threads, seconds, "Offline", 1.5 * rate / 0.6),
        rounds,
        "throughput",
    )
    say(f"{path.name}: ONNX Runtime's own trace")
    traces = [in_child("ort_trace", path, threads, seconds) for _ in range(rounds)]
    ratio = bootstrap_median([trace["loop_p50"] / trace["p50"] for trace in traces])
    found["onnxruntime model_run event p50"] = {"ratio": ratio.value, "low": ratio.low, "high": ratio.high,
                                                "within_3_percent": abs(ratio.value - 1) <= AIM}  # fmt: skip
    say(f"{path.name}: OpenVINO's benchmark_app")
    found["openvino benchmark_app p50"] = agreement(
        lambda: ours(path, "openvino", threads), lambda: benchmark_app(str(path), threads, seconds), rounds
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default="vit_tiny,fmvit_s")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--threads", type=int, default=1, help="the tools' own threads need a core, too")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps({"loadgen": loadgen, "ort_trace": ort_trace}[asked.child[0]](*asked.child[1:])))
        return
    latency.TIERS["quick"] = latency.Tier(Plan(min_s=asked.seconds, min_count=64, limit_s=60, warm_cap_s=5))
    results: dict[str, Mapping[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in asked.models.split(","):
            artifact = edgevit.export(model, "onnx", out=Path(folder) / model, threads=asked.threads)
            results[model] = witnesses(artifact.path, asked.threads, asked.seconds, asked.rounds)
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
