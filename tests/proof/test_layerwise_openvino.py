"""Sabotaged IR: each way to be wrong is seen by what its operators of integers show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integer_models import captured, mixed, rows_of

from edgevit import build
from edgevit.artifact.files import hash_tree
from edgevit.artifact.manifest import MANIFEST
from edgevit.artifact.opened import Artifact
from edgevit.engines.intel import BIASED, mark, marks_of, ov
from edgevit.errors import ParityFailed, Unsupported
from edgevit.proof.layerwise import kernels_of, prove_layers
from edgevit.quantize.alone import Layers
from edgevit.quantize.operators import Mark
from edgevit.quantize.plan import QuantPlan
from edgevit.quantize.trial import Trial
from edgevit.runtimes.base import open_session

Sabotage = Callable[[Any], None]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("openvino") / "mixed"
    rows, plain = rows_of(64), {"quantizer": "plain"}  # weights as the model has them
    return build.export(mixed(), "openvino", out=out, precision="int8", inputs=rows, verify=False, quantizing=plain)


@pytest.fixture(scope="module")
def layers(artifact: Artifact) -> Layers:
    plan = artifact.plan()
    assert isinstance(plan, QuantPlan)
    return Trial(captured(mixed())).layers(plan, rows_of(2))


def proved(artifact: Artifact, layers: Layers, sabotage: Sabotage, folder: Path) -> None:
    """The artifact with its graph changed and its hashes made to fit, operator by operator."""
    shutil.copytree(artifact.path, folder)
    model = ov.Core().read_model(str(artifact.entry))
    sabotage(model)
    ov.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
    manifest = artifact.manifest.model_copy(update={"files": hash_tree(folder)})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    with open_session(folder, threads=1) as session:
        prove_layers(session, layers)


def product(model: Any, layer: str) -> Any:
    """The first product of a layer."""
    name = next(name for name, text in json.loads(marks_of(model)).items() if Mark.of(text).name == layer)
    return next(node for node in model.get_ops() if node.get_friendly_name() == name)


def made_of(node: Any, place: int, *kinds: str) -> Any:
    """What an input is made of, through nodes of these kinds."""
    node = node.input_value(place).get_node()
    for kind in kinds:
        assert node.get_type_name() == kind
        node = node.input_value(0).get_node()
    return node


def constant(node: Any, place: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Give one input of a node another constant, of its own."""
    source = node.input_value(place).get_node()
    while source.get_type_name() in ("Reshape", "Convert"):
        source = source.input_value(0).get_node()
    shape, dtype = node.input_value(place).get_shape(), source.data.dtype
    array = np.asarray(change(source.data.reshape(tuple(shape))), dtype)
    found = ov.op.Constant(np.ascontiguousarray(array)).output(0)
    if dtype != np.float32:
        found = ov.opset13.convert(found, "f32").output(0)
    node.input(place).replace_source_output(found)


def test_a_right_file_passes_and_every_operator_of_its_plan_runs_in_integers(
    artifact: Artifact, layers: Layers, tmp_path: Path
) -> None:
    proved(artifact, layers, lambda model: None, tmp_path / "right")
    with open_session(artifact, threads=1) as session:
        found = prove_layers(session, layers)
        assert (session.precision, session.details["inference_precision_hint"]) == ("int8", "fp32")
    assert artifact.manifest.integers is not None
    assert artifact.manifest.integers.operators == found.operators
    assert sum((found.kernels or {}).values()) == found.operators
    assert (found.unmet, found.steps) == ((), 0.0)
    assert 0 < found.worst < 1e-6


def doubled_input_scale(model: Any) -> None:
    pair = product(model, "qkv.weight").input_value(0).get_node()
    constant(pair, 1, lambda scale: scale * 2)
    first = made_of(pair, 0, "Subtract", "Convert", "Convert")
    for place in (1, 2):
        constant(first, place, lambda end: end * 2)


def another_end_of_the_grid(model: Any) -> None:
    first = made_of(product(model, "qkv.weight").input_value(0).get_node(), 0, "Subtract", "Convert", "Convert")
    constant(first, 2, lambda end: np.nextafter(end, np.float32(np.inf)))


def zero_point_off_by_one_at_both_ends(model: Any) -> None:
    pair = product(model, "qkv.weight").input_value(0).get_node()
    scale = float(np.asarray(pair.input_value(1).get_node().data))
    constant(pair.input_value(0).get_node(), 1, lambda zero: zero + zero.dtype.type(1))
    first = made_of(pair, 0, "Subtract", "Convert", "Convert")
    for place in (1, 2):
        constant(first, place, lambda end: end - np.float32(scale))


def doubled_weight_scale(model: Any) -> None:
    constant(product(model, "head.weight").input_value(1).get_node(), 1, lambda scales: scales * 2)


def moved_axis(model: Any) -> None:
    pair = product(model, "shared.weight").input_value(1).get_node()  # (12, 12): either axis fits
    constant(pair, 1, lambda scales: np.ascontiguousarray(scales.T))


