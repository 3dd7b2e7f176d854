"""A newcomer's first hour, walked: own model, checkpoint and pictures, to a measured artifact behind HTTP; mistakes.

    python .ci/first_hour.py [FOLDER]

Each command has to end with its exit code and to say its words. It takes about a minute, and needs timm and no network.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
EDGEVIT = (sys.executable, "-P", "-m", "edgevit.cli")
BRIEF = (sys.executable, "-P", str(ROOT / "tests/brief.py"))  # a profile of a third of a second
CLASSES = ("bolt", "nut", "washer")

MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.BatchNorm2d(16), nn.GELU())
        self.mix = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.mix(x).mean(1))

def create(num_classes=3, image_size=48):
    return Net(num_classes)
"""


@dataclass(frozen=True)
class Step:
    """A command of ``edgevit``, the exit code that it ends with, and what it says (regular expressions)."""

    words: Sequence[str]
    code: int = 0
    says: Sequence[str] = ()
    program: Sequence[str] = EDGEVIT


ON_PICTURES = ("--data", "folder:pictures", "--labels", "labels.txt")
BY_TIMM = ("export", "timm:test_vit", "--weights", "trainer.pth.tar", "--classes", "3", *ON_PICTURES)
BY_FILE = ("export", "model.py:create", "--weights", "best.ckpt", *ON_PICTURES)
STEPS = (
    Step(["--version"], says=[r"edgevit \d"]),
    Step(["targets"], says=["onnxruntime"]),
    Step([*BY_TIMM, "-t", "onnx", "-o", "timm-vit"], says=["verified"]),
    Step([*BY_FILE, "-t", "onnx", "-o", "own"], says=["verified"]),
    Step(["info", "own"], says=["bolt", "parity +verified"]),
    Step(["verify", "own", "--data", "folder:pictures"], says=["golden pair", r"accuracy [\d.]+% on \d+ images"]),
    Step(["predict", "own", "pictures/bolt/00.png"], says=["00.png: bolt "]),
    Step(["predict", "own", "pictures/nut", "--csv", "-"], says=["nut/00.png.*nut", "nut/11.png.*nut"]),
    Step(["export", "own/model.onnx", *ON_PICTURES, "-t", "onnx", "-o", "again"], says=["verified", "reference"]),
    Step(["predict", "again", "pictures/washer/03.png"], says=["03.png: washer "]),
    Step(["profile", "own", "timm-vit"], says=["p50", "onnxruntime"], program=BRIEF),
    Step(["compare", "own", "again", "--seconds", "2"], says=["own +p50", "again +p50", "95 % CI"]),
    Step(["report", "own", "timm-vit"], says=["report.html"]),
    Step(["export", "model.py:create", "--dry-run"], says=["edgevit.toml", "onnx"]),
    # mistakes: each is one sentence and a next step
    Step(["export", "resnet18", "-t", "onnx"], 2, ["did you mean timm:resnet18"]),
    Step(["export", "timm:resnet81", "-t", "onnx"], 2, ["resnet81", "did you mean"]),
    Step(["export", "vit_nanno", "-t", "onnx"], 2, ["did you mean vit_nano"]),
    Step(["export", "vit_nano", "-t", "onxx"], 2, ["did you mean onnx"]),
    Step(["export", "model.py:crate", "-t", "onnx"], 2, ["create"]),
    Step(["export", "model.py:create", "--weights", "worst.ckpt", "-t", "onnx"], 2, ["worst.ckpt"]),
    Step([*BY_FILE, "-t", "onnx", "-o", "own"], 2, ["own", "next:"]),
    Step(["predict", "own", "pictures/notes.txt"], 1, ["notes.txt"]),
    Step(["predict", "own", "https://host/bolt.png"], 1, ["address", "download it first"]),
    Step(["verify", "pictures"], 6, ["pictures"]),
)


