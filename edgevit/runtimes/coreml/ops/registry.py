"""The table of MIL operations that the reference evaluator computes, and how a call rounds.

An operation is a plain function whose keyword names are those of the MIL operation. Three kinds are declared:

    @computes  does arithmetic. float16 inputs arrive as float32, so accumulation is in float32
    @maps      arithmetic on each element alone. The same, but a large float16 tensor goes through a table of all halves
    @moves     copies, selects or reorders values. Inputs arrive as they are

Whatever the kind, ``Operation.call`` rounds each result once to the type that the program gives it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.runtimes.coreml.ops.half import to_half

Function = Callable[..., Any]
Kind = Literal["computes", "maps", "moves"]

HALVES = 1 << 16  # as many values as a float16 has


@dataclass(frozen=True)
class Operation:
    """One MIL operation: its function and how its float16 inputs are handled."""

    name: str
    function: Function
    kind: Kind

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Names of the MIL inputs that the function takes."""
        return frozenset(inspect.signature(self.function).parameters)

    def call(self, inputs: Mapping[str, Any], dtypes: Sequence[np.dtype[Any]]) -> list[Array]:
        """The outputs for ``inputs`` (MIL name -> array, list of arrays, scalar or string), one for each of ``dtypes``.

        Every output is rounded to its dtype; what is too large for a float16 becomes infinite, as in the format.
        """
        with np.errstate(all="ignore"):
            if self.kind == "maps" and _is_large_half(inputs["x"]):
                return [self._through_table(inputs, dtypes[0])]
            if self.kind != "moves":
                inputs = {name: widened(value) for name, value in inputs.items()}
            found = self.function(**inputs)
            results = found if isinstance(found, list) else [found]
            return [rounded(value, dtype) for value, dtype in zip(results, dtypes, strict=True)]

    def _through_table(self, inputs: Mapping[str, Any], dtype: np.dtype[Any]) -> Array:
        """The function's own results: it is asked once for every half instead of once for every element."""
        halves = np.arange(HALVES, dtype=np.uint16).view(np.float16)
        table = self.call({**inputs, "x": halves}, [dtype])[0]
        return np.asarray(np.take(table, inputs["x"].view(np.uint16)))


OPERATIONS: dict[str, Operation] = {}


def computes(*names: str) -> Callable[[Function], Function]:
    """Register arithmetic that mixes elements."""
    return _register(names, "computes")


def maps(*names: str) -> Callable[[Function], Function]:
    """Register arithmetic on the elements of ``x``, each alone. Other inputs must be scalars or strings."""
    return _register(names, "maps")


def moves(*names: str) -> Callable[[Function], Function]:
    """Register an operation that leaves values as they are."""
    return _register(names, "moves")


def _register(names: Sequence[str], kind: Kind) -> Callable[[Function], Function]:
    def registered(function: Function) -> Function:
        for name in names:
            OPERATIONS[name] = Operation(name, function, kind)
        return function

    return registered


def widened(value: Any) -> Any:
    """``value`` with every float16 as float32, which is exact."""
    if isinstance(value, list):
        return [widened(one) for one in value]
    if isinstance(value, np.ndarray | np.generic) and value.dtype == np.float16:
        return value.astype(np.float32)
    return value


def rounded(value: Any, dtype: np.dtype[Any]) -> Array:
    """``value`` as an array of exactly ``dtype``: nearest float16, whole numbers towards zero."""
    array = np.asarray(value)
    if dtype == np.float16 and array.dtype == np.float32:
        return to_half(array)
    return array.astype(dtype, copy=False)


def _is_large_half(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float16 and value.size > HALVES
