"""Relax operators as tensor expressions in the form that the schedules read, where TVM's own form is another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax, te, tirx, topi
from tvm.ir import GenericConst

from edgevit.artifact.manifest import Array
from edgevit.export.tvm import ranking, scanning
from edgevit.export.tvm.kinds import ELEMENTWISE, OPAQUE, REDUCES

Expr = Any
Builder = Any
INTEGER = "int8_"


def legalizations() -> Mapping[str, Callable[[Builder, Any], Expr]]:
    """Operator name -> the function that writes it, for ``relax.transform.LegalizeOps``."""
    return {
        "relax.nn.conv2d": _convolution,
        "relax.matmul": _matmul,
        "relax.nn.avg_pool2d": _pooling("avg"),
        "relax.nn.max_pool2d": _pooling("max"),
        "relax.mean": _mean,
        "relax.nn.layer_norm": _layer_norm,
        "relax.nn.softmax": _softmax,
        "relax.astype": _cast,
        "relax.nn.gelu": _elementwise("gelu", gelu),
        "relax.nn.gelu_tanh": _elementwise("gelu_tanh", gelu_tanh),
        "relax.topk": ranking.legalise,
        "relax.cumsum": scanning.legalise("cumsum", lambda total, each: total + each),
        "relax.cumprod": scanning.legalise("cumprod", lambda total, each: total * each),
        "relax.full": _full,
        "relax.full_like": _full,
        "relax.nn.silu": _elementwise("silu", lambda x: x * tirx.sigmoid(x)),
    }


def gelu(x: Expr) -> Expr:
    """x · Φ(x), exact."""
    return x * (tirx.erf(x * _like(x, math.sqrt(0.5))) * _like(x, 0.5) + _like(x, 0.5))


def gelu_tanh(x: Expr) -> Expr:
    inner = x * (x * x * _like(x, 0.044715) + _like(x, 1.0)) * _like(x, math.sqrt(2 / math.pi))
    return x * (tirx.tanh(inner) * _like(x, 0.5) + _like(x, 0.5))


def _like(x: Expr, value: float) -> Expr:
    return tirx.const(value, "float32")


def _elementwise(name: str, function: Callable[[Expr], Expr]) -> Callable[[Builder, Any], Expr]:
    def write(builder: Builder, call: Any) -> Expr:
        def compute(x: Any) -> Any:
            return te.compute(x.shape, lambda *at: function(x(*at)), name=name)

        return builder.call_te(
            compute, call.args[0], primfunc_name_hint=name, primfunc_attrs={"op_pattern": ELEMENTWISE}
        )

    return write


def _cast(builder: Builder, call: Any) -> Expr:
    """Booleans by a choice: TVM's analysis of vectors fails for a cast of them."""
    made = str(call.ty.dtype)
    if str(call.args[0].ty.dtype) != "bool" or made == "bool" or isinstance(call.args[0], GenericConst):
        return relax.transform.legalize_ops.datatype._astype(builder, call)

    def compute(x: Any) -> Any:
        yes, no = (tirx.const(value, made) for value in (1, 0))
        return te.compute(x.shape, lambda *at: tirx.Select(x(*at), yes, no), name="compute")

    return builder.call_te(compute, call.args[0], primfunc_name_hint="cast", primfunc_attrs={"op_pattern": ELEMENTWISE})


def _full(builder: Builder, call: Any) -> Expr:
    """TVM's own form fails for infinity, which masks are filled with."""
    like, given = call.op.name.endswith("like"), call.args[1]
    value = float(given.value.numpy()) if isinstance(given, GenericConst) else 0.0
    create = relax.transform.legalize_ops.create
    if math.isfinite(value):
        return create._full(is_like=like, fill_value=None, primfunc_name="full")(builder, call)
    shape = list((call.args[0].ty.shape if like else call.args[0]).values)
    number = tirx.const(value, str(call.ty.dtype))
    return builder.call_te(
        lambda: te.compute(shape, lambda *_: number, name="full"),
        primfunc_name_hint="full",
        primfunc_attrs={"op_pattern": ELEMENTWISE},
    )


