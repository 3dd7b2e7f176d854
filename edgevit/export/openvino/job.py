"""What the worker of a build is asked. Free of OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

from edgevit.export.base import Capture, Graph
from edgevit.export.onnx.places import Places
from edgevit.quantize.pairs import LAYER

WEIGHTS = {"fp16": "float16", "bf16": "bfloat16"}  # precision -> type of stored floats, else float32


@dataclass(frozen=True)
class Job:
    """What the worker is asked.

    shapes   input with free sides -> (lowest, highest) of each
    weights  type that they are stored in
    kinds    ONNX node -> its operator; ``modules`` -> PyTorch module, ``lines`` -> line of its forward
    marks    ONNX node of integers -> which channels of which layer it computes
    """

    onnx: str
    xml: str
    shapes: Mapping[str, Sequence[tuple[int, int]]]
    weights: str
    kinds: Mapping[str, str]
    modules: Mapping[str, str]
    lines: Mapping[str, str]
    marks: Mapping[str, str] = field(default_factory=dict)

    def payload(self) -> dict[str, Any]:
        return asdict(self)


def make_job(graph: Path, xml: Path, capture: Capture | Graph, precision: str) -> dict[str, Any]:
    """The worker's payload. The graph's file is put in words that OpenVINO reads."""
    model = onnx.load(graph, load_external_data=False)
    if _in_older_words(model):
        onnx.save(model, graph)
    places = Places.of(model)
    return Job(
        onnx=str(graph),
        xml=str(xml),
        shapes=free_shapes(capture),
        weights=WEIGHTS.get(precision, "float32"),
        kinds={node.name: node.op_type for node in model.graph.node},
        modules=places.modules,
        lines=places.lines,
        marks={node.name: one.value for node in model.graph.node for one in node.metadata_props if one.key == LAYER},
    ).payload()


_OLDER = {b"linear": b"bilinear", b"cubic": b"bicubic"}  # GridSample's modes since opset 20 -> before


def _in_older_words(model: onnx.ModelProto) -> bool:
    """Whether a sampling's mode had a name that OpenVINO does not know, which it now has no more."""
    changed = False
    for node in model.graph.node:
        for one in node.attribute if node.op_type == "GridSample" else ():
            if one.name == "mode" and one.s in _OLDER:
                one.s, changed = _OLDER[one.s], True
    return changed


def free_shapes(capture: Capture | Graph) -> dict[str, list[tuple[int, int]]]:
    """Input -> the lowest and the highest of each of its sides; nothing of inputs without free ones."""
    sizes = None if isinstance(capture, Graph) else capture.image_sizes
    batch = capture.batch.min, capture.batch.max
    return {spec.name: spec.spans(batch, sizes) for spec in capture.inputs if "batch" in spec.shape or spec.sides}
