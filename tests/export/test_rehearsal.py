"""A dry run says what the real one would do, and does none of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgevit import build
from edgevit.errors import UnknownName, UsageError
from edgevit.export import prepare
from edgevit.export.rehearsal import REHEARSED, rehearse
from edgevit.request import ExportRequest, ModelChoice


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))


def test_what_where_how_and_how_long_it_took(tmp_path: Path) -> None:
    request = ExportRequest(
        ModelChoice("vit_nano", weights="digits"), ("onnx",), options={"onnx": {"opset": "18"}}, out=tmp_path / "x"
    )
    (first,) = rehearse(request)
    assert first.record() == {
        "artifact": str(tmp_path / "x"),
        "target": "onnx",
        "precision": "fp32",
        "options": {"opset": 18, "optimize": True, "encoding": "x86", "external_limit": 2_000_000_000},
        "vacant": True,
        "last_seconds": None,
        "last_built": None,
    }
    assert first.row() == (str(tmp_path / "x"), "onnx", "fp32", "opset=18", "vacant", "—")
    assert len(first.row()) == len(REHEARSED)
    (outcome,) = build.exports(request)
    assert outcome.artifact
    (again,) = rehearse(replace(request, force=True))
    assert again.took is not None
    assert again.took.seconds == pytest.approx(outcome.seconds, abs=0.06)
    assert again.record()["vacant"] is False
    assert again.row()[4] == "is replaced"


def test_no_model_is_loaded_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "load", None)
    assert [intent.error for intent in rehearse(ExportRequest(ModelChoice("vit_large"), ("onnx",), out=tmp_path / "x"))]
    assert not list(tmp_path.iterdir())


def test_errors_are_those_of_the_real_run(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    for wrong, kind in (({"out": tmp_path / "taken"}, UsageError), ({"precision": "fp61"}, UnknownName)):
        request = ExportRequest(ModelChoice("vit_nano"), ("onnx",), **wrong)
        (intent,), (outcome,) = rehearse(request), build.exports(request)
        assert type(intent.error) is type(outcome.error) is kind
        assert str(intent.error) == str(outcome.error)


@pytest.mark.parametrize(
    "model",
    [
        ModelChoice("vit_nan"),
        ModelChoice("nowhere.py:build"),
        ModelChoice("nowhere.py"),
        ModelChoice("vit_nano", weights="nowhere.safetensors"),
        ModelChoice("vit_nano", weights="nowhere.safetensors#ema"),
        ModelChoice("vit_tiny", weights="digits"),
        ModelChoice("vit_nano", pretrained=True),
    ],
)
def test_a_model_that_is_not_there_is_said_as_in_the_real_run(model: ModelChoice, tmp_path: Path) -> None:
    request = ExportRequest(model, ("onnx",), out=tmp_path / "x")
    with pytest.raises(UsageError) as rehearsed:
        list(rehearse(request))
    with pytest.raises(UsageError) as real:
        list(build.exports(request))
    assert str(rehearsed.value) == str(real.value)
    assert rehearsed.value.hint == real.value.hint
