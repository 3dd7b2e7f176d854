"""One tensor expression, scheduled by our rules and run: what the tests of the schedules share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import te, tirx

from edgevit.export.tvm import schedules, targets
from edgevit.export.tvm.schedules.packing import Packing
from edgevit.export.tvm.schedules.stages import CONSTANTS
from edgevit.export.tvm.schedules.writing import PACKED

GUARD = 1024  # values kept around every result, to see that nothing is written outside


def tensor(name: str, *shape: int, dtype: str = "float32") -> Any:
    return te.placeholder([tirx.const(size, "int64") for size in shape], name=name, dtype=dtype)


def function(inputs: Sequence[Any], output: Any, constants: Sequence[int] = ()) -> Any:
    made = te.create_prim_func([*inputs, output], index_dtype_override="int64")
    return made.with_attr(CONSTANTS, list(constants)) if constants else made


def run(
    inputs: Sequence[Any],
    output: Any,
    arrays: Sequence[np.ndarray],
    *,
    constants: Sequence[int] = (),
    choice: Mapping[str, int] | None = None,
    threads: int = 1,
) -> np.ndarray:
    """The result of the scheduled expression; fails when a value outside the result was written."""
    return run_function(function(inputs, output, constants), arrays, choice=choice, threads=threads)


def run_function(
    func: Any, arrays: Sequence[np.ndarray], *, choice: Mapping[str, int] | None = None, threads: int = 1
) -> np.ndarray:
    target = targets.host(threads)
    written = schedules.schedule(func, target, choice)
    given = list(arrays)
    if PACKED in written.attrs:
        packing = Packing.decode(written.attrs[PACKED])
        given[packing.parameter] = packing.apply(given[packing.parameter])
    library = tvm.tirx.build(tvm.IRModule({"main": written.with_attr("global_symbol", "main")}), target=target.tvm())
    shape = [int(size) for size in func.params[-1].shape]
    count = int(np.prod(shape))
    room = aligned(count + 2 * GUARD)
    room[:] = 7.0
    room[GUARD : GUARD + count] = np.nan
    result = room[GUARD : GUARD + count].view(str(func.params[-1].dtype)).reshape(shape)  # float32 or int32
    library["main"](*[tvm.runtime.tensor(each) for each in given], tvm.runtime.from_dlpack(result))
    assert (room[:GUARD] == 7).all()
    assert (room[GUARD + count :] == 7).all()
    return result.copy()


def aligned(count: int) -> np.ndarray:
    """``count`` float32 at an address that TVM takes."""
    raw = np.empty(count + 16, np.float32)
    start = -(raw.ctypes.data // 4) % 16
    return raw[start : start + count]
