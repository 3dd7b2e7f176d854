"""Layers of the network that TensorRT was given, and of the engine that it made of them; what is counted in both.

With detailed verbosity the builder logs the finished engine as its inspector would describe it, one line per kernel.
That listing needs no GPU, where opening the engine for the inspector itself does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgevit.errors import ExportFailed

COMPUTE = frozenset({"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "ATTENTION_INPUT"})
INT8 = "int8"
LISTING = "Layers:"  # how the builder's message begins
_DTYPES = {"float": "float32", "fp32": "float32", "half": "float16", "fp16": "float16", "bf16": "bfloat16"}
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_KERNEL = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), (?P<rest>.*)$")
_PART = re.compile(r"(?:^|, )(Inputs|Constants|Outputs|TacticName): ")
_DATATYPE = re.compile(r"(?:Format/)?Datatype: ([^,}]*)")
_METADATA = "Metadata: "
_END = re.compile(
    r"^Name: (?P<name>.*?), IOMode: (?P<mode>\w+), DataType: (?P<dtype>\w+), Dimensions: \[(?P<shape>[^\]]*)\]"
)
_PROFILE = re.compile(r"MinShape: \[([^\]]*)\], OptShape: \[([^\]]*)\], MaxShape: \[([^\]]*)\]")


@dataclass(frozen=True)
class NetworkLayer:
    """One layer of the parsed network. In a strongly typed network ``dtype`` is what the engine must compute in: int8
    of a product of numbers that stand for integers, which the engine multiplies where it can.

    node, module  the ONNX node and the PyTorch module it came from, "" where TensorRT added it itself
    """

    name: str
    kind: str
    dtype: str
    node: str
    module: str


@dataclass(frozen=True)
class EngineLayer:
    """One kernel of the engine.

    reads    types of its inputs and constants
    writes   types of its outputs
    nodes    the ONNX nodes that were fused into it
    modules  the PyTorch modules of those nodes
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    nodes: tuple[str, ...]
    modules: tuple[str, ...]


@dataclass(frozen=True)
class EngineEnd:
    """One input or output as the engine has it; -1 is a dynamic side. ``profiles``: (min, opt, max) shapes of each."""

    name: str
    mode: str
    dtype: str
    shape: tuple[int, ...]
    profiles: tuple[tuple[tuple[int, ...], ...], ...]


def network_layers(network: Any, modules: Mapping[str, str]) -> list[NetworkLayer]:
    """Every layer of a parsed network but its constants, in order. ``modules``: ONNX node -> PyTorch module."""
    found = []
    integers: set[str] = set()  # tensors that stand for some
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = layer.type.name
        if kind == "CONSTANT":
            continue
        first = layer.get_input(0) if layer.num_inputs else layer.get_output(0)
        if kind == "DEQUANTIZE":
            integers.add(layer.get_output(0).name)
        dtype = INT8 if kind in COMPUTE and first.name in integers else dtype_name(first.dtype.name)
        node = node_of(layer.metadata)
        found.append(NetworkLayer(layer.name, kind, dtype, node, modules.get(node, "")))
    return found


def node_of(metadata: str) -> str:
    """The ONNX node that a layer of the network came from, "" where TensorRT added it itself."""
    match = _ONNX_LAYER.search(metadata)
    return match[1] if match else ""


def engine_layers(listing: str, modules: Mapping[str, str]) -> list[EngineLayer]:
    """The kernels in a builder's listing (its message that begins with ``LISTING``), in order."""
    found = []
    for line in listing.partition(LISTING)[2].strip("\n").splitlines():
        if not line.strip():
            break  # what follows describes the engine's inputs and outputs
        if match := _KERNEL.match(line.strip()):
            found.append(_engine_layer(match["name"], match["kind"], match["rest"], modules))
    return found


def _engine_layer(name: str, kind: str, rest: str, modules: Mapping[str, str]) -> EngineLayer:
    described, _, metadata = rest.partition(_METADATA)
    pieces = _PART.split(described)
    types = {part: {dtype_name(said) for said in _DATATYPE.findall(text)} for part, text in _pairs(pieces[1:])}
    nodes = tuple(dict.fromkeys(_ONNX_LAYER.findall(metadata)))
    return EngineLayer(
        name=name,
        kind=kind,
        reads=tuple(sorted(types.get("Inputs", set()) | types.get("Constants", set()))),
        writes=tuple(sorted(types.get("Outputs", set()))),
        nodes=nodes,
        modules=tuple(sorted({modules[node] for node in nodes if modules.get(node)})),
    )


