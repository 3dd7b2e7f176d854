"""What it costs to export and verify a model whose answers are large: a small ViT, 150 classes at each pixel of 512².

    python benchmarks/large_outputs.py            # results/large_outputs.json
    python benchmarks/large_outputs.py --decided  # the same model with its argmax inside: large only within

Peak memory is of each process by itself, as a multiple of what the model takes alone: one forward of batch 1 in
PyTorch, one inference in ONNX Runtime. Weights are random; what is measured does not depend on them. Exit code 10 where
a figure misses its goal (issue 16): 3 ×.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "large_outputs.json"
GOAL, SIDE, CLASSES = 3.0, 512, 150

OWN = """
import torch, resource
from benchmarks_large_outputs import {factory}
with torch.inference_mode():
    {factory}()(torch.randn(1, 3, {side}, {side}))
"""
ENGINE = """
import resource
from edgevit.runtimes.base import open_session
with open_session({folder!r}) as session:
    inputs, _ = session.artifact.golden()
    session.infer({{name: rows[:1] for name, rows in inputs.items()}})
"""
EXPORT = """
import resource, edgevit
edgevit.export({model!r}, "onnx", out={folder!r}, image_size={side}, cache=False)
"""
VERIFY = """
import resource, edgevit
edgevit.verify({folder!r})
"""
PEAKS = """
own, others = (resource.getrusage(who).ru_maxrss << 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
import json, sys
print(json.dumps([own, others]))
"""


def vit() -> nn.Module:
    """(B, 3, 512, 512) -> (B, 150, 512, 512): scores of 150 classes at every pixel."""
    return _model(decided=False)


def vit_decided() -> nn.Module:
    """(B, 3, 512, 512) -> (B, 512, 512): the best class of every pixel."""
    return _model(decided=True)


def _model(decided: bool) -> nn.Module:
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            dim, tokens = 192, (SIDE // 16) ** 2
            self.image_size = SIDE
            self.patches = nn.Conv2d(3, dim, 16, 16)
            self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, dim))
            layer = nn.TransformerEncoderLayer(dim, 3, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
            self.body = nn.TransformerEncoder(layer, 4, nn.LayerNorm(dim), enable_nested_tensor=False)
            self.head = nn.Conv2d(dim, CLASSES, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            tokens = self.patches(image).flatten(2).transpose(1, 2) + self.positions
            found = self.body(tokens).transpose(1, 2).unflatten(2, (SIDE // 16, SIDE // 16))
            scores = nn.functional.interpolate(self.head(found), size=(SIDE, SIDE), mode="bilinear")
            return scores.argmax(1) if decided else scores

    return Segmenter().eval()


def peaks(code: str, folder: Path) -> tuple[float, float]:
    """Peak MB of a process that runs ``code``, and of the largest process that it started."""
    (folder / "benchmarks_large_outputs.py").write_text(Path(__file__).read_text("utf-8"), "utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", code + PEAKS], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    own, others = json.loads(ran.stdout.splitlines()[-1])
    return own / 1e6, others / 1e6


def measured(factory: str, folder: Path) -> dict[str, Any]:
    artifact = folder / "artifact"
    own, _ = peaks(OWN.format(factory=factory, side=SIDE), folder)
    started = time.perf_counter()
    model = f"{folder / 'benchmarks_large_outputs.py'}:{factory}"
    exporting, proving = peaks(EXPORT.format(model=model, folder=str(artifact), side=SIDE), folder)
    seconds = time.perf_counter() - started
    engine, _ = peaks(ENGINE.format(folder=str(artifact)), folder)
    _, verifying = peaks(VERIFY.format(folder=str(artifact)), folder)
    record = json.loads((artifact / "edgevit.json").read_text("utf-8"))
    return {
        "model": factory, "parity": record["parity"]["status"], "export_seconds": round(seconds, 1),
        "golden_bytes": (artifact / "golden.npz").stat().st_size,
        "own_mb": {"torch": round(own), "engine": round(engine)},
        "peak_mb": {"export": round(exporting), "proof": round(proving), "verify": round(verifying)},
        "times_own": {
            "export": round(exporting / own, 2), "proof": round(proving / engine, 2),
            "verify": round(verifying / engine, 2),
        },
    }  # fmt: skip


def machine() -> dict[str, Any]:
    import onnxruntime
    import torch

    return {
        "node": platform.node(), "machine": platform.machine(), "python": platform.python_version(),
        "torch": torch.__version__, "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decided", action="store_true", help="the argmax inside")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    parser.add_argument("--label", default="now", help="what these figures are called in the results")
    asked = parser.parse_args()
    factory = "vit_decided" if asked.decided else "vit"
    with tempfile.TemporaryDirectory(prefix="edgevit-large-") as folder:
        record = {**measured(factory, Path(folder)), "machine": machine()}
    found = json.loads(asked.out.read_text("utf-8")) if asked.out.exists() else {}
    found[f"{factory}, {asked.label}"] = record
    asked.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(json.dumps(record, indent=1))
    missed = {name: times for name, times in record["times_own"].items() if times > GOAL}
    for name, times in missed.items():
        print(f"MISSED: {name} takes {times} × what the model takes alone; the goal is {GOAL:g} ×", file=sys.stderr)
    return 10 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
