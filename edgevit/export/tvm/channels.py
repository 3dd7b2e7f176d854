"""Relax graphs with the channels last: (B, C, H, W) values become (B, H, W, C) between the operators that can do so.

A value has up to two forms, as imported and with axis 1 moved to the end; a form is only made where something reads it,
so that the permutations around convolutions cancel, and those that a model writes itself to reach its tokens too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.ir import GenericConst

from edgevit.errors import Unsupported
from edgevit.export.tvm.folding import fold
from edgevit.export.tvm.origins import Modules

Expr = Any

UNARY = frozenset(
    f"relax.{name}"
    for name in (
        *("nn.relu", "nn.gelu", "nn.gelu_tanh", "nn.silu", "nn.leakyrelu", "nn.softplus", "nn.relu6", "nn.selu"),
        *("sigmoid", "tanh", "erf", "exp", "log", "sqrt", "rsqrt", "abs", "negative", "clip", "square", "astype"),
        *("round", "floor", "ceil", "sin", "cos"),
    )
)
BINARY = frozenset(f"relax.{name}" for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "power"))
REDUCE = {"relax.mean": relax.op.mean, "relax.sum": relax.op.sum, "relax.max": relax.op.max, "relax.min": relax.op.min}


@dataclass
class Value:
    """A tensor: as imported, with the channels last, or both; at least one is there."""

    first: Expr = None
    last: Expr = None


def channels_last(module: Any, modules: Modules | None = None) -> Any:
    """``module`` (one dataflow function ``main``) with convolutions and pooling on (B, H, W, C).

    ``modules`` gets the new variables: each belongs to the module of the one that it was made for.
    """
    return _Rewrite(module["main"], {} if modules is None else modules).run()


def shape_of(expression: Expr) -> list[Any]:
    """Extents, numbers where they are known."""
    return [int(each) if isinstance(each, tirx.IntImm) else each for each in expression.ty.shape.values]


def rank(expression: Expr) -> int:
    return int(expression.ty.ndim)


def to_last(count: int) -> list[int]:
    return [0, *range(2, count), 1]


def to_first(count: int) -> list[int]:
    return [0, count - 1, *range(1, count - 1)]


class _Rewrite:
    def __init__(self, main: Any, modules: Modules) -> None:
        self.main = main
        self.modules = modules
        self.current: Any = None
        self.builder = relax.BlockBuilder()
        self.values: dict[Any, Value | list[Value]] = {}
        self.rules = self.by_operator()

    def by_operator(self) -> Mapping[str, Callable[[Any], Value | list[Value] | None]]:
        """What writes the calls of an operator; None from it, or no rule, leaves a call as it is."""
        return {
            "relax.nn.conv2d": self.convolution,
            "relax.nn.pad": self.padding,
            "relax.nn.avg_pool2d": self.pooling,
            "relax.nn.max_pool2d": self.pooling,
            "relax.nn.adaptive_avg_pool2d": self.adaptive_pooling,
            "relax.image.resize2d": self.resize,
            "relax.concat": self.concat,
            "relax.split": self.split,
            "relax.permute_dims": self.permute,
            "relax.reshape": self.reshape,
            "relax.nn.attention": self.attention,
            **dict.fromkeys(UNARY, self.unary),
            **dict.fromkeys(BINARY, self.binary),
            **dict.fromkeys(REDUCE, self.reduce),
        }

    def run(self) -> Any:
        for parameter in self.main.params:
            self.values[parameter] = Value(parameter)
        with self.builder.function("main", list(self.main.params), attrs=_attributes(self.main)):
            with self.builder.dataflow():
                for block in self.main.body.blocks:
                    for binding in block.bindings:
                        self.current = binding.var
                        self.values[binding.var] = self.rewritten(binding.value)
                result = self.builder.emit_output(self.plain(self.main.body.body))
            self.builder.emit_func_output(result)
        return self.builder.get()

    def rewritten(self, value: Expr) -> Value | list[Value]:
        value = self.constants_in(value)
        if isinstance(value, relax.Var):
            same: Value | list[Value] = self.values[value]
            return same
        if isinstance(value, relax.TupleGetItem) and isinstance(known := self.values.get(value.tuple_value), list):
            piece: Value = known[value.index]
            return piece
        if isinstance(value, relax.Call):
            if (folded := fold(value)) is not None:
                return Value(folded)
            rule = self.rules.get(getattr(value.op, "name", ""))
            if rule is not None and (found := rule(value)) is not None:
                return found
        return Value(self.emit(self.plain(value)))

    def constants_in(self, value: Expr) -> Expr:
        """A call with the arguments that have turned out constant in place of their variables."""
        if not isinstance(value, relax.Call):
            return value
        known = [self.of(each).first if isinstance(each, relax.Var) else None for each in value.args]
        found = [each if isinstance(each, GenericConst) else old for each, old in zip(known, value.args, strict=True)]
        return relax.Call(value.op, found, value.attrs, value.ty_args)

    def plain(self, value: Expr) -> Expr:
        """``value`` over variables as imported."""
        if isinstance(value, relax.Var):
            known = self.values.get(value)
            if isinstance(known, list):
                return relax.Tuple([self.first(each) for each in known])
            return value if known is None else self.first(known)
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self.plain(each) for each in value.fields])
        if isinstance(value, relax.Call):
            return relax.Call(value.op, [self.plain(each) for each in value.args], value.attrs, value.ty_args)
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(self.plain(value.tuple_value), value.index)
        return value

    def first(self, value: Value) -> Expr:
        if value.first is None:
            value.first = self.emit(relax.op.permute_dims(value.last, to_first(rank(value.last))))
        return value.first

    def last(self, value: Value) -> Expr:
        if value.last is None:
            if isinstance(value.first, GenericConst):
                return _constant(np.moveaxis(value.first.value.numpy(), 1, -1))
            value.last = self.emit(relax.op.permute_dims(value.first, to_last(rank(value.first))))
        return value.last

    def of(self, argument: Expr) -> Value:
        if isinstance(argument, relax.Var) and isinstance(known := self.values.get(argument), Value):
            return known
        return Value(argument)

    def emit(self, expression: Expr) -> Expr:
        made = self.builder.emit(expression)
        if (place := self.modules.get(self.current)) is not None:
            self.modules[made] = place
        return made

    def emit_last(self, expression: Expr) -> Value:
        return Value(last=self.emit(expression))

    # --- operators ---------------------------------------------------------------------------------------------------

    def convolution(self, call: Any) -> Value | None:
        data, weight = call.args
        if call.attrs.data_layout != "NCHW" or call.attrs.kernel_layout != "OIHW":
            return None
        if isinstance(weight, GenericConst):
            kernel = _constant(weight.value.numpy().transpose(2, 3, 1, 0))
        else:
            kernel = self.emit(relax.op.permute_dims(self.plain(weight), [2, 3, 1, 0]))
        return self.emit_last(
            relax.op.nn.conv2d(
                self.last(self.of(data)),
                kernel,
                strides=_numbers(call.attrs.strides),
                padding=_numbers(call.attrs.padding),
                dilation=_numbers(call.attrs.dilation),
                groups=int(call.attrs.groups),
                data_layout="NHWC",
                kernel_layout="HWIO",
                out_dtype="int32" if str(call.attrs.out_dtype) == "int32" else None,
            )
        )

    def padding(self, call: Any) -> Value | None:
        """Around the picture only."""
        data, widths = self.of(call.args[0]), _numbers(call.attrs.pad_width)
        if data.last is None or len(widths) != 8 or any(widths[:4]) or call.attrs.pad_mode != "constant":
            return None
        turned = [0, 0, *widths[4:], 0, 0]
        return self.emit_last(relax.op.nn.pad(data.last, turned, pad_value=float(call.attrs.pad_value)))

    def pooling(self, call: Any) -> Value:
        operator = relax.op.nn.avg_pool2d if call.op.name.endswith("avg_pool2d") else relax.op.nn.max_pool2d
        attributes = call.attrs
        return self.emit_last(
            operator(
                self.last(self.of(call.args[0])),
                pool_size=_numbers(attributes.pool_size),
                strides=_numbers(attributes.strides),
                padding=_numbers(attributes.padding),
                dilation=_numbers(attributes.dilation),
                ceil_mode=bool(attributes.ceil_mode),
                count_include_pad=bool(attributes.count_include_pad),
                layout="NHWC",
            )
        )

    def adaptive_pooling(self, call: Any) -> Value:
        data = self.last(self.of(call.args[0]))
        size = _numbers(call.attrs.output_size) if call.attrs.output_size else shape_of(data)[1:3]
        if size == [1, 1]:
            return self.emit_last(relax.op.mean(data, [1, 2], keepdims=True))
        return self.emit_last(relax.op.nn.adaptive_avg_pool2d(data, size, layout="NHWC"))

    def resize(self, call: Any) -> Value | None:
        attributes = call.attrs
        if attributes.layout != "NCHW":
            return None
        return self.emit_last(
            relax.op.image.resize2d(
                self.last(self.of(call.args[0])),
                self.plain(call.args[1]),
                layout="NHWC",
                method=attributes.method,
                coordinate_transformation_mode=attributes.coordinate_transformation_mode,
                rounding_method=attributes.rounding_method,
                cubic_alpha=float(attributes.cubic_alpha),
                cubic_exclude=int(attributes.cubic_exclude),
            )
        )

    def unary(self, call: Any) -> Value | None:
        data = self.of(call.args[0])
        if data.last is None:
            return None
        return self.emit_last(relax.Call(call.op, [data.last, *call.args[1:]], call.attrs, call.ty_args))

    def binary(self, call: Any) -> Value | None:
        pair = [self.of(each) for each in call.args]
        count = max(rank(each.last if each.first is None else each.first) for each in pair)
        if count < 3 or not any(each.last is not None for each in pair):
            return None
        sides = [self.broadcastable(each, count) for each in pair]
        if any(each is None for each in sides):
            return None
        return self.emit_last(relax.Call(call.op, sides, call.attrs, call.ty_args))

    def broadcastable(self, value: Value, count: int) -> Expr | None:
        """One side of a broadcast over ``count`` axes, channels last."""
        if isinstance(value.first, GenericConst):
            array = value.first.value.numpy()
            moved = np.moveaxis(array.reshape([1] * (count - array.ndim) + list(array.shape)), 1, -1)
            lead = next((at for at, size in enumerate(moved.shape) if size != 1), count)
            return _constant(moved.reshape(moved.shape[min(lead, count) :]))
        known = value.last if value.first is None else value.first
        return self.last(value) if rank(known) == count else None

    def reduce(self, call: Any) -> Value | None:
        data = self.of(call.args[0])
        if data.last is None or call.attrs.axis is None:
            return None
        count = rank(data.last)
        axes = [each % count for each in _numbers(call.attrs.axis)]
        operator = REDUCE[call.op.name]
        moved = [_moved(axis, count) for axis in axes]
        if call.attrs.keepdims:
            return self.emit_last(operator(data.last, moved, keepdims=True))
        if sorted(axes) == list(range(2, count)):
            return Value(self.emit(operator(data.last, moved, keepdims=False)))
        return None

    def concat(self, call: Any) -> Value | None:
        parts = call.args[0]
        if not isinstance(parts, relax.Tuple) or call.attrs.axis is None:
            return None
        values = [self.of(each) for each in parts.fields]
        if not any(each.last is not None for each in values):
            return None
        lasts = [self.last(each) for each in values]
        return self.emit_last(relax.op.concat(lasts, _moved(int(call.attrs.axis), rank(lasts[0]))))

    def split(self, call: Any) -> list[Value] | None:
        data = self.of(call.args[0])
        if data.last is None:
            return None
        pieces = call.attrs.indices_or_sections
        where = int(pieces) if isinstance(pieces, int | tirx.IntImm) else _numbers(pieces)
        axis = _moved(int(call.attrs.axis), rank(data.last))
        made = self.emit(relax.op.split(data.last, where, axis))
        count = len(made.ty.fields)
        return [self.emit_last(relax.TupleGetItem(made, at)) for at in range(count)]

    def permute(self, call: Any) -> Value | None:
        data, axes = self.of(call.args[0]), _numbers(call.attrs.axes) if call.attrs.axes else []
        count = len(axes)
        if count < 3:
            return None
        if axes == to_last(count):
            return Value(self.last(data))
        if axes == to_first(count):
            return Value(last=self.first(data))
        return None

    def reshape(self, call: Any) -> Value | None:
        data = self.of(call.args[0])
        target = list(call.args[1].values)
        if data.last is None or data.first is not None:
            return None
        sizes = shape_of(data.last)
        if all(each == 1 for each in sizes[1:-1]):
            return Value(self.emit(relax.op.reshape(data.last, target)))
        if len(target) >= 3 and _same(target[0], sizes[0]) and _same(target[1], sizes[-1]):
            return self.emit_last(relax.op.reshape(data.last, [target[0], *target[2:], target[1]]))
        return None

    def attention(self, call: Any) -> Value:
        """softmax(q kᵀ · scale + bias) v on (B, S, H, D). Unsupported for a causal mask inside the operator."""
        if call.attrs.causal_mask is not None:
            raise Unsupported(
                "TVM was given attention with a causal mask", hint="give it attn_mask instead of is_causal"
            )
        query, key, value = (self.plain(each) for each in call.args[:3])
        emit, turn = self.emit, relax.op.permute_dims
        scale = float(call.attrs.scale) if call.attrs.scale is not None else 1 / math.sqrt(shape_of(query)[-1])
        scores = emit(relax.op.matmul(emit(turn(query, [0, 2, 1, 3])), emit(turn(key, [0, 2, 3, 1]))))
        scores = emit(relax.op.multiply(scores, _constant(np.float32(scale))))
        if len(call.args) > 3:
            scores = emit(relax.op.add(scores, self.plain(call.args[3])))
        mixed = emit(relax.op.matmul(emit(relax.op.nn.softmax(scores, -1)), emit(turn(value, [0, 2, 1, 3]))))
        return Value(emit(turn(mixed, [0, 2, 1, 3])))


def _attributes(main: Any) -> dict[str, Any]:
    names = list(main.attrs.keys()) if main.attrs else []
    return {name: main.attrs[name] for name in names if name != "global_symbol"}


def _constant(array: Any) -> Expr:
    return relax.const(np.ascontiguousarray(array))


def _numbers(values: Sequence[Any]) -> list[int]:
    return [int(each) for each in values]


def _moved(axis: int, count: int) -> int:
    """Where an axis is when axis 1 has moved to the end."""
    axis %= count
    return count - 1 if axis == 1 else axis - 1 if axis > 1 else axis


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, int | tirx.IntImm):
        return isinstance(second, int | tirx.IntImm) and int(first) == int(second)
    return not isinstance(second, int) and bool(first.same_as(second))
