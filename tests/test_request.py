"""What an export is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgevit import registry
from edgevit.artifact.manifest import BatchRange
from edgevit.errors import UnknownName, Unsupported, UsageError
from edgevit.registry import Row
from edgevit.request import (
    ExportRequest,
    ModelChoice,
    image_sides,
    of_record,
    parse_batch,
    resolve_targets,
    split_options,
)

ABSENT = Row("absent", "nowhere:Nothing", "edgevit[absent]", ("a-package-that-is-not",), "")
FULL = ExportRequest(
    ModelChoice("vit_nano", weights="digits", classes=10, image_size=(32, 48)),
    ("onnx", "tvm"),
    precision="fp32",
    batch=BatchRange(min=1, max=8),
    options={"onnx": {"opset": "18"}},
    labels=("a", "b"),
    data="digits",
    out=Path("some/where"),
    force=True,
    threads=2,
    timeout_s=60.0,
)


@pytest.fixture
def with_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "EXPORTERS", {"absent": ABSENT, **registry.EXPORTERS})


@pytest.mark.parametrize("request_", [FULL, ExportRequest(ModelChoice("vit_nano"), ("onnx",))])
def test_a_request_crosses_to_a_worker_as_json(request_: ExportRequest) -> None:
    assert of_record(json.loads(json.dumps(request_.record()))) == request_


def test_what_cannot_be_right_is_said_when_the_request_is_made() -> None:
    with pytest.raises(UnknownName, match="unknown form 'deployed'"):
        replace(FULL, form="deployed")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="options for onnx, which is not being built"):
        replace(FULL, targets=("tvm",))
    with pytest.raises(UsageError, match="contradict each other"):
        ModelChoice("timm:resnet18", weights="a.pth", pretrained=True)
    with pytest.raises(UsageError, match="has its weights already"):
        ModelChoice(object(), weights="digits")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"classes must be 0 \(no head\) or more, got -1"):
        ModelChoice("vit_nano", classes=-1)
    with pytest.raises(UsageError, match="image size must be 1 or more pixels"):
        ModelChoice("vit_nano", image_size=(32, 0))


def test_one_side_stands_for_both() -> None:
    assert image_sides(32) == image_sides((32, 32)) == (32, 32)
    assert image_sides(None) is None


@pytest.mark.parametrize("text", ["0", "-3", "8-1", "two", "1-", ""])
def test_a_batch_that_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="number or a range"):
        parse_batch(text)


def test_a_batch_is_a_number_or_a_range() -> None:
    assert parse_batch(4) == parse_batch("4") == BatchRange(min=4, max=4)
    assert parse_batch("1-8") == BatchRange(min=1, max=8)


def test_options_go_to_the_target_that_they_name() -> None:
    split = split_options(["onnx.opset=18", "absent.level=a=b"], ["onnx", "absent"])
    assert split == {"onnx": {"opset": "18"}, "absent": {"level": "a=b"}}


def test_a_bare_option_belongs_to_the_only_target() -> None:
    assert split_options(["opset=18"], ["onnx"]) == {"onnx": {"opset": "18"}}
    with pytest.raises(UsageError, match="does not say for which target") as caught:
        split_options(["opset=18"], ["onnx", "absent"])
    assert caught.value.hint == "write onnx.opset=18"


@pytest.mark.parametrize("option", ["opset", "=3", ""])
def test_an_option_without_a_name_or_value_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match="is not KEY=VALUE"):
        split_options([option], ["onnx"])


def test_an_option_for_a_target_that_is_not_built_is_refused() -> None:
    with pytest.raises(UsageError, match="which is not being built"):
        split_options(["tvm.trials=3"], ["onnx"])


@pytest.mark.usefixtures("with_absent")
def test_all_means_what_this_machine_can_build() -> None:
    able = tuple(name for name, row in registry.EXPORTERS.items() if name != "absent" and row.on_this_machine().able)
    assert resolve_targets(["all"]) == able
    assert "onnx" in able
    assert resolve_targets(["onnx", "absent", "onnx"]) == ("onnx", "absent")
    with pytest.raises(UnknownName):
        resolve_targets(["onnx", "nothing-like-it"])


def test_all_where_nothing_can_be_built_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "EXPORTERS", {"absent": ABSENT})
    monkeypatch.setattr(registry, "rows", lambda kind: registry.EXPORTERS)
    with pytest.raises(Unsupported, match="can build no target") as caught:
        resolve_targets(["all"])
    assert "edgevit targets" in str(caught.value.hint)


def test_rows_survive_the_way_to_a_worker_as_json() -> None:
    rows = {"x": np.arange(48, dtype=np.float32).reshape(16, 3), "mask": np.eye(16, 2, dtype=bool)}
    request = ExportRequest(ModelChoice("mine.py:both"), ("onnx",), inputs=rows)
    again = of_record(json.loads(json.dumps(request.record()))).inputs
    assert again is not None
    for name, array in rows.items():
        assert again[name].dtype == array.dtype
        assert (again[name] == array).all()
