"""A converted program in the integers of a plan: pairs of quantize and dequantize before operators with weights, and
their weights stored as int8 with a scale for each output channel.

As coremltools' own linear_quantize_activations writes them, which is what Apple's compiler knows: signed, without zero
points, biases and results in the program's floats. Which of them a device computes in integers, its compiler decides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.export.coreml.narrow import Narrow
from edgevit.export.coreml.precision import module_of
from edgevit.export.coreml.program import Source
from edgevit.export.coreml.quiet import AbstractGraphPass, block_context_manager, mb, register_pass, types
from edgevit.quantize.narrow import stored
from edgevit.quantize.operators import Mark
from edgevit.quantize.parts import computed_all, first_channel
from edgevit.quantize.plan import Grid, Layer, QuantPlan, added, as_stored, sum_scales, weight_integers
from edgevit.quantize.sites import Sites

PASS = "edgevit::in_integers"
NOT_IN_PROGRAM = "the converted program does not multiply by it as the captured one does"
_BLOCKWISE = 18  # the iOS from which on stored weights have scales for blocks


@register_pass(namespace="edgevit")
class in_integers(AbstractGraphPass):  # type: ignore[misc]  # noqa: N801 - the registry's name of the pass
    """Whatever ``emit``, a function of a block, puts in."""

    emit: Any = None

    def apply(self, prog: Any) -> None:
        for function in prog.functions.values():
            _within(function, self.emit)


@block_context_manager  # type: ignore[untyped-decorator]
def _within(block: Any, emit: Any) -> None:
    emit(block)


@dataclass(frozen=True)
class _Part:
    """Output channels of a layer that one operation computes.

    turned  whether its weight has them on the second axis
    """

    name: str
    layer: Layer
    start: int
    values: Array
    bias: Array | None
    turned: bool

    @property
    def stop(self) -> int:
        return self.start + len(self.values)


@dataclass
class Emission:
    """One plan on its way into one program.

    made  (layer's part, the operation), as the program has them when it is done
    """

    plan: QuantPlan
    sites: Sites
    source: Source
    ios: int
    made: list[tuple[Mark, Any]] = field(default_factory=list)
    _pairs: dict[tuple[int, Grid], Any] = field(default_factory=dict)

    def emit(self, block: Any) -> None:
        """Put pairs around every operation whose weight is one of the plan's; layers that are computed otherwise leave
        the plan, and stay float wherever they are used."""
        parts = [(one, part) for one in list(block.operations) if (part := self._part_of(one)) is not None]
        uses = Counter(site.name for site in self.sites.taken)
        cuts = {name: [(one.start, one.stop) for _, one in parts if one.name == name] for name in self.plan.layers}
        left = {
            name: NOT_IN_PROGRAM
            for name, layer in self.plan.layers.items()
            if not computed_all(cuts[name], len(layer.scales), uses[name])
        }
        self.plan = self.plan.without(left) if left else self.plan
        for operation, part in parts:
            if part.name in self.plan.layers:
                self._replace(block, operation, part)

    def marks(self) -> dict[str, str]:
        """Name of an operation's result -> the text of its mark."""
        return {operation.outputs[0].name: mark.text() for mark, operation in self.made}

    # --- which layer an operation is ---------------------------------------------------------------------------------

    def _part_of(self, operation: Any) -> _Part | None:
        found = _weight_of(operation)
        if found is None:
            return None
        weight, turned = found
        module = module_of(operation, self.source)
        own = [name for name, layer in self.plan.layers.items() if module in layer.modules]
        for name in dict.fromkeys((*own, *self.plan.layers)):
            part = self._fitting(operation, name, weight, turned)
            if part is not None:
                return part
        return None

    def _fitting(self, operation: Any, name: str, weight: Array, turned: bool) -> _Part | None:
        """The part, if the operation computes channels of that layer, and adds its bias and no other."""
        layer, known = self.plan.layers[name], self.sites.weights[name]
        if layer.operator == "linear" and operation.op_type == "conv":
            weight = weight.reshape(weight.shape[:2]) if weight.shape[2:] == (1, 1) else weight
        elif (layer.operator == "conv") != (operation.op_type == "conv"):
            return None
        start = first_channel(weight, known.values.astype(weight.dtype))
        if start is None:
            return None
        cut = slice(start, start + len(weight))
        own = np.zeros(len(known.values), np.float32) if known.bias is None else known.bias
        given = operation.bias.val if operation.op_type != "matmul" and operation.bias is not None else None
        have = np.zeros(len(weight), weight.dtype) if given is None else np.asarray(given)
        if not np.array_equal(have, own[cut].astype(have.dtype)):
            return None
        return _Part(name, layer, start, known.values[cut], own[cut] if own[cut].any() else None, turned)

    # --- what is put in ----------------------------------------------------------------------------------------------

    def _replace(self, block: Any, operation: Any, part: _Part) -> None:
        place = "y" if operation.op_type == "matmul" else "weight"
        given = {name: value for name, value in operation.inputs.items() if value is not None}
        if self.plan.encoding.weights_alone:
            given[place] = Narrow(operation, operation.inputs[place], part.turned, self.ios).weight(
                stored(part.layer, part.values, self.plan.encoding), part.layer.bits
            )
        else:
            given["x"] = self._pair(operation.x, part.layer.input.grid(), operation)
            given[place] = self._stored(operation, operation.inputs[place], part)
        if part.bias is not None:
            given["bias"] = self._bias(operation, part)
        result = operation.outputs[0]
        made = getattr(mb, operation.op_type)(**given, name=operation.name, before_op=operation)
        if result in block.outputs:
            made.name = result.name
        block.replace_uses_of_var_after_op(anchor_op=operation, old_var=result, new_var=made)
        block.remove_ops([operation])
        self.made.append((Mark(part.name, part.start, part.stop, False), made.op))

    def _pair(self, x: Any, grid: Grid, before: Any) -> Any:
        """``x`` on a grid, as float: one pair for all that read it in the same integers."""
        key = (id(x), grid)
        if key not in self._pairs:
            scale = types.nptype_from_builtin(x.dtype)(grid.scale)
            stored = mb.quantize(input=x, scale=scale, output_dtype="int8", before_op=before)
            self._pairs[key] = mb.dequantize(input=stored, scale=scale, before_op=before)
        return self._pairs[key]

    def _stored(self, operation: Any, weight: Any, part: _Part) -> Any:
        dtype = types.nptype_from_builtin(weight.dtype)
        scales = np.array(part.layer.scales, np.float32)[part.start : part.stop].astype(dtype)
        own = part.layer.model_copy(update={"scales": tuple(map(float, scales))})
        whole = weight_integers(own, part.values)
        stored = np.ascontiguousarray(whole.T if part.turned else whole).reshape(weight.shape)
        axis, name = int(part.turned), f"{operation.name}_int8"
        if self.ios < _BLOCKWISE:
            made = mb.constexpr_affine_dequantize(
                quantized_data=stored, zero_point=np.int8(0), scale=scales, axis=axis, before_op=operation, name=name
            )
        else:
            along = scales.reshape([len(scales) if place == axis else 1 for place in range(stored.ndim)])
            made = mb.constexpr_blockwise_shift_scale(data=stored, scale=along, before_op=operation, name=name)
        return made

    def _bias(self, operation: Any, part: _Part) -> Array:
        """The numbers that the plan adds, in the program's type."""
        cut = slice(part.start, part.stop)
        own, encoding = part.layer.model_copy(update={"scales": part.layer.scales[cut]}), self.plan.encoding
        if part.bias is None:
            raise ValueError(f"{part.name} adds nothing")
        if encoding.weights_alone:
            numbers = as_stored(part.bias, encoding)
        else:
            numbers = added(own, part.bias, encoding) * sum_scales(own)
        found: Array = numbers.astype(types.nptype_from_builtin(operation.outputs[0].dtype))
        return found


def _weight_of(operation: Any) -> tuple[Array, bool] | None:
    """An operation's constant weight with the output channels first, and whether that turned it."""
    if operation.op_type in ("conv", "linear"):
        constant, turned = operation.weight, False
    elif operation.op_type == "matmul" and operation.transpose_x.val is not True and operation.y.rank == 2:
        constant, turned = operation.y, not operation.transpose_y.val
    else:
        return None
    if constant.val is None or operation.x.val is not None or not types.is_float(constant.dtype):
        return None
    values = np.asarray(constant.val)
    return (np.ascontiguousarray(values.T) if turned else values), turned
