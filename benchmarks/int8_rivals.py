"""int8 by edgevit and by its rivals, of one float graph and the same rows: how far from float, how right, how fast.

    python benchmarks/int8_rivals.py --python RIVALS [--models …] [--weights digits fashion]  # accuracy
    python benchmarks/int8_rivals.py --python RIVALS [--models …] --speed                     # speed, of GOALS' models

RIVALS is the Python of an environment with what this script must not install beside edgevit:

    python3.11 -m venv /tmp/rivals
    /tmp/rivals/bin/pip install nncf==2.19.0 openvino==2025.4.1 onnxruntime 'onnx<1.22' 'nvidia-modelopt[onnx]'

A rival that is missing there, or fails, is in the results with its words. Each is given edgevit's own fp32
``model.onnx`` and the rows that edgevit calibrates on, and judged on held-out rows that neither saw: top-1, the root
mean square of the difference from the float logits as a share of the largest of them, and the Kullback-Leibler
divergence of the probabilities. NNCF's models run in OpenVINO, all others in ONNX Runtime. Writes
results/int8_rivals.json, with --speed results/int8_rivals_speed.json: p50 ÷ that of fp32 on ONNX Runtime, one thread,
interleaved in one process. Run alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from int8_speed import FULL, GOALS, QUICK

import edgevit
from edgevit.data.source import open_data
from edgevit.profiles import environment
from edgevit.profiles.interleave import interleave, least_blocks
from edgevit.quantize.calibration import Held, calibration_images
from edgevit.registry import version_of

RESULTS = Path(__file__).parent / "results"
NANOS = ("fmvit_nano", "efficientformer_nano", "vit_nano")
CHILD = Path(__file__).parent / "rivals_quantize.py"
CALIBRATION = 128
FASHION = Path("/usr/share/datasets/fashion-mnist")

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Array]


@dataclass(frozen=True)
class Files:
    """What every tool starts from: ``fp32`` and ``int8`` are artifacts, ``rows`` an npz of calibration rows."""

    fp32: Any
    int8: Any
    rows: Path
    data: str


def exported(name: str, weights: str | None, folder: Path) -> Files:
    """Both artifacts, and the rows that the int8 one was calibrated on."""
    model = edgevit.create_model(name, weights=weights)
    built = {
        precision: edgevit.export(model, "onnx", out=folder / precision, precision=precision)
        for precision in ("fp32", "int8")
    }
    steps = built["fp32"].manifest.preprocess
    data = weights or "samples"
    found = calibration_images(data, CALIBRATION, Held.of(data, 16), steps, 16)
    np.savez(folder / "rows.npz", image=found.inputs["image"])
    return Files(built["fp32"], built["int8"], folder / "rows.npz", data)


def rivals(python: str, files: Files, folder: Path) -> dict[str, dict[str, Any]]:
    """What each rival made, by name: its file, or why there is none, and the seconds it took."""
    model = files.fp32.path / "model.onnx"
    command = [python, str(CHILD), str(model), str(files.rows), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{CHILD.name} failed:\n{ran.stderr[-2000:]}")
    found: dict[str, dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    return found


def opened(path: Path, threads: int) -> Run:
    """A model file as a function of images: ONNX Runtime for .onnx, OpenVINO for .xml."""
    if path.suffix == ".onnx":
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: np.asarray(session.run(None, {name: images})[0])
    import openvino as ov

    # float32 where it is not int8, as ONNX Runtime computes: OpenVINO takes bfloat16 by itself where the CPU has it
    config = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    compiled = ov.Core().compile_model(str(path), "CPU", config)
    request = compiled.create_infer_request()
    return lambda images: np.array(next(iter(request.infer([images]).values())))


def judged(run: Run, images: Array, labels: Array, base: Array) -> dict[str, float]:
    logits = np.concatenate([run(images[index : index + 1]) for index in range(len(images))]).astype(np.float64)
    one, other = _log_softmax(base), _log_softmax(logits)
    return {
        "top1": float((logits.argmax(1) == labels).mean()),
        "rms": float(np.sqrt(((logits - base) ** 2).mean()) / np.abs(base).max()),
        "kl": float((np.exp(one) * (one - other)).sum(1).mean()),
    }


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def held_out(weights: str, steps: Any) -> tuple[Array, Array, str]:
    """Images and labels that nothing was trained or calibrated on, and of what."""
    source = f"idx:{FASHION}" if weights == "fashion" and FASHION.is_dir() else weights
    found = open_data(source, split="held-out")
    count = min(len(found), 2000)
    images = found.steps(steps).batch([found.images[index] for index in range(count)])
    if found.labels is None:
        raise SystemExit(f"{source} has no labels")
    return images, found.labels[:count], f"{count} of {source}"


def accuracy(name: str, weights: str, python: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="edgevit-rivals-") as scratch:
        folder = Path(scratch)
        files = exported(name, weights, folder)
        images, labels, source = held_out(weights, files.fp32.manifest.preprocess)
        run = opened(files.fp32.path / "model.onnx", 2)
        base = np.concatenate([run(images[index : index + 1]) for index in range(len(images))]).astype(np.float64)
        tools = {"edgevit": {"file": str(files.int8.path / "model.onnx")}, **rivals(python, files, folder)}
        for made in tools.values():
            if "file" in made:
                path = Path(made.pop("file"))
                try:
                    made |= judged(opened(path, 2), images, labels, base) | {"bytes": size(path)}
                except Exception as exc:  # a model that was made and does not run is a result too
                    made["failed"] = _first_line(exc)
    float_top1 = float((base.argmax(1) == labels).mean())
    return {"model": name, "weights": weights, "judged_on": source, "float_top1": float_top1, "tools": tools}


def _first_line(exc: Exception) -> str:
    return str(exc).strip().splitlines()[0][:300]


def size(path: Path) -> int:
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.stem}.*") if part.suffix != ".json")


def speed(name: str, python: str, *, quick: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="edgevit-rivals-") as scratch:
        folder = Path(scratch)
        files = exported(name, None, folder)
        tools = {"edgevit": {"file": str(files.int8.path / "model.onnx")}, **rivals(python, files, folder)}
        image = np.load(files.rows)["image"][:1]
        calls = {"fp32": partial(opened(files.fp32.path / "model.onnx", 1), image)}
        for tool, made in tools.items():
            if "file" in made:
                path = Path(made.pop("file"))
                try:
                    (run := opened(path, 1))(image)
                except Exception as exc:
                    made["failed"] = _first_line(exc)
                    continue
                calls[tool] = partial(run, image)
                made["size"] = size(path) / size(files.fp32.path / "model.onnx")
        plan = QUICK if quick else FULL
        taken = interleave(calls, replace(plan, blocks=max(plan.blocks, least_blocks(len(calls)))))
    for tool, made in tools.items():
        if tool in calls:
            made["ratio"] = asdict(taken.compare("fp32", tool).ratio)
    return {"model": name, "threads": 1, "fp32_p50_ms": taken.p50_ms("fp32"), "tools": tools}


def line(row: dict[str, Any]) -> str:
    told = []
    for tool, made in row["tools"].items():
        if "ratio" in made:
            told.append(f"{tool} {made['ratio']['value']:.2f}×")
        elif "rms" in made:
            told.append(f"{tool} {made['top1']:.2%} rms {made['rms']:.4f} kl {made['kl']:.1e}")
        else:
            told.append(f"{tool}: {made['failed']}")
    return f"{row['model']} {row.get('weights', '')}\n  " + "\n  ".join(told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--python", required=True, help="of the environment with the rivals")
    parser.add_argument("--weights", nargs="+", default=["digits", "fashion"])
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--quick", action="store_true", help="with --speed: 9 short blocks")
    asked = parser.parse_args()
    machine, rows = environment.collect().record(), []
    models = asked.models or (GOALS if asked.speed else NANOS)
    for name in models:
        for weights in [None] if asked.speed else asked.weights:
            row = (
                speed(name, asked.python, quick=asked.quick)
                if weights is None
                else accuracy(name, weights, asked.python)
            )
            rows.append(row)
            print(line(row), flush=True)
    record = {
        "environment": machine,
        "versions": {name: version_of(name) for name in ("edgevit", "onnxruntime", "openvino", "torch")},
        "rows": rows,
    }
    file = RESULTS / f"int8_rivals{'_speed' if asked.speed else ''}{'-quick' if asked.quick else ''}.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
