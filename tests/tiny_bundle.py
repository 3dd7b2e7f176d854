"""A bundle whose members are real manifests and golden pairs, but hold no model: it can be read and placed, not run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_manifest import WEIGHTS, write_manifest

from edgevit.artifact.golden import write_golden
from edgevit.artifact.manifest import BatchRange, Parity, PrecisionReport, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.bundle.manifest import BundleAccuracy, Lineage, Loss, Partition, Remaining, Trunk
from edgevit.bundle.opened import BundleFacts, PartFacts, golden_features
from edgevit.images import Preprocess

SIZES = (5, 3)
CLASSES = (("ant", "cat"), ("bee",))
LABELS = ("ant", "bee", "cat")


def member(folder: Path, inputs: dict, outputs: dict, labels: tuple[str, ...], **fields) -> Artifact:
    """An artifact without a model: ``inputs`` and ``outputs`` are (role, golden rows) by name."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(folder.name.encode() * 40)
    write_golden(folder, {name: rows for name, (_, rows) in (inputs | outputs).items()}, [])
    specs = {
        kind: tuple(
            TensorSpec(name=name, dtype="float32", shape=(1, *rows.shape[1:]), role=role)
            for name, (role, rows) in found.items()
        )
        for kind, found in (("inputs", inputs), ("outputs", outputs))
    }
    image = "image" in inputs
    write_manifest(
        folder,
        fields,
        target="onnx",
        entry="model.onnx",
        model={
            "name": folder.name, "task": "classify", "image_size": (8, 8) if image else None, "classes": len(labels),
            "params": 100, "macs": 1000,
        },
        labels=labels,
        batch=BatchRange(min=1, max=1),
        preprocess=Preprocess(size=(8, 8)) if image else None,
        parity=Parity(status="unverified", reason="needs an engine", tolerance=1e-5),
        precision_report=PrecisionReport(requested="fp32", layers={}),
        **specs,
    )  # fmt: skip
    return Artifact.open(folder)


def part(folder: Path, index: int, *, classes: tuple[str, ...] | None = None, seed: int = 7, **fields) -> Artifact:
    random = np.random.default_rng(index)
    mine = classes or CLASSES[index]
    images = np.random.default_rng(seed).normal(size=(4, 3, 8, 8)).astype(np.float32)
    features = random.normal(size=(4, SIZES[index])).astype(np.float32)
    logits = random.normal(size=(4, len(mine) + 1)).astype(np.float32)
    outputs = {"features": ("features", features), "logits": ("logits", logits)}
    return member(folder, {"image": ("image", images)}, outputs, ("none of mine", *mine), **fields)


def fusion(folder: Path, rows: dict, **fields) -> Artifact:
    inputs = {name: ("mask" if name == "present" else "features", array) for name, array in rows.items()}
    logits = np.zeros((4, len(LABELS)), np.float32)
    return member(folder, inputs, {"logits": ("logits", logits)}, LABELS, **fields)


ACCURACY = BundleAccuracy(
    data="digits",
    images=360,
    trunk=0.98,
    fused=0.97,
    missing_one=Remaining(mean=0.8, worst=0.7, worst_parts=("part-0",)),
    losses=(Loss(missing=("part-0",), top1=0.7), Loss(missing=("part-1",), top1=0.9)),
)
FACTS = BundleFacts(
    classes=LABELS,
    trunk=Trunk(name="vit_edvit", params=1000, macs=9000, bytes=4000, weights=WEIGHTS),
    parts=[PartFacts(mine, heads_pruned=1) for mine in CLASSES],
    partition=Partition(method="similar", seed=3),
    accuracy=ACCURACY,
    lineage=Lineage(data="digits", seed=3, commands=("edgevit split vit_edvit --parts 2",)),
)


def fill(staging: Path) -> None:
    """Two parts and their head."""
    parts = [part(staging / f"part-{index}", index) for index in range(2)]
    fusion(staging / "fusion", golden_features(parts))
