"""Quantisers beside each other, of one float model and the same calibration rows: how far from float, how right.

    python benchmarks/quantizers.py [--models …] [--weights digits fashion]

Each row of ``edgevit.registry.QUANTIZERS`` finds the integers of a model whose weights ship with the package, on 128
rows that it was trained on, and is judged on held-out rows (1,000 of Fashion-MNIST where Debian's package
dataset-fashion-mnist is installed): top-1, the share whose first class changes, and the root mean square of the
difference from the float logits as a share of the largest of them. The plan is computed eagerly, in the integers that
an artifact is proved to have.
Writes results/quantizers.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgevit import registry
from edgevit.data.source import open_data
from edgevit.export.prepare import prepare
from edgevit.profiles import environment
from edgevit.quantize.integral import Integral
from edgevit.quantize.methods.base import Start
from edgevit.quantize.plan import NVIDIA, X86
from edgevit.quantize.trial import Trial
from edgevit.request import ExportRequest, ModelChoice, parse_batch

RESULTS = Path(__file__).parent / "results"
NANOS = ("fmvit_nano", "efficientformer_nano", "vit_nano")
FASHION = Path("/usr/share/datasets/fashion-mnist")
GRIDS = {"any zero point": X86, "symmetric": NVIDIA}

Array = np.ndarray[Any, Any]


def case(name: str, weights: str) -> dict[str, Any]:
    """Every quantiser of one model."""
    prepared = prepare(ExportRequest(ModelChoice(name, weights), (), "int8", parse_batch("1-64")))
    integral = prepared.integers() if prepared.integers else None
    if not isinstance(integral, Integral) or prepared.preprocess is None:
        raise SystemExit(f"{name} has no integers")
    source = f"idx:{FASHION}" if weights == "fashion" and FASHION.is_dir() else weights
    data = open_data(source, split="held-out")
    count = min(len(data), 1000)
    images = data.steps(prepared.preprocess).batch([data.images[index] for index in range(count)])
    start = Start(integral.capture, integral.calibrating.inputs, integral.calibrating.data)
    labels = np.asarray(data.labels)[:count]
    base = np.asarray(Trial(integral.capture).run(None, {"image": images}).outputs["logits"])
    found = {method: tried(method, start, images, labels, base) for method in registry.QUANTIZERS}
    top1 = float((base.argmax(1) == labels).mean())
    return {"model": name, "weights": weights, "judged_on": f"{count} of {source}", "float_top1": top1, "found": found}


def tried(method: str, start: Start, images: Array, labels: Array, base: Array) -> dict[str, Any]:
    began = time.perf_counter()
    found = registry.row("quantizer", method).load()().quantized(start)
    seconds, trial = time.perf_counter() - began, Trial(found.capture, found.corrected)
    told: dict[str, Any] = {"seconds": round(seconds, 1), "corrected": len(found.weights)}
    for grid, encoding in GRIDS.items():
        logits = np.asarray(trial.run(found.plan.encoded(encoding), {"image": images}).outputs["logits"])
        told[grid] = {
            "top1": float((logits.argmax(1) == labels).mean()),
            "changed": float((logits.argmax(1) != base.argmax(1)).mean()),
            "rms": float(np.sqrt(((logits.astype(np.float64) - base) ** 2).mean()) / np.abs(base).max()),
        }
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=NANOS)
    parser.add_argument("--weights", nargs="+", default=["digits", "fashion"])
    asked, rows = parser.parse_args(), []
    for name in asked.models:
        for weights in asked.weights:
            rows.append(case(name, weights))
            print(name, weights, f"float {rows[-1]['float_top1']:.2%}")
            for method, told in rows[-1]["found"].items():
                for grid in GRIDS:
                    one = told[grid]
                    print(f"  {method}, {grid}: {one['top1']:.2%}, {one['changed']:.2%} changed, rms {one['rms']:.4f}")
            sys.stdout.flush()
    record = {"environment": environment.collect().record(), "rows": rows}
    (RESULTS / "quantizers.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
