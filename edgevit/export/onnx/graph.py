"""From a captured program to an ``onnx_ir`` graph with named ends, readable nodes and nothing superfluous."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes

from edgevit.errors import ExportFailed, Unsupported, first_line
from edgevit.export.base import Capture
from edgevit.export.capture import Baked, unbaked
from edgevit.export.legalise import rewritten
from edgevit.export.legalise.scatter import SCATTER_REDUCE, SCATTER_RULE
from edgevit.export.onnx import rewrites

RULES = {SCATTER_REDUCE: SCATTER_RULE}  # ONNX has no scattered mean; torch.onnx writes another function for it
NO_MODULE = "_empty_nn_module_stack"  # how torch's word for "no module made this node" begins
SCOPES = "pkg.torch.onnx.name_scopes"
MODULE = "edgevit.module"  # our own key: the path of the PyTorch module a node came from
_KEPT_METADATA = (SCOPES, "pkg.torch.onnx.class_hierarchy", MODULE)


def build_graph(capture: Capture, opset: int, *, optimize: bool) -> ir.Model:
    """The program as ONNX: inputs and outputs named as in the capture, the dynamic axis called "batch".

    Raises Unsupported for an operator that ONNX or its exporter lacks, ExportFailed for anything else.
    """
    model = _convert(capture, opset)
    _name_ends(model, capture)
    mark_modules(model, baked=isinstance(capture.module, Baked))
    tidy(model)
    if optimize:
        rewrites.apply_all(model)
        tidy(model)
    name_nodes(model)
    model.metadata_props.update(capture.metadata)
    model.producer_name, model.graph.name = "edgevit", capture.metadata.get("model", "model")
    return model


def _convert(capture: Capture, opset: int) -> ir.Model:
    try:
        with _quiet(), _unparsed(), torch.no_grad():
            program = torch.onnx.export(
                rewritten(capture.program, RULES),
                (),
                dynamo=True,
                opset_version=opset,
                input_names=[spec.name for spec in capture.inputs],
                output_names=[spec.name for spec in capture.outputs],
                optimize=True,
                verbose=False,
            )
    except Exception as exc:
        cause = _deepest(exc)
        if "No decompositions" in str(cause) or "DispatchError" in type(cause).__name__:
            raise Unsupported(
                f"ONNX has no form of an operator of this model: {first_line(cause)}",
                hint="rewrite that operator, or choose another target",
            ) from exc
        raise ExportFailed(f"torch.onnx cannot convert the model: {first_line(cause)}") from exc
    if program is None:
        raise ExportFailed("torch.onnx returned no model")
    model: ir.Model = program.model
    found = model.opset_imports.get("")
    if found != opset:
        raise Unsupported(
            f"this model cannot be written in opset {opset}; torch.onnx stops at {found}",
            hint=f"use --option onnx.opset={found}",
        )
    return model


def _deepest(exc: BaseException) -> BaseException:
    """The innermost cause: torch.onnx wraps the useful sentence in pages of advice."""
    seen = exc
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    return seen


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.onnx prints progress and logs advice for its own developers."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


class _Signature:
    """What onnxscript would have parsed from a function's source: its domain without that, anything else with it."""

    def __init__(self, function: Any, parse: Callable[[Any], Any]) -> None:
        self.domain = function.opset.domain
        self._function, self._parse = function, parse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parse(self._function), name)


@contextlib.contextmanager
def _unparsed() -> Iterator[None]:
    """onnxscript parses the source of its 500 functions whenever they are listed, to say in which domain each is, which
    nobody asks: half a second of every export."""
    from onnxscript._internal import values

    traced = getattr(values, "TracedOnnxFunction", None)
    parsed = getattr(traced, "function_ir", None)
    if not isinstance(parsed, property) or parsed.fget is None:  # another onnxscript: then it takes that time
        yield
        return
    parse = parsed.fget
    setattr(traced, "function_ir", property(lambda function: _Signature(function, parse)))  # noqa: B010
    try:
        yield
    finally:
        setattr(traced, "function_ir", parsed)  # noqa: B010


