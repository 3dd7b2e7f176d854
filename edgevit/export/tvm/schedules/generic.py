"""For functions that are not made of plain stages: TVM's own loops, with threads outside and vectors inside."""

from __future__ import annotations

from typing import Any

from tvm import IRModule, s_tir

from edgevit.export.tvm.schedules.machine import Machine


def schedule(function: Any, machine: Machine) -> Any:
    """Outer spatial loops in parallel, the innermost one in vectors, wherever a block allows it."""
    if str(function.body.block.name_hint) != "root":
        return function  # one block that was written with its loops
    name = "main"
    made = s_tir.Schedule(IRModule({name: function}))
    for block in _blocks(made):
        spatial = _leading_spatial(made, block)
        if not spatial:
            continue
        if len(spatial) > 1 and machine.threads > 1:
            made.parallel(made.fuse(*spatial[:-1]))
        _vectorise(made, spatial[-1], block, machine)
    return made.mod[name]


def _blocks(made: Any) -> list[Any]:
    root = made.get_sblock("root", func_name="main")
    return list(made.get_child_blocks(root))


def _leading_spatial(made: Any, block: Any) -> list[Any]:
    """The loops around a block up to the first that is not spatial; empty unless they are perfectly nested."""
    kinds = [int(each.iter_type) for each in made.get(block).iter_vars]
    around = list(made.get_loops(block))
    if len(kinds) != len(around):
        return []
    count = next((at for at, kind in enumerate(kinds) if kind), len(kinds))
    return around[:count]


def _vectorise(made: Any, last: Any, block: Any, machine: Machine) -> None:
    if any(int(each.iter_type) for each in made.get(block).iter_vars):
        return
    extent = made.get(last).extent
    size = getattr(extent, "value", None)
    if size is not None and int(size) % machine.lanes == 0:  # else TVM would put a condition around every lane
        made.vectorize(made.split(last, [None, machine.lanes])[1])