def _matmul(builder: Builder, call: Any) -> Expr:
    made = str(call.ty.dtype)
    return builder.call_te(
        lambda first, second: matmul(first, second, made),
        *call.args,
        primfunc_name_hint=f"{_integer(call)}matmul",
        primfunc_attrs={"op_pattern": REDUCES},
    )


def _integer(call: Any) -> str:
    """What the names of kernels that multiply integers of 8 bits begin with."""
    return INTEGER if str(call.args[1].ty.dtype) == "int8" else ""


def _product(first: Expr, second: Expr, made: str) -> Expr:
    """Of two numbers, each in the type of the result first."""
    return _as(first, made) * _as(second, made)


def _as(value: Expr, dtype: str) -> Expr:
    return value if str(value.ty.dtype) == dtype else tirx.Cast(dtype, value)


def matmul(first: Any, second: Any, made: str = "float32") -> Any:
    """(… M, K) × (… K, N), batch axes broadcast; a one-dimensional operand is a row, or a column. Sums are of type
    ``made``."""
    a, b = list(first.shape), list(second.shape)
    if len(a) < 2 or len(b) < 2:
        return topi.matmul(first, second)
    batch = _broadcast(a[:-2], b[:-2])
    k = te.reduce_axis((0, a[-1]), name="k")

    def element(*at: Expr) -> Expr:
        *lead, m, n = at
        one, other = first(*_batch(lead, a[:-2]), m, k), second(*_batch(lead, b[:-2]), k, n)
        return te.sum(_product(one, other, made), axis=k)

    return te.compute([*batch, a[-2], b[-1]], element, name="matmul")


def _broadcast(first: list[Any], second: list[Any]) -> list[Any]:
    count = max(len(first), len(second))
    padded = [[1] * (count - len(each)) + each for each in (first, second)]
    return [b if _one(a) else a for a, b in zip(*padded, strict=True)]


def _one(extent: Any) -> bool:
    return isinstance(extent, int | tirx.IntImm) and int(extent) == 1


def _batch(at: list[Expr], extents: list[Any]) -> list[Expr]:
    mine = at[len(at) - len(extents) :]
    return [tirx.const(0, "int64") if _one(extent) else each for each, extent in zip(mine, extents, strict=True)]


def _convolution(builder: Builder, call: Any) -> Expr:
    attributes = call.attrs
    if attributes.data_layout != "NHWC" or attributes.kernel_layout != "HWIO":
        return relax.transform.legalize_ops.nn._nn_conv2d(builder, call)
    pads, strides, dilation = (
        [int(each) for each in v] for v in (attributes.padding, attributes.strides, attributes.dilation)
    )
    groups = int(attributes.groups)

    made, (data, kernel) = str(call.ty.dtype), call.args
    if groups > 1 and isinstance(kernel, GenericConst):
        kernel = relax.const(by_group(kernel.value.numpy(), groups))

    def compute(data: Any, kernel: Any) -> Any:
        return convolution(data, kernel, strides, pads, dilation, groups, made)

    name = (
        "conv2d" if groups == 1 else "depthwise" if groups == int(call.args[0].ty.shape.values[3]) else "group_conv2d"
    )
    return builder.call_te(
        compute,
        data,
        kernel,
        primfunc_name_hint=f"{_integer(call)}{name}",
        primfunc_attrs={"op_pattern": REDUCES},
    )


