"""Complex tensors as two real ones each: no target has them, and Fourier layers need them between two transforms."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils._pytree import tree_flatten, tree_unflatten

from edgevit.errors import Unsupported
from edgevit.export.legalise import decomposed
from edgevit.export.legalise.fourier import Pair
from edgevit.export.legalise.pairs import WRITTEN
from edgevit.export.legalise.refusals import named


def in_real_numbers(program: ExportedProgram) -> ExportedProgram:
    """``program`` without complex tensors, where every operator on them has a way to be written so."""
    if not any(_is_complex(node) for node in program.graph.nodes):
        return program
    program, table = decomposed(program, {}), torch.export.default_decompositions()
    met = {node.target for node in program.graph.nodes if _is_complex(node, *node.all_input_nodes)}
    program = decomposed(program, {target: table[target] for target in met - WRITTEN.keys() if target in table})
    splitting = _Splitting(program)
    splitting.run()
    try:
        return decomposed(program, {})  # which writes out what the functions do
    except Exception as exc:
        if not splitting.left:
            raise
        told = ", ".join(named(node) for node in splitting.left)
        raise Unsupported(
            f"no way is known to write {told} in real numbers", hint="write the model without it"
        ) from exc


def _is_complex(*nodes: fx.Node) -> bool:
    values = [node.meta.get("val") for node in nodes]
    return any(isinstance(value, Tensor) and value.is_complex() for value in values)


class _Splitting:
    """Edits a program in place."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program, self.graph = program, program.graph
        self.left: list[fx.Node] = []
        self.parts: dict[fx.Node, Any] = {}  # a Pair of nodes, or a list of them

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "placeholder" and _is_complex(node):
                self.constant(node)
            elif node.op == "call_function" and (self.parts.keys() & {*node.all_input_nodes} or _is_complex(node)):
                self.visit(node)
        self.graph.eliminate_dead_code()
        self.program.graph_module.recompile()

    def constant(self, node: fx.Node) -> None:
        """A complex weight as a real one with two numbers for each of its own."""
        signature, values = self.program.graph_signature, self.program.state_dict
        name = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}.get(node.name)
        if name is None or name not in values:
            values = self.program.constants
            name = name or signature.inputs_to_lifted_tensor_constants.get(node.name, "")
        if name not in values:
            return  # an input of the model, which a target refuses by its type
        parts = torch.view_as_real(values[name].detach().resolve_conj()).contiguous()
        values[name] = torch.nn.Parameter(parts) if isinstance(values[name], torch.nn.Parameter) else parts
        node.meta["val"] = torch.view_as_real(node.meta["val"])
        first = next(one for one in self.graph.nodes if one.op != "placeholder")
        with self.graph.inserting_before(first):
            self.parts[node] = self.called(node, lambda x: Pair(x.select(-1, 0), x.select(-1, 1)), [node], Pair(0, 0))

    def visit(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            self.parts[node] = self.parts[node.args[0]][node.args[1]]  # type: ignore[index]
            return
        nodes, written = node.all_input_nodes, WRITTEN.get(node.target)
        if written is None or any(_is_complex(one) and one not in self.parts for one in nodes):
            self.left.append(node)  # has no way: the target names it
            return
        flat, shape = tree_flatten([self.parts.get(one, one) for one in nodes])
        call = (node.args, dict(node.kwargs))

        def function(*given: Any) -> Any:
            values = dict(zip(nodes, tree_unflatten(list(given), shape), strict=True))
            args, kwargs = fx.node.map_arg(call, values.__getitem__)
            return written(*args, **kwargs)

        with self.graph.inserting_before(node):
            found = self.called(node, function, flat, _parts_of(node.meta["val"]))
        if isinstance(found, fx.Node):
            node.replace_all_uses_with(found)
        else:
            self.parts[node] = found

    def called(self, node: fx.Node, function: Callable[..., Any], given: list[fx.Node], result: Any) -> Any:
        """``function`` of ``given`` as nodes with what is known of ``node``: a result in the shape of ``result``."""
        flat, shape = tree_flatten(result)
        made = [self.graph.call_function(lambda *values: tree_flatten(function(*values))[0], tuple(given))]
        made += [self.graph.call_function(operator.getitem, (made[0], place)) for place in range(len(flat))]
        for one in made:
            one.meta = {name: value for name, value in node.meta.items() if name != "val"}
        return tree_unflatten(made[1:], shape)


def _parts_of(value: Any) -> Any:
    """What stands for a value: a pair for a complex one."""
    if isinstance(value, list | tuple):
        return [_parts_of(one) for one in value]
    return Pair(0, 0) if value.is_complex() else 0
