"""Sabotaged weights: where they alone are integers, each way to be wrong is seen by what a file stores."""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from coremltools.proto import Model_pb2
from integer_models import captured, mixed, rows_of
from onnx import ModelProto, numpy_helper

from edgevit import build
from edgevit.artifact.files import hash_tree
from edgevit.artifact.manifest import MANIFEST
from edgevit.artifact.opened import Artifact
from edgevit.errors import ParityFailed
from edgevit.proof.layerwise import prove_layers
from edgevit.quantize.plan import QuantPlan
from edgevit.quantize.sites import sites_of
from edgevit.quantize.trial import Trial
from edgevit.runtimes.base import open_session

WEIGHTS = "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
PROGRAM = "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"

NAMES = {"integers": ("quantized_data", "data", "indices"), "floats": ("scale", "lut")}


@pytest.fixture(scope="module", params=["w8", "w4"])
def artifact(request, tmp_path_factory) -> Artifact:
    out = tmp_path_factory.mktemp("narrow") / "mixed"
    return build.export(mixed(), "onnx", out=out, precision=request.param, inputs=rows_of(64))


@pytest.fixture(scope="module", params=[("w8", "17"), ("w4", "17"), ("w4", "18")], ids=lambda one: "-".join(one))
def package(request, tmp_path_factory) -> Artifact:
    out, (precision, ios) = tmp_path_factory.mktemp("package") / "mixed", request.param
    options = {"floats": "fp32", "ios": ios}
    return build.export(mixed(), "coreml", out=out, precision=precision, inputs=rows_of(64), options=options)


def proved(artifact: Artifact, folder: Path, change: Callable[[Path], Any] = lambda folder: None) -> Any:
    """The artifact with its files changed and its hashes made to fit, layer by layer."""
    shutil.copytree(artifact.path, folder)
    change(folder)
    manifest = artifact.manifest.model_copy(update={"files": hash_tree(folder)})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    plan, capture = artifact.plan(), captured(mixed())
    assert isinstance(plan, QuantPlan)
    layers = Trial(capture, sites_of(capture.program, alone=True)).layers(plan, rows_of(2))
    with open_session(folder, threads=1) as session:
        return prove_layers(session, layers)


def of_graph(change: Callable[[ModelProto], None]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        change(model)
        onnx.save(model, folder / "model.onnx")

    return changed


def replaced(model: ModelProto, end: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """A constant of the weight that two layers share."""
    found = next(
        one for one in model.graph.initializer if one.name.startswith("shared.weight") and one.name.endswith(end)
    )
    found.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(found)), found.name))


def doubled_scale(model: ModelProto) -> None:
    replaced(model, "_scale", lambda scales: np.concatenate([scales[:1] * 2, scales[1:]]))


def moved_axis(model: ModelProto) -> None:
    replaced(model, "_scale", lambda scales: scales.reshape(1, -1) if scales.ndim == 2 else scales[::-1].copy())


def weights_of_another_layer(model: ModelProto) -> None:
    replaced(model, "_int8" if any(one.name == "shared.weight_int8" for one in model.graph.initializer) else "_int4",
             lambda array: array[::-1].copy())  # fmt: skip


def weight_in_float(model: ModelProto) -> None:
    product = next(one for one in model.graph.node if one.op_type == "Mul" and "weight_int" in one.input[1])
    reader = next(one for one in model.graph.node if product.output[0] in one.input)
    shape = [12, 12]
    model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), "plain"))
    reader.input[list(reader.input).index(product.output[0])] = "plain"


def test_right_weights_pass_and_nothing_is_said_to_run_in_integers(artifact: Artifact, tmp_path: Path) -> None:
    found = proved(artifact, tmp_path / "right")
    assert found.worst < 1e-6
    assert found.sentence() == "10 operators multiply floats by weights that are stored as integers"


@pytest.mark.parametrize(
    "sabotage",
    [doubled_scale, moved_axis, weights_of_another_layer, weight_in_float],
    ids=lambda value: value.__name__,
)
def test_a_wrong_weight_is_found(sabotage: Callable[[ModelProto], None], artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ParityFailed, match=r"stands for other numbers|not stored as integers|a pair is missing"):
        proved(artifact, tmp_path / "wrong", of_graph(sabotage))


def flipped(name: str) -> Callable[[Path], None]:
    """One bit of a part of the largest weight that is stored as integers, or as places in a table."""

    def changed(folder: Path) -> None:
        spec = Model_pb2.Model()
        spec.ParseFromString((folder / PROGRAM).read_bytes())
        function = spec.mlProgram.functions["main"]
        operations = function.block_specializations[function.opset].operations
        made = {one.outputs[0].name: one for one in operations}
        stored = [one for one in operations if one.type.startswith("constexpr_")]
        largest = max(stored, key=lambda one: math.prod(side.constant.size for side in _sides(one)))
        key = next(one for one in NAMES[name] if one in (*largest.attributes, *largest.inputs))
        if key in largest.attributes:
            value = largest.attributes[key]
        else:
            given = largest.inputs[key].arguments[0]
            value = made[given.name].attributes["val"] if given.name else given.value
        raw = bytearray((folder / WEIGHTS).read_bytes())
        _, _, size, place = struct.unpack_from("<IIQQ", raw, value.blobFileValue.offset)
        raw[place + size // 2] ^= 1
        (folder / WEIGHTS).write_bytes(bytes(raw))

    return changed


def _sides(operation: Any) -> Any:
    return operation.outputs[0].type.tensorType.dimensions


def test_a_right_package_passes(package: Artifact, tmp_path: Path) -> None:
    assert proved(package, tmp_path / "right").worst < 1e-6


@pytest.mark.parametrize("sabotage", [flipped("integers"), flipped("floats")], ids=["integers", "floats"])
def test_a_wrong_weight_of_a_package_is_found(
    sabotage: Callable[[Path], None], package: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(ParityFailed, match="stands for other numbers"):
        proved(package, tmp_path / "wrong", sabotage)
