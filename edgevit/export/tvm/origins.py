"""Which PyTorch module each kernel does the work of, carried from the captured program to the calls of ``main``.

Equal layers share one kernel, so the answer belongs to a call and not to a function. Up to fusion every Relax variable
has one module. Fusion gives variables new names and merges calls, so there the values are numbered on both sides: two
calls of one function on the same values are the same call.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import relax, tirx
from tvm.ir import GenericConst

from edgevit.export.legalise.refusals import place_of
from edgevit.export.tvm.kinds import REDUCES
from edgevit.module_paths import Place, shared_module

if TYPE_CHECKING:
    from torch import fx

Modules = dict[Any, Place]  # of Relax variables


@dataclass(frozen=True)
class Origin:
    """One kernel call.

    kernel   the function that is called
    module   whose work it is: that of the product, convolution or reduction in it; without one, the innermost module
             that holds all of ``modules``; None where that is not known
    modules  of everything that was fused into it, in order
    line     of the source that called for it
    """

    kernel: str
    module: str | None
    modules: tuple[str, ...]
    line: str = ""

    @property
    def place(self) -> Place:
        return Place(self.module or "", self.line)

    def __str__(self) -> str:
        return str(self.place)

    def record(self) -> dict[str, Any]:
        """A row of ``layers.json``."""
        return {"name": self.kernel, "module": self.module, "modules": list(self.modules)}


def of_import(environment: Mapping[fx.Node, Any], *, baked: bool) -> Modules:
    """Modules of the variables that TVM's importer made for the nodes of a captured program."""
    found: Modules = {}
    for node, value in environment.items():
        if node.op == "call_function" and isinstance(value, relax.Var):
            found.setdefault(value, place_of(node, baked=baked))
    return found


def bindings_of(function: Any) -> Iterator[Any]:
    for block in function.body.blocks:
        yield from block.bindings


def kept(module: Any, known: Modules) -> Modules:
    """Modules of all variables of ``main``: one that a pass has added belongs to the next one that was there."""
    variables = [binding.var for binding in bindings_of(module["main"])]
    place = next((known[variable] for variable in reversed(variables) if variable in known), Place())
    found: Modules = {}
    for variable in reversed(variables):
        place = found[variable] = known.get(variable, place)
    return found


def of_kernels(lowered: Any, fused: Any, modules: Modules) -> dict[str, list[Origin]]:
    """Kernel -> the origin of each of its calls, in order. ``modules`` are of ``lowered``, which became ``fused``."""
    numbers: dict[Hashable, int] = {}
    known: dict[Hashable, list[Place]] = defaultdict(list)
    for _, steps in _calls(lowered, numbers):
        for key, variable, _ in steps:
            known[key].append(modules[variable])
    taken: Counter[Hashable] = Counter()
    found: dict[str, list[Origin]] = defaultdict(list)
    for kernel, steps in _calls(fused, numbers):
        parts: list[tuple[int, Place]] = []
        for key, _, kind in steps:
            if places := known.get(key):
                parts.append((kind, places[min(taken[key], len(places) - 1)]))
            taken[key] += 1
        found[kernel].append(_origin(kernel, parts))
    return dict(found)


def in_order(kernels: Iterable[str], found: Mapping[str, list[Origin]]) -> list[Origin]:
    """The origins of kernel calls in the order they run; without a module where nothing is known of a call."""
    seen: Counter[str] = Counter()
    rows = []
    for kernel in kernels:
        mine = found.get(kernel, [])
        rows.append(mine[seen[kernel]] if seen[kernel] < len(mine) else Origin(kernel, None, ()))
        seen[kernel] += 1
    return rows


def _origin(kernel: str, parts: list[tuple[int, Place]]) -> Origin:
    if not parts:
        return Origin(kernel, None, ())
    heavy = [place for kind, place in parts if kind >= REDUCES]  # these carry the time, and what TVM does not look into
    modules = tuple(dict.fromkeys(place.path for _, place in parts))
    line = (heavy or [parts[-1][1]])[0].line
    return Origin(kernel, heavy[0].path if heavy else shared_module(modules), modules, line)


Step = tuple[Hashable, Any, int]  # number of its value, its variable, TVM's kind of its function


def _calls(module: Any, numbers: dict[Hashable, int]) -> Iterator[tuple[str, list[Step]]]:
    """Every call of ``main`` that becomes a kernel, with the calls that fusion has put into it."""
    values: dict[Any, Hashable] = {each: ("input", at) for at, each in enumerate(module["main"].params)}
    for binding in bindings_of(module["main"]):
        call = binding.value
        if isinstance(call, relax.Call) and isinstance(call.op, relax.GlobalVar):
            inner = module[call.op]
            scope = {name: _value(given, values, numbers) for name, given in zip(inner.params, call.args, strict=True)}
            steps = []
            for part in bindings_of(inner):
                scope[part.var] = _value(part.value, scope, numbers)
                steps += _step(module, part, scope[part.var])
            values[binding.var] = scope[inner.body.body] if isinstance(inner.body.body, relax.Var) else ("?", id(call))
            yield str(call.op.name_hint), steps
            continue
        values[binding.var] = _value(call, values, numbers)
        if steps := _step(module, binding, values[binding.var]):
            yield str(call.args[0].name_hint), steps


def _step(module: Any, binding: Any, value: Hashable) -> list[Step]:
    call = binding.value
    if not _calls_kernel(call):
        return []
    attributes = module[call.args[0]].attrs
    kind = int(attributes["op_pattern"]) if attributes and "op_pattern" in attributes else 0
    return [(value, binding.var, kind)]


def _calls_kernel(value: Any) -> bool:
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.call_tir"


def _value(value: Any, scope: Mapping[Any, Hashable], numbers: dict[Hashable, int]) -> Hashable:
    """A number that is the same for the same computation; numbers instead of nested tuples keep them short."""
    key: Hashable
    if isinstance(value, relax.Var):
        return scope.get(value, ("free", str(value.name)))
    if _calls_kernel(value):
        key = (str(value.args[0].name_hint), *(_value(each, scope, numbers) for each in value.args[1:]))
    elif isinstance(value, relax.Call):
        key = (str(value.op), *(_value(each, scope, numbers) for each in value.args))
    elif isinstance(value, relax.TupleGetItem):
        return _item(value, scope, numbers)
    elif isinstance(value, relax.Tuple):
        return ("tuple", *(_value(each, scope, numbers) for each in value.fields))
    elif isinstance(value, GenericConst):
        key = ("constant", value.value)
    elif isinstance(value, relax.ShapeExpr):
        key = ("shape", *(int(each) if isinstance(each, tirx.IntImm) else str(each) for each in value.values))
    else:
        key = ("other", str(value))
    return numbers.setdefault(key, len(numbers))


def _item(value: Any, scope: Mapping[Any, Hashable], numbers: dict[Hashable, int]) -> Hashable:
    whole = _value(value.tuple_value, scope, numbers)
    if isinstance(whole, tuple) and whole[0] == "tuple":
        chosen: Hashable = whole[1 + value.index]
        return chosen
    return numbers.setdefault(("item", whole, value.index), len(numbers))
