"""Train the shipped Fashion-MNIST checkpoints on Debian's 70,000 pictures, and cut the sample that the package carries.

    python benchmarks/train_fashion.py                        # all of RECIPES: weights and results/train_fashion.json
    python benchmarks/train_fashion.py --models vit_nano      # some; the others' figures stay
    python benchmarks/train_fashion.py --take FOLDER          # checkpoints that were trained with these recipes before
    python benchmarks/train_fashion.py --sample               # edgevit/data/fashion_sample again; no training

Where the files are missing this INSTALLS the package ``dataset-fashion-mnist``, as train_idx.py does. An hour or two on
two cores; an interrupted run goes on where it was. The data of a checkpoint is called ``fashion``, the sample, so that
exports from a clean clone have rows of what it was trained on: its pictures to train on are among the 60,000, those
held out among the 10,000. The accuracy in it is of all 10,000.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from train_idx import installed

from edgevit.data.fashion import FOLDER
from edgevit.data.names import FILE
from edgevit.data.source import open_data
from edgevit.models.loading.checkpoint import read_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "edgevit" / "models" / "weights"
RESULTS = ROOT / "benchmarks" / "results" / "train_fashion.json"
README = WEIGHTS / "README-fashion.md"
UNDER_WAY = Path.home() / ".cache" / "edgevit-train-fashion"
RECIPES = {
    "efficientformer_nano": ["--epochs", "8", "--batch-size", "128", "--lr", "3e-3"],
    "fmvit_nano": ["--epochs", "6", "--batch-size", "128", "--lr", "3e-3"],
    "vit_nano": ["--epochs", "16", "--batch-size", "128", "--lr", "3e-3", "--weight-decay", "0.1", "--no-augment"],
}
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SAMPLE = {"train": ("train", 26), "held-out": ("t10k", 50)}  # file, pictures of each class
BYTES = 1_500_000  # issue 17


def train(model: str, data: str) -> Path:
    """A checkpoint of its recipe, and its record beside it."""
    UNDER_WAY.mkdir(parents=True, exist_ok=True)
    out = UNDER_WAY / f"{model}-fashion.safetensors"
    again = ["--resume"] if out.with_name(f"{out.name}.resume").exists() else []
    command = [sys.executable, "-P", "-m", "edgevit.cli", "train", model, "--data", data, *RECIPES[model]]
    ran = subprocess.run([*command, *again, "-o", str(out), "--json"], check=True, stdout=subprocess.PIPE, text=True)
    out.with_name(f"{model}.json").write_text(ran.stdout)
    return out


def shipped(model: str, checkpoint: Path) -> dict[str, Any]:
    """Put it among the weights, under the sample's name and the classes' own; its record."""
    sets, meta = read_checkpoint(checkpoint)
    if meta is None:
        raise SystemExit(f"{checkpoint} was not made by edgevit train")
    path = WEIGHTS / f"{model}-fashion.safetensors"
    save_checkpoint(path, sets[""], meta.model_copy(update={"data": "fashion", "labels": CLASSES}))
    record: dict[str, Any] = json.loads(checkpoint.with_name(f"{model}.json").read_text())
    kept = ("accuracy", "loss", "epochs", "train_images", "held_out_images", "seconds", "threads")
    size = path.stat().st_size
    return {
        "model": model,
        "recipe": " ".join(RECIPES[model]),
        **{key: record[key] for key in kept if key in record},
        "bytes": size,
        "small_enough": size <= BYTES,
    }


def readme(machine: str, runs: list[dict[str, Any]]) -> str:
    """Where the weights come from, for who finds them."""
    rows = "".join(
        f"| `{run['model']}-fashion.safetensors` | {run['accuracy']:.2%} | `{run['recipe']}` | {run['bytes']:,} |\n"
        for run in runs
    )
    return (
        "# Shipped weights of Fashion-MNIST\n\n"
        "Made by `python benchmarks/train_fashion.py`: `edgevit train MODEL --data idx:…` on the 60,000 pictures:\n\n"
        f"| file | accuracy | options | bytes |\n|---|---|---|---|\n{rows}\n"
        "Accuracy is top-1 on the 10,000 held-out pictures of the weights averaged at the end of training; no epoch\n"
        f"was chosen by it. One picture is 0.01 points. Trained on {machine}, which did other work meanwhile.\n\n"
        "Fashion-MNIST: Xiao, Rasul, Vollgraf, arXiv:1708.07747; MIT licence, © 2017 Zalando SE.\n"
    )


def cut_sample(data: str) -> None:
    """The first pictures of each class, in the files' order."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / FILE).write_text("".join(f"{name}\n" for name in CLASSES))
    for split, (name, count) in SAMPLE.items():
        whole = open_data(data, split=split)  # type: ignore[arg-type]
        chosen = np.sort(np.concatenate([np.flatnonzero(whole.labels == label)[:count] for label in range(10)]))
        images = np.stack([whole.images[int(index)][..., 0] for index in chosen])
        _write(FOLDER / f"{name}-images-idx3-ubyte.gz", images)
        _write(FOLDER / f"{name}-labels-idx1-ubyte.gz", whole.labels[chosen].astype(np.uint8))


def _write(path: Path, array: np.ndarray[Any, Any]) -> None:
    """An IDX file of unsigned bytes; the same array gives the same file."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + np.ascontiguousarray(array).tobytes(), 9, mtime=0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--take", type=Path, help="a folder of MODEL-fashion.safetensors and MODEL.json")
    parser.add_argument("--sample", action="store_true")
    asked = parser.parse_args()
    data = installed()
    if asked.sample:
        cut_sample(data)
        return 0
    before = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    runs = {run["model"]: run for run in before}
    for model in asked.models:
        made = asked.take / f"{model}-fashion.safetensors" if asked.take else train(model, data)
        runs[model] = shipped(model, made)
        print(json.dumps(runs[model]))
    machine = f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores"
    found = [runs[model] for model in RECIPES if model in runs]
    RESULTS.write_text(json.dumps({"machine": machine, "data": data, "runs": found}, indent=1) + "\n")
    README.write_text(readme(machine, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
