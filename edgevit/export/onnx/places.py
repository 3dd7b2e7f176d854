"""Which PyTorch module, and which line of whose file, each node of a written ONNX file came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import ModelProto, NodeProto

from edgevit.export.onnx.graph import LINE, MODULE


@dataclass(frozen=True)
class Places:
    """ONNX node -> the PyTorch module, and the line of its forward, that it came from."""

    modules: Mapping[str, str]
    lines: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ModelProto) -> Places:
        """Of every node of the file; "" for the model itself."""
        nodes = model.graph.node
        lines = {node.name: line for node in nodes if (line := _said(node, LINE))}
        return cls({node.name: _said(node, MODULE) for node in nodes}, lines)


def _said(node: NodeProto, key: str) -> str:
    return str(next((entry.value for entry in node.metadata_props if entry.key == key), ""))


def place_of(node: str, places: Places, *, named: bool = True) -> str:
    """ " (node blocks.0/Det, module blocks.0, model.py:42)", as much of it as is known."""
    parts = [f"node {node}"] if node and named else []
    parts += [f"module {places.modules[node]}"] if places.modules.get(node) else []
    parts += [places.lines[node]] if places.lines.get(node) else []
    return f" ({', '.join(parts)})" if parts else ""


def node_in(text: str, modules: Mapping[str, str]) -> str:
    """The longest node name that ``text`` mentions, "" when there is none."""
    return max((name for name in modules if name and name in text), key=len, default="")