def convolution(
    data: Any, kernel: Any, strides: list[int], pads: list[int], dilation: list[int], groups: int, made: str = "float32"
) -> Any:
    """(B, H, W, C) by (KH, KW, C / groups, O), or as ``by_group`` has it; ``pads`` is top, left, bottom, right. Sums of
    type ``made``."""
    padded = pad(data, pads)
    batch, high, wide, _ = padded.shape
    grouped = len(kernel.shape) == 5
    kh, kw, inputs = kernel.shape[1:4] if grouped else kernel.shape[:3]
    outputs = groups * kernel.shape[4] if grouped else kernel.shape[3]
    oh = (high - (kh - 1) * dilation[0] - 1) // strides[0] + 1
    ow = (wide - (kw - 1) * dilation[1] - 1) // strides[1] + 1
    down, along = te.reduce_axis((0, kh), "kh"), te.reduce_axis((0, kw), "kw")

    def at(y: Expr, x: Expr) -> tuple[Expr, Expr]:
        return y * strides[0] + down * dilation[0], x * strides[1] + along * dilation[1]

    multiplier = int(outputs) // groups
    if int(inputs) == 1 and groups > 1 and multiplier == 1:
        return te.compute(
            (batch, oh, ow, outputs),
            lambda b, y, x, o: te.sum(
                _product(padded(b, *at(y, x), o), kernel(down, along, 0, o), made), axis=[down, along]
            ),
            name="depthwise",
        )
    channel = te.reduce_axis((0, inputs), "channel")
    if groups == 1:
        return te.compute(
            (batch, oh, ow, outputs),
            lambda b, y, x, o: te.sum(
                _product(padded(b, *at(y, x), channel), kernel(down, along, channel, o), made),
                axis=[down, along, channel],
            ),
            name="conv2d",
        )

    def weight(g: Expr, o: Expr) -> Expr:
        place = (down, along, channel)
        return kernel(g, *place, o) if grouped else kernel(*place, g * multiplier + o)

    whole = te.compute(
        (batch, groups, oh, ow, multiplier),
        lambda b, g, y, x, o: te.sum(
            _product(padded(b, *at(y, x), g * inputs + channel), weight(g, o), made),
            axis=[down, along, channel],
        ),
        name="group_conv2d",
    )
    return te.compute(
        (batch, oh, ow, outputs), lambda b, y, x, o: whole(b, o // multiplier, y, x, o % multiplier), name="ungroup"
    )


def by_group(kernel: Array, groups: int) -> Array:
    """(KH, KW, C / groups, O) -> (groups, KH, KW, C / groups, O / groups): each group's own lies together. A depthwise
    one, of one number for each of its channels, as it is."""
    kh, kw, inputs, outputs = kernel.shape
    if inputs == 1 and outputs == groups:
        return kernel
    return kernel.reshape(kh, kw, inputs, groups, outputs // groups).transpose(3, 0, 1, 2, 4)


def pad(data: Any, pads: list[int], value: float = 0.0) -> Any:
    """(B, H, W, C) with ``pads`` top, left, bottom, right around; the data itself where there are none."""
    if not any(pads):
        return data
    batch, high, wide, channels = data.shape
    top, left, bottom, right = pads

    def element(b: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
        inside = tirx.all(y >= top, y < high + top, x >= left, x < wide + left)
        return tirx.if_then_else(inside, data(b, y - top, x - left, c), tirx.const(value, str(data.dtype)))

    return te.compute((batch, high + top + bottom, wide + left + right, channels), element, name="padded")


def _pooling(kind: str) -> Callable[[Builder, Any], Expr]:
    def write(builder: Builder, call: Any) -> Expr:
        attributes = call.attrs

        def compute(data: Any) -> Any:
            return topi.nn.pool2d(
                data,
                kernel=attributes.pool_size,
                stride=attributes.strides,
                dilation=attributes.dilation,
                padding=attributes.padding,
                pool_type=kind,
                ceil_mode=attributes.ceil_mode,
                layout=attributes.layout,
                count_include_pad=attributes.count_include_pad,
            )

        return builder.call_te(
            compute, call.args[0], primfunc_name_hint=f"{kind}_pool2d", primfunc_attrs={"op_pattern": REDUCES}
        )

    return write


def _mean(builder: Builder, call: Any) -> Expr:
    """A sum and one multiplication, in one function."""
    data = call.args[0]
    count = int(data.ty.ndim)
    axes = sorted(int(each) % count for each in (call.attrs.axis or range(count)))
    keep = bool(call.attrs.keepdims)

    def compute(x: Any) -> Any:
        total, size = _total(x, axes)
        scale = tirx.const(1.0, "float32") / tirx.Cast("float32", size)
        if not keep:
            return te.compute(total.shape, lambda *at: total(*at) * scale, name="mean")
        full = [1 if axis in axes else extent for axis, extent in enumerate(x.shape)]
        return te.compute(
            full, lambda *at: total(*[each for axis, each in enumerate(at) if axis not in axes]) * scale, name="mean"
        )

    return builder.call_te(compute, data, primfunc_name_hint="mean", primfunc_attrs={"op_pattern": OPAQUE})


def _total(x: Any, axes: list[int]) -> tuple[Any, Expr]:
    """The sum over ``axes``, which are gone from it, and how many values each sum is of."""
    steps = [te.reduce_axis((0, x.shape[axis]), "k") for axis in axes]
    size: Any = 1
    for axis in axes:
        size = size * x.shape[axis]

    def element(*at: Expr) -> Expr:
        kept, gone = iter(at), iter(steps)
        return te.sum(x(*[next(gone) if axis in axes else next(kept) for axis in range(len(x.shape))]), axis=steps)

    shape = [extent for axis, extent in enumerate(x.shape) if axis not in axes]
    return te.compute(shape, element, name="total"), size


def _layer_norm(builder: Builder, call: Any) -> Expr:
    axes = [int(each) % int(call.args[0].ty.ndim) for each in call.attrs.axes]
    if axes != [int(call.args[0].ty.ndim) - 1]:
        return relax.transform.legalize_ops.nn._nn_layer_norm(builder, call)
    epsilon = float(call.attrs.epsilon)
    return builder.call_te(
        lambda x, gamma, beta: layer_norm(x, gamma, beta, epsilon),
        *call.args,
        primfunc_name_hint="layer_norm",
        primfunc_attrs={"op_pattern": OPAQUE},
    )


def layer_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Over the last axis: mean first, then the mean squared distance from it."""
    *rows, size = x.shape
    inverse = tirx.const(1 / int(size), "float32")
    k, j = te.reduce_axis((0, size), "k"), te.reduce_axis((0, size), "j")
    total = te.compute(rows, lambda *at: te.sum(x(*at, k), axis=k), name="total")
    mean = te.compute(rows, lambda *at: total(*at) * inverse, name="mean")

    def away(*at: Expr) -> Expr:
        return x(*at) - mean(*at[:-1])

    squares = te.compute(rows, lambda *at: te.sum(away(*at, j) * away(*at, j), axis=j), name="squares")
    scale = te.compute(
        [*rows, 1], lambda *at: tirx.rsqrt(squares(*at[:-1]) * inverse + tirx.const(epsilon, "float32")), name="scale"
    )
    return te.compute(
        x.shape, lambda *at: away(*at) * scale(*at[:-1], 0) * gamma(at[-1]) + beta(at[-1]), name="layer_norm"
    )


def _softmax(builder: Builder, call: Any) -> Expr:
    if int(call.attrs.axis) not in (-1, int(call.args[0].ty.ndim) - 1):
        return relax.transform.legalize_ops.nn._nn_softmax(builder, call)
    return builder.call_te(softmax, call.args[0], primfunc_name_hint="softmax", primfunc_attrs={"op_pattern": OPAQUE})


def softmax(x: Any) -> Any:
    """Over the last axis."""
    *rows, size = x.shape
    k, j = te.reduce_axis((0, size), "k"), te.reduce_axis((0, size), "j")
    biggest = te.compute(rows, lambda *at: te.max(x(*at, k), axis=k), name="biggest")
    power = te.compute(x.shape, lambda *at: tirx.exp(x(*at) - biggest(*at[:-1])), name="power")
    total = te.compute(rows, lambda *at: te.sum(power(*at, j), axis=j), name="total")
    scale = te.compute([*rows, 1], lambda *at: tirx.const(1.0, "float32") / total(*at[:-1]), name="scale")
    return te.compute(x.shape, lambda *at: power(*at) * scale(*at[:-1], 0), name="softmax")
