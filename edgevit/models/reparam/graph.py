"""The traced model as a graph of operators, read for what may be folded: who feeds whom, and along which axis."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from edgevit.models.eager.copying import copied, deep
from edgevit.models.eager.promotion import in_full
from edgevit.models.eager.wrappers import hooked

_SAME = {"dropout", "alias", "contiguous", "clone", "detach", "lift_fresh_copy"}
_RESHAPES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "reshape_as", "view_as"}
_LINEAR = {"conv2d": nn.Conv2d, "linear": nn.Linear}


class Graph:
    """torch.export's graph of ``model`` in eval mode. Folds made on the modules are mirrored by ``bypass``."""

    def __init__(self, model: nn.Module, inputs: Sequence[Any]) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # On a copy: modules that cache in forward (timm's attention biases) would keep the tracer's fake tensors.
            # In float32, which forwards that name a type do take; nothing but the graph's structure is read.
            single = copied(model).float()
            narrow = tuple(t.float() if t.is_floating_point() else t for t in inputs)
            with deep(), in_full(traced=True):
                program = torch.export.export(single, narrow, strict=False)
        self.nodes = program.graph.nodes
        signature = program.graph_signature
        self._names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._model = model
        self._paths = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))

    def calls(self, *names: str) -> list[Node]:
        """Calls of the operators with these names, in the order they run."""
        return [node for node in self.nodes if op_name(node) in names]

    def tensor_name(self, node: Any) -> str | None:
        """The parameter or buffer that ``node`` reads, by its name in the model."""
        return self._names.get(node.name) if isinstance(node, Node) and node.op == "placeholder" else None

    def owner(self, node: Any) -> tuple[str, str]:
        """Module path and attribute name of the parameter or buffer ``node``."""
        path, _, attribute = (self.tensor_name(node) or "").rpartition(".")
        return path, attribute

    def used_once(self, path: str, *tensors: Any) -> bool:
        """Whether the module at ``path`` has one place in the tree and these tensors of it one reader each."""
        single = all(len(t.users) == 1 for t in tensors if isinstance(t, Node))
        return single and self._paths[id(self._model.get_submodule(path))] == 1

    def linear_at(self, node: Node) -> tuple[str | None, str]:
        """Path of the Conv2d or Linear behind a call, or None and why it cannot take a fold."""
        kind = _LINEAR.get(op_name(node))
        if kind is None:
            return None, f"{describe(node)} is not a convolution or linear layer"
        path, attribute = self.owner(node.args[1])
        if attribute != "weight" or not isinstance(self._model.get_submodule(path), kind):
            return None, "the weight before it is computed in forward"
        if hooked(self._model.get_submodule(path)):
            return None, f"{path} has a hook, or a forward of its own, that a fold would mislead"
        if not self.used_once(path, node.args[1], *node.args[2:3]):
            return None, f"{path} is used more than once"
        return path, ""

    def before(self, node: Any) -> tuple[Node | None, list[Node]]:
        """The producer of ``node`` and the reshapes on the way, in the order they run.

        None when something on the way (the producer too) is read by others as well.
        """
        chain: list[Node] = []
        while isinstance(node, Node) and len(readers(node)) == 1:
            if not _moves_only(node):
                return node, chain
            chain.insert(0, node)
            node = node.args[0]
        return None, chain

    def innermost(self, node: Node) -> str:
        """Path of the innermost module whose forward made this call."""
        stack = node.meta.get("nn_module_stack") or {}
        last = list(stack.values())[-1][0] if stack else ""
        return str(last)

    def bypass(self, node: Node, source: Node) -> None:
        """Read ``source`` wherever ``node`` was read."""
        node.replace_all_uses_with(source)
        node.graph.erase_node(node)


def op_name(node: Any) -> str:
    """ "conv2d" for a call of aten.conv2d.default (in place or not); "" for what is no operator call."""
    if not isinstance(node, Node) or node.op != "call_function":
        return ""
    full = str(node.target)
    return full.split(".")[1].removesuffix("_") if full.startswith("aten.") else full


def readers(node: Node) -> list[Node]:
    """Calls that read the values of ``node``; one that only takes its shape (reshape_as) does not count."""
    return [u for u in node.users if not (op_name(u) in ("reshape_as", "view_as") and u.args[0] is not node)]


def describe(node: Any) -> str:
    return op_name(node) or "the model's input"


def rank(node: Node) -> int:
    return len(node.meta["val"].shape)


def axis_after(axis: int, chain: Sequence[Node]) -> int | None:
    """Where ``axis`` is after the reshapes of ``chain``; None when one of them splits or merges it."""
    here: int | None = axis
    for node in chain:
        if here is None:
            return None
        here = _axis_after_one(here, node)
    return here


def axis_through(axis: int, node: Node) -> int | None:
    """Where ``axis`` is after ``node``, for reshapes and for means over other axes; None otherwise."""
    if _moves_only(node):
        return _axis_after_one(axis, node)
    source: Any = node.args[0]
    if op_name(node) == "adaptive_avg_pool2d":
        return axis if axis == len(source.meta["val"].shape) - 3 else None
    if op_name(node) != "mean" or len(node.args) < 2 or not isinstance(node.args[1], (list, tuple)):
        return None
    gone = {int(d) % len(source.meta["val"].shape) for d in node.args[1]}  # type: ignore[arg-type]
    kept = bool(node.args[2]) if len(node.args) > 2 else bool(node.kwargs.get("keepdim", False))
    if axis in gone or not gone:
        return None
    return axis if kept else axis - sum(d < axis for d in gone)


def _moves_only(node: Node) -> bool:
    if op_name(node) == "dropout":
        return not (node.args[2] if len(node.args) > 2 else node.kwargs.get("train", True))
    return op_name(node) in _SAME | _RESHAPES | {"permute", "transpose"}


def _axis_after_one(axis: int, node: Node) -> int | None:
    source, target = node.args[0].meta["val"].shape, node.meta["val"].shape  # type: ignore[union-attr]
    name = op_name(node)
    if name in _SAME:
        return axis
    if name == "permute":
        return [int(d) % len(source) for d in node.args[1]].index(axis)  # type: ignore[union-attr, arg-type]
    if name == "transpose":
        a, b = (int(d) % len(source) for d in node.args[1:3])  # type: ignore[arg-type]
        return {a: b, b: a}.get(axis, axis)
    size, leading = int(source[axis]), math.prod(int(s) for s in source[:axis])
    # Row-major: the axis survives a reshape when some axis has its size and as many elements before it.
    same = (b for b, s in enumerate(target) if int(s) == size and math.prod(int(t) for t in target[:b]) == leading)
    return next(same, None) if size > 1 else None
