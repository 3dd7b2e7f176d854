"""Train a segmenter on scenes and a super-resolver on pairs as ``edgevit train`` does, export, verify, and draw.

    python benchmarks/train_dense.py                                   # both: results/train_dense.json
    python benchmarks/train_dense.py --trained sesr_nano_x2=x2.safetensors   # judge a finished checkpoint instead

Exit code 10 where a figure misses its goal: mIoU 0.80 (issue 16), PSNR above bicubic interpolation's.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "train_dense.json"
DATA = {"segmenter_nano": "scenes:32", "sesr_nano_x2": "pairs:samples×2"}
RECIPES = {
    "segmenter_nano": ["--epochs", "36", "--batch-size", "16", "--lr", "1.5e-3", "--smoothing", "0"],
    "sesr_nano_x2": ["--epochs", "14", "--batch-size", "8", "--lr", "6e-4"],
}


def edgevit(*words: str) -> Any:
    """What a command prints as JSON."""
    command = [sys.executable, "-P", "-m", "edgevit.cli", *words, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def judged(model: str, trained: Path | None, folder: Path) -> dict[str, Any]:
    """The record of a model: its training, unless it is ``trained``, its export, and what verify says on the data."""
    from edgevit.models.loading.checkpoint import read_checkpoint

    data, record, started = DATA[model], {}, time.perf_counter()
    if trained is None:
        trained = folder / f"{model}.safetensors"
        edgevit("train", model, "--data", data, *RECIPES[model], "-o", str(trained))
        record["train_seconds"] = round(time.perf_counter() - started, 1)
    meta = read_checkpoint(trained).meta
    if meta is None:
        raise SystemExit(f"{trained} is no checkpoint of edgevit train")
    artifact = folder / model
    edgevit("export", model, "--weights", str(trained), "-t", "onnx", "-o", str(artifact), "--data", data)
    verified = edgevit("verify", str(artifact), "--data", data)
    verified.pop("artifact")  # a folder that is gone when this is read
    return {**record, "model": model, "command": meta.command, meta.metric or "": meta.figure, "verify": verified}


def bicubic() -> float:
    """PSNR on Y of bicubic interpolation on the held-out pairs, cut at the edges as the metric cuts."""
    from PIL import Image

    from edgevit.data.source import open_data
    from edgevit.tasks.metrics.pictures import brightness, psnr

    held = open_data(DATA["sesr_nano_x2"], split="held-out")
    found = []
    for image, wanted in zip(held.images, held.targets or (), strict=True):
        large = Image.fromarray(image).resize(wanted.shape[1::-1], Image.Resampling.BICUBIC)
        found.append(psnr(*(brightness(one)[2:-2, 2:-2] for one in (np.asarray(large), wanted))))
    return float(np.mean(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", nargs="*", default=[], metavar="MODEL=CHECKPOINT")
    given = dict(one.split("=", 1) for one in parser.parse_args().trained)
    with tempfile.TemporaryDirectory() as folder:
        models = [judged(name, Path(path), Path(folder)) for name, path in given.items()]
        models = models or [judged(name, None, Path(folder)) for name in DATA]
    figures = {one["model"]: one.get("mIoU", one.get("PSNR")) for one in models}
    goals = {"segmenter_nano": 0.80, "sesr_nano_x2": bicubic()}
    record = {
        "machine": f"{platform.platform()}, {platform.machine()}",
        "goals": {name: goals[name] for name in figures},
        "met": {name: figure >= goals[name] for name, figure in figures.items()},
        "models": models,
    }
    RESULTS.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(record["met"]))
    return 0 if all(record["met"].values()) else 10


if __name__ == "__main__":
    sys.exit(main())
