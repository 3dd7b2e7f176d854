"""The captured program as coremltools reads it: whole operators, no aliases, and a number on every node.

coremltools carries ``debug_handle`` of an fx node through all of its passes, so that an operation of the finished
package leads back to the node, and by it to the PyTorch module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from edgevit.artifact.manifest import TensorSpec
from edgevit.errors import Unsupported
from edgevit.export.base import Capture
from edgevit.export.capture import Baked
from edgevit.export.coreml.operators import is_known
from edgevit.export.coreml.places import exact_nodes
from edgevit.export.coreml.quiet import silence
from edgevit.export.legalise import calls_of, in_known_operators
from edgevit.export.legalise.complexes import in_real_numbers
from edgevit.export.legalise.ranks import axes_of, name_outputs, within_ranks
from edgevit.export.legalise.refusals import named, place_of
from edgevit.export.legalise.scales import SCALE_RULES, follows
from edgevit.export.legalise.targets import RULES
from edgevit.module_paths import Place

_ALIASES = (torch.ops.aten.alias.default, torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.detach.default)
_TAKES = ("float32", "int32", "uint8")
_AXES = 5  # of a tensor, at most
_GIVES = ("float32", "int32", "int64", "bool")


@dataclass(frozen=True)
class Source:
    """What is handed to coremltools.

    places   ``debug_handle`` -> module in the model, and line of the source
    exact    handles of what stays in float32 whatever the precision: it computes places
    """

    program: ExportedProgram
    places: Mapping[int, Place]
    exact: frozenset[int]


def prepare(capture: Capture) -> Source:
    """The program in operators that coremltools knows. Unsupported naming the operators that it does not."""
    _check_types(capture)
    with silence():
        program = _in_known_operators(capture.program)
    _drop_aliases(program.graph_module)
    if capture.image_sizes is not None:  # axes cannot be merged where the sizes of several follow the image
        _check_ranks(program)
        _check_resizing(program)
    within_ranks(program, _AXES)
    _check_ranks(program)
    _widen_pixels(program)
    _own_outputs(program)
    _apart_from_words(program)
    baked = isinstance(capture.module, Baked)
    places: dict[int, Place] = {}
    for handle, node in enumerate(program.graph_module.graph.nodes):
        node.meta["debug_handle"] = handle
        places[handle] = place_of(node, baked=baked)
    return Source(program, places, frozenset(node.meta["debug_handle"] for node in exact_nodes(program.graph)))


def _in_known_operators(captured: ExportedProgram) -> ExportedProgram:
    """Whole operators where coremltools knows them, PyTorch's own decompositions of those that it does not."""
    captured = in_real_numbers(captured)
    program = in_known_operators(captured, RULES["coreml"], lambda node: node.target in _ALIASES or is_known(node))
    _check_operators(program)
    return program


def _check_types(capture: Capture) -> None:
    for kind, specs, known in (("input", capture.inputs, _TAKES), ("output", capture.outputs, _GIVES)):
        for spec in specs:
            if spec.dtype not in known:
                raise _no_such_tensor(kind, spec, known)


def _no_such_tensor(kind: str, spec: TensorSpec, known: tuple[str, ...]) -> Unsupported:
    return Unsupported(
        f"{kind} {spec.name} is {spec.dtype}, which a Core ML package cannot hold",
        hint=f"convert it inside the model ({', '.join(known)} can be had), or export to onnx",
    )


def _unknown(program: ExportedProgram) -> dict[fx.node.Target, fx.Node]:
    """Operators without a translation, each with the first node that uses it."""
    found: dict[fx.node.Target, fx.Node] = {}
    for node in program.graph_module.graph.nodes:
        if node.op == "call_function" and node.target not in _ALIASES and not is_known(node):
            found.setdefault(node.target, node)
    return found


def _check_operators(program: ExportedProgram) -> None:
    if missing := _unknown(program):
        told = ", ".join(named(node) for node in missing.values())
        raise Unsupported(
            f"coremltools has no translation of {told}",
            hint="write the model without it, or export to onnx or tvm",
        )


def _check_ranks(program: ExportedProgram) -> None:
    for node in calls_of(program):
        if axes_of(node) > _AXES:
            raise Unsupported(
                f"Core ML holds tensors of {_AXES} axes at most, and {named(node)} gives {axes_of(node)}",
                hint="merge axes there, or export to onnx or tvm",
            )


def _check_resizing(program: ExportedProgram) -> None:
    """Core ML resizes by a factor where sizes are open."""
    for node in calls_of(program):
        if node.target in SCALE_RULES and follows(node):
            raise Unsupported(
                f"{named(node)} resizes to no whole multiple of what it is given: Core ML cannot for a range of sizes",
                hint="give --image-size a step that all strides of the model divide, or one size; or export to onnx",
            )


def _drop_aliases(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in _ALIASES:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _widen_pixels(program: ExportedProgram) -> None:
    """uint8 inputs as float32: Core ML has no uint8 tensors, and float32 holds every pixel value exactly."""
    inputs = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT}
    for node in program.graph_module.graph.nodes:
        if node.op == "placeholder" and node.name in inputs and node.meta["val"].dtype is torch.uint8:
            node.meta["val"] = node.meta["val"].float()


def _own_outputs(program: ExportedProgram) -> None:
    """Masks as integers, since Core ML gives no booleans, and what is an input as a tensor of its own."""
    (last,) = program.graph.find_nodes(op="output")
    for node in dict.fromkeys(last.all_input_nodes):
        if node.meta["val"].dtype is torch.bool:
            _in_place_of(node, last, torch.ops.aten._to_copy.default, dtype=torch.int32)
        elif node.op == "placeholder":
            _in_place_of(node, last, torch.ops.aten.clone.default)


def _apart_from_words(program: ExportedProgram) -> None:
    """No call has the name of a word that is an argument: coremltools would take the call's result for the word."""
    calls = calls_of(program)
    words = {str(one) for call in calls for one in (*call.args, *call.kwargs.values()) if isinstance(one, str)}
    for call in calls:
        if call.name in words:
            call._rename(f"{call.name}_result")
    name_outputs(program)


def _in_place_of(node: fx.Node, last: fx.Node, operator: Any, **named: Any) -> None:
    """The operator's result as an output, for its input."""
    with last.graph.inserting_before(last):
        made = last.graph.call_function(operator, (node,), named)
    made.meta = {**node.meta, "val": operator(node.meta["val"], **named)}
    last.replace_input_with(node, made)