def dropped_pair(model: Any) -> None:
    node = product(model, "table")
    first = made_of(node, 0, "Multiply", "Subtract", "Convert", "Convert")
    node.input(0).replace_source_output(first.input_value(0))


def weights_of_another_layer(model: Any) -> None:
    below = product(model, "wide.weight").input_value(1).get_node().input_value(0).get_node()
    below = below if below.get_type_name() == "Subtract" else product(model, "wide.weight").input_value(1).get_node()
    constant(below, 0, lambda stored: np.random.default_rng(1).permutation(stored.ravel()).reshape(stored.shape))


def bias_of_another_layer(model: Any) -> None:
    (reader,) = [one.get_node() for one in product(model, "head.weight").output(0).get_target_inputs()]
    while reader.get_type_name() != "Add":
        (reader,) = [one.get_node() for one in reader.output(0).get_target_inputs()]
    bias = ov.op.Constant(np.linspace(-1, 1, 5, dtype=np.float32))
    reader.input(1).replace_source_output(bias.output(0))


def operator_without_its_mark(model: Any) -> None:
    left = {name.removesuffix(BIASED): text for name, text in json.loads(marks_of(model)).items()}
    mark(model, dict(list(left.items())[1:]))


def mark_of_no_operator(model: Any) -> None:
    model.set_rt_info(json.dumps({**json.loads(marks_of(model)), "nobody/Gemm": "[]"}), ["edgevit", "layers"])


def marks_that_are_no_json(model: Any) -> None:
    model.set_rt_info("{", ["edgevit", "layers"])


@pytest.mark.parametrize(
    ("sabotage", "said"),
    [
        (doubled_input_scale, "the scale of the input of .* is another than the plan's"),
        (another_end_of_the_grid, "an end of the grid of the input of .* is another than the plan's"),
        (zero_point_off_by_one_at_both_ends, "the zero point of the input of .* is another than the plan's"),
        (doubled_weight_scale, "the scale of the weight of .* is another than the plan's"),
        (moved_axis, "are of another axis"),
        (dropped_pair, "a pair is missing"),
        (weights_of_another_layer, "does not compute the plan"),
        (bias_of_another_layer, "does not compute the plan"),
        (operator_without_its_mark, "does not compute all of it so"),
        (mark_of_no_operator, "it has no operation nobody/Gemm"),
        (marks_that_are_no_json, "is no JSON"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_operator_is_found(
    sabotage: Sabotage, said: str, artifact: Artifact, layers: Layers, tmp_path: Path
) -> None:
    with pytest.raises(ParityFailed, match=said):
        proved(artifact, layers, sabotage, tmp_path / "wrong")


def test_an_operator_of_the_plan_that_runs_in_floats_is_named(artifact: Artifact, tmp_path: Path) -> None:
    """As where OpenVINO leaves a pair in front of a product: here its weight is a float one."""
    folder = tmp_path / "float"
    shutil.copytree(artifact.path, folder)
    model = ov.Core().read_model(str(artifact.entry))
    node = product(model, "head.weight")
    weight = ov.op.Constant(np.ones((5, 6), np.float32))
    node.input(1).replace_source_output(weight.output(0))
    ov.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
    changed = Artifact(folder, artifact.manifest.model_copy(update={"files": hash_tree(folder)}))
    inputs, _ = artifact.golden()
    with open_session(changed, threads=1) as session:
        named = session.in_floats({name: rows[:1] for name, rows in inputs.items()}, _operators(artifact))
    assert named == (node.get_friendly_name(),)


def _operators(artifact: Artifact) -> Any:
    plan = artifact.plan()
    assert isinstance(plan, QuantPlan)
    with open_session(artifact, threads=1) as session:
        return session.operators(plan)


def test_a_processor_that_cuts_8_bit_sums_off_opens_no_integers(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = build.export(
        mixed(), "openvino", out=tmp_path / "narrow", precision="int8", inputs=rows_of(64),
        options={"encoding": "avx2"}, verify=False,
    )  # fmt: skip
    monkeypatch.setattr("edgevit.cpu.flags", lambda: frozenset({"avx2", "avx512f"}))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(Unsupported, match="x86 with VNNI") as refused:
        open_session(artifact, threads=1)
    assert "openvino.encoding=avx2" in str(refused.value.hint)
    with open_session(narrow, threads=1) as session:
        assert kernels_of(session).operators == artifact.manifest.integers.operators  # type: ignore[union-attr]


def test_an_export_of_a_range_of_batches_says_what_its_layers_show(tmp_path: Path) -> None:
    made = build.export(mixed(), "openvino", out=tmp_path / "x", precision="int8", inputs=rows_of(64), batch="1-4")
    parity = made.manifest.parity
    assert (parity.status, parity.runtime, parity.batches) == ("verified", "openvino", (1, 3, 4))
    assert parity.layers is not None
    assert sum((parity.layers.kernels or {}).values()) == parity.layers.operators
    assert made.manifest.precision_report.layers["int8"] == parity.layers.operators
