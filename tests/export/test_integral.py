"""``--precision int8`` from end to end: what is built, what it is held against, what it costs, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from integer_models import mixed, rows_of
from torch import Tensor, nn

from edgevit import build
from edgevit.artifact.opened import Artifact
from edgevit.errors import ExportFailed, GateMissed, UnknownName, Unsupported, UsageError
from edgevit.proof.verify import verify
from edgevit.request import ExportRequest, ModelChoice


def exported(out, module: nn.Module | None = None, rows: int = 64, target: str = "onnx", **asked) -> Artifact:
    given = rows_of(rows)
    return build.export(module or mixed(), target, out=out, precision="int8", inputs=given, quantizing=asked)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Artifact:
    return exported(tmp_path_factory.mktemp("int8") / "mixed")


def test_an_artifact_of_integers_is_verified_against_its_plan_and_says_what_it_costs(artifact: Artifact) -> None:
    manifest, plan = artifact.manifest, artifact.plan()
    assert plan is not None
    assert manifest.integers is not None
    assert manifest.parity.layers is not None
    assert manifest.parity.status == "verified"
    assert manifest.parity.outputs["output"].median == 0.0
    assert (manifest.integers.layers, manifest.integers.kept) == (len(plan.layers), len(plan.kept)) == (6, 1)
    assert manifest.parity.layers.operators == manifest.integers.operators == 9
    assert sum(manifest.parity.layers.kernels.values()) == 9
    assert 0 < manifest.integers.loss.rms < 0.2
    assert plan.calibration.rows == 32


def test_verify_holds_the_file_against_the_plan_on_any_device(artifact: Artifact) -> None:
    found = verify(artifact.path)
    assert "9 operators have the scales, zero points and axes of their plan" in found.checks
    assert any(sentence.startswith("9 of 9 operators ran in integers") for sentence in found.checks)


def test_verify_with_torch_says_that_integers_are_held_against_their_plan(artifact: Artifact) -> None:
    with pytest.raises(Unsupported, match="their reference is their plan"):
        verify(artifact.path, runtime="torch")


def test_integers_beside_floats_are_allowed_what_they_cost(artifact: Artifact, tmp_path) -> None:
    floats = build.export(mixed(), "onnx", out=tmp_path / "floats", inputs=rows_of(64))
    found = verify(artifact.path, against=floats.path)
    assert found.against is not None
    assert found.against.tolerance == 10 * artifact.manifest.integers.loss.rms  # type: ignore[union-attr]


def test_a_layer_that_was_asked_to_stay_float_does(tmp_path) -> None:
    plan = exported(tmp_path / "kept", keep_float=["qkv"]).plan()
    assert plan is not None
    assert plan.kept["qkv.weight"] == "--keep-float qkv"
    with pytest.raises(UnknownName, match="unknown layer 'qvk'"):
        exported(tmp_path / "no", keep_float="qvk")


def test_the_most_harmful_layers_go_back_to_float_until_the_loss_is_allowed(artifact: Artifact, tmp_path) -> None:
    whole = artifact.manifest.integers
    assert whole is not None
    less = exported(tmp_path / "less", max_drop=whole.loss.drop / 2).manifest.integers
    assert less is not None
    assert less.loss.drop <= whole.loss.drop / 2
    assert less.layers == whole.layers - len(less.restored)
    assert all("alone it moves the outputs by" in said for said in less.restored.values())


def test_a_gate_that_no_integers_hold_is_missed_and_leaves_nothing(tmp_path) -> None:
    with pytest.raises(GateMissed, match="--max-drop allows 0"):
        exported(tmp_path / "none", max_drop=0.0)
    assert not (tmp_path / "none").exists()


def test_rows_that_all_prove_leave_none_to_calibrate_on(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"the first 32 rows .* leaves 8"):
        exported(tmp_path / "few", rows=40)


def test_images_that_the_model_is_judged_on_calibrate_nothing(tmp_path) -> None:
    from edgevit.data.source import open_data

    held = open_data("digits", split="held-out")
    pixels = np.stack([held.images[index] for index in range(len(held))])
    np.savez(tmp_path / "held.npz", images=pixels, labels=np.asarray(held.labels))
    request = ExportRequest(
        ModelChoice("vit_nano", weights="digits"), ("onnx",), precision="int8", out=tmp_path / "out",
        quantizing=build.quantizing_of({"calibrate": f"npz:{tmp_path / 'held.npz'}"}),
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"of which the artifact is proved and judged on; ranges need 16 others"):
        build.artifact(request)


def test_a_target_without_integers_says_which_has_them(tmp_path) -> None:
    with pytest.raises(Unsupported, match="tvm artifacts cannot be w8 yet") as caught:
        build.export(mixed(), "tvm", out=tmp_path / "no", precision="w8", inputs=rows_of(64))
    assert caught.value.hint is not None
    assert "-t onnx --precision w8" in caught.value.hint


class Explodes(nn.Module):
    """Finite on the rows of the proof, no number on one of calibration."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.two(self.one(image) / (image[:, :1].amax((2, 3), keepdim=True) < 50).float())
        return found


def test_activations_that_are_no_numbers_are_said(tmp_path) -> None:
    torch.manual_seed(0)
    rows = rows_of(64)
    rows["image"][40] = 100.0
    with pytest.raises(ExportFailed, match="on calibration rows the model computes what is no number"):
        build.export(Explodes().eval(), "onnx", out=tmp_path / "nan", precision="int8", inputs=rows)


def test_options_of_integers_need_a_precision_of_them() -> None:
    with pytest.raises(UsageError, match="are of integers"):
        ExportRequest(ModelChoice("vit_nano"), ("onnx",), quantizing=build.quantizing_of({"max_drop": 1.0}))
