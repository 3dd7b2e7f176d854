"""What the worker of a build is asked. Free of OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from edgevit.artifact.manifest import TensorSpec
from edgevit.export.base import Capture, Graph
from edgevit.export.onnx.places import Places
from edgevit.sizes import SizeRange

Side = int | tuple[int, int]


@dataclass(frozen=True)
class Job:
    """What the worker is asked.

    shapes   dynamic input -> its sides, (lowest, highest) where they are free
    half     whether weights are stored in float16
    kinds    ONNX node -> its operator; ``modules`` -> PyTorch module, ``lines`` -> line of its forward
    """

    onnx: str
    xml: str
    shapes: Mapping[str, Sequence[Side]]
    half: bool
    kinds: Mapping[str, str]
    modules: Mapping[str, str]
    lines: Mapping[str, str]

    def payload(self) -> dict[str, Any]:
        return asdict(self)


def make_job(graph: Path, xml: Path, capture: Capture | Graph, precision: str) -> dict[str, Any]:
    """The worker's payload."""
    model = onnx.load(graph, load_external_data=False)
    places = Places.of(model)
    return Job(
        onnx=str(graph),
        xml=str(xml),
        shapes=free_shapes(capture),
        half=precision == "fp16",
        kinds={node.name: node.op_type for node in model.graph.node},
        modules=places.modules,
        lines=places.lines,
    ).payload()


def free_shapes(capture: Capture | Graph) -> dict[str, list[Side]]:
    """Input -> its sides, the lowest and the highest of those that are free; nothing of inputs without any."""
    sizes = None if isinstance(capture, Graph) else capture.image_sizes
    return {
        spec.name: _sides(spec, sizes, (capture.batch.min, capture.batch.max))
        for spec in capture.inputs
        if "batch" in spec.shape or spec.sides
    }


def _sides(spec: TensorSpec, sizes: SizeRange | None, batch: tuple[int, int]) -> list[Side]:
    ends = (spec, spec) if sizes is None else (spec.at(sizes.lowest), spec.at(sizes.highest))
    found: list[Side] = []
    for low, high in zip(*(end.shape for end in ends), strict=True):
        if low == "batch" or high == "batch":
            found.append(batch)
        else:
            found.append(low if low == high else (low, high))
    return found
