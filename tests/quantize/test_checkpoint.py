"""``edgevit quantize``: integers in a checkpoint, which every target takes as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import said as run

from edgevit.artifact.opened import Artifact
from edgevit.errors import UsageError
from edgevit.export.prepare import prepare
from edgevit.models import create_model
from edgevit.models.loading.checkpoint import read_checkpoint
from edgevit.models.loading.source import state_sha256
from edgevit.quantize.asked import Quantizing
from edgevit.quantize.checkpoint import quantize
from edgevit.quantize.integral import Integral
from edgevit.request import ExportRequest, ModelChoice

FEW = Quantizing(images=32)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quantized") / "int8.safetensors"
    request = ExportRequest(ModelChoice("fmvit_nano", "digits"), (), "int8", quantizing=FEW)
    quantize(request, out, force=False)
    return out


def _integral(path: Path, **asked: object) -> Integral:
    choice = ModelChoice("fmvit_nano", str(path), **{k: v for k, v in asked.items() if k == "image_size"})  # type: ignore[arg-type]
    rest = {name: value for name, value in asked.items() if name != "image_size"}
    prepared = prepare(ExportRequest(choice, (), "int8", **rest))  # type: ignore[arg-type]
    assert prepared.integers is not None
    found = prepared.integers()
    assert isinstance(found, Integral)
    return found


def test_the_float_weights_are_what_they_were(quantized: Path) -> None:
    ours, before = (create_model("fmvit_nano", weights=one) for one in (quantized, "digits"))
    assert state_sha256(ours) == state_sha256(before)
    assert not any("integers" in name for name in read_checkpoint(quantized).sets[""])


def test_an_export_finds_the_same_integers(quantized: Path) -> None:
    stored = json.loads(str(read_checkpoint(quantized)[1].integers))["plan"]  # type: ignore[union-attr]
    found = _integral(quantized)
    assert json.loads(found.plan.text()) == stored
    assert found.plan.quantizer == "ridge"
    assert set(found.plan.corrected) == set(found.found.weights)
    assert found.plan.corrected


def test_every_target_has_its_scales(quantized: Path, tmp_path: Path) -> None:
    made = run(
        "export", "fmvit_nano", "--weights", str(quantized), "-t", "onnx", "-t", "openvino", "--precision", "int8",
        "-o", str(tmp_path), "--json", "--no-verify",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    plans = [Artifact.open(Path(row["artifact"])).plan() for row in json.loads(made.stdout)]
    scales = [{name: (layer.input, layer.scales) for name, layer in plan.layers.items()} for plan in plans if plan]
    assert scales[0] == scales[1]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"quantizing": Quantizing(observer="mse")}, "has its integers already, found by ridge"),
        ({"form": "train"}, "another form of the model"),
        ({"bake_preprocess": True}, "another form of the model"),
    ],
    ids=["an observer", "train form", "baked preprocessing"],
)
def test_what_the_integers_are_not_of_is_refused(quantized: Path, asked: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        _ = _integral(quantized, **asked).plan


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--weights", "digits", "-o", "a.pt"], 2, "cannot hold integers"),
        (["--weights", "digits", "--calibration-images", "3", "-o", "a.safetensors"], 2, "too narrow"),
        (["--weights", "digits", "--quantizer", "rigde", "-o", "a.safetensors"], 2, "ridge"),
        (["--weights", "QUANTIZED", "-o", "a.safetensors"], 2, "has its integers already"),
        (["--weights", "digits", "-o", "QUANTIZED"], 2, "exists"),
    ],
    ids=["a .pt", "too few images", "an unknown quantizer", "quantized already", "a file that is there"],
)
def test_what_cannot_be_is_one_sentence(
    quantized: Path, tmp_path: Path, arguments: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = quantized.read_bytes()
    given = [str(quantized) if one == "QUANTIZED" else one for one in arguments]
    monkeypatch.chdir(tmp_path)
    ran = run("quantize", "fmvit_nano", *given)
    assert ran.returncode == code
    assert said in ran.stderr
    assert ran.stderr.count("error:") == 1
    assert "next:" in ran.stderr or "did you mean" in ran.stderr
    assert quantized.read_bytes() == before
    assert not (tmp_path / "a.safetensors").exists()


def test_images_that_ranges_were_found_on_judge_nothing(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgevit.data.source import open_data
    from edgevit.quantize.calibration import Held

    monkeypatch.setattr(Held, "of", classmethod(lambda cls, data, wanted: cls(data, open_data(data, split="train"))))
    with pytest.raises(UsageError, match="32 of the images of digits that integers are judged on"):
        _integral(quantized)
