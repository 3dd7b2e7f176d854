"""Rule-based CPU schedules: for every function that comes out of ``compile.lower``, loops that use the machine well.

    workload_key(function)             names a computation, for databases
    knobs(function, target)            what may be tuned, the rule's own value first
    schedule(function, target, choice) the function with loops, vectors and threads
    apply(module, target, choices)     a whole module, its constants packed for the loops that read them

Kernels are written directly as loops, not by rewriting the loops that TVM starts from: why, and what each
kind looks like, is in docs/explanation/tvm-schedules.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm_ffi
from tvm import tirx

from edgevit.export.tvm.schedules.constants import pack_constants
from edgevit.export.tvm.schedules.machine import machine_of
from edgevit.export.tvm.schedules.writing import tunables, write
from edgevit.export.tvm.targets import BuildTarget


def workload_key(function: Any) -> str:
    """A hexadecimal name of what an unscheduled function computes: the same for the same computation and shapes."""
    plain = function.without_attr("global_symbol")
    return f"{tvm_ffi.structural_hash(plain, map_free_vars=True) & 0xFFFFFFFFFFFFFFFF:016x}"


def knobs(function: Any, target: BuildTarget) -> dict[str, tuple[int, ...]]:
    """Candidate values of everything that can be tuned in a function, the rule's choice first; {} for nothing."""
    return tunables(function, machine_of(target))


def schedule(function: Any, target: BuildTarget, choice: Mapping[str, int] | None = None) -> Any:
    """``function`` with loops for ``target``, by the rules or with the values of ``choice`` in their place.

    Constants that are read in panels become packed parameters: attribute "edgevit.packed" holds
    ``packing.Packing.encode()``. ValueError for a choice that is impossible.
    """
    return write(function, machine_of(target), choice)


def apply(module: Any, target: BuildTarget, choices: Mapping[str, Mapping[str, int]]) -> Any:
    """Every function of ``module`` scheduled, with the ``choices`` by workload key; the constants that ``main`` gives
    them packed. A choice that turns out impossible raises ValueError."""
    machine = machine_of(target)
    written = {
        variable: write(function, machine, choices.get(workload_key(function)))
        for variable, function in module.functions_items()
        if isinstance(function, tirx.PrimFunc)
    }
    return pack_constants(module, written)
