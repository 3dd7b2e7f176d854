"""New constants of a captured program, and old ones that nothing reads any more."""

from __future__ import annotations

from collections.abc import Container, Iterable

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument


class Constants:
    """Those of one program, edited in place."""

    def __init__(self, program: ExportedProgram) -> None:
        self.graph, self.values = program.graph, program.state_dict
        self.specs = program.graph_signature.input_specs

    def add(self, beside: fx.Node, name: str, value: Tensor) -> fx.Node:
        """A placeholder for ``value``, in front of that of another constant."""
        name = _other(name, self.values)
        self.values[name] = torch.nn.Parameter(value.clone(), requires_grad=False)
        with self.graph.inserting_before(beside):
            node: fx.Node = self.graph.placeholder(_other(f"{beside.name}_", {one.name for one in self.graph.nodes}))
        node.meta["val"] = beside.meta["val"].fake_mode.from_tensor(value, static_shapes=True)
        at = next(place for place, spec in enumerate(self.specs) if spec.arg.name == beside.name)
        self.specs.insert(at, InputSpec(InputKind.PARAMETER, TensorArgument(name=node.name), name))
        return node

    def forget(self, stored: Iterable[fx.Node]) -> None:
        """What nothing reads any more."""
        for node in stored:
            if not node.users:
                spec = next(one for one in self.specs if one.arg.name == node.name)
                self.graph.erase_node(node)
                self.specs.remove(spec)
                del self.values[str(spec.target)]


def _other(name: str, taken: Container[str]) -> str:
    """``name``, or one like it that is not taken."""
    while name in taken:
        name += "_"
    return name
