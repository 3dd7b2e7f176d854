"""OpenVINO, loaded without its usage data: where IR is written, and where it runs."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
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
BIASED = "/WithoutBiases"  # how the name of a product ends that an ONNX node adds a bias to
_MARKS = ["edgevit", "layers"]  # where the operators of integers of an IR are named
_WORDS = "framework"  # where OpenVINO puts the metadata of an ONNX file, and keeps it in IR
_KNOWN = ("model", "edgevit", "weights", "preprocess", "labels")


def words_of(model: Any) -> Mapping[str, str]:
    """What a model's file says about itself, of what our exporters write."""
    return {name: model.get_rt_info([_WORDS, name]).astype(str) for name in _KNOWN if model.has_rt_info([_WORDS, name])}


def mark(model: Any, marks: Mapping[str, str]) -> None:
    """Write into an IR which of its products are integers, and of which layers: ``marks`` are by ONNX node."""
    known = {node.get_friendly_name() for node in model.get_ops()}
    named = {f"{name}{BIASED}" if f"{name}{BIASED}" in known else name: text for name, text in marks.items()}
    model.set_rt_info(json.dumps(named), _MARKS)


def marks_of(model: Any) -> str:
    """What ``mark`` wrote, "" where it did not."""
    return str(model.get_rt_info(_MARKS).astype(str)) if model.has_rt_info(_MARKS) else ""


def bound(model: Any, shapes: Mapping[str, Sequence[tuple[int, int]]]) -> None:
    """Free sides of inputs with their lowest and highest: read from ONNX they have neither.

    Not by ``Model.reshape``: it rewrites the graph on the way, after which most layers with integers run in floats.
    Without a highest batch OpenVINO fails on integers whose tokens are split into heads.
    """
    for name, sides in shapes.items():
        shape = ov.PartialShape([ov.Dimension(low, high) for low, high in sides])
        model.input(name).get_node().set_partial_shape(shape)
    if shapes:
        model.validate_nodes_and_infer_types()


def said_by(exc: Exception) -> str:
    """OpenVINO's own words without the lines that name its source files."""
    lines = [_VALIDATING.sub("", line.strip()) for line in str(exc).splitlines() if line.strip()]
    words = [line for line in lines if not line.startswith(_NOISE)]
    return (words or lines or [type(exc).__name__])[0][:300]


__all__ = ["BIASED", "bound", "mark", "marks_of", "ov", "said_by", "words_of"]
