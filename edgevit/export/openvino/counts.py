"""What a saved IR really holds: the type that every layer's weights are stored in."""

from __future__ import annotations

from collections import Counter
from typing import Any

_LAYERS = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul",
     "DeformableConvolution"}
)  # fmt: skip
# What may lie between stored numbers and the layer that multiplies by them.
_BETWEEN = frozenset({"Convert", "Multiply", "Subtract", "Reshape", "Transpose", "Unsqueeze"})
_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "uint8"}


def layer_counts(model: Any) -> dict[str, int]:
    """Layers by the type of their stored weights; of those that multiply two activations, by the type of these."""
    kinds = Counter(_stored_type(node) for node in model.get_ops() if node.get_type_name() in _LAYERS)
    return {_TYPES.get(kind, kind): count for kind, count in sorted(kinds.items())}


def weights_of(model: Any) -> list[Any]:
    """The constants that layers multiply by, each once."""
    layers = [node for node in model.get_ops() if node.get_type_name() in _LAYERS]
    found = [_stored(node.input_value(place).get_node()) for node in layers for place in (1, 0)]
    return list({node.get_friendly_name(): node for node in found if node is not None}.values())


def _stored_type(node: Any) -> str:
    found = [constant for place in (1, 0) if (constant := _stored(node.input_value(place).get_node())) is not None]
    return str((found[0].output(0) if found else node.input_value(0)).get_element_type().get_type_name())


def _stored(node: Any) -> Any | None:
    """The constant that a layer's operand is made of, None for an activation."""
    while node.get_type_name() in _BETWEEN:
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None
