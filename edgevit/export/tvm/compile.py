"""From a captured program to TVM's executable: import, layout, fusion, schedules, code.

``lower`` gives the unit that is tuned: a Relax ``main`` that calls unscheduled functions. ``schedules.apply`` writes
their loops, and ``build`` compiles the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tvm
from tvm import relax
from tvm.ir import GenericConst

from edgevit.errors import EdgeVitError, Unsupported
from edgevit.export.tvm import culprits, origins
from edgevit.export.tvm.channels import channels_last
from edgevit.export.tvm.importing import imported
from edgevit.export.tvm.infinities import from_infinity
from edgevit.export.tvm.operators import legalizations
from edgevit.export.tvm.origins import Modules, Origin
from edgevit.export.tvm.schedules.stages import CONSTANTS
from edgevit.export.tvm.targets import BuildTarget
from edgevit.module_paths import Place

if TYPE_CHECKING:
    import torch

# what the virtual machine runs itself, beside kernels
_RUN_AS_THEY_ARE = ("relax.call_", "relax.reshape", "relax.shape_", "relax.memory.", "relax.builtin.", "relax.vm.")


def lower(program: torch.export.ExportedProgram) -> Any:
    """``program`` as Relax with one unscheduled function for each fused group of operators, weights as constants.

    Unsupported for an operator that TVM cannot import, ExportFailed when the import fails otherwise.
    """
    return lower_with_origins(program)[0]


def lower_with_origins(program: torch.export.ExportedProgram, *, baked: bool = False) -> tuple[Any, list[Origin]]:
    """``lower``, and where each of ``calls_of`` the result came from. ``baked``: the normalisation is in the graph."""
    module, modules = imported(program, baked=baked)
    try:
        return _lowered(module, modules)
    except EdgeVitError:
        raise
    except Exception as exc:
        raise culprits.operator_in(module, modules, _lowered, exc) from exc


def _lowered(module: Any, modules: Modules) -> tuple[Any, list[Origin]]:
    module = relax.transform.DecomposeOpsForInference()(module)
    modules = origins.kept(module, modules)
    legalized, fused, lowered = fused_kernels(channels_last(module, modules))
    check_kernels(legalized, modules)
    found = origins.of_kernels(legalized, fused, origins.kept(legalized, modules))
    kernels = [str(call.args[0].name_hint) for call in calls_of(lowered)]
    return lowered, origins.in_order(kernels, found)


def fused_kernels(module: Any) -> tuple[Any, Any, Any]:
    """Relax operators as one unscheduled function for each, those grouped, and each group as one function."""
    legalized = _legalized(module)
    fused = _passes(legalized, relax.transform.FuseOps())
    lowered = _passes(
        fused,
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        relax.transform.RewriteDataflowReshape(),
        relax.transform.DeadCodeElimination(),
    )
    return legalized, fused, mark_constants(lowered)


def check_kernels(legalized: Any, modules: Modules) -> None:
    """Unsupported naming the operators that TVM has no kernel for, and their modules."""
    known = origins.kept(legalized, modules)
    missing: dict[str, Place] = {}
    for binding in origins.bindings_of(legalized["main"]):
        name = str(getattr(getattr(binding.value, "op", None), "name", ""))
        if name.startswith("relax.") and not name.startswith(_RUN_AS_THEY_ARE):
            missing.setdefault(name.removeprefix("relax."), known[binding.var])
    if missing:
        named = ", ".join(f"{name} ({place})" for name, place in missing.items())
        raise Unsupported(f"TVM has no kernel for {named}", hint="write the model without it, or export to onnx")


def _legalized(module: Any) -> Any:
    """Operators as unscheduled functions, one for each, with what is constant computed."""
    return _passes(
        from_infinity(_passes(module, relax.transform.LegalizeOps(dict(legalizations())))),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        # No tuples of values that are known one by one: of several in a group FuseOps mistakes one for another, by the
        # order in which they lie in memory, so that FuseTIR fails on some runs and not on others.
        relax.transform.CanonicalizeBindings(),
        relax.transform.FoldConstant(),
        relax.transform.DeadCodeElimination(),
    )


def _passes(module: Any, *passes: Any) -> Any:
    with tvm.target.Target("llvm"):
        return tvm.transform.Sequential(list(passes))(module)


def calls_of(module: Any) -> list[Any]:
    """Every ``call_tir`` of ``main``, in order."""
    found: list[Any] = []

    def seen(node: Any) -> None:
        if isinstance(node, relax.Call) and getattr(node.op, "name", "") == "relax.call_tir":
            found.append(node)

    relax.analysis.post_order_visit(module["main"], seen)
    return found


def mark_constants(module: Any) -> Any:
    """Functions marked with the parameters that are constants in every call of them."""
    marked: dict[Any, set[int]] = {}
    for call in calls_of(module):
        here = {at for at, each in enumerate(call.args[1].fields) if isinstance(each, GenericConst)}
        marked[call.args[0]] = marked.get(call.args[0], here) & here
    for variable, numbers in marked.items():
        module.update_func(variable, module[variable].with_attr(CONSTANTS, sorted(numbers)))
    return module


def build(module: Any, target: BuildTarget) -> Any:
    """The executable of a scheduled ``module``; ``link`` writes it as a library."""
    made = target.tvm()
    with made, tvm.transform.PassContext(opt_level=3):
        return tvm.compile(module, target=made, relax_pipeline=_pipeline())


def _pipeline() -> Any:
    passes = relax.transform
    return tvm.transform.Sequential(
        [
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.StaticPlanBlockMemory(),
            passes.LowerAllocTensor(),
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            passes.AttachGlobalSymbol(),
        ]
    )
