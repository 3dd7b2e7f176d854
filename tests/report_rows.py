"""Artifacts with measurements for the report's tests: written by the code that writes real ones, samples made up."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
from ranked import ranking
from tiny_manifest import write_manifest

from edgevit.artifact.golden import write_golden
from edgevit.artifact.goodness import RecordedAccuracy
from edgevit.artifact.manifest import BatchRange, Parity, PrecisionReport, TensorSpec, WeightsInfo
from edgevit.artifact.opened import Artifact
from edgevit.profiles import latency, verdict
from edgevit.profiles.environment import Environment
from edgevit.profiles.measured import Conditions, Profile
from edgevit.profiles.ranking import stored
from edgevit.profiles.ranking.entrants import Runner
from edgevit.profiles.verdict import Need, Run

DEVICE = Environment(
    cpu="Cortex-A76", cores=4, ram_bytes=8 << 30, system="Linux", kernel="6.6", arch="aarch64", python="3.11.2",
    edgevit="0.1.0", machine="0badcafe", governor="performance", load_1min=0.1, virtual=(),
)  # fmt: skip
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def artifact(folder: Path, *, model: str = "vit_nano", size: int = 1000, **fields: Any) -> Path:
    """An artifact folder; ``fields`` replace those of its manifest."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"\0" * size)
    write_golden(folder, {"image": np.zeros((4, 1), np.float32), "logits": np.zeros((4, 2), np.float32)}, [])
    return write_manifest(
        folder,
        {"edgevit": "0.1.0", **fields},
        model={
            "name": model, "source": "zoo", "task": "classify", "image_size": (8, 8), "classes": 2, "params": 10,
            "macs": 100, "weights": WeightsInfo(origin="digits", state_sha256="a" * 64),
        },
        target="onnx",
        entry="model.onnx",
        batch=BatchRange(min=1, max=1),
        inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 1), role="image"),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(1, 2), role="logits"),),
        preprocess=None,
        parity=Parity(status="verified", tolerance=1e-5, max_rel=3e-7, images=16, runtime="onnxruntime"),
        precision_report=PrecisionReport(requested="fp32", layers={"float32": 4}),
        accuracy=RecordedAccuracy(data="digits", top1=0.98, images=360),
        versions={"torch": "2.13.0"},
    )  # fmt: skip


def samples(ms: float, count: int = 700, seed: int = 0) -> tuple[float, ...]:
    """Quiet samples around ``ms`` with a short tail."""
    rng = np.random.default_rng(seed)
    return tuple((ms * (1 + 0.01 * rng.standard_normal(count) + 0.01 * rng.exponential(1, count))).tolist())


def run(taken: tuple[float, ...], **monitors: list[dict[str, float]]) -> Run:
    warm = tuple(1.5 * sample for sample in taken[:40]) + taken[:60]
    named = {"clock": "cpu frequency", "heat": "temperature", "cpu": "load of other processes"}
    series = {named[name]: readings for name, readings in monitors.items()}
    return Run(taken, warm, True, 80.0, 2 * taken[0], 0.0001, 30 << 20, series, ("temperature",), sum(taken))


def measure(
    folder: Path,
    *runs: Run,
    now: datetime.datetime = NOW,
    layers: list[tuple[str, str, str | None, str, float]] | None = None,
    environment: Environment = DEVICE,
    extra: dict[str, Any] | None = None,
    **conditions: Any,
) -> Path:
    """Write a profile of ``runs`` as ``edgevit profile`` does, judged as it judges; the file's path.

    ``layers`` are (name, op, module, unit, ms); ``extra`` fields are put into the JSON as they are.
    """
    given = {"runtime": "onnxruntime", "provider": "cpu", "threads": 1, "batch": 1, "tier": "quick"}
    given |= {"runtime_version": "1.31.1", "preprocess": "outside", "inputs": "golden"}
    findings = [found for one in runs for found in verdict.judge(one, Need(0.0, 64), environment.cores)]
    if not runs:
        findings = [verdict.Finding("FAILED", "the worker died with SIGSEGV", "run it again")]
    files = dict(Artifact.open(folder).manifest.files)
    made = Profile(str(folder), Conditions(**(given | conditions)), environment, runs, tuple(findings), (), files)
    path = latency.save(made, folder, now).saved
    assert path is not None
    record = json.loads(path.read_text())
    if layers:
        names = ("name", "op", "module", "unit", "ms")
        listed = [dict(zip(names, layer, strict=True)) for layer in layers]
        total = sum(layer[-1] for layer in layers)
        record["layers"] = {"source": given["runtime"], "runs": 20, "total_ms": total, "layers": listed}
    path.write_text(json.dumps(record | (extra or {})))
    return path


