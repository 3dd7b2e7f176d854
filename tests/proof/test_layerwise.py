"""Sabotaged integers: each way to be wrong is seen by what an artifact's layers alone show."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from integer_models import captured, mixed, rows_of
from onnx import ModelProto, NodeProto, numpy_helper

from edgevit import build
from edgevit.artifact.files import hash_tree
from edgevit.artifact.manifest import MANIFEST
from edgevit.artifact.opened import Artifact
from edgevit.errors import ParityFailed, Unsupported
from edgevit.proof.layerwise import prove_layers
from edgevit.quantize.alone import Layers
from edgevit.quantize.plan import QuantPlan
from edgevit.quantize.trial import Trial
from edgevit.runtimes.base import open_session

Sabotage = Callable[[ModelProto], None]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Artifact:
    out = tmp_path_factory.mktemp("int8") / "mixed"
    return build.export(mixed(), "onnx", out=out, precision="int8", inputs=rows_of(64), verify=False)


@pytest.fixture(scope="module")
def layers(artifact: Artifact) -> Layers:
    plan = artifact.plan()
    assert isinstance(plan, QuantPlan)
    return Trial(captured(mixed())).layers(plan, rows_of(2))


def proved(artifact: Artifact, layers: Layers, sabotage: Sabotage, folder: Path) -> None:
    """The artifact with its graph changed and its hashes made to fit, layer by layer."""
    shutil.copytree(artifact.path, folder)
    model = onnx.load(folder / "model.onnx")
    sabotage(model)
    onnx.save(model, folder / "model.onnx")
    manifest = artifact.manifest.model_copy(update={"files": hash_tree(folder)})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    with open_session(folder, threads=1) as session:
        prove_layers(session, layers)


def constant(model: ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def changed(model: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = constant(model, name)
    array = np.asarray(change(numpy_helper.to_array(tensor)))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def node_at(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if name in node.output)


def layer(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if any(name in one.value for one in node.metadata_props))


def test_a_right_artifact_passes(artifact: Artifact, layers: Layers, tmp_path: Path) -> None:
    proved(artifact, layers, lambda model: None, tmp_path / "right")


def test_a_processor_that_cuts_8_bit_sums_off_opens_no_integers(artifact: Artifact, monkeypatch) -> None:
    monkeypatch.setattr("edgevit.cpu.flags", lambda: frozenset({"avx2", "avx512f"}))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(Unsupported, match="x86 with VNNI"):
        open_session(artifact, threads=1)


def own(model: ModelProto, node: NodeProto, place: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Give one input of a pair another constant, of its own."""
    array = change(numpy_helper.to_array(constant(model, node.input[place])))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"{node.name}_own_{place}"))
    node.input[place] = f"{node.name}_own_{place}"


def doubled_weight_scale(model: ModelProto) -> None:
    own(model, node_at(model, layer(model, "head.weight").input[1]), 1, lambda scales: scales * 2)


def doubled_input_scale(model: ModelProto) -> None:
    second = node_at(model, layer(model, "qkv.weight").input[0])
    for pair in (second, node_at(model, second.input[0])):
        own(model, pair, 1, lambda scale: scale * 2)


def zero_point_off_by_one_at_both_ends(model: ModelProto) -> None:
    second = node_at(model, layer(model, "qkv.weight").input[0])
    for pair in (second, node_at(model, second.input[0])):
        own(model, pair, 2, lambda zero: zero + np.uint8(1))


def moved_axis(model: ModelProto) -> None:
    pair = node_at(model, layer(model, "shared.weight").input[1])  # (12, 12): either axis fits
    axis = next(one for one in pair.attribute if one.name == "axis")
    axis.i = 1 - axis.i


def dropped_input_pair(model: ModelProto) -> None:
    node = layer(model, "table")
    node.input[0] = node_at(model, node_at(model, node.input[0]).input[0]).input[0]


def dropped_output_pair(model: ModelProto) -> None:
    first = node_at(model, node_at(model, layer(model, "deep.weight").output[0]).output[0]).output[0]
    pair = next(node for node in model.graph.node if first in node.input and node.op_type == "QuantizeLinear")
    second = next(node for node in model.graph.node if pair.output[0] in node.input)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == second.output[0]:
                node.input[place] = first


def weights_of_another_layer(model: ModelProto) -> None:
    stored = node_at(model, layer(model, "wide.weight").input[1]).input[0]
    changed(model, stored, lambda array: np.random.default_rng(1).permutation(array.ravel()).reshape(array.shape))


def bias_of_another_layer(model: ModelProto) -> None:
    stored = node_at(model, layer(model, "wide.weight").input[2]).input[0]
    changed(model, stored, lambda array: array[::-1].copy())


@pytest.mark.parametrize(
    ("sabotage", "said"),
    [
        (doubled_weight_scale, "another scale than the plan"),
        (doubled_input_scale, "another scale than the plan"),
        (zero_point_off_by_one_at_both_ends, "another zero point than the plan"),
        (moved_axis, "are of another axis"),
        (dropped_input_pair, "a pair is missing"),
        (dropped_output_pair, "a pair is missing"),
        (weights_of_another_layer, "lie on another step"),
        (bias_of_another_layer, "lie on another step"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_layer_is_found(
    sabotage: Sabotage, said: str, artifact: Artifact, layers: Layers, tmp_path: Path
) -> None:
    with pytest.raises(ParityFailed, match=said):
        proved(artifact, layers, sabotage, tmp_path / "wrong")
