"""Sabotaged Core ML packages: each way to be wrong is seen by what their operators of integers show."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.proto import MIL_pb2, Model_pb2
from integer_models import captured, mixed, rows_of

from edgevit import build
from edgevit.artifact.files import hash_tree
from edgevit.artifact.manifest import MANIFEST
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, ParityFailed
from edgevit.proof.layerwise import prove_layers
from edgevit.quantize.alone import Layers
from edgevit.quantize.plan import QuantPlan
from edgevit.quantize.trial import Trial
from edgevit.runtimes.base import open_session

PROGRAM = "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"

PLAIN = {"quantizer": "plain"}  # weights as the model has them


class Package:
    """A saved package that can be changed: ``operations`` by the name of their result."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = Model_pb2.Model()
        self.spec.ParseFromString((folder / PROGRAM).read_bytes())
        function = self.spec.mlProgram.functions["main"]
        self.block = function.block_specializations[function.opset]
        self.operations = {one.outputs[0].name: one for one in self.block.operations}

    def given(self, operation: Any, name: str) -> Any:
        """The operation that makes an input of another."""
        return self.operations[operation.inputs[name].arguments[0].name]

    def layer(self, kind: str, nth: int) -> Any:
        """One of the operations of integers."""
        found = [one for one in self.block.operations if one.type == kind and self.pair(one) is not None]
        return found[nth]

    def pair(self, operation: Any) -> Any:
        name = "x" if "x" in operation.inputs else None
        made = self.operations.get(operation.inputs[name].arguments[0].name) if name else None
        return made if made is not None and made.type == "dequantize" else None

    def save(self) -> None:
        (self.folder / PROGRAM).write_bytes(self.spec.SerializeToString())


Sabotage = Callable[[Package], None]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Artifact:
    out = tmp_path_factory.mktemp("coreml") / "mixed"
    return build.export(
        mixed(), "coreml", out=out, precision="int8", inputs=rows_of(64), verify=False, quantizing=PLAIN
    )


@pytest.fixture(scope="module")
def layers(artifact: Artifact) -> Layers:
    plan = artifact.plan()
    assert isinstance(plan, QuantPlan)
    return Trial(captured(mixed())).layers(plan, rows_of(2))


def proved(artifact: Artifact, layers: Layers, sabotage: Sabotage, folder: Path) -> None:
    """The artifact with its program changed and its hashes made to fit, operator by operator."""
    shutil.copytree(artifact.path, folder)
    package = Package(folder)
    sabotage(package)
    package.save()
    manifest = artifact.manifest.model_copy(update={"files": hash_tree(folder)})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    with open_session(folder, threads=1) as session:
        prove_layers(session, layers)


def test_a_right_package_passes(artifact: Artifact, layers: Layers, tmp_path: Path) -> None:
    proved(artifact, layers, lambda package: None, tmp_path / "right")


def test_what_a_device_makes_of_its_integers_is_not_claimed(artifact: Artifact, layers: Layers) -> None:
    with open_session(artifact, threads=1) as session:
        found = prove_layers(session, layers)
    assert found.kernels is None
    assert found.sentence() == "7 operators of integers; which of them a device computes so was never run by us"
    assert 0 < found.worst < 1e-6


def doubled_input_scale(package: Package) -> None:
    pair = package.pair(package.layer("linear", 0))
    for one in (pair, package.given(pair, "input")):
        own = MIL_pb2.Operation()
        own.CopyFrom(package.given(one, "scale"))
        values = own.attributes["val"].immediateValue.tensor
        values.bytes.values = (np.frombuffer(values.bytes.values, np.float16) * 2).tobytes()
        _bound(package, one, "scale", own)


def zero_point_off_by_one_at_both_ends(package: Package) -> None:
    pair = package.pair(package.layer("linear", 0))
    for one in (pair, package.given(pair, "input")):
        own = MIL_pb2.Operation()
        own.CopyFrom(package.given(one, "scale"))
        for kind in (own.outputs[0].type, own.attributes["val"].type):
            kind.tensorType.dataType = MIL_pb2.INT8
        own.attributes["val"].immediateValue.tensor.bytes.values = np.int8(1).tobytes()
        _bound(package, one, "zero_point", own)


