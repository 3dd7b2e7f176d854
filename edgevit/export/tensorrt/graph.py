"""What TensorRT needs changed in our ONNX graph, and which PyTorch module each node came from."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from edgevit.export.onnx.places import Places

_MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity"})


def prepare_graph(path: Path) -> Places:
    """Rewrite the file in place where TensorRT needs it. ONNX node -> PyTorch module, "" for the model itself."""
    model = onnx.load(path, load_external_data=False)
    if cast_bytes_first(model):
        onnx.save(model, path)
    return Places.of(model)


def cast_bytes_first(model: ModelProto) -> bool:
    """move(bytes) -> cast  becomes  cast(bytes) -> move: TensorRT can do nothing with uint8 but cast it.

    True where something was changed.
    """
    byte_inputs = [value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8]
    changed = [_swap_first(model, name) for name in byte_inputs]
    return any(changed)


def _swap_first(model: ModelProto, name: str) -> bool:
    """Bring the cast that follows the moves of one input in front of them."""
    moves: list[NodeProto] = []
    value = name
    while len(users := [node for node in model.graph.node if value in node.input]) == 1:
        (user,) = users
        if user.op_type == "Cast":
            if moves:
                _reorder(model, name, moves, user)
            return bool(moves)
        if user.op_type not in _MOVES or user.input[0] != value:
            return False
        moves.append(user)
        value = user.output[0]
    return False


def _reorder(model: ModelProto, name: str, moves: list[NodeProto], cast: NodeProto) -> None:
    last, first = moves[-1], moves[0]
    position = list(model.graph.node).index(first)
    moved = {output for node in moves for output in node.output}
    kept = [info for info in model.graph.value_info if info.name not in moved]  # their types say uint8
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    result, between = cast.output[0], f"{name}_cast"
    cast.input[0], cast.output[0], first.input[0], last.output[0] = name, between, between, result
    front = NodeProto()
    front.CopyFrom(cast)
    model.graph.node.remove(cast)
    model.graph.node.insert(position, front)
