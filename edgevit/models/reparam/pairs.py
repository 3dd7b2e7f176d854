"""Folds that the traced graph proves: BatchNorm and LayerScale beside a linear map whose result nothing else reads."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

from torch import nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from edgevit.models.eager.copying import copied
from edgevit.models.eager.wrappers import HOOKED, hooked
from edgevit.models.layers import fusion
from edgevit.models.reparam.foreign import adopt, fold_neighbours, fold_norm_after, without_norm
from edgevit.models.reparam.graph import Graph, axis_after, axis_through, describe, op_name, rank, readers
from edgevit.models.reparam.own import batch_norms, replace_module
from edgevit.models.reparam.plan import Plan
from edgevit.models.reparam.proof import TOLERANCE, capture, relative_error, run

_SCALE_NAME = re.compile(r"gamma|scale|lambda|^ls", re.IGNORECASE)
# Classes whose forward is known to normalise and no more; SyncBatchNorm differs from them in training only.
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def fold_pairs(plan: Plan) -> None:
    """Fold what the graph proves, and say of every BatchNorm that stays why. Untraceable models: neighbours only."""
    if not batch_norms(plan.root) and not _scale_names(plan.root):
        return None  # tracing takes seconds
    if plan.inputs is None:
        return _without_graph(plan, "the model has no weights to trace it with (meta device)")
    try:
        graph = Graph(plan.root, plan.inputs)
    except Exception as exc:  # the tracer raises from many places, for anything that a forward may do
        lines = str(exc).splitlines() or [""]
        return _without_graph(plan, f"the model cannot be traced ({type(exc).__name__}: {lines[0][:80]})")
    reasons: dict[str, str] = {}
    for node in graph.calls("batch_norm"):
        _fold_after(plan, graph, node, reasons)
    _fold_scales(plan, graph)
    # Last: a BatchNorm between two layers folds into the one before it exactly, into the one after it only where
    # nothing is padded.
    for node in graph.calls("batch_norm"):
        _fold_before(plan, graph, node, reasons)
    _name_branches(plan, graph)
    for path in batch_norms(plan.root):
        plan.left[path] = reasons.get(path, "it does not run in this model")
    return None


def fold_norm_before(root: nn.Module, *, norm: str, linears: tuple[str, ...]) -> nn.Module:
    """``linear(norm(x))`` into each of the layers at ``linears``. ValueError for a padded convolution."""
    bn = root.get_submodule(norm)
    if not isinstance(bn, _BatchNorm):
        raise TypeError(f"{norm} is not a BatchNorm")
    for path in linears:
        layer = root.get_submodule(path)
        if isinstance(layer, nn.Conv2d):
            adopt(layer, fusion.fuse_bn_conv(bn, layer))
        elif isinstance(layer, nn.Linear):
            adopt(layer, fusion.fuse_bn_linear(bn, layer))
    return replace_module(root, norm, without_norm(bn))


def fold_scale(root: nn.Module, *, linear: str, owner: str, attribute: str, whole: bool) -> nn.Module:
    """The parameter ``owner.attribute`` into ``linear``; its module goes (``whole``), or just the parameter."""
    layer, module = root.get_submodule(linear), root.get_submodule(owner)
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        scaled: nn.Conv2d | nn.Linear = fusion.scale_output(layer, getattr(module, attribute))  # type: ignore[type-var]
        adopt(layer, scaled)
    if whole:
        return replace_module(root, owner, nn.Identity())
    setattr(module, attribute, None)
    return root


def _without_graph(plan: Plan, why: str) -> None:
    fold_neighbours(plan)
    for path in batch_norms(plan.root):
        plan.left.setdefault(path, f"{why}, so only neighbours in an nn.Sequential are folded")


def _fold_after(plan: Plan, graph: Graph, node: Node, reasons: dict[str, str]) -> None:
    path, reason = _norm_at(plan, graph, node)
    producer, chain = graph.before(node.args[0])
    if path is None:
        return
    linear = None
    if reason:
        pass
    elif producer is None:
        reason = "what comes before it is also read elsewhere"
    else:
        linear, reason = graph.linear_at(producer)
    if linear is not None and producer is not None:
        # a convolution's channels are third from the end, with or without a batch; a linear layer's are last
        if axis_after(rank(producer) - (3 if op_name(producer) == "conv2d" else 1), chain) == 1:
            plan.take(partial(fold_norm_after, linear=linear, norm=path), f"{_short(producer)}-bn")
            graph.bypass(node, node.args[0])  # type: ignore[arg-type]
            return
        reason = f"it does not normalise the output channels of {linear}"
    reasons[path] = reason


def _fold_before(plan: Plan, graph: Graph, node: Node, reasons: dict[str, str]) -> None:
    path, reason = _norm_at(plan, graph, node)
    if path is None or reason:
        return
    layers = _readers_of(node, 1)
    if not layers:
        after = " and ".join(sorted({describe(user) for user in node.users}))
        reasons[path] = f"no linear layer beside it: {reasons[path]}, and {after or 'nothing'} reads it"
        return
    linears: list[str] = []
    for reader, axis in layers:
        linear, why = _reading_layer(plan, graph, reader, axis)
        if linear is None:
            reasons[path] = why
            return
        linears.append(linear)
    plan.take(partial(fold_norm_before, norm=path, linears=tuple(linears)), f"bn-{_short(layers[0][0])}")
    graph.bypass(node, node.args[0])  # type: ignore[arg-type]
    reasons.pop(path, None)


def _reading_layer(plan: Plan, graph: Graph, reader: Node, axis: int) -> tuple[str | None, str]:
    """Path of the layer behind ``reader``, which finds the normalised channels on ``axis``; or None and why not."""
    linear, why = graph.linear_at(reader)
    if linear is None:
        return None, why
    if axis != (1 if op_name(reader) == "conv2d" else rank(reader.args[0]) - 1):  # type: ignore[arg-type]
        return None, f"it does not normalise the input channels of {linear}"
    layer = plan.root.get_submodule(linear)
    if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and any(fusion.padding_of(layer)):
        return None, f"BatchNorm before a padded {fusion.size_of(layer)} convolution: the border would change"
    return linear, ""


def _readers_of(node: Node, axis: int) -> list[tuple[Node, int]]:
    """All calls that read ``node``, each with the axis where it finds the channels; empty unless all are linear maps.

    Reshapes are followed, and means over other axes, which a shift and a scale pass through unchanged.
    """
    found: list[tuple[Node, int]] = []
    for user in readers(node):
        if op_name(user) in ("conv2d", "linear"):
            found.append((user, axis))
            continue
        moved = axis_through(axis, user)
        below = _readers_of(user, moved) if moved is not None else []
        if not below:
            return []
        found += below
    return found


def _norm_at(plan: Plan, graph: Graph, node: Node) -> tuple[str | None, str]:
    """Path of the BatchNorm behind a call, with why it cannot be folded ("" when it can)."""
    if graph.tensor_name(node.args[3]) is None:
        return None, ""
    path, _ = graph.owner(node.args[3])
    module = plan.root.get_submodule(path)
    if not isinstance(module, _BatchNorm):
        return None, ""
    if hooked(module):
        return path, HOOKED
    if node.args[5] is not False:
        return path, "it normalises with the statistics of the batch"
    if not graph.used_once(path, *node.args[1:5]):  # folded at one place, it would be missing at the other
        return path, "it is used more than once"
    plain = type(module).__module__.startswith("torch.") and isinstance(module, _NORMS)
    if not plain and not isinstance(getattr(module, "act", None), nn.Module):
        return path, f"{type(module).__name__} may do more than normalise"
    return path, ""


def _fold_scales(plan: Plan, graph: Graph) -> None:
    for node in graph.calls("mul"):
        found = _scale_of(graph, node)
        if found is None:
            continue
        value, gamma, shape_ops = found
        owner, attribute = graph.owner(gamma)
        linear, reason = _linear_under(graph, node, value, shape_ops)
        whole = _does_nothing_else(plan, graph, owner, {node, *shape_ops})
        if linear is not None and not whole and not _runs_without(plan, owner, attribute):
            linear, reason = None, f"the forward of {owner or 'the model'} multiplies by it itself"
        if linear is not None:
            step = partial(fold_scale, linear=linear, owner=owner, attribute=attribute, whole=whole)
            plan.take(step, "layer scale")
            graph.bypass(node, value)
        elif _SCALE_NAME.search(attribute):
            plan.left[f"{owner}.{attribute}".lstrip(".")] = f"LayerScale is kept: {reason}"


def _scale_of(graph: Graph, node: Node) -> tuple[Node, Node, list[Node]] | None:
    """The value, the parameter and the reshapes on it, where ``node`` multiplies by a per-channel parameter."""
    for value, factor in (node.args[:2], node.args[1::-1]):
        source, chain = graph.before(factor)
        name = graph.tensor_name(source)
        if source is None or not isinstance(value, Node) or name is None:
            continue
        shape = source.meta["val"].shape
        # one axis at most is wider than 1, and nothing is broadcast up: a factor for each channel, not a tensor
        if math.prod(shape) == max(shape, default=0) and value.meta["val"].shape == node.meta["val"].shape:
            return value, source, chain
    return None


def _linear_under(graph: Graph, node: Node, value: Node, shape_ops: list[Node]) -> tuple[str | None, str]:
    """Path of the layer whose output channels ``node`` scales, or None and why there is none."""
    producer, chain = graph.before(value)
    if producer is None:
        return None, "what it multiplies is also read elsewhere"
    linear, reason = graph.linear_at(producer)
    if linear is None:
        return None, reason
    factor = (shape_ops[-1] if shape_ops else next(n for n in node.args if n is not value)).meta["val"].shape  # type: ignore[union-attr]
    # counted from the end, as broadcasting aligns shapes there
    wide = [len(factor) - axis for axis, size in enumerate(factor) if int(size) > 1]
    channels = axis_after(rank(producer) - (3 if op_name(producer) == "conv2d" else 1), chain)
    if channels is None or wide != [rank(node) - channels]:
        return None, f"it does not scale the output channels of {linear}"
    return linear, ""


def _does_nothing_else(plan: Plan, graph: Graph, owner: str, nodes: set[Node]) -> bool:
    """Whether the module at ``owner`` is a LayerScale and no more, so that it can go as a whole."""
    module = plan.root.get_submodule(owner)
    if not owner or len(list(module.parameters())) != 1 or hooked(module):
        return False
    inside = {n for n in graph.nodes if n.op == "call_function" and f"{graph.innermost(n)}.".startswith(f"{owner}.")}
    return inside <= nodes


def _runs_without(plan: Plan, owner: str, attribute: str) -> bool:
    """Whether the module with None in place of the parameter computes what it does with ones there."""
    if plan.inputs is None:
        return False
    module = plan.root.get_submodule(owner)
    calls = capture(plan.root, [owner], plan.inputs)[owner]
    ones, none = copied(module), copied(module)
    getattr(ones, attribute).data.fill_(1.0)  # what is left once the factor is in the layer before it
    setattr(none, attribute, None)
    try:
        errors = [relative_error(run(ones, c.args, c.kwargs), run(none, c.args, c.kwargs)) for c in calls]
    except Exception:  # the forward does need it
        return False
    return bool(errors) and max(errors) <= TOLERANCE


def _name_branches(plan: Plan, graph: Graph) -> None:
    """Parallel convolutions whose sum is taken: equal to one, but the sum is in a forward that is not ours."""
    for node in graph.calls("add"):
        operands: list[Any] = list(node.args[:2])
        sides = [side for side in operands if op_name(side) == "conv2d" and len(side.users) == 1]
        if len(sides) == 2 and sides[0].args[0] is sides[1].args[0]:
            paths = [graph.owner(side.args[1])[0] for side in sides]
            plan.left[paths[1]] = (
                f"a branch parallel to {paths[0]}: their sum is taken in a forward that offers no merge"
            )


def _scale_names(root: nn.Module) -> list[str]:
    return [name for name, _ in root.named_parameters() if _SCALE_NAME.search(name.rpartition(".")[2])]


def _short(node: Node) -> str:
    return "conv" if op_name(node) == "conv2d" else "linear"