def _name_ends(model: ir.Model, capture: Capture) -> None:
    """Names as in the capture; the batch symbol, whatever torch called it, is "batch" everywhere."""
    ends = [
        *zip(model.graph.inputs, capture.inputs, strict=True),
        *zip(model.graph.outputs, capture.outputs, strict=True),
    ]
    for value, spec in ends:
        if value.name != spec.name:
            _make_way(model.graph, spec.name)
            value.name = spec.name
    symbols = {str(dim) for value in model.graph.inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)}
    if capture.batch.dynamic and len(symbols) == 1:
        _rename_symbol(model.graph, symbols.pop(), "batch")
    for value, spec in ends:
        value.shape = ir.Shape(list(spec.shape))


def _make_way(graph: ir.Graph, name: str) -> None:
    for value in _values(graph):
        if value.name == name:
            value.name = f"{name}_inner"


def _rename_symbol(graph: ir.Graph, old: str, new: str) -> None:
    for value in _values(graph):
        if value.shape is not None and any(isinstance(dim, ir.SymbolicDim) for dim in value.shape):
            value.shape = ir.Shape(
                [new if isinstance(dim, ir.SymbolicDim) and str(dim) == old else dim for dim in value.shape]
            )


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from list(graph.initializers.values())  # a rename changes their keys
    for node in graph.all_nodes():
        yield from node.outputs


def mark_modules(model: ir.Model, *, baked: bool = False) -> None:
    """Write each node's module path under ``MODULE``; drop what names files of the build host."""
    for node in model.graph.all_nodes():
        node.metadata_props[MODULE] = unbaked(_scope(node)) if baked else _scope(node)
        for key in [key for key in node.metadata_props if key not in _KEPT_METADATA]:
            del node.metadata_props[key]


def _scope(node: ir.Node) -> str:
    """The innermost module path in torch's own list of scopes; its last entry is the operator."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    innermost = str(scopes[-2]) if len(scopes) > 1 else ""
    return "" if innermost.startswith(NO_MODULE) else innermost


def module_of(node: ir.Node) -> str:
    """Path of the PyTorch module that a node came from, "" for the model itself."""
    return str(node.metadata_props.get(MODULE, ""))


def tidy(model: ir.Model) -> None:
    """Constants as initializers, one copy of each; no Identity, no unused node or initializer; in order."""
    steps = (
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.CommonSubexpressionEliminationPass(),
        passes.DeduplicateInitializersPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.TopologicalSortPass(),
    )
    with _quiet():
        for step in steps:
            step(model)


def separate_outputs(model: ir.Model, names: Sequence[str]) -> None:
    """A node of its own for every output that is another output, an input or a weight under a second name.

    ``names`` are the outputs', in order. After all passes: each of them takes such a node for superfluous.
    """
    seen = {id(value) for value in (*model.graph.inputs, *model.graph.initializers.values())}
    for index, (value, name) in enumerate(zip(list(model.graph.outputs), names, strict=True)):
        if id(value) in seen:
            _make_way(model.graph, name)
            node = ir.node("Identity", [value])
            model.graph.append(node)
            (twin,) = node.outputs
            twin.name, twin.type, twin.shape = name, value.type, value.shape
            model.graph.outputs[index] = twin
        else:
            value.name = name
        seen.add(id(value))


def name_nodes(model: ir.Model) -> None:
    """Node names that say where they are from: ``blocks.0.attn.qkv/MatMul``, numbered where that repeats.

    The values between nodes are called after the node that makes them: engines that fuse or convert nodes name theirs
    after a value, and their profiles can then still be mapped to modules.
    """
    seen: Counter[str] = Counter()
    kept = {id(value) for value in model.graph.outputs}
    for node in model.graph.all_nodes():
        name = f"{module_of(node) or 'model'}/{node.op_type}"
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1
        for index, value in enumerate(node.outputs):
            if id(value) not in kept and value.name:
                value.name = f"{node.name}:{index}" if index else node.name
