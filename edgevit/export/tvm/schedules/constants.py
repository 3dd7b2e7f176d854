"""Puts scheduled functions into a module, and the constants that they read in panels into that layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import IRModule, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from edgevit.export.tvm.schedules.packing import Packing
from edgevit.export.tvm.schedules.writing import PACKED


def pack_constants(module: Any, written: Mapping[Any, Any]) -> Any:
    """``module`` with the functions of ``written``, and calls of them from ``main`` given packed constants."""
    return _Packer(written).packed(module["main"])


@mutator
class _Packer(PyExprMutator):  # type: ignore[misc]
    """Builds the module anew: a packed parameter changes the type of its function."""

    def __init__(self, written: Mapping[Any, Any]) -> None:
        super().__init__(IRModule())
        self.packings: dict[Any, Packing] = {}
        self.variables: dict[Any, Any] = {}
        for variable, function in written.items():
            self.variables[variable] = self.builder_.add_func(function, variable.name_hint)
            if PACKED in function.attrs:
                self.packings[variable] = Packing.decode(function.attrs[PACKED])

    def packed(self, main: Any) -> Any:
        changed = self.visit_expr(main)
        module = self.builder_.get()
        module["main"] = changed
        return module

    def visit_call_(self, call: Any) -> Any:
        if getattr(call.op, "name", "") != "relax.call_tir":
            return super().visit_call_(call)
        arguments = [self.visit_expr(each) for each in call.args[1].fields]
        if packing := self.packings.get(call.args[0]):
            constant = arguments[packing.parameter]
            arguments[packing.parameter] = relax.const(packing.apply(constant.value.numpy()))
        function = self.variables[call.args[0]]
        return relax.Call(call.op, [function, relax.Tuple(arguments), *call.args[2:]], call.attrs, call.ty_args)