def engine_ends(listing: str) -> list[EngineEnd]:
    """The engine's inputs and outputs in a builder's listing, with their profiles; [] where it has no such part."""
    found = []
    for line in listing.splitlines():
        if match := _END.match(line.strip()):
            profiles = tuple(tuple(_sides(shape) for shape in shapes) for shapes in _PROFILE.findall(line))
            dtype, shape = dtype_name(match["dtype"]), _sides(match["shape"])
            found.append(EngineEnd(match["name"], match["mode"].lower(), dtype, shape, profiles))
    return found


def _sides(text: str) -> tuple[int, ...]:
    return tuple(int(side) for side in text.split(",") if side.strip())


def _pairs(pieces: Sequence[str]) -> Iterable[tuple[str, str]]:
    return zip(pieces[::2], pieces[1::2], strict=True)


def dtype_name(said: str) -> str:
    """TensorRT's words for a type in numpy's: HALF, "Half" and "Row major linear FP16 format" are float16."""
    words = said.lower().split()
    return next((_DTYPES[word] for word in words if word in _DTYPES), " ".join(words))


def count_compute(layers: Iterable[NetworkLayer]) -> dict[str, int]:
    """Convolutions and matrix products by the type of what they read."""
    return dict(sorted(Counter(layer.dtype for layer in layers if layer.kind in COMPUTE).items()))


def confirmed(network: Iterable[NetworkLayer], engine: Sequence[EngineLayer]) -> dict[str, int]:
    """Of the network's compute layers, those for which the engine lists a kernel that reads their type; by type."""
    read = _types_read(engine)
    return count_compute(layer for layer in network if layer.dtype in read.get(layer.node, ()))


def in_floats(network: Iterable[NetworkLayer], engine: Sequence[EngineLayer]) -> list[str]:
    """Nodes that multiply integers in the network, and in the engine the floats that these stand for."""
    read = _types_read(engine)
    products = (layer for layer in network if layer.kind in COMPUTE and layer.dtype == INT8)
    return [layer.node for layer in products if INT8 not in read.get(layer.node, ())]


def _types_read(engine: Iterable[EngineLayer]) -> dict[str, set[str]]:
    """ONNX node -> what the kernels that take part in it read."""
    read: dict[str, set[str]] = {}
    for kernel in engine:
        for node in kernel.nodes:
            read.setdefault(node, set()).update(kernel.reads)
    return read


def check_network(planned: Mapping[str, int], network: Mapping[str, int]) -> None:
    """ExportFailed when the network has fewer fp16 or int8 layers, or fewer layers at all, than the ONNX graph."""
    lacking = any(network.get(kind, 0) < planned.get(kind, 0) for kind in ("float16", INT8))
    if lacking or sum(network.values()) < sum(planned.values()):
        raise ExportFailed(
            f"precision truth: the ONNX graph has {shown(planned)} compute layers, TensorRT's network {shown(network)}",
            hint="please report this model",
        )


def check_engine(network: Mapping[str, int], engine: Mapping[str, int], kernels: Sequence[EngineLayer]) -> None:
    """ExportFailed when the engine lists no fp16 kernel for an fp16 layer, or any fp16 kernel in an fp32 engine."""
    lacking = network.get("float16", 0) - engine.get("float16", 0)
    half = [kernel.name for kernel in kernels if "float16" in kernel.reads]
    if lacking or (half and not network.get("float16")):
        found = f"{lacking} fp16 layers have no fp16 kernel" if lacking else f"{half[0]} of an fp32 engine reads fp16"
        raise ExportFailed(f"precision truth: in the built engine {found}", hint="please report this model")


def shown(counts: Mapping[str, int]) -> str:
    """ "34 float16 and 2 float32"."""
    return " and ".join(f"{count} {kind}" for kind, count in counts.items()) or "no"


def layer_file(
    network: Sequence[NetworkLayer], engine: Sequence[EngineLayer], ends: Sequence[EngineEnd]
) -> dict[str, Any]:
    """The content of ``layers.json``."""
    parts = (("network", network), ("engine", engine), ("ends", ends))
    return {name: [asdict(row) for row in rows] for name, rows in parts}
