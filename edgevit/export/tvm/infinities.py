"""Reductions that begin at infinity: TVM begins at the largest finite number, which a row that is infinite all through
never reaches."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import tvm_ffi
from tvm import tirx

_EXTREMES = re.compile(r"(max|min|max_pool[123]d)\d*$")  # by the names of their functions


def from_infinity(module: Any) -> Any:
    """``module`` of one function for each operator, with those that look for the largest or smallest mended."""
    for variable, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and _EXTREMES.match(str(variable.name_hint)):
            body = tvm_ffi.structural_map(function.body, (tirx.FloatImm, _unbounded))
            module.update_func(variable, tirx.PrimFunc(function.params, body, attrs=function.attrs))
    return module


def _unbounded(number: Any) -> Any:
    dtype = str(number.ty)
    largest = float(np.finfo(dtype).max) if dtype in ("float16", "float32", "float64") else math.inf
    value = float(number.value)
    return tirx.const(math.copysign(math.inf, value), dtype) if abs(value) >= largest else number
