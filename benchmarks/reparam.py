"""What re-parameterisation is worth on ONNX Runtime, and how our exports compare with timm's own. Run alone.

    python benchmarks/reparam.py [--quick] [--only TEXT] [--keep DIR]

Pairs run interleaved (ABBA blocks) in one process: CPU provider, 2 threads, batch 1, all of ONNX Runtime's own graph
optimisations on for both. Inputs are the golden images. Writes benchmarks/results/reparam.json, prints a table.

1. deploy against train form; 2. fmvit_s against timm's re-parameterised mobileone_s1 (target ≤ 1.3×);
3. our efficientformer_l1 and vit_tiny against timm's, exported by plain torch.onnx.export (target ≤ 1.0×, aim 1/1.1).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

import edgevit
from edgevit.models.loading.source import import_timm
from edgevit.profiles import environment
from edgevit.profiles.interleave import Interleaved, Schedule, interleave
from edgevit.registry import version_of

RESULTS = Path(__file__).parent / "results"
THREADS = 2
FULL = Schedule(blocks=21, turn_s=0.5, turn_runs=10, warm_runs=5)
QUICK = Schedule(blocks=9, turn_s=0.1, turn_runs=3, warm_runs=2)
FORMS = ("fmvit_t", "fmvit_s", "efficientformer_l1", "efficientformerv2_s0", "vit_tiny")
PACKAGES = ("edgevit", "torch", "onnx", "onnxscript", "onnxruntime", "timm", "numpy")


@dataclass(frozen=True)
class Pair:
    """``second`` is measured against ``first``. A name is NAME/deploy, NAME/train (ours) or timm:NAME.

    most  the ratio second ÷ first that the issue demands at most, or None
    """

    title: str
    first: str
    second: str
    most: float | None = None


PAIRS = (
    *(Pair("deploy against train form", f"{name}/train", f"{name}/deploy") for name in FORMS),
    Pair("fmvit_s against its peer", "timm:mobileone_s1", "fmvit_s/deploy", 1.3),
    Pair("ours against timm's plain export", "timm:efficientformer_l1", "efficientformer_l1/deploy", 1.0),
    Pair("ours against timm's plain export", "timm:vit_tiny_patch16_224", "vit_tiny/deploy", 1.0),
)


class Files:
    """ONNX files by name, each exported once, and the images to run them on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = cache(self._path)

    def _path(self, name: str) -> Path:
        say(f"exporting {name}")
        return self._timm(name.removeprefix("timm:")) if name.startswith("timm:") else self._ours(*name.split("/"))

    def _ours(self, name: str, form: str) -> Path:
        model = edgevit.create_model(name)
        out = self.folder / f"{name}-{form}"
        return edgevit.export(model, "onnx", out=out, form=form, threads=THREADS, force=True).entry

    def _timm(self, name: str) -> Path:
        timm = import_timm()
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False).eval()
        if name.startswith("mobileone"):
            from timm.utils import reparameterize_model

            model = reparameterize_model(model).eval()
        path = self.folder / f"timm-{name}.onnx"
        torch.onnx.export(model, (torch.randn(1, 3, 224, 224),), str(path), dynamo=True, verbose=False)
        return path

    def images(self) -> list[np.ndarray[Any, Any]]:
        """The golden rows of an artifact of ours: real photos, (1, 3, 224, 224) each."""
        artifact = edgevit.Artifact.open(self.path("fmvit_s/deploy").parent)
        return [row[None] for row in artifact.golden()[0]["image"]]


def session(path: Path) -> ort.InferenceSession:
    """The same options for every file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def caller(path: Path, images: list[np.ndarray[Any, Any]]) -> Callable[[], object]:
    """A call that runs the file on the next image, in rotation."""
    opened = session(path)
    name = opened.get_inputs()[0].name
    feeds = [{name: image} for image in images]
    turn = 0

    def call() -> object:
        nonlocal turn
        turn = (turn + 1) % len(feeds)
        return opened.run(None, feeds[turn])

    return call


def measure(pair: Pair, files: Files, schedule: Schedule) -> dict[str, Any]:
    """One row: both medians, the ratio with its interval, the sentence that may be said, and the block medians."""
    candidates = {name: caller(files.path(name), files.images()) for name in (pair.first, pair.second)}
    say(f"measuring {pair.second} against {pair.first}")
    found: Interleaved = interleave(candidates, schedule)
    comparison = found.compare(pair.first, pair.second)
    return {
        "title": pair.title,
        "first": pair.first,
        "second": pair.second,
        "first_p50_ms": found.p50_ms(pair.first),
        "second_p50_ms": found.p50_ms(pair.second),
        "ratio": asdict(comparison.ratio),
        "speedup": 1 / comparison.ratio.value,
        "sentence": comparison.sentence(),
        "target_ratio": pair.most,
        "target_met": None if pair.most is None else comparison.ratio.value <= pair.most,
        "first_bytes": files.path(pair.first).stat().st_size,
        "second_bytes": files.path(pair.second).stat().st_size,
        "block_medians_ms": {name: found.block_medians(name) for name in candidates},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| pair (second against first) | first p50 ms | second p50 ms | second ÷ first | 95 % CI | target |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio, target = row["ratio"], "—"
        if row["target_ratio"] is not None:
            target = f"≤ {row['target_ratio']:g}: {'met' if row['target_met'] else 'missed'}"
        lines.append(
            f"| {row['second']} against {row['first']} | {row['first_p50_ms']:.2f} | {row['second_p50_ms']:.2f} "
            f"| {ratio['value']:.3f} | {ratio['low']:.3f}–{ratio['high']:.3f} | {target} |"
        )
    return "\n".join(lines)


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="9 short blocks: does it run at all")
    parser.add_argument("--only", default="", help="only pairs whose names contain this")
    parser.add_argument("--keep", type=Path, help="export into this folder instead of a temporary one")
    given = parser.parse_args()
    schedule = QUICK if given.quick else FULL
    chosen = [pair for pair in PAIRS if given.only in f"{pair.first} {pair.second}"]
    machine = environment.collect().record()
    with tempfile.TemporaryDirectory(prefix="edgevit-reparam-") as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        files = Files(folder)
        for pair in chosen:
            files.path(pair.first), files.path(pair.second)
        rows = [measure(pair, files, schedule) for pair in chosen]
    record = {
        "environment": machine,
        "load_1min_after": environment.collect().load_1min,
        "versions": {name: version_of(name) for name in PACKAGES},
        "provider": "CPUExecutionProvider",
        "threads": THREADS,
        "batch": 1,
        "schedule": asdict(schedule),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    name = "reparam-quick.json" if given.quick or given.only else "reparam.json"
    (RESULTS / name).write_text(json.dumps(record, indent=1) + "\n")
    print(f"{machine['cpu']}, {machine['cores']} cores, {THREADS} threads; onnxruntime {version_of('onnxruntime')}\n")
    print(table(rows))
    print("\n" + "\n".join(row["sentence"] for row in rows))


if __name__ == "__main__":
    main()
