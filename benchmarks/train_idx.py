"""Train, export and verify on IDX files as they are published: Fashion-MNIST, 70,000 pictures, from Debian's package.

    python benchmarks/train_idx.py                         # results/train_idx.json
    python benchmarks/train_idx.py --data idx:PATH         # files of one's own; nothing is installed

Where the files are missing this INSTALLS the package ``dataset-fashion-mnist`` (30 MB; ``apt-get install``, as root or
through sudo). The run is short, one pass: it shows that the gzipped files open and that verify repeats the
accuracy on pictures that the authors hold out (2,000 of the 10,000), not how far a model comes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "train_idx.json"
PACKAGE, FILES = "dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist")
MODEL = "vit_nano"
RECIPE = ["--epochs", "1", "--batch-size", "128", "--lr", "3e-3"]


def installed() -> str:
    """The data source of Debian's files, which are installed where they are not there yet."""
    if not FILES.is_dir():
        command = ["apt-get", "install", "-y", PACKAGE]
        command = command if os.geteuid() == 0 else ["sudo", *command]
        print(f"{FILES} is not there; installing it: {' '.join(command)}", file=sys.stderr)
        subprocess.run(command, check=True, stdout=sys.stderr)
    return f"idx:{FILES}"


def edgevit(*words: str) -> Any:
    """What a command prints as JSON."""
    command = [sys.executable, "-P", "-m", "edgevit.cli", *words, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="another idx: source; default: Debian's Fashion-MNIST")
    data = parser.parse_args().data or installed()
    with tempfile.TemporaryDirectory() as folder:
        weights, artifact = f"{folder}/{MODEL}.safetensors", f"{folder}/{MODEL}"
        trained = edgevit("train", MODEL, "--data", data, *RECIPE, "-o", weights)
        edgevit("export", MODEL, "--weights", weights, "-t", "onnx", "-o", artifact, "--data", data)
        verified = edgevit("verify", artifact, "--data", data)
    record = {
        "machine": f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores",
        "data": data,
        "model": MODEL,
        "recipe": " ".join(RECIPE),
        **{key: trained[key] for key in ("train_images", "held_out_images", "epochs", "seconds", "accuracy")},
        "verified": verified["accuracy"],
        "checks": verified["checks"],
    }
    RESULTS.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps({"accuracy": record["accuracy"], "verified": record["verified"]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
