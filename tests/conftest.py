"""A small real artifact that needs no torch to make: conv, ReLU, average, linear, written with onnx itself."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper
from tiny_manifest import write_manifest

from edgevit.artifact.golden import write_golden
from edgevit.artifact.manifest import BatchRange, Parity, PrecisionReport, TensorSpec
from edgevit.images import Preprocess

SIZE, CLASSES = 8, 4

gc.disable()  # until all is imported, and then leave that alone: to collect takes half a second otherwise, each time

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in a shell's background: children would inherit that
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Files of few tests that each take long. xdist, left alone, starts the files with the fewest tests last.
LONG = {
    "test_contract", "test_benchmark", "test_cli", "test_quickstart", "test_device_venv", "test_first_hour",
    "test_readme", "test_tvm_tuning_real", "test_tvm_compile", "test_tvm_cross", "test_job", "test_split_command",
    "test_bus_faults", "test_gateway_fuzz", "test_remote_profile", "test_security", "test_shipping", "test_sites",
    "test_up",
}  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a worker: long files first, then those of many tests, so that no worker is left with a long one at the end."""
    if hasattr(config, "workerinput"):
        sizes = Counter(item.path for item in items)
        items.sort(key=lambda item: (item.path.stem not in LONG, -sizes[item.path]))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def edgevit_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keys, records and caches of the tests: never the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("EDGEVIT_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def disk_that_is_not_waited_for() -> Iterator[None]:
    """What tests write need not survive the machine, and the disk takes 5 to 10 ms for each file that must."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


Make = Callable[..., Path]


def tiny_graph(batch: int | str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"], transB=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", [image], [logits], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def tiny_outputs(image: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """The same in float64 numpy."""
    image, kernel = image.astype(np.float64), weights["kernel"].astype(np.float64)
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    features = np.maximum(np.einsum("bchwij,ocij->bohw", windows, kernel), 0).mean(axis=(2, 3))
    return features @ weights["weight"].T.astype(np.float64) + weights["bias"]


@pytest.fixture
def make_artifact(tmp_path: Path) -> Make:
    """A function that writes a tiny artifact; keyword arguments replace fields of its manifest."""

    def make(name: str = "tiny", *, batch: tuple[int, int] = (1, 1), seed: int = 0, **fields: Any) -> Path:
        random = np.random.default_rng(seed)
        weights = {
            "kernel": random.normal(size=(6, 3, 3, 3)).astype(np.float32),
            "weight": random.normal(size=(CLASSES, 6)).astype(np.float32),
            "bias": random.normal(size=CLASSES).astype(np.float32),
        }
        folder = tmp_path / name
        folder.mkdir()
        rows: int | str = "batch" if batch[0] != batch[1] else batch[0]
        onnx.save(tiny_graph(rows, weights), folder / "model.onnx")
        preprocess = Preprocess(size=(SIZE, SIZE), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), crop="squash")
        pixels = list(np.random.default_rng(7).integers(0, 256, (4, 12, 10, 3), dtype=np.uint8))
        images = preprocess.batch(pixels)
        golden = {"image": images, "logits": tiny_outputs(images, weights).astype(np.float32)}
        write_golden(folder, golden, pixels)
        return write_manifest(
            folder,
            fields,
            target="onnx",
            entry="model.onnx",
            model={
                "task": "classify", "image_size": (SIZE, SIZE), "classes": CLASSES, "params": 190, "macs": 10_000
            },
            labels=("ant", "bee", "cat", "dog"),
            batch=BatchRange(min=batch[0], max=batch[1]),
            inputs=(TensorSpec(name="image", dtype="float32", shape=(rows, 3, SIZE, SIZE), role="image"),),
            outputs=(TensorSpec(name="logits", dtype="float32", shape=(rows, CLASSES), role="logits"),),
            preprocess=preprocess,
            parity=Parity(status="verified", tolerance=1e-5, max_rel=1e-7, images=16, runtime="onnxruntime"),
            precision_report=PrecisionReport(requested="fp32", layers={"float32": 2}),
        )  # fmt: skip

    return make
