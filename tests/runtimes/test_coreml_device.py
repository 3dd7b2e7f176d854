"""The Core ML runtime, as far as it can be tested without a Mac.

Compute plans are recorded shapes: coremltools' own classes of ``coremltools.models.compute_plan``, filled by hand as
its documentation describes them. No Mac has produced them.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from coremltools.models import compute_device as devices
from coremltools.models import compute_plan as recorded
from PIL import Image

from edgevit.artifact.files import hash_tree
from edgevit.artifact.manifest import MANIFEST, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, EdgeVitError, UnknownName, Unsupported, UsageError
from edgevit.runtimes.base import LayerTime, open_session
from edgevit.runtimes.coreml import here as machine
from edgevit.runtimes.coreml.device import CoreMlRuntime, CoreMlSession, as_core_ml, choose_units
from edgevit.runtimes.coreml.plan import Placement, layer_times, placements, read_modules

CPU, GPU, ANE = (
    object.__new__(kind)
    for kind in (devices.MLCPUComputeDevice, devices.MLGPUComputeDevice, devices.MLNeuralEngineComputeDevice)
)


def operation(kind: str, output: str) -> recorded.MLModelStructureProgramOperation:
    named = recorded.MLModelStructureProgramNamedValueType(output, recorded.MLModelStructureProgramValueType())
    return recorded.MLModelStructureProgramOperation({}, kind, [named], [], None)


class RecordedPlan:
    """The three members of ``MLComputePlan`` that are read, with answers by the name of an operation's result."""

    def __init__(self, operations, usages, costs) -> None:
        block = recorded.MLModelStructureProgramBlock([], operations, ["logits"])
        function = recorded.MLModelStructureProgramFunction([], block)
        program = recorded.MLModelStructureProgram({"main": function})
        self.model_structure = recorded.MLModelStructure(None, program, None)
        self._usages, self._costs = usages, costs

    def get_compute_device_usage_for_mlprogram_operation(self, one):
        return self._usages.get(one.outputs[0].name)

    def get_estimated_cost_for_mlprogram_operation(self, one):
        weight = self._costs.get(one.outputs[0].name)
        return None if weight is None else recorded.MLComputePlanCost(weight)


def plan() -> RecordedPlan:
    usage = recorded.MLComputePlanDeviceUsage
    operations = [
        operation("const", "weight"),
        operation("ios17.conv", "conv_0"),
        operation("ios17.layer_norm", "norm"),
        operation("ios17.cast", "cast_1"),
    ]
    usages = {"conv_0": usage(ANE, [CPU, GPU, ANE]), "norm": usage(CPU, [CPU])}
    return RecordedPlan(operations, usages, {"conv_0": 0.75, "norm": 0.25})


def test_a_compute_plan_says_which_unit_runs_every_operation():
    assert placements(plan()) == [
        Placement("conv_0", "conv", "ane", ("cpu", "gpu", "ane"), 0.75),
        Placement("norm", "layer_norm", "cpu", ("cpu",), 0.25),
        Placement("cast_1", "cast", "unknown", (), 0.0),
    ]


def test_a_plan_of_something_else_than_an_mlprogram_is_refused():
    other = plan()
    other.model_structure = recorded.MLModelStructure(recorded.MLModelStructureNeuralNetwork([]), None, None)
    with pytest.raises(BadArtifact, match="mlprogram"):
        placements(other)


def test_layer_times_are_shares_of_the_whole_with_modules_and_without_what_costs_nothing():
    found = layer_times(placements(plan()), {"conv_0": "stem", "norm": ""}, total_ms=4.0)
    assert found == [LayerTime("conv_0", "conv", "stem", "ane", 3.0), LayerTime("norm", "layer_norm", "", "cpu", 1.0)]


def test_modules_are_read_from_the_artifact_and_must_be_there(tmp_path):
    with pytest.raises(BadArtifact, match=r"layers\.json"):
        read_modules(tmp_path)
    rows = [{"name": "conv_0", "op": "conv", "dtype": "float16", "module": "stem"}]
    (tmp_path / "layers.json").write_text(json.dumps(rows))
    assert read_modules(tmp_path) == {"conv_0": "stem"}


