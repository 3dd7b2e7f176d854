"""Layers of integers in Relax: activations on their grid as uint8, products summed in int32, steps of float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import fx
from tvm import relax

from edgevit.quantize.plan import LEVELS


def _on_grid(node: fx.Node, importer: Any) -> Any:
    """Divided, rounded half to even and clamped, as float32 does it everywhere."""
    x, emit = importer.env[node.args[0]], importer.block_builder.emit
    scale, zero = (np.float32(each) for each in node.args[1:3])  # type: ignore[arg-type]
    steps = emit(relax.op.round(emit(relax.op.divide(x, relax.const(scale)))))
    moved = emit(relax.op.add(steps, relax.const(zero))) if zero else steps
    return emit(relax.op.astype(emit(relax.op.clip(moved, 0, LEVELS)), "uint8"))


def _linear(node: fx.Node, importer: Any) -> Any:
    x, weight, steps, added = (importer.env[each] for each in node.args)
    emit = importer.block_builder.emit
    sums = relax.op.matmul(x, emit(relax.op.permute_dims(weight, [1, 0])), out_dtype="int32")
    return _of_sums(emit(sums), steps, added, emit)


def _convolution(node: fx.Node, importer: Any) -> Any:
    x, weight, steps, added = (importer.env[each] for each in node.args[:4])
    zero, stride, padding, dilation, groups = node.args[4:9]
    emit = importer.block_builder.emit
    left, right, top, bottom = (int(one) for one in padding)  # type: ignore[arg-type, union-attr]
    if any((left, right, top, bottom)):  # what lies around a picture is a real zero
        x = emit(relax.op.nn.pad(x, [0, 0, 0, 0, top, bottom, left, right], pad_value=zero))
    sums = relax.op.nn.conv2d(x, weight, strides=stride, dilation=dilation, groups=groups, out_dtype="int32")
    steps, added = (emit(relax.op.reshape(each, [1, -1, 1, 1])) for each in (steps, added))
    return _of_sums(emit(sums), steps, added, emit)


def _of_sums(sums: Any, steps: Any, added: Any, emit: Callable[[Any], Any]) -> Any:
    whole = emit(relax.op.astype(emit(relax.op.add(sums, added)), "float32"))
    return emit(relax.op.multiply(whole, steps))


READ: Mapping[str, Callable[[fx.Node, Any], Any]] = {
    "on_grid.default": _on_grid,
    "integer_linear.default": _linear,
    "integer_conv2d.default": _convolution,
}
