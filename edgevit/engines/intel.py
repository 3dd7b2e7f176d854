"""OpenVINO, loaded without its usage data: where IR is written, and where it runs."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def _without_usage_data() -> Iterator[None]:
    """``import openvino`` reports itself to Google Analytics and writes ~/intel. Without this package it uses its own
    stub, and all else works. One that the caller has imported already is left alone."""
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


with _without_usage_data():
    import openvino as ov

_VALIDATING = re.compile(r"^While validating ONNX node '<.*?>': ")
_NOISE = ("Exception from ", "Check '", "FrontEnd API failed", "Errors during ONNX translation")
_WORDS = "framework"  # where OpenVINO puts the metadata of an ONNX file, and keeps it in IR
_KNOWN = ("model", "edgevit", "weights", "preprocess", "labels")


def words_of(model: Any) -> Mapping[str, str]:
    """What a model's file says about itself, of what our exporters write."""
    return {name: model.get_rt_info([_WORDS, name]).astype(str) for name in _KNOWN if model.has_rt_info([_WORDS, name])}


def said_by(exc: Exception) -> str:
    """OpenVINO's own words without the lines that name its source files."""
    lines = [_VALIDATING.sub("", line.strip()) for line in str(exc).splitlines() if line.strip()]
    words = [line for line in lines if not line.startswith(_NOISE)]
    return (words or lines or [type(exc).__name__])[0][:300]


__all__ = ["ov", "said_by", "words_of"]
