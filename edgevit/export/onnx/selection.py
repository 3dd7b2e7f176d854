"""Rows that nobody reads are not computed: a class token is picked before the last block's layers, not after them."""

from __future__ import annotations

import onnx_ir as ir

from edgevit.export.onnx.edit import constant_of, int_attribute, new_node, replace, shape_of

_UNARY = frozenset({"Gelu", "Relu", "Erf", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Mish", "Sqrt", "Neg"})
_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})


def pick_token_early(model: ir.Model) -> None:
    """``Gather(f(x, y), t, axis=1) -> f(Gather(x, t, axis=1), Gather(y, t, axis=1))`` for every f that treats the
    tokens of (B, N, C) alike (linear layer, LayerNormalization, elementwise, sum) and is read through the Gather only.
    """
    for node in list(model.graph):
        if _picks_one_token(node):
            _pull(model.graph, node)


def _picks_one_token(node: ir.Node) -> bool:
    if node.op_type != "Gather" or int_attribute(node, "axis", 0) != 1:
        return False
    index, shape = constant_of(node.inputs[1]), shape_of(node.inputs[0])
    return index is not None and index.ndim == 0 and shape is not None and len(shape) == 3


def _pull(graph: ir.Graph, gather: ir.Node) -> None:
    wanted = _demanded(graph, gather)
    if not wanted:
        return
    picked: dict[int, ir.Value] = {}
    for node in wanted:
        inputs = [_pick(value, gather, node, picked) if _per_token(value) else value for value in node.inputs]
        shape = shape_of(node.outputs[0]) or []
        out = new_node(node, node.op_type, inputs, [shape[0], shape[2]])
        made = out.producer()
        if made is not None:
            made.attributes.update({name: found for name, found in node.attributes.items() if name != "axis"})
        picked[id(node.outputs[0])] = out
    replace(gather.outputs[0], picked[id(gather.inputs[0])])


def _demanded(graph: ir.Graph, gather: ir.Node) -> list[ir.Node]:
    """Nodes that can move behind the Gather, in order: all that read them are among them, or the Gather itself."""
    inside = {id(gather)}
    found: list[ir.Node] = []
    for node in reversed(list(graph)):
        if len(node.outputs) != 1 or not _alike(node) or node.outputs[0].is_graph_output():
            continue
        readers = [use.node for use in node.outputs[0].uses()]
        if readers and all(id(reader) in inside for reader in readers):
            inside.add(id(node))
            found.append(node)
    return found[::-1]


def _alike(node: ir.Node) -> bool:
    """Whether a node does the same to every token of a (B, N, C) value."""
    shape = shape_of(node.outputs[0])
    if node.domain != "" or shape is None or len(shape) != 3 or not node.inputs:
        return False
    if node.op_type in _UNARY:
        return True
    if node.op_type == "LayerNormalization":
        return int_attribute(node, "axis", -1) in (-1, 2)
    if node.op_type == "MatMul":
        weight = constant_of(node.inputs[1])
        return weight is not None and weight.ndim == 2
    return node.op_type in _BINARY and all(
        len(sides or []) <= 1 if value is not None and value.is_initializer() else sides == shape
        for value in node.inputs
        for sides in [shape_of(value)]
    )


def _per_token(value: ir.Value | None) -> bool:
    return value is not None and not value.is_initializer()


def _pick(value: ir.Value | None, gather: ir.Node, user: ir.Node, picked: dict[int, ir.Value]) -> ir.Value | None:
    """The token of ``value`` that ``gather`` picks."""
    if value is not None and id(value) not in picked:
        shape = shape_of(value) or []
        picked[id(value)] = new_node(user, "Gather", [value, gather.inputs[1]], [shape[0], shape[2]], axis=1)
        picked[id(value)].dtype = value.dtype
    return None if value is None else picked[id(value)]
