"""Token streams as (B, C, 1, N), the layout that the Neural Engine works in, with 1x1 convolutions for linear layers.

A MIL pass. Where a linear layer on (B, N, C) tokens becomes a convolution, the operations between such layers follow
into the same form (LayerNormalization over the channels, activations, residual sums, the split into heads and their
merge), so that transposes remain only where attention needs them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevit.export.coreml.quiet import AbstractGraphPass, block_context_manager, mb, register_pass

PASS = "edgevit::tokens_channels_first"

_UNARY = frozenset({"gelu", "relu", "silu", "sigmoid", "tanh", "erf", "softplus", "relu6", "sigmoid_hard"})
_BINARY = frozenset({"add", "sub", "mul", "real_div"})
_HEADS_FIRST = [0, 2, 1, 3]  # (B, N, H, D) <-> (B, H, N, D)
_KEYS = [0, 2, 3, 1]  # (B, N, H, D) -> (B, H, D, N)


@register_pass(namespace="edgevit")
class tokens_channels_first(AbstractGraphPass):  # type: ignore[misc]  # noqa: N801 - the registry's name of the pass
    """``linear`` on (B, N, C) -> ``conv`` on (B, C, 1, N), and all that can follow."""

    def apply(self, prog: Any) -> None:
        for function in prog.functions.values():
            self._rewrite(function)

    @staticmethod
    @block_context_manager  # type: ignore[untyped-decorator]
    def _rewrite(block: Any) -> None:
        stream = _Stream(block)
        for operation in list(block.operations):
            stream.visit(operation)


class _Stream:
    """The (B, C, 1, N) form of values, where one exists."""

    def __init__(self, block: Any) -> None:
        self.block = block
        self.known: dict[Any, Any] = {}

    def visit(self, operation: Any) -> None:
        """Compute ``operation`` in the channels-first form if it can be."""
        kind = operation.op_type
        if kind == "linear" and _is_tokens(operation.x):
            self.finish(operation, self.convolution(operation))
        elif kind in _UNARY and operation.x in self.known:
            given = {name: value for name, value in operation.inputs.items() if name != "x"}
            self.finish(operation, getattr(mb, kind)(x=self.known[operation.x], before_op=operation, **given))
        elif kind == "layer_norm" and operation.x in self.known and _over_channels(operation):
            self.finish(operation, self.normalisation(operation))
        elif kind in _BINARY:
            self.binary(operation)
        elif kind == "transpose":
            self.heads(operation)

    def convolution(self, operation: Any) -> Any:
        x, weight = self.of(operation.x, operation), operation.weight.val[:, :, None, None]
        bias = {} if operation.bias is None else {"bias": operation.bias}
        return mb.conv(x=x, weight=weight, pad_type="valid", before_op=operation, **bias)

    def normalisation(self, operation: Any) -> Any:
        given = {name: value for name, value in operation.inputs.items() if name not in ("x", "axes")}
        return mb.layer_norm(x=self.known[operation.x], axes=[1], before_op=operation, **given)

    def binary(self, operation: Any) -> None:
        sides = operation.x, operation.y
        if not any(value in self.known for value in sides) or not _is_tokens(operation.outputs[0]):
            return
        moved = [self.side(value, operation) for value in sides]
        if all(value is not None for value in moved):
            x, y = moved
            self.finish(operation, getattr(mb, operation.op_type)(x=x, y=y, before_op=operation))

    def side(self, value: Any, operation: Any) -> Any:
        """One side of a sum or product: a stream of the result's shape, or a constant that broadcasts."""
        if value.val is not None:
            return _constant(np.asarray(value.val))
        same = list(value.shape[1:]) == list(operation.outputs[0].shape[1:]) and value.rank == 3
        return self.of(value, operation) if same else None

    def heads(self, operation: Any) -> None:
        """``transpose(reshape(tokens, (B, N, H, D)))`` from the channels-first form: a reshape gives (B, H, D, N)."""
        split, perm = operation.x.op, _perm(operation)
        if split is None or split.op_type != "reshape" or split.x not in self.known or operation.x.rank != 4:
            return
        tokens, (rows, heads, width) = split.x.shape, operation.x.shape[1:]
        if perm not in (_HEADS_FIRST, _KEYS) or rows != tokens[1] or heads * width != tokens[2]:
            return
        found = mb.reshape(x=self.known[split.x], shape=[-1, heads, width, rows], before_op=operation)
        if perm == _HEADS_FIRST:
            found = mb.transpose(x=found, perm=[0, 1, 3, 2], before_op=operation)
        self.replace(operation, found)

    def of(self, value: Any, operation: Any) -> Any:
        """The channels-first form of (B, N, C): the known one, from merged heads, or by a transpose."""
        if value not in self.known:
            merged = _merged_heads(value)
            if merged is not None:
                turned = mb.transpose(x=merged, perm=[0, 1, 3, 2], before_op=operation)
            else:
                turned = mb.transpose(x=value, perm=[0, 2, 1], before_op=operation)
            rows, channels = value.shape[1:]
            self.known[value] = mb.reshape(x=turned, shape=[-1, channels, 1, rows], before_op=operation)
        return self.known[value]

    def finish(self, operation: Any, result: Any) -> None:
        """Hand ``result`` on as (B, N, C); readers that know the form will pass the transpose by."""
        flat = mb.squeeze(x=result, axes=[2], before_op=operation)
        tokens = mb.transpose(x=flat, perm=[0, 2, 1], before_op=operation)
        self.known[tokens] = result
        self.replace(operation, tokens)

    def replace(self, operation: Any, new: Any) -> None:
        old = operation.outputs[0]
        if old in self.block.outputs:
            new.name = old.name
        self.block.replace_uses_of_var_after_op(anchor_op=operation, old_var=old, new_var=new)
        self.block.remove_ops([operation])


def _is_tokens(value: Any) -> bool:
    """(B, N, C) with tokens and channels known."""
    return value.rank == 3 and all(isinstance(side, int | np.integer) for side in value.shape[1:])


def _perm(transpose: Any) -> list[int]:
    """Its permutation, which may count from the end."""
    return [int(axis) % transpose.x.rank for axis in transpose.perm.val]


def _over_channels(operation: Any) -> bool:
    return list(operation.axes.val) in ([-1], [2])


def _constant(value: Any) -> Any:
    """A constant beside (B, N, C) as one beside (B, C, 1, N); None where there is no such form."""
    if value.ndim == 0 or value.size == 1:
        return value.reshape(())
    if value.ndim == 1 or value.shape[:-1] == (1,) * (value.ndim - 1):
        return value.reshape(1, -1, 1, 1)
    if value.ndim in (2, 3):
        whole = value.reshape(-1, *value.shape[-2:])
        return np.ascontiguousarray(whole.transpose(0, 2, 1)[:, :, None, :]) if len(whole) == 1 else None
    return None


def _merged_heads(value: Any) -> Any:
    """(B, H, N, D) where ``value`` is its tokens, ``reshape(transpose(x, (0, 2, 1, 3)), (B, N, C))``."""
    merge = value.op
    if merge is None or merge.op_type != "reshape":
        return None
    turn = merge.x.op
    if turn is None or turn.op_type != "transpose" or _perm(turn) != _HEADS_FIRST:
        return None
    heads = turn.x
    fits = [heads.shape[2], heads.shape[1] * heads.shape[3]] == list(value.shape[1:])
    return heads if heads.rank == 4 and fits else None
