"""A tiny real TVM artifact: matmul on parallel rows, ReLU and a second output, compiled for any target in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tiny_manifest import write_manifest
from tvm import relax, s_tir

from edgevit.artifact.golden import write_golden
from edgevit.artifact.manifest import MANIFEST, BatchRange, Parity, PrecisionReport, TensorSpec
from edgevit.export.tvm.link import link
from edgevit.export.tvm.targets import BuildTarget

ROWS, WIDTH = 256, 64


def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)


def outputs(image: np.ndarray) -> dict[str, np.ndarray]:
    """The same in float64 numpy."""
    product = image.astype(np.float64) @ weights().astype(np.float64)
    return {"logits": np.maximum(product, 0).astype(np.float32), "twice": (2 * product).astype(np.float32)}


def module(rows: int = ROWS) -> tvm.ir.IRModule:
    """Relax: (rows, WIDTH) -> its product with the weights, rectified, and doubled. One kernel runs in parallel."""
    builder = relax.BlockBuilder()
    image = relax.Var("image", relax.TensorType((rows, WIDTH), "float32"))
    with builder.function("main", [image]):
        with builder.dataflow():
            product = builder.emit(relax.op.matmul(image, relax.const(weights())))
            logits = builder.emit(relax.op.nn.relu(product))
            twice = builder.emit(relax.op.multiply(product, relax.const(np.float32(2))))
            result = builder.emit_output(relax.Tuple([logits, twice]))
        builder.emit_func_output(result)
    return parallel(relax.get_pipeline("zero")(builder.finalize()))


def parallel(lowered: tvm.ir.IRModule) -> tvm.ir.IRModule:
    schedule = s_tir.Schedule(lowered)
    schedule.work_on("matmul")
    block = schedule.get_sblock("matmul")
    schedule.parallel(schedule.get_loops(block)[0])
    return schedule.mod


def compile_tiny(target: BuildTarget, rows: int = ROWS) -> Any:
    with target.tvm():
        return tvm.compile(module(rows), target=target.tvm())


def write_artifact(folder: Path, target: BuildTarget, **fields: Any) -> Path:
    """The artifact in ``folder``; keyword arguments replace fields of its manifest."""
    folder.mkdir()
    link(compile_tiny(target), folder / "model.so", target)
    image = np.random.default_rng(1).normal(size=(ROWS, WIDTH)).astype(np.float32)
    expected = outputs(image)
    write_golden(folder, {"image": image, **expected}, [])
    shape = (ROWS, WIDTH)
    return write_manifest(
        folder,
        fields,
        target="tvm",
        entry="model.so",
        model={"task": "tensors", "image_size": None, "classes": None, "params": WIDTH**2, "macs": WIDTH**2},
        batch=BatchRange(min=ROWS, max=ROWS),
        inputs=(TensorSpec(name="image", dtype="float32", shape=shape, role="tensor"),),
        outputs=tuple(TensorSpec(name=name, dtype="float32", shape=shape, role="tensor") for name in expected),
        preprocess=None,
        parity=Parity(status="verified", tolerance=1e-5, max_rel=1e-7, images=16, runtime="tvm"),
        precision_report=PrecisionReport(requested="fp32", layers={"float32": 1}),
        lock=target.lock(),
    )


def change_lock(folder: Path, **entries: str) -> None:
    """Rewrite entries of the manifest's lock, as a file made for another machine would have them."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["lock"] |= entries
    (folder / MANIFEST).write_text(json.dumps(manifest))
