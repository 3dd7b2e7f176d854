"""A captured program in Relax operators: written in those that TVM's importer knows, then imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import fx
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from edgevit.errors import EdgeVitError, ExportFailed, Unsupported
from edgevit.export.legalise import calls_of, in_known_operators
from edgevit.export.legalise.complexes import in_real_numbers
from edgevit.export.legalise.refusals import named
from edgevit.export.legalise.targets import RULES
from edgevit.export.tvm import attention, origins
from edgevit.export.tvm.misread import READ_ANEW, misread
from edgevit.export.tvm.origins import Modules

if TYPE_CHECKING:
    from torch.export import ExportedProgram

OURS: Mapping[str, Callable[[fx.Node, Any], Any]] = {attention.OPERATOR: attention.convert, **READ_ANEW}


def imported(program: ExportedProgram, *, baked: bool) -> tuple[Any, Modules]:
    """``program`` in Relax operators, and the modules that its variables came from.

    Unsupported for operators that TVM cannot import, ExportFailed when the import fails otherwise: both name the
    operator, its module and its line of the source.
    """
    importer = _Importer()
    program = in_known_operators(in_real_numbers(program), RULES["tvm"], importer.knows)
    if missing := {node.target: node for node in calls_of(program) if not importer.knows(node)}:
        told = ", ".join(named(node, baked=baked) for node in missing.values())
        raise Unsupported(f"TVM cannot import {told}", hint="export to onnx, or replace that operator in the model")
    try:
        module = importer.from_exported_program(
            program,
            keep_params_as_input=False,
            unwrap_unit_return_tuple=True,
            no_bind_return_tuple=False,
            custom_convert_map=dict(OURS),
        )
    except EdgeVitError:
        raise
    except Exception as exc:
        raise _refusal(exc, importer.node, baked) from exc
    return module, origins.of_import(importer.env, baked=baked)


class _Importer(ExportedProgramImporter):  # type: ignore[misc]
    """TVM's, which is what ``from_exported_program`` calls; it keeps node -> variable, and the node it is at."""

    node: fx.Node | None = None

    def create_convert_map(self) -> dict[str, Callable[[fx.Node], Any]]:
        return {str(name): self._watched(convert) for name, convert in super().create_convert_map().items()}

    def _watched(self, convert: Callable[[fx.Node], Any]) -> Callable[[fx.Node], Any]:
        def told(node: fx.Node) -> Any:
            self.node = node
            return convert(node)

        return told

    def knows(self, node: fx.Node) -> bool:
        name = getattr(node.target, "__name__", "")
        return (name in self.convert_map or name in OURS) and not misread(node)


def _refusal(exc: Exception, node: fx.Node | None, baked: bool) -> EdgeVitError:
    """What the importer raised, with the call that it was at."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    said = lines[-1] if lines and lines[-1] != "None" else type(exc).__name__
    if node is None:
        return ExportFailed(f"TVM cannot import the model: {said[:300]}", hint="export to onnx")
    return Unsupported(
        f"TVM cannot import {named(node, baked=baked)}: {said[:300]}",
        hint="export to onnx, or replace that operator in the model",
    )
