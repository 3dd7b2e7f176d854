"""What OpenVINO ran in integers, told by its own graph after fusion and the kernels that it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

_PRODUCTS = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
)
_FUSED = "Subgraph"  # several operators in one loop of its own, products among them
_RUN = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul", _FUSED})
_INTEGERS = "_I8"  # how the names of kernels of integers end: brgemm_avx512_I8
# Dequantisation behind a product, in place of before it: it multiplies integers.
_BEHIND = ("/DequantizationMultiply", "/DequantizationSubtract")


@dataclass
class Ran:
    """Convolutions and products of one inference by kind, and the names of those in floats."""

    integers: Counter[str] = field(default_factory=Counter)
    floats: Counter[str] = field(default_factory=Counter)
    in_floats: set[str] = field(default_factory=set)


def ran(compiled: Any, model: Any) -> Ran:
    """Of a compiled model that ran once, and the model as its file has it."""
    products = [node for node in model.get_ops() if node.get_type_name() in _PRODUCTS]
    names = {node.get_friendly_name() for node in products}
    of_weight = {_source(node.input_value(1)): node.get_friendly_name() for node in products}
    found = Ran()
    for node in compiled.get_runtime_model().get_ops():
        told = {key: str(value.astype(str)) for key, value in node.get_rt_info().items() if key in _TOLD}
        if (kind := told["layerType"]) in _RUN:
            originals = told["originalLayersNames"].split(",")
            inside = names.intersection(originals)
            if not inside and kind != _FUSED:  # renamed, as where a bias of zeros was left out
                inside = {of_weight.get(_source(node.input_value(1)), node.get_friendly_name())}
            for name in inside:
                _take(found, kind, name, told["primitiveType"], originals)
    return found


def _source(value: Any) -> str:
    """The name of what a value is made of, at the end of all that is done to it."""
    node = value.get_node()
    while node.get_input_size():
        node = node.input_value(0).get_node()
    return str(node.get_friendly_name())


_TOLD = ("layerType", "originalLayersNames", "primitiveType")


def _take(found: Ran, kind: str, name: str, kernel: str, originals: Collection[str]) -> None:
    behind = any(f"{name}{end}" in originals for end in _BEHIND)
    if kernel.endswith(_INTEGERS) or (kind == _FUSED and behind):
        found.integers[kind] += 1
    else:
        found.floats[kind] += 1
        found.in_floats.add(name)
