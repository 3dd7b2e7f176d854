"""Verify, profile and take apart TensorRT engines on an NVIDIA GPU. Run alone; send us the file that it writes.

    python benchmarks/tensorrt_gpu.py [ARTIFACT…] [--models NAME…] [--flavor rtx|tensorrt] [--tier quick|standard]

ARTIFACTs are engines that were exported elsewhere (add --trust for a key that this machine does not know); without any,
the models are exported here in fp32 and fp16, which needs edgevit[export]. Each engine is verified, profiled plainly,
inferred with a CUDA graph, and timed layer by layer. One that fails does not stop the others.

Writes benchmarks/results/tensorrt_gpu.json and prints a table. Exit codes: 4 where there is no GPU, 1 where an engine
failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import edgevit
from edgevit.artifact.opened import Artifact
from edgevit.errors import EdgeVitError, Unsupported
from edgevit.profiles import environment
from edgevit.registry import version_of
from edgevit.runtimes.base import open_session

RESULTS = Path(__file__).parent / "results"
MODELS = ("vit_nano", "efficientformer_l1", "fmvit_s", "vit_tiny")
PRECISIONS = ("fp32", "fp16")
RUNS = 200
SHOWN_LAYERS = 20
PACKAGES = ("edgevit", "tensorrt", "tensorrt-rtx", "cuda-bindings", "cuda-python", "torch", "onnx", "numpy")


def need_gpu() -> dict[str, Any]:
    """The GPU as a record; Unsupported where there is none."""
    if version_of("cuda-bindings|cuda-python") is None:
        raise Unsupported("needs an NVIDIA GPU and cuda-bindings to find it", hint="pip install 'edgevit[tensorrt]'")
    from edgevit.engines.nvidia import find_gpu

    gpu = find_gpu()
    if gpu is None:
        raise Unsupported(
            "needs an NVIDIA GPU: this machine has none, or no driver for it",
            hint="run this script on a machine with one; edgevit export -t tensorrt builds engines without",
        )
    return asdict(gpu)


def engines(given: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path | EdgeVitError]]:
    """Name and folder of every engine to measure, or why it could not be built."""
    for path in given.artifacts:
        yield path.name, path
    if given.artifacts:
        return
    options = {"flavor": given.flavor} if given.flavor else {}
    for model in given.models:
        for precision in PRECISIONS:
            name = f"{model}-tensorrt-{precision}"
            say(f"export {name}")
            try:
                source = edgevit.create_model(model, weights="digits") if model.endswith("_nano") else model
                edgevit.export(
                    source, "tensorrt", out=folder / name, precision=precision, options=options, verify=False
                )
            except EdgeVitError as exc:
                yield name, exc
            else:
                yield name, folder / name


def measure(name: str, path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Everything about one engine; what failed is under ``error``, what came before it stays."""
    row: dict[str, Any] = {"engine": name}
    try:
        manifest = Artifact.open(path).manifest
        row |= {"precision": manifest.precision, "lock": dict(manifest.lock), "notes": list(manifest.notes)}
        say(f"verify {name}")
        row["parity"] = edgevit.verify(path, trust=given.trust).parity.model_dump(mode="json")
        say(f"profile {name}")
        row["profile"] = edgevit.profile(path, tier=given.tier, trust=given.trust).record()
        row["plain_ms"] = timed(path, {}, given.trust)
        row["cuda_graph_ms"] = timed(path, {"cuda_graph": "true"}, given.trust)
        row |= taken_apart(path, given.trust)
    except EdgeVitError as exc:
        row["error"] = f"{type(exc).__name__}: {exc}"
    return row


def golden_feeds(path: Path) -> dict[str, np.ndarray]:
    """The golden rows, repeated up to the smallest batch."""
    artifact = Artifact.open(path)
    inputs, _ = artifact.golden()
    rows = np.arange(artifact.manifest.batch.min)
    return {name: np.ascontiguousarray(array[rows % len(array)]) for name, array in inputs.items()}


def timed(path: Path, options: dict[str, str], trust: bool) -> float:
    """Median milliseconds of ``RUNS`` calls after 20 uncounted ones, in this process."""
    feeds, taken = golden_feeds(path), []
    with open_session(path, trust=trust, options=options) as session:
        for run in range(RUNS + 20):
            begun = time.perf_counter_ns()
            session.infer(feeds)
            if run >= 20:
                taken.append((time.perf_counter_ns() - begun) / 1e6)
    return median(taken)


def taken_apart(path: Path, trust: bool) -> dict[str, Any]:
    """The slowest layers by TensorRT's profiler, and how many layers its inspector lists by what they read."""
    with open_session(path, trust=trust) as session:
        times = session.layers([golden_feeds(path)], 50)
        inspected = session.inspect()
        details = session.details
    slowest = sorted(times, key=lambda layer: -layer.ms)[:SHOWN_LAYERS]
    reads: dict[str, int] = {}
    for layer in inspected:
        kinds = "+".join(layer.reads) or "nothing told"
        reads[kinds] = reads.get(kinds, 0) + 1
    return {
        "layers": len(times),
        "layers_ms": sum(layer.ms for layer in times),
        "slowest": [asdict(layer) for layer in slowest],
        "inspected_reads": reads,
        "details": details,
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'engine':44} {'parity':>11} {'p50 ms':>8} {'graph ms':>9} {'layers':>7}"]
    for row in rows:
        if "error" in row:
            lines.append(f"{row['engine']:44} {row['error']}")
            continue
        lines.append(
            f"{row['engine']:44} {row['parity']['status']:>11} {row['plain_ms']:8.3f} {row['cuda_graph_ms']:9.3f} "
            f"{row['layers']:7}"
        )
    return "\n".join(lines)


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="*", type=Path, help="engines exported elsewhere")
    parser.add_argument("--models", nargs="+", default=MODELS, help="exported here when no ARTIFACT is given")
    parser.add_argument("--flavor", default="", choices=("", "rtx", "tensorrt"))
    parser.add_argument("--tier", default="quick", choices=("quick", "standard", "publish"))
    parser.add_argument("--trust", action="store_true", help="open engines that no known key signed")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS / "tensorrt_gpu.json")
    return parser.parse_args()


def run(given: argparse.Namespace) -> int:
    gpu, rows = need_gpu(), []
    record = {
        "gpu": gpu,
        "environment": environment.collect().record(),
        "versions": {name: version_of(name) for name in PACKAGES},
        "runs": RUNS,
        "rows": rows,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgevit-tensorrt-") as scratch:
        for name, found in engines(given, Path(scratch)):
            failed = {"engine": name, "error": f"{type(found).__name__}: {found}"}
            rows.append(measure(name, found, given) if isinstance(found, Path) else failed)
            given.out.write_text(json.dumps(record, indent=1) + "\n")  # after each: a later failure loses nothing
    print(f"{gpu['name']}, SM {gpu['sm'] // 10}.{gpu['sm'] % 10}\n\n{table(rows)}\n\nwritten to {given.out}")
    return 1 if any("error" in row for row in rows) else 0


def main() -> None:
    try:
        sys.exit(run(parsed()))
    except EdgeVitError as exc:
        say(f"{exc}\n  next: {exc.hint}")
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    main()
