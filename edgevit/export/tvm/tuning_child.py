"""The process in which choices of schedules are built and timed, see ``tuning_measure``.

Choices of one request are timed in turns, round by round, so that other work on the machine slows all of them, and each
keeps its fastest round. Arguments rotate through several copies: a kernel of a model does not find its weights in the
nearest cache either. A choice that computes something else than the first of its request is refused.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ROUND_S = 0.004  # of one choice in one round, at least
CACHE_BYTES = 8 << 20  # the rotating copies of the arguments fill this much, beyond what is near a core
COPIES = 16
MOST_CALLS = 1000
AGREEMENT = 1e-3  # of the largest value: more than the order of a sum changes, less than any error does


def main() -> None:
    """Answer requests until stdin ends. What libraries print goes nowhere near the answers."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi would import it: 2 s for nothing
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: int | list[float | None]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    for line in sys.stdin:
        say(answer_to(json.loads(line), say))


def answer_to(request: dict[str, Any], say: Callable[[int], None]) -> list[float | None]:
    """Microseconds of a call for each choice, None for one that cannot be built or run; its number is said before."""
    import tvm

    from edgevit.export.tvm.targets import BuildTarget

    func = tvm.ir.load_json(request["func"])["main"]
    target = BuildTarget(**request["target"])
    random = np.random.default_rng(0)
    arrays = [_argument(parameter, random) for parameter in func.params]
    kernels: list[Kernel | None] = []
    for index, choice in enumerate(request["choices"]):
        say(index)
        kernels.append(_build(func, target, choice, arrays))
    built = [kernel for kernel in kernels if kernel is not None]
    kernels = [kernel if kernel is not None and kernel.agrees_with(built[0]) else None for kernel in kernels]
    return _race(kernels, request["rounds"])


class Kernel:
    """A built choice with copies of its arguments: how weights are packed is part of the choice."""

    def __init__(self, call: Any, arrays: Sequence[Any]) -> None:
        self.call = call
        self.arguments = _argument_sets(arrays)
        self.call(*self.arguments[0])
        self.output = self.arguments[0][-1].numpy()

    def agrees_with(self, other: Kernel) -> bool:
        """Whether both computed the same, but for the order of sums."""
        scale = float(np.abs(other.output).max(initial=0.0)) or 1.0
        return bool(np.abs(self.output - other.output).max(initial=0.0) <= AGREEMENT * scale)

    def seconds(self, calls: int) -> float:
        """Of one call, the mean of several on rotating arguments."""
        call, sets = self.call, self.arguments
        turns = [sets[index % len(sets)] for index in range(calls)]
        started = time.perf_counter()
        for arguments in turns:
            call(*arguments)
        return (time.perf_counter() - started) / calls


def _build(func: Any, target: Any, choice: dict[str, int], arrays: Sequence[Any]) -> Kernel | None:
    """A kernel that ran once, or None where the schedule, the code generator or the kernel refuses the choice."""
    import tvm

    from edgevit.export.tvm import schedules

    try:
        scheduled = schedules.schedule(func, target, choice).with_attr("global_symbol", "kernel")
        built = tvm.tirx.build(tvm.IRModule({"kernel": scheduled}), target=target.tvm())
        return Kernel(_callable(built), _packed(arrays, scheduled))
    except Exception:  # a choice that does not fit raises anything from TVM's own errors to ValueError
        return None


def _packed(arrays: Sequence[Any], scheduled: Any) -> list[Any]:
    """The arguments as a scheduled function takes them: a constant that it reads in panels in their layout."""
    from edgevit.export.tvm.schedules.packing import Packing
    from edgevit.export.tvm.schedules.writing import PACKED

    found = list(arrays)
    if PACKED in scheduled.attrs:
        packing = Packing.decode(scheduled.attrs[PACKED])
        found[packing.parameter] = packing.apply(found[packing.parameter])
    return found


def _callable(built: Any) -> Any:
    return (built.jit() if hasattr(built, "jit") else built)["kernel"]


def _race(kernels: Sequence[Kernel | None], rounds: int) -> list[float | None]:
    """The fastest round of each kernel, in microseconds a call."""
    once = [None if kernel is None else kernel.seconds(1) for kernel in kernels]
    best: list[float | None] = list(once)
    for _ in range(rounds):
        for index, (kernel, first) in enumerate(zip(kernels, once, strict=True)):
            held = best[index]
            if kernel is not None and first is not None and held is not None:
                calls = max(1, min(MOST_CALLS, int(ROUND_S / max(first, 1e-7))))
                best[index] = min(held, kernel.seconds(calls))
    return [None if spent is None else spent * 1e6 for spent in best]


def _argument_sets(arrays: Sequence[Any]) -> list[list[Any]]:
    """Several copies of the arguments of one call, in TVM's tensors."""
    size = sum(array.nbytes for array in arrays if not isinstance(array, int))
    copies = max(1, min(COPIES, CACHE_BYTES // max(size, 1)))
    return [[_tensor(array) for array in arrays] for _ in range(copies)]


def _argument(parameter: Any, random: Any) -> Any:
    """A random array in the shape of a parameter; a dimension that is free is 1."""
    if not hasattr(parameter, "shape"):
        return 1
    shape = [int(side) if hasattr(side, "value") else 1 for side in parameter.shape]
    dtype = np.dtype(str(parameter.dtype))
    if dtype.kind == "f":
        return random.normal(scale=0.5, size=shape).astype(dtype)
    return np.zeros(shape, dtype)


def _tensor(array: Any) -> Any:
    import tvm

    return array if isinstance(array, int) else tvm.runtime.tensor(array)


if __name__ == "__main__":
    main()
