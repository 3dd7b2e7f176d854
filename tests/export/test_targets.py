"""What is settled before any work."""

from __future__ import annotations

from edgevit.export.targets import default_out


def test_the_default_folder_is_named_after_model_target_and_precision() -> None:
    assert str(default_out("fmvit_s", "onnx", "fp32")) == "artifacts/fmvit_s-onnx-fp32"
    assert str(default_out("timm:resnet18", "onnx", "fp16")) == "artifacts/timm-resnet18-onnx-fp16"
    assert str(default_out("models/mine.py:build", "onnx", "fp32")) == "artifacts/mine-build-onnx-fp32"
