"""A captured program in Relax operators: written in those that TVM's importer knows, then imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import fx
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from edgevit.errors import EdgeVitError, ExportFailed, Unsupported, first_line
from edgevit.export.legalise import calls_of, in_known_operators
from edgevit.export.legalise.complexes import in_real_numbers
from edgevit.export.legalise.refusals import named
from edgevit.export.legalise.targets import RULES
from edgevit.export.tvm import attention, dots, origins, ranking
from edgevit.export.tvm.misread import check_type, misread
from edgevit.export.tvm.origins import Modules
from edgevit.export.tvm.reading import READ_ANEW, constant_of, is_constant

if TYPE_CHECKING:
    from torch.export import ExportedProgram

OURS: Mapping[str, Callable[[fx.Node, Any], Any]] = {
    attention.OPERATOR: attention.convert,
    **READ_ANEW,
    **ranking.READ,
    **dots.READ,
}


def imported(program: ExportedProgram, *, baked: bool) -> tuple[Any, Modules]:
    """``program`` in Relax operators, and the modules that its variables came from.

    Unsupported for operators that TVM cannot import, ExportFailed when the import fails otherwise: both name the
    operator, its module and its line of the source.
    """
    importer = Importer()
    program = _written_out(program, importer, baked)
    if missing := {node.target: node for node in calls_of(program) if not importer.knows(node)}:
        told = ", ".join(named(node, baked=baked) for node in missing.values())
        raise Unsupported(f"TVM cannot import {told}", hint="export to onnx, or replace that operator in the model")
    try:
        module = importer.from_exported_program(
            program,
            keep_params_as_input=False,
            unwrap_unit_return_tuple=True,
            no_bind_return_tuple=False,
            custom_convert_map=importer.ours(calls_of(program)),
        )
    except EdgeVitError:
        raise
    except Exception as exc:
        raise _refusal(exc, importer.node, baked) from exc
    return module, origins.of_import(importer.env, baked=baked)


def _written_out(program: ExportedProgram, importer: Importer, baked: bool) -> ExportedProgram:
    """Unsupported where PyTorch itself cannot write out an operator."""
    try:
        return in_known_operators(in_real_numbers(program), RULES["tvm"], importer.knows)
    except EdgeVitError:
        raise
    except Exception as exc:
        at = _EXECUTING.search(str(exc))
        node = next((node for node in calls_of(program) if at and node.name == at["name"]), None)
        raise _refusal(exc, node, baked) from exc


_EXECUTING = re.compile(r"While executing %(?P<name>\w+)")


class Importer(ExportedProgramImporter):  # type: ignore[misc]
    """TVM's, which is what ``from_exported_program`` calls; it keeps node -> variable, and the node it is at."""

    node: fx.Node | None = None

    def create_convert_map(self) -> dict[str, Callable[[fx.Node], Any]]:
        return {str(name): self._watched(convert) for name, convert in super().create_convert_map().items()}

    def _watched(self, convert: Callable[[fx.Node], Any]) -> Callable[[fx.Node], Any]:
        def told(node: fx.Node) -> Any:
            self.node = node
            found = constant_of(node) if is_constant(node) else convert(node)
            found = self.block_builder.emit(found) if isinstance(found, relax.Call) else found
            check_type(node, found)
            return found

        return told

    def ours(self, calls: Iterable[fx.Node]) -> dict[str, Callable[[fx.Node, Any], Any]]:
        """What we read ourselves, and those of the ``calls`` that are constants."""
        lacking = {str(node.target.__name__) for node in calls if is_constant(node)} - self.convert_map.keys()  # type: ignore[union-attr]
        constants: dict[str, Callable[[fx.Node, Any], Any]] = dict.fromkeys(lacking, _by_itself)
        return {name: self._by_us(convert) for name, convert in {**constants, **OURS}.items()}

    def _by_us(self, convert: Callable[[fx.Node, Any], Any]) -> Callable[[fx.Node, Any], Any]:
        watched = self._watched(lambda node: convert(node, self))
        return lambda node, _: watched(node)

    def knows(self, node: fx.Node) -> bool:
        name = getattr(node.target, "__name__", "")
        return is_constant(node) or name in OURS or (name in self.convert_map and not misread(node))


def _by_itself(node: fx.Node, _: Any) -> Any:
    return constant_of(node)


def _refusal(exc: Exception, node: fx.Node | None, baked: bool) -> EdgeVitError:
    """What was raised, with the call that it was at."""
    if node is None:
        return ExportFailed(f"TVM cannot import the model: {first_line(exc)}", hint="export to onnx")
    return Unsupported(
        f"TVM cannot import {named(node, baked=baked)}: {first_line(exc)}",
        hint="export to onnx, or replace that operator in the model",
    )
