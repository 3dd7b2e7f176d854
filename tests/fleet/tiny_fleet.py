"""Real bundles that need no torch to make: parts and a fusion head written with onnx itself, in under a second.

``make_bundle``  small parts that really look at the image: averages over a 4 × 4 grid, then linear layers
``noop_bundle``  parts that take 150,528 bytes and do nearly nothing: what is measured over them is overhead
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from tiny_manifest import WEIGHTS, write_manifest

from edgevit.artifact.golden import write_golden
from edgevit.artifact.manifest import Array, BatchRange, Parity, PrecisionReport, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.artifact.staging import staged
from edgevit.bundle.manifest import BundleAccuracy, Lineage, Loss, Partition, Remaining, Trunk
from edgevit.bundle.opened import PRESENT, BundleFacts, PartFacts, golden_features, write_bundle
from edgevit.images import Preprocess

SIDE, GRID = 16, 4
FEATURES = 8
CLASSES_EACH = 2
MAX_BATCH = 8
HEAVY = 256  # rows and columns of the matrices that ``work`` multiplies
_DTYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}

Arrays = dict[str, Array]


def make_bundle(folder: Path, parts: int = 4, *, seed: int = 0, work: int = 0) -> Path:
    """A bundle at ``folder``: image (B, 3, 16, 16) float32, B 1 to 8 -> (B, 8) features, (B, 3) logits a part.

    Each part holds two of the 2 × ``parts`` classes "0", "1", …. Another ``seed`` is another revision. ``work`` makes
    a part slow: so many products of 256 × 256 matrices, about half a millisecond each on one core.
    """
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    steps = Preprocess(size=(SIDE, SIDE), crop="squash")
    rows = steps.batch(list(images))

    def part(index: int) -> tuple[onnx.ModelProto, TensorSpec]:
        spec = TensorSpec(name="image", dtype="float32", shape=("batch", 3, SIDE, SIDE), role="image")
        return _grid_part(spec, np.random.default_rng([seed, index]), work), spec

    return _bundle(folder, parts, part, steps, rows, images)


def noop_bundle(folder: Path, parts: int = 4, *, image_side: int = 224, features: int = 384) -> Path:
    """A bundle at ``folder``: image (1, side, side, 3) uint8, preprocessing baked -> (1, 384) features, (1, 3) logits.

    The features are the image's first 384 bytes, so that an answer says which image it is of.
    """
    images = np.zeros((4, image_side, image_side, 3), np.uint8)
    images[:, 0] = np.arange(image_side * 3, dtype=np.uint8).reshape(image_side, 3) + np.arange(4)[:, None, None]
    steps = Preprocess(size=(image_side, image_side), crop="squash", layout="NHWC", baked=True)

    def part(index: int) -> tuple[onnx.ModelProto, TensorSpec]:
        spec = TensorSpec(name="image", dtype="uint8", shape=(1, image_side, image_side, 3), role="image")
        return _noop_part(spec, features), spec

    return _bundle(folder, parts, part, steps, images, images)


def _bundle(
    folder: Path,
    parts: int,
    part: Callable[[int], tuple[onnx.ModelProto, TensorSpec]],
    steps: Preprocess,
    rows: Array,
    images: Array,
) -> Path:
    labels = tuple(str(index) for index in range(parts * CLASSES_EACH))
    mine = [labels[index * CLASSES_EACH : (index + 1) * CLASSES_EACH] for index in range(parts)]
    with staged(folder) as staging:
        made = []
        for index in range(parts):
            graph, spec = part(index)
            made.append(_member(staging / f"part-{index}", graph, [spec], {"image": rows}, mine[index], steps, images))
        shown = golden_features(made)
        head, specs = _head(shown, len(labels), made[0].manifest.inputs[0].shape[0])
        _member(staging / "fusion", head, specs, shown, labels, None, None)
        losses = tuple(Loss(missing=(f"part-{index}",), top1=0.7) for index in range(parts))
        facts = BundleFacts(
            classes=labels,
            trunk=Trunk(name="tiny_fleet", params=1000, macs=10_000, bytes=4000, weights=WEIGHTS),
            parts=[PartFacts(some, heads_pruned=1) for some in mine],
            partition=Partition(method="balanced", seed=0),
            accuracy=BundleAccuracy(
                data="random",
                images=100,
                trunk=0.9,
                fused=0.9,
                missing_one=Remaining(mean=0.7, worst=0.7, worst_parts=("part-0",)) if parts > 1 else None,
                losses=losses if parts > 1 else (),
            ),
            lineage=Lineage(data="random", seed=0, commands=("tests/fleet/tiny_fleet.py",)),
        )
        write_bundle(staging, folder, facts)
    return folder


def _member(
    folder: Path,
    graph: onnx.ModelProto,
    inputs: Sequence[TensorSpec],
    golden: Arrays,
    classes: tuple[str, ...],
    steps: Preprocess | None,
    images: Array | None,
) -> Artifact:
    folder.mkdir()
    onnx.checker.check_model(graph)
    onnx.save(graph, str(folder / "model.onnx"))
    free = inputs[0].shape[0] == "batch"
    outputs = _run(folder / "model.onnx", golden, one_by_one=not free)
    write_golden(folder, golden | outputs, [] if images is None else list(images))
    labels = classes if steps is None else ("none of mine", *classes)
    write_manifest(
        folder,
        {},
        target="onnx",
        entry="model.onnx",
        model={
            "name": folder.name, "task": "classify", "image_size": steps.size if steps else None,
            "classes": len(labels), "macs": 1000,
            "params": sum(int(np.prod(constant.dims)) for constant in graph.graph.initializer),
        },
        labels=labels,
        batch=BatchRange(min=1, max=MAX_BATCH if free else 1),
        inputs=tuple(inputs),
        outputs=tuple(
            TensorSpec(
                name=name,
                dtype="float32",
                shape=(inputs[0].shape[0], array.shape[1]),
                role="features" if name == "features" else "logits",
            )
            for name, array in outputs.items()
        ),
        preprocess=steps,
        parity=Parity(status="verified", max_abs=0.0, max_rel=0.0, cosine=1.0, tolerance=1e-4, images=4),
        precision_report=PrecisionReport(requested="fp32", layers={"float32": 2}),
    )  # fmt: skip
    return Artifact.open(folder)


def _run(model: Path, feeds: Arrays, *, one_by_one: bool) -> Arrays:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    count = len(next(iter(feeds.values())))
    slices = [slice(row, row + 1) for row in range(count)] if one_by_one else [slice(None)]
    found = [session.run(names, {name: array[rows] for name, array in feeds.items()}) for rows in slices]
    return {name: np.concatenate([one[index] for one in found]) for index, name in enumerate(names)}


def _grid_part(spec: TensorSpec, random: np.random.Generator, work: int) -> onnx.ModelProto:
    size = SIDE // GRID
    constants = {
        "weight": random.normal(size=(FEATURES, 3 * GRID * GRID)).astype(np.float32),
        "bias": random.normal(size=FEATURES).astype(np.float32),
        "classify": random.normal(size=(CLASSES_EACH + 1, FEATURES)).astype(np.float32),
    }
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[size, size], strides=[size, size]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["linear"], transB=1),
        helper.make_node("Tanh", ["linear"], ["features" if not work else "quick"]),
        *([] if not work else _slow("quick", "features", work, constants)),
        helper.make_node("Gemm", ["features", "classify"], ["logits"], transB=1),
    ]
    return _model(nodes, [spec], {"features": FEATURES, "logits": CLASSES_EACH + 1}, constants)


def _slow(given: str, wanted: str, work: int, constants: Arrays) -> list[onnx.NodeProto]:
    """``wanted`` = ``given``, after ``work`` products of a matrix that depends on it."""
    constants |= {
        "heavy": np.eye(HEAVY, dtype=np.float32)[::-1].copy(),
        "times": np.array(work, np.int64),
        "nothing": np.array(0, np.float32),
    }
    square = helper.make_tensor_value_info("square", TensorProto.FLOAT, [HEAVY, HEAVY])
    turned = helper.make_tensor_value_info("turned", TensorProto.FLOAT, [HEAVY, HEAVY])
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [])
    going, on = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("going", "on"))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["on"]),
            helper.make_node("MatMul", ["square", "heavy"], ["turned"]),
        ],
        "product",
        [count, going, square],
        [on, turned],
    )
    return [
        helper.make_node("ReduceMean", [given], ["mean"], keepdims=0),
        helper.make_node("Mul", ["heavy", "mean"], ["first"]),
        helper.make_node("Loop", ["times", "", "first"], ["last"], body=body),
        helper.make_node("ReduceMean", ["last"], ["level"], keepdims=0),
        helper.make_node("Mul", ["level", "nothing"], ["zero"]),
        helper.make_node("Add", [given, "zero"], [wanted]),
    ]


def _noop_part(spec: TensorSpec, features: int) -> onnx.ModelProto:
    constants = {
        "from": np.array([0, 0], np.int64),
        "to": np.array([1, features // 3], np.int64),
        "axes": np.array([1, 2], np.int64),
        "start": np.array([0], np.int64),
        "end": np.array([CLASSES_EACH + 1], np.int64),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Slice", ["image", "from", "to", "axes"], ["corner"]),
        helper.make_node("Flatten", ["corner"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["features"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["features", "start", "end", "axis"], ["logits"]),
    ]
    return _model(nodes, [spec], {"features": features, "logits": CLASSES_EACH + 1}, constants)


def _head(shown: Arrays, classes: int, rows: int | str) -> tuple[onnx.ModelProto, list[TensorSpec]]:
    """logits = sum over parts of (features @ weight) × present."""
    names = [name for name in shown if name != PRESENT]
    random = np.random.default_rng(1)
    constants: Arrays = {"axis": np.array([1], np.int64)}
    nodes, specs = [], []
    for index, name in enumerate(names):
        size = shown[name].shape[1]
        constants |= {
            f"weight_{index}": random.normal(size=(size, classes)).astype(np.float32),
            f"from_{index}": np.array([index], np.int64),
            f"to_{index}": np.array([index + 1], np.int64),
        }
        nodes += [
            helper.make_node("MatMul", [name, f"weight_{index}"], [f"voice_{index}"]),
            helper.make_node("Slice", [PRESENT, f"from_{index}", f"to_{index}", "axis"], [f"here_{index}"]),
            helper.make_node("Mul", [f"voice_{index}", f"here_{index}"], [f"heard_{index}"]),
        ]
        specs.append(TensorSpec(name=name, dtype="float32", shape=(rows, size), role="features"))
    nodes.append(helper.make_node("Sum", [f"heard_{index}" for index in range(len(names))], ["logits"]))
    specs.append(TensorSpec(name=PRESENT, dtype="float32", shape=(rows, len(names)), role="mask"))
    return _model(nodes, specs, {"logits": classes}, constants), specs


def _model(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[TensorSpec], outputs: dict[str, int], constants: Arrays
) -> onnx.ModelProto:
    rows = inputs[0].shape[0]
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(spec.name, _DTYPES[spec.dtype], list(spec.shape)) for spec in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, size]) for name, size in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