def furnish(folder: Path) -> None:
    """What a newcomer brings: a model file, two trainers' checkpoints, a folder of pictures with a folder a class."""
    import torch

    import edgevit

    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        for number in range(12):
            pixels = random.integers(0, 90, (60, 80, 3), np.uint8)
            pixels[10:50, 10 + 20 * label : 30 + 20 * label, label] += 150
            (folder / "pictures" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{number:02}.png")
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    (folder / "edgevit.toml").write_text('[export]\ntarget = ["onnx"]\n')
    (folder / "pictures/notes.txt").write_text("what is where\n")
    (folder / "model.py").write_text(MODEL)
    torch.manual_seed(0)
    vit = edgevit.create_model("timm:test_vit", num_classes=len(CLASSES)).state_dict()
    arguments = argparse.Namespace(model="test_vit", lr=1e-3, mean=None)  # as timm's trainer keeps them
    kept = {"epoch": 3, "arch": "test_vit", "state_dict": vit, "args": arguments, "metric": np.float64(71.5)}
    torch.save(kept, folder / "trainer.pth.tar")
    own = learned(edgevit.create_model(f"{folder / 'model.py'}:create"), folder / "pictures").state_dict()
    lightning = {"state_dict": {f"model.{name}": value for name, value in own.items()}, "epoch": 3}
    torch.save({**lightning, "pytorch-lightning_version": "2.4.0"}, folder / "best.ckpt")


def learned(net: Any, pictures: Path) -> Any:
    """``net`` after some steps on the pictures, as an export assumes that it saw them."""
    import torch

    from edgevit.images import Preprocess, decode

    seen = Preprocess(size=(48, 48))
    files = [(label, file) for label, name in enumerate(CLASSES) for file in sorted((pictures / name).iterdir())]
    rows = torch.from_numpy(np.stack([seen(decode(file)) for _, file in files]))
    labels = torch.tensor([label for label, _ in files])
    optimizer = torch.optim.Adam(net.train().parameters(), 0.01)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(net(rows), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def walk(step: Step, folder: Path) -> str | None:
    """What is wrong with how a command ended, or None."""
    ran = subprocess.run([*step.program, *step.words], cwd=folder, capture_output=True, text=True)
    said = ran.stdout + ran.stderr
    if ran.returncode != step.code:
        return f"ended with {ran.returncode}, not {step.code}\n{said}"
    if "Traceback" in said:
        return f"shows a traceback\n{said}"
    missing = [words for words in step.says if not re.search(words, said)]
    return f"does not say {missing}\n{said}" if missing else None


def ask(folder: Path) -> str | None:
    """``edgevit serve`` in the background, and one picture sent to it."""
    with (
        (folder / "serve.log").open("wb") as log,
        subprocess.Popen([*EDGEVIT, "serve", "own", "--port", "0"], cwd=folder, stdout=log, stderr=log) as serving,
    ):
        try:
            address = until(folder / "serve.log", r"http://[\d.:]+")
            image = (folder / "pictures/bolt/00.png").read_bytes()
            with urllib.request.urlopen(f"{address}/v2/models/own/classify", image, timeout=30) as answer:
                labels = {one["label"] for one in json.loads(answer.read())["top"]}
            return None if labels == set(CLASSES) else f"answers {labels}"
        except OSError as exc:
            return f"{exc}: {(folder / 'serve.log').read_text()}"
        finally:
            serving.terminate()


def until(log: Path, words: str, seconds: float = 30) -> str:
    """What of a growing file matches; TimeoutError when nothing does in time."""
    for _ in range(int(seconds * 10)):
        if found := re.search(words, log.read_text()):
            return found[0]
        time.sleep(0.1)
    raise TimeoutError("it did not come up")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="first-hour-") as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["EDGEVIT_HOME"] = str(folder / "home")
        furnish(folder)
        steps = [(" ".join(step.words), partial(walk, step, folder)) for step in STEPS]
        problems = [
            told(words, run) for words, run in (*steps, ("serve own, and a picture sent to it", partial(ask, folder)))
        ]
    sys.exit(1 if any(problems) else 0)


def told(words: str, run: Callable[[], str | None]) -> str | None:
    """A step's line with its seconds, and what is wrong with it."""
    began = time.monotonic()
    problem = run()
    print(f"{'WRONG' if problem else 'ok':5} {time.monotonic() - began:5.1f} s  edgevit {words}", flush=True)
    if problem:
        print(problem, flush=True)
    return problem


if __name__ == "__main__":
    main()
