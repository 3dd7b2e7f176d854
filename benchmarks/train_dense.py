"""Train a segmenter on scenes and a super-resolver on pairs as ``edgevit train`` does, export, verify, and draw.

    python benchmarks/train_dense.py                            # both: results/train_dense.json
    python benchmarks/train_dense.py --models segmenter_nano    # one of them; the other's record stays
    python benchmarks/train_dense.py --trained sesr_nano_x2=x2.safetensors   # judge a finished checkpoint instead
    python benchmarks/train_dense.py --pictures FOLDER          # keep what predict draws, to be looked at

Exit code 10 where a figure misses its goal: mIoU 0.80 (issue 16), PSNR above bicubic interpolation's; or where training
takes longer than ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
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
DATA = {"segmenter_nano": "scenes", "sesr_nano_x2": "pairs:samples×2"}
RECIPES = {
    "segmenter_nano": ["--task", "segment", "--epochs", "10", "--batch-size", "16", "--lr", "3e-3", "--smoothing", "0"],
    "sesr_nano_x2": ["--task", "restore", "--epochs", "14", "--batch-size", "8", "--lr", "6e-4"],
}
LOAD = os.getloadavg()[0]
SECONDS, DRAWN = 600, 12  # of training at most; held-out pictures that are drawn


def edgevit(*words: str) -> Any:
    """What a command prints as JSON."""
    command = [sys.executable, "-P", "-m", "edgevit.cli", *words, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def judged(model: str, trained: Path | None, folder: Path, pictures: Path | None) -> dict[str, Any]:
    """The record of a model: its training, unless it is ``trained``, its export, and what verify says on the data."""
    from edgevit.models.loading.checkpoint import read_checkpoint

    data, record, started = DATA[model], {}, time.perf_counter()
    if trained is None:
        trained = folder / f"{model}.safetensors"
        edgevit("train", model, "--data", data, *RECIPES[model], "-o", str(trained))
        record = {"train_seconds": round(time.perf_counter() - started, 1), "load_before": round(LOAD, 2)}
    meta = read_checkpoint(trained).meta
    if meta is None:
        raise SystemExit(f"{trained} is no checkpoint of edgevit train")
    artifact = folder / model
    edgevit("export", model, "--weights", str(trained), "-t", "onnx", "-o", str(artifact), "--data", data)
    verified = edgevit("verify", str(artifact), "--data", data)
    verified.pop("artifact")  # a folder that is gone when this is read
    if pictures is not None:
        draw(model, artifact, pictures)
    return {**record, "model": model, "command": meta.command, meta.metric or "": meta.figure, "verify": verified}


def draw(model: str, artifact: Path, pictures: Path) -> None:
    """Held-out pictures, and beside them what ``edgevit predict -o`` makes of them."""
    from PIL import Image

    from edgevit.data.source import open_data

    given, drawn = pictures / model / "given", pictures / model / "drawn"
    given.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(open_data(DATA[model], split="held-out").take(range(DRAWN)).images):
        Image.fromarray(image).save(given / f"{index:02}.png")
    edgevit("predict", str(artifact), str(given), "-o", str(drawn))


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


def kept(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with those of models that were not run now."""
    before = json.loads(RESULTS.read_text())["models"] if RESULTS.is_file() else []
    now = {one["model"] for one in models}
    return sorted([*models, *(one for one in before if one["model"] not in now)], key=lambda one: str(one["model"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--trained", nargs="*", default=[], metavar="MODEL=CHECKPOINT")
    parser.add_argument("--pictures", type=Path, help="folder to draw into")
    asked = parser.parse_args()
    given = {name: Path(path) for name, path in (one.split("=", 1) for one in asked.trained)}
    with tempfile.TemporaryDirectory() as folder:
        models = [judged(name, given.get(name), Path(folder), asked.pictures) for name in given or asked.models]
    models = kept(models)
    figures = {one["model"]: one.get("mIoU", one.get("PSNR")) for one in models}
    goals = {"segmenter_nano": 0.80, "sesr_nano_x2": bicubic()}
    met = {
        one["model"]: figures[one["model"]] >= goals[one["model"]] and one.get("train_seconds", 0) <= SECONDS
        for one in models
    }
    record = {
        "machine": f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores",
        "goals": {name: goals[name] for name in figures},
        "met": met,
        "models": models,
    }
    RESULTS.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps({name: (figure, met[name]) for name, figure in figures.items()}))
    return 0 if all(met.values()) else 10


if __name__ == "__main__":
    sys.exit(main())