def _bound(package: Package, operation: Any, place: str, constant: Any) -> None:
    """Give an input of an operation a constant of its own."""
    name = f"{operation.outputs[0].name}_{place}_own"
    constant.outputs[0].name = name
    constant.attributes["name"].immediateValue.tensor.strings.values[0] = name
    operation.inputs[place].ClearField("arguments")
    operation.inputs[place].arguments.add().name = name
    package.block.operations.insert(0, constant)


def doubled_weight_scale(package: Package) -> None:
    place, size = _blob(package, _stored(package, "linear", 0), "scale")
    _overwritten(package, place, size, lambda data: (data.view(np.float16) * np.float16(2)).view(np.uint8))


def moved_axis(package: Package) -> None:
    stored = next(
        one
        for one in package.block.operations
        if one.type == "constexpr_affine_dequantize"
        and [side.constant.size for side in one.outputs[0].type.tensorType.dimensions] == [12, 12]
    )
    axis = stored.attributes["axis"].immediateValue.tensor.ints
    axis.values[0] = 1 - axis.values[0]


def dropped_pair(package: Package) -> None:
    operation = package.layer("conv", 0)
    first = package.given(package.pair(operation), "input")
    operation.inputs["x"].arguments[0].name = first.inputs["input"].arguments[0].name


def weights_of_another_layer(package: Package) -> None:
    place, size = _blob(package, _stored(package, "conv", 0), "quantized_data")
    _overwritten(package, place, size, lambda data: np.random.default_rng(1).permutation(data))


def operation_without_its_mark(package: Package) -> None:
    operation = package.layer("linear", 0)
    marked = (package.folder / "layers.json").read_text()
    name = operation.outputs[0].name
    changed = marked.replace(f'"{name}"', f'"{name}_other"', 1)
    assert changed != marked
    (package.folder / "layers.json").write_text(changed)


def _stored(package: Package, kind: str, nth: int) -> Any:
    return package.given(package.layer(kind, nth), "weight")


def _blob(package: Package, stored: Any, name: str) -> tuple[int, int]:
    """Where the bytes of a stored value begin, and how many they are."""
    offset = stored.attributes[name].blobFileValue.offset
    raw = (package.folder / WEIGHTS).read_bytes()
    sentinel, _, size, place = struct.unpack_from("<IIQQ", raw, offset)
    assert sentinel == 0xDEADBEEF
    return place, size


def _overwritten(package: Package, place: int, size: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    raw = bytearray((package.folder / WEIGHTS).read_bytes())
    data = np.frombuffer(bytes(raw[place : place + size]), np.uint8)
    raw[place : place + size] = change(data).tobytes()
    (package.folder / WEIGHTS).write_bytes(bytes(raw))


@pytest.mark.parametrize(
    ("sabotage", "said"),
    [
        (doubled_input_scale, "another scale than the plan"),
        (doubled_weight_scale, "another scale than the plan"),
        (zero_point_off_by_one_at_both_ends, "another zero point than the plan"),
        (moved_axis, "are of another axis"),
        (dropped_pair, "a pair is missing"),
        (weights_of_another_layer, "does not compute the plan"),
        (operation_without_its_mark, "it has no operation"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_operator_is_found(
    sabotage: Sabotage, said: str, artifact: Artifact, layers: Layers, tmp_path: Path
) -> None:
    with pytest.raises(ParityFailed, match=said):
        proved(artifact, layers, sabotage, tmp_path / "wrong")


def test_a_pair_before_weights_that_alone_are_integers_is_found(artifact: Artifact) -> None:
    plan = artifact.plan()
    assert isinstance(plan, QuantPlan)
    bare = plan.model_copy(update={"encoding": plan.encoding.model_copy(update={"activations": "float"})})
    with open_session(artifact, threads=1) as session, pytest.raises(BadArtifact, match="weights alone are integers"):
        session.operators(bare)


def test_an_export_says_what_its_layers_show(tmp_path: Path) -> None:
    made = build.export(mixed(), "coreml", out=tmp_path / "mixed", precision="int8", inputs=rows_of(64), batch="1-2")
    parity = made.manifest.parity
    assert (parity.status, parity.runtime, parity.batches) == ("verified", "coreml-reference", (1, 2))
    assert parity.layers is not None
    assert (parity.layers.operators, parity.layers.kernels) == (7, None)
