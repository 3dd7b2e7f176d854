"""The worker's side of a build: ONNX file in, IR out. OpenVINO and numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgevit import worker
from edgevit.engines.intel import bound, mark, ov
from edgevit.export.fp16 import FP16_MAX, weight_trouble
from edgevit.export.onnx.places import Places
from edgevit.export.openvino.counts import layer_counts, weights_of
from edgevit.export.openvino.job import Job
from edgevit.export.openvino.refusals import refusal
from edgevit.module_paths import module_of
from edgevit.registry import version_of

Array = np.ndarray[Any, Any]
_OUTSIDE = "most of its numbers are too small for float16: OpenVINO leaves them"


def convert(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: a ``Job`` in; version, counts of the saved file, and what it keeps in float32, out."""
    job, core = Job(**payload), ov.Core()
    worker.report("read the graph", None)
    try:
        model = core.read_model(job.onnx)
        bound(model, job.shapes)
    except Exception as exc:
        raise refusal(exc, job.kinds, Places(job.modules, job.lines)) from exc
    if job.marks:
        mark(model, job.marks)
    worker.report("save", None)
    kept: dict[str, str] = {}
    if job.weights == "float16":
        kept = _save_half(core, model, Path(job.xml))
    else:
        if job.weights == "bfloat16":
            _round_weights(model)
        ov.save_model(model, job.xml, compress_to_fp16=False)
    return {"version": version_of("openvino"), "layers": layer_counts(core.read_model(job.xml)), "kept": kept}


def _round_weights(model: Any) -> None:
    """Those of layers in bfloat16, as they are multiplied: what rounds them again changes nothing."""
    for node in weights_of(model):
        if node.get_output_element_type(0) == ov.Type.f32:
            rounded = ov.op.Constant(ov.Type.bf16, node.get_output_shape(0), node.data.ravel())
            rounded.set_friendly_name(f"{node.get_friendly_name()}_bf16")
            whole = ov.opset13.convert(rounded, "f32", name=node.get_friendly_name())
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(whole.output(0))


def _save_half(core: Any, model: Any, xml: Path) -> dict[str, str]:
    """Module or name of what stays in float32 -> why. OpenVINO cuts numbers beyond float16 to its largest one: such
    weights are put back as they were."""
    whole = {node.get_friendly_name(): node.data for node in _floats(model) if np.abs(node.data).max() > FP16_MAX}
    ov.save_model(model, str(xml), compress_to_fp16=True)
    saved = core.read_model(str(xml))
    if whole:
        _put_back(saved, whole)
        again = xml.with_name("again.xml")
        ov.save_model(saved, str(again), compress_to_fp16=False)
        for suffix in (".xml", ".bin"):
            again.with_suffix(suffix).replace(xml.with_suffix(suffix))
    return {
        _owner(node): weight_trouble(node.get_friendly_name(), node.data) or _OUTSIDE
        for node in _floats(saved)
        if node.data.size > 1
    }


def _floats(model: Any) -> list[Any]:
    return [
        node
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and node.get_output_element_type(0) == ov.Type.f32 and node.data.size
    ]


def _put_back(model: Any, whole: Mapping[str, Array]) -> None:
    for node in model.get_ops():
        if node.get_type_name() == "Convert" and node.get_friendly_name() in whole:
            constant = ov.op.Constant(np.ascontiguousarray(whole[node.get_friendly_name()]))
            constant.set_friendly_name(node.get_friendly_name())
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(constant.output(0))


def _owner(node: Any) -> str:
    """The module of what reads a constant, its own name where that is none."""
    readers = [reader.get_node() for reader in node.output(0).get_target_inputs()]
    found = [module for reader in readers if (module := module_of(reader.get_friendly_name()))]
    return found[0] if found else str(node.get_friendly_name())
