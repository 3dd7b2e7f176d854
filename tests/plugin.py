"""A package with runtimes of its own, as users install them, and artifacts of the target that they run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_manifest import write_manifest

from edgevit.artifact.golden import write_golden
from edgevit.artifact.manifest import BatchRange, Parity, PrecisionReport, TensorSpec


def install(
    folder: Path, module: str, source: str, runtimes: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pip would, for this process and its children: ``runtimes`` maps a runtime's name to a registry row in
    ``module``."""
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    rows = "".join(f"{name} = {module}:{row}\n" for name, row in runtimes.items())
    (info / "entry_points.txt").write_text(f"[edgevit.runtimes]\n{rows}")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def artifact_of(
    folder: Path,
    target: str,
    text: str,
    *,
    parity: Parity | None = None,
    batch: tuple[int, int] = (1, 1),
    side: int = 2,
    dtype: Any = "float32",
) -> Path:
    """An artifact whose whole model is ``text`` in model.txt."""
    folder.mkdir(parents=True)
    (folder / "model.txt").write_text(text)
    image = np.random.default_rng(0).integers(0, 9, (4, 3, side, side)).astype(dtype)
    write_golden(folder, {"image": image, "logits": np.zeros((4, 3), np.float32)}, [])
    first: Any = batch[0] if batch[0] == batch[1] else "batch"
    return write_manifest(
        folder,
        {},
        model={
            "name": target, "task": "classify", "image_size": (side, side), "classes": 3, "params": 0, "macs": 0
        },
        target=target,
        entry="model.txt",
        batch=BatchRange(min=batch[0], max=batch[1]),
        inputs=(TensorSpec(name="image", dtype=dtype, shape=(first, 3, side, side), role="image"),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(first, 3), role="logits"),),
        preprocess=None,
        parity=parity or Parity(status="verified", tolerance=1e-5),
        precision_report=PrecisionReport(requested="fp32", layers={}),
    )  # fmt: skip
