"""The kernels of a lowered module as tuning tasks: each different one once, with how often the model calls it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import tvm
from tvm import tirx

from edgevit.export.tvm import schedules
from edgevit.export.tvm.compile import calls_of
from edgevit.export.tvm.records.database import space_of
from edgevit.export.tvm.targets import BuildTarget
from edgevit.export.tvm.tuning_search import Choice


@dataclass(frozen=True)
class Task:
    """One kernel.

    key     of its workload: the same computation on the same shapes, in any model
    name    of the first function that computes it, for people
    func    the unscheduled function
    calls   how many times one inference calls it
    knobs   knob -> the values it may take, sorted
    start   what the rules choose
    space   of the knobs: a record made for other knobs does not fit
    """

    key: str
    name: str
    func: tirx.PrimFunc
    calls: int
    knobs: Mapping[str, tuple[int, ...]]
    start: Choice
    space: str

    @property
    def tunable(self) -> bool:
        """Whether there is more than one choice. The others are timed once, for the model's estimate."""
        return any(len(values) > 1 for values in self.knobs.values())


def tasks_of(module: tvm.ir.IRModule, target: BuildTarget) -> list[Task]:
    """The module's kernels, equal ones merged, those first that have anything to choose."""
    called = Counter(str(call.args[0].name_hint) for call in calls_of(module))
    merged: dict[str, Task] = {}
    calls: Counter[str] = Counter()
    for variable, func in module.functions.items():
        name = str(variable.name_hint)
        if not isinstance(func, tirx.PrimFunc) or not called[name]:
            continue
        key = schedules.workload_key(func)
        calls[key] += called[name]
        if key not in merged:
            merged[key] = _task(key, name, func, target)
    tasks = [replace(task, calls=calls[key]) for key, task in merged.items()]
    return sorted(tasks, key=lambda task: not task.tunable)


def _task(key: str, name: str, func: tirx.PrimFunc, target: BuildTarget) -> Task:
    """The rules' choice is the first value of every knob; sorted, the values have neighbours."""
    found = schedules.knobs(func, target)
    knobs = {knob: tuple(sorted(values)) for knob, values in found.items()}
    start = {knob: values[0] for knob, values in found.items()}
    return Task(key, name, func, 1, knobs, start, space_of(knobs))
