"""How long it took last time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgevit.export import durations
from edgevit.export.durations import last, remember
from edgevit.export.targets import choose
from edgevit.request import ExportRequest, ModelChoice

REQUEST = ExportRequest(ModelChoice("vit_nano"), ("onnx",))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_newest_duration_of_the_same_export_is_told() -> None:
    target = choose("onnx")
    assert last(REQUEST, target) is None
    remember(REQUEST, target, 12.34)
    remember(REQUEST, target, 9.87)
    assert last(REQUEST, target).seconds == 9.9


def test_another_model_size_precision_option_or_host_is_another_export(monkeypatch: pytest.MonkeyPatch) -> None:
    target = choose("onnx")
    remember(REQUEST, target, 9.0)
    assert last(replace(REQUEST, model=ModelChoice("fmvit_nano")), target) is None
    assert last(replace(REQUEST, model=ModelChoice("vit_nano", image_size=(64, 64))), target) is None
    assert last(REQUEST, choose("onnx", "fp16")) is None
    assert last(REQUEST, choose("onnx", options={"opset": 18})) is None
    assert last(replace(REQUEST, threads=1), target) is not None
    monkeypatch.setattr(durations.platform, "node", lambda: "another")
    assert last(REQUEST, target) is None


def test_only_the_newest_few_hundred_are_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "KEPT", 3)
    target = choose("onnx")
    for number in range(5):
        remember(replace(REQUEST, model=ModelChoice(f"model-{number}")), target, number)
    assert len(json.loads((home / "durations.json").read_text())) == 3
    assert last(replace(REQUEST, model=ModelChoice("model-4")), target).seconds == 4


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"x": 3}', '{"x": {"when": 5}}', "\x00"])
def test_a_broken_record_is_no_hindrance_and_is_replaced(home: Path, text: str) -> None:
    home.mkdir()
    (home / "durations.json").write_text(text)
    target = choose("onnx")
    assert last(REQUEST, target) is None
    remember(REQUEST, target, 2.0)
    assert last(REQUEST, target).seconds == 2.0


def test_where_nothing_can_be_kept_nothing_is(home: Path) -> None:
    home.write_text("a file where the folder should be")
    remember(REQUEST, choose("onnx"), 2.0)
    assert last(REQUEST, choose("onnx")) is None


def test_a_module_has_no_name_to_ask_by(home: Path) -> None:
    remember(ExportRequest(ModelChoice(object()), ("onnx",)), choose("onnx"), 2.0)  # type: ignore[arg-type]
    assert not home.exists()
