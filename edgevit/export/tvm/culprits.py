"""What TVM failed at, when it says only that it failed: the operator or kernel that fails by itself too.

TVM's own errors name neither. Each part is tried alone, which takes time, but only where an export has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tvm import relax, tirx

from edgevit.errors import EdgeVitError, ExportFailed, Unsupported, first_line
from edgevit.export.tvm.origins import Modules, Origin, bindings_of

HINT = "export to onnx, or replace that operator in the model"


def operator_in(module: Any, modules: Modules, attempt: Callable[[Any, Modules], Any], exc: Exception) -> EdgeVitError:
    """The first operator of ``main`` on which ``attempt`` fails; ``exc`` is what it raised on all of it."""
    for variable, call in _calls(module):
        if (found := _raised(_on_call(attempt), call)) is not None:
            name = call.op.name.removeprefix("relax.")
            place = modules.get(variable)
            where = f" ({place})" if place else ""
            return Unsupported(f"TVM has no kernel for this {name}{where}: {first_line(found)}", hint=HINT)
    return ExportFailed(f"TVM cannot write kernels for the model: {first_line(exc)}", hint="export to onnx")


def kernel_in(module: Any, origins: Iterable[Origin], attempt: Callable[[Any], Any], exc: Exception) -> EdgeVitError:
    """The first kernel of ``module`` on which ``attempt`` fails; ``exc`` is what it raised on all of them."""
    places = {origin.kernel: origin for origin in origins}
    for variable, function in module.functions_items():
        if not isinstance(function, tirx.PrimFunc):
            continue
        if (found := _raised(attempt, function)) is not None:
            name = str(variable.name_hint)
            where = f" ({places[name]})" if name in places else ""
            return Unsupported(f"TVM cannot compile {name}{where}: {first_line(found)}", hint=HINT)
    return ExportFailed(f"TVM cannot compile the model: {first_line(exc)}", hint="export to onnx")


def _on_call(attempt: Callable[[Any, Modules], Any]) -> Callable[[Any], Any]:
    return lambda call: attempt(_alone(call), {})


def _raised(attempt: Callable[[Any], Any], part: Any) -> Exception | None:
    try:
        attempt(part)
    except Exception as exc:  # anything from TVM's own errors to ValueError
        return exc
    return None


def _calls(module: Any) -> Iterator[tuple[Any, Any]]:
    """Different calls of operators, with the variables they are bound to."""
    seen: set[str] = set()
    for binding in bindings_of(module["main"]):
        call = binding.value
        if isinstance(call, relax.Call) and hasattr(call.op, "name") and (key := _key(call)) not in seen:
            seen.add(key)
            yield binding.var, call


def _key(call: Any) -> str:
    return " ".join(str(each) for each in (call.op, call.attrs, *(argument.ty for argument in call.args)))


def _alone(call: Any) -> Any:
    """A module of one call, whose variables are its inputs."""
    builder = relax.BlockBuilder()
    with builder.function("main", list(relax.analysis.free_vars(call))):
        with builder.dataflow():
            made = builder.emit_output(call)
        builder.emit_func_output(made)
    return builder.finalize()