@pytest.fixture
def artifact(make_artifact):
    """A function that makes an artifact with a Core ML manifest; its package is a stand-in that nothing here opens."""

    def make(**options) -> Artifact:
        folder = make_artifact()
        (folder / "model.onnx").rename(folder / "model.mlpackage")
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest |= {"target": "coreml", "entry": "model.mlpackage", "options": options}
        manifest["files"] = hash_tree(folder)
        (folder / MANIFEST).write_text(json.dumps(manifest))
        return Artifact.open(folder)

    return make


@pytest.mark.skipif(sys.platform == "darwin", reason="this is about machines without Core ML")
@pytest.mark.parametrize(("ios", "macos"), [("16", 13), ("17", 14), ("18", 15)])
def test_off_a_mac_opening_says_which_macos_is_needed_and_how_to_verify_here(artifact, ios, macos):
    with pytest.raises(Unsupported, match=rf"^needs macOS {macos} or later$") as caught:
        open_session(artifact(ios=ios), "coreml")
    assert caught.value.exit_code == 4
    assert "--runtime coreml-reference" in (caught.value.hint or "")


def test_an_older_macos_than_the_package_needs_is_refused(monkeypatch):
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(machine.platform, "mac_ver", lambda: ("14.5", ("", "", ""), "arm64"))
    assert machine.lacking({"ios": "17"}) is None
    assert machine.lacking({"ios": "18"}) == "needs macOS 15 or later"
    assert machine.here().able


@pytest.mark.skipif(sys.platform == "darwin", reason="this is about machines without Core ML")
def test_what_this_machine_can_do_is_said_for_core_ml_and_for_the_reference_evaluator():
    assert not machine.here().able
    assert machine.here().sentence.startswith("needs macOS")
    assert machine.here_reference().able
    assert machine.here_reference().sentence.startswith("reference evaluator")


def test_the_artifact_chooses_the_compute_units_unless_the_caller_does():
    assert choose_units(None, {}) == "all"
    assert choose_units(None, {"compute_units": "cpu_and_ne"}) == "ane"
    assert choose_units("gpu", {"compute_units": "cpu_and_ne"}) == "gpu"
    with pytest.raises(UnknownName, match="npu"):
        choose_units("npu", {})


def test_the_runtime_has_no_options(artifact):
    with pytest.raises(UsageError, match="no option"):
        CoreMlRuntime().open(artifact(), threads=1, provider=None, options={"fast": True})


def test_pixels_become_a_picture_or_float32_and_nothing_else_changes():
    image = TensorSpec(name="image", dtype="uint8", shape=(1, 2, 3, 3), role="image")
    pixels = np.arange(18, dtype=np.uint8).reshape(1, 2, 3, 3)
    picture = as_core_ml(image, pixels, picture=True)
    assert isinstance(picture, Image.Image)
    assert picture.size == (3, 2)
    np.testing.assert_array_equal(np.asarray(picture), pixels[0])
    widened = as_core_ml(image, pixels, picture=False)
    assert widened.dtype == np.float32
    np.testing.assert_array_equal(widened, pixels)
    tokens = np.ones((1, 4), np.int32)
    assert as_core_ml(TensorSpec(name="x", dtype="int32", shape=(1, 4), role="tensor"), tokens, picture=False) is tokens


class RecordedModel:
    """``MLModel.predict`` as documented: a dictionary of arrays in, one of arrays out."""

    def predict(self, data):
        if data["image"].max() > 1e6:
            raise RuntimeError("Failed to predict")
        return {"logits": data["image"].mean((1, 2, 3))[:, None] * np.ones((1, 4), np.float64)}


def test_a_session_returns_the_manifests_types_and_turns_failures_into_errors(artifact):
    session = CoreMlSession(artifact(), 1, RecordedModel(), "ane")
    (spec,) = session.inputs
    rows = session.artifact.manifest.batch.min
    image = np.ones((rows, *spec.shape[1:]), np.float32)
    assert session.infer({"image": image})["logits"].dtype == np.float32
    assert (session.provider, session.details["compute_units"]) == ("ane", "CPU_AND_NE")
    with pytest.raises(EdgeVitError, match="Failed to predict"):
        session.infer({"image": image * 1e7})
    session.close()
    with pytest.raises(EdgeVitError, match="closed"):
        session.infer({"image": image})