def blocks(scale: float, unit: str = "cpu", depth: int = 6) -> list[tuple[str, str, str | None, str, float]]:
    """Layers of a small transformer."""
    found: list[tuple[str, str, str | None, str, float]] = [("patch/Conv", "Conv", "patch_embed.proj", unit, scale)]
    for block in range(depth):
        found.append((f"blocks.{block}.attn.qkv/Gemm", "Gemm", f"blocks.{block}.attn.qkv", unit, 0.5 * scale))
        found.append(
            (f"blocks.{block}.mlp.fc1/Gemm", "Gemm", f"blocks.{block}.mlp.fc1", unit, (0.4 + 0.1 * block) * scale)
        )
    return [*found, ("model/Add", "Add", "", unit, 0.1 * scale), ("reorder_7", "Reorder", None, unit, 0.2 * scale)]


def gallery(folder: Path) -> Path:
    """All that a report can show: three runtimes, throttling, many samples, missing numbers."""
    hot = [{"t_s": float(t), "mhz": 2400.0 - 120 * t, "cap_mhz": 2400.0 if t < 5 else 1500.0} for t in range(9)]
    models = (
        ("fmvit_nano", 3.1, 695_000, 0.9833),
        ("efficientformer_nano", 5.9, 1_210_000, 0.9944),
        ("vit_nano", 5.2, 893_000, 0.9917),
    )
    for number, (model, ms, size, top1) in enumerate(models):
        accuracy = RecordedAccuracy(data="digits", top1=top1, images=360)
        folder_of = {
            target: folder / model / f"{model}-{target}" for target in ("onnx-fp32", "tensorrt-fp16", "tvm-fp32")
        }
        onnx = artifact(folder_of["onnx-fp32"], model=model, size=size, accuracy=accuracy)
        measure(onnx, run(samples(ms, seed=number)), layers=blocks(ms / 6))
        openvino = {"runtime": "openvino", "runtime_version": "2026.4.1"}
        measure(onnx, run(samples(0.8 * ms, 900, 10 + number)), layers=blocks(ms / 8), **openvino)
        artifact(
            folder_of["tensorrt-fp16"], model=model, size=size // 2, target="tensorrt", precision="fp16",
            parity=Parity(status="unverified", reason="needs an NVIDIA GPU (SM 8.9)", tolerance=1e-3),
            accuracy=accuracy,
        )  # fmt: skip
        tvm = artifact(folder_of["tvm-fp32"], model=model, size=int(1.3 * size), target="tvm", accuracy=accuracy)
        version = {"runtime": "tvm", "runtime_version": "0.27.0.post1"}
        if number == 0:
            tail = tuple(sample * (1.7 if place > 450 else 1) for place, sample in enumerate(samples(11.0, 700, 5)))
            measure(tvm, run(tail, clock=hot), layers=blocks(2.5), **version)
        elif number == 1:
            many = samples(2.0, 50_000, 6)
            spiky = tuple(sample * (3 if place % 1500 == 7 else 1) for place, sample in enumerate(many))
            measure(tvm, run(spiky), run(samples(2.02, 50_000, 7)), layers=blocks(0.8), **version)
        else:
            measure(tvm, **version)
    return folder


def ranked(*rounds: list[list[float]], folders: list[Path], now: datetime.datetime = NOW, **facts: Any) -> None:
    """A ranking of artifacts, kept as ``edgevit compare`` does: block times by artifact, in rounds."""
    named = [Runner(Artifact.open(folder), "onnxruntime").entrant() for folder in folders]
    stored.save(ranking(*rounds, entrants=named, measured=now.isoformat(), **facts), now)
