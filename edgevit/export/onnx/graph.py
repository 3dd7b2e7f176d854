"""An ``onnx_ir`` graph with named ends, readable nodes and nothing superfluous, whoever wrote it."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgevit.export.base import Capture, Graph
from edgevit.export.onnx import rewrites
from edgevit.export.weight import Constant, largest
from edgevit.models.eager.frames import line_in
from edgevit.module_paths import Place

NO_MODULE = "_empty_nn_module_stack"  # how torch's word for "no module made this node" begins
SCOPES = "pkg.torch.onnx.name_scopes"
TRACE = "pkg.torch.onnx.stack_trace"
MODULE = "edgevit.module"  # our own key: the path of the PyTorch module a node came from
LINE = "edgevit.line"  # and the line of its forward; for refusals, in no artifact
_KEPT_METADATA = (SCOPES, "pkg.torch.onnx.class_hierarchy", MODULE, LINE)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Converters print progress and log advice for their own developers."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def name_ends(model: ir.Model, capture: Capture | Graph) -> None:
    """Names as in the capture; the batch symbol, whatever torch called it, is "batch" everywhere."""
    ends = [
        *zip(model.graph.inputs, capture.inputs, strict=True),
        *zip(model.graph.outputs, capture.outputs, strict=True),
    ]
    for value, spec in ends:
        if value.name != spec.name:
            _make_way(model.graph, spec.name)
            value.name = spec.name
    for value, spec in zip(model.graph.inputs, capture.inputs, strict=True):
        names = {0: "batch"} if capture.batch.dynamic else {}
        for axis, name in {**names, **{int(axis): side for axis, side in spec.sides.items()}}.items():
            if value.shape is not None and isinstance(value.shape[axis], ir.SymbolicDim):
                _rename_symbol(model.graph, str(value.shape[axis]), name)
    for value, spec in ends:
        value.shape = ir.Shape([spec.sides.get(str(axis), side) for axis, side in enumerate(spec.shape)])


def _make_way(graph: ir.Graph, name: str, *kept: ir.Value) -> None:
    """No value but those ``kept`` has the name any more."""
    taken = [value for value in _values(graph) if value.name == name and not any(value is one for one in kept)]
    if taken:
        others = {value.name for value in _values(graph)}
        free = next(new for count in itertools.count(1) if (new := f"{name}_inner_{count}") not in others)
        for index, value in enumerate(taken):
            value.name = f"{free}_{index}" if index else free


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


def mark_modules(model: ir.Model, path: Callable[[str], str] | None = None) -> None:
    """Write each node's module path under ``MODULE``, as ``path`` has it; drop what names files of the build host."""
    for node in model.graph.all_nodes():
        node.metadata_props[MODULE] = path(scope(node)) if path else scope(node)
        node.metadata_props[LINE] = line_in(node.metadata_props.get(TRACE, ""))
        for key in [key for key in node.metadata_props if key not in _KEPT_METADATA]:
            del node.metadata_props[key]


def forget_lines(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        node.metadata_props.pop(LINE, None)


def scope(node: ir.Node) -> str:
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


def constants_of(model: ir.Model) -> tuple[Constant, ...]:
    """The largest initializers, each of the first node that reads it."""
    return largest(
        Constant(value.const_value.nbytes, _place(next(iter(value.uses())).node))
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None and value.uses()
    )


def _place(node: ir.Node) -> Place:
    return Place(module_of(node), str(node.metadata_props.get(LINE, "")))


def finish(model: ir.Model, metadata: Mapping[str, str], *, optimize: bool) -> None:
    """Tidy, rewritten (``optimize``), its nodes named, and saying what it is."""
    tidy(model)
    if optimize:
        rewrites.apply_all(model)
        tidy(model)
    name_nodes(model)
    model.metadata_props.update(metadata)
    model.producer_name, model.graph.name = "edgevit", metadata.get("model", "model")


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
    with quiet():
        for step in steps:
            step(model)


def separate_outputs(model: ir.Model, names: Sequence[str]) -> None:
    """A node of its own for every output that is another output, an input or a weight under a second name.

    ``names`` are the outputs', in order. After all passes: each of them takes such a node for superfluous.
    """
    for value in model.graph.inputs:
        _make_way(model.graph, str(value.name), value)  # nodes and what they make were named since
    seen = {id(value) for value in (*model.graph.inputs, *model.graph.initializers.values())}
    for index, (value, name) in enumerate(zip(list(model.graph.outputs), names, strict=True)):
        _make_way(model.graph, name, *([] if id(value) in seen else [value]))
        if id(value) in seen:
            node = ir.node("Identity", [value])
            model.graph.append(node)
            (twin,) = node.outputs
            twin.name, twin.type, twin.shape = name, value.type, value.shape
            model.graph.outputs[index] = twin
        else:
            value.name = name
        seen.add(id(value))
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _own_outputs(attribute.as_graph(), f"{node.name}/{attribute.name}")


def _own_outputs(branch: ir.Graph, name: str) -> None:
    """A node of its own for every output of a branch that is made outside of it."""
    for index, value in enumerate(list(branch.outputs)):
        made = value.producer()
        if made is None or made.graph is not branch:
            node = ir.node("Identity", [value])
            branch.append(node)
            (twin,) = node.outputs
            twin.name, twin.type, twin.shape = f"{name}:{index}", value.type, value.shape
            branch.outputs[index] = twin


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
