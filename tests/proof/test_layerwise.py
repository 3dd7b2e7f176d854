"""Sabotaged integers: each way to be wrong is seen by what an artifact's layers alone show."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from integer_models import captured, mixed, rows_of
from sabotaged_integers import (
    Sabotage,
    bias_of_another_layer,
    doubled_input_scale,
    doubled_weight_scale,
    dropped_input_pair,
    dropped_output_pair,
    moved_axis,
    weights_of_another_layer,
    zero_point_off_by_one_at_both_ends,
)

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

PLAIN = {"quantizer": "plain"}  # weights as the model has them


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Artifact:
    out = tmp_path_factory.mktemp("int8") / "mixed"
    return build.export(mixed(), "onnx", out=out, precision="int8", inputs=rows_of(64), verify=False, quantizing=PLAIN)


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


def test_a_right_artifact_passes(artifact: Artifact, layers: Layers, tmp_path: Path) -> None:
    proved(artifact, layers, lambda model: None, tmp_path / "right")


def test_a_processor_that_cuts_8_bit_sums_off_opens_no_integers(artifact: Artifact, monkeypatch) -> None:
    monkeypatch.setattr("edgevit.cpu.flags", lambda: frozenset({"avx2", "avx512f"}))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(Unsupported, match="x86 with VNNI") as refused:
        open_session(artifact, threads=1)
    assert "onnx.encoding=avx2" in str(refused.value.hint)


def test_the_same_processor_opens_integers_of_fewer_bits(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("edgevit.cpu.flags", lambda: frozenset({"avx2", "avx512f"}))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    narrow = build.export(
        mixed(), "onnx", out=tmp_path / "narrow", precision="int8", inputs=rows_of(64), options={"encoding": "avx2"},
        verify=False,
    )  # fmt: skip
    with open_session(narrow, threads=1) as session:
        assert session.infer({"image": rows_of(1)["image"]})


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
