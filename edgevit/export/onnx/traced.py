"""From a captured program to an ONNX graph, by torch.onnx."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir
import torch

from edgevit.errors import ExportFailed, Unsupported, first_line
from edgevit.export.base import Capture
from edgevit.export.capture import Baked, unbaked
from edgevit.export.legalise import calls_of, rewritten
from edgevit.export.legalise.complexes import in_real_numbers
from edgevit.export.legalise.refusals import named
from edgevit.export.legalise.targets import RULES
from edgevit.export.onnx.graph import finish, mark_modules, name_ends, quiet

_STOPPED = re.compile(
    r"translating node %(?P<node>\w+) .*?\[target=torch\.ops\.(?:aten|higher_order)\.(?P<operator>[\w.]+)\]"
)


def build_graph(capture: Capture, opset: int, *, optimize: bool) -> ir.Model:
    """The program as ONNX: inputs and outputs named as in the capture, the dynamic axis called "batch".

    Raises Unsupported for an operator that ONNX or its exporter lacks, ExportFailed for anything else.
    """
    model = _convert(capture, opset)
    name_ends(model, capture)
    mark_modules(model, unbaked if isinstance(capture.module, Baked) else None)
    finish(model, capture.metadata, optimize=optimize)
    return model


def _convert(capture: Capture, opset: int) -> ir.Model:
    try:
        with quiet(), _unparsed(), torch.no_grad():
            program = torch.onnx.export(
                rewritten(in_real_numbers(capture.program), RULES["onnx"]),
                (),
                dynamo=True,
                opset_version=opset,
                # not by their names: torch.onnx would not see that a weight is called as an end is
                input_names=[f"edgevit.input.{index}" for index, _ in enumerate(capture.inputs)],
                output_names=[f"edgevit.output.{index}" for index, _ in enumerate(capture.outputs)],
                optimize=True,
                verbose=False,
            )
    except Exception as exc:
        cause = _deepest(exc)
        if "No decompositions" in str(cause) or "DispatchError" in type(cause).__name__:
            raise Unsupported(
                f"ONNX has no {_refused(str(exc), capture) or f'form of an operator: {first_line(cause)}'}",
                hint="rewrite that operator, or choose another target",
            ) from exc
        raise ExportFailed(f"torch.onnx cannot convert the model: {first_line(cause)}") from exc
    if program is None:
        raise ExportFailed("torch.onnx returned no model")
    model: ir.Model = program.model
    found = model.opset_imports.get("")
    if found != opset:
        raise Unsupported(
            f"this model cannot be written in opset {opset}; torch.onnx stops at {found}",
            hint=f"use --option onnx.opset={found}",
        )
    return model


def _refused(said: str, capture: Capture) -> str | None:
    """The operator that torch.onnx stopped at, with its place in the model, from the sentence in which it says so."""
    if (found := _STOPPED.search(said)) is None:
        return None
    baked = isinstance(capture.module, Baked)
    for program in (capture.program, capture.program.run_decompositions()):
        nodes = [node for node in calls_of(program) if str(node.target).endswith(found["operator"])]
        if nodes:
            return named(next((node for node in nodes if node.name == found["node"]), nodes[0]), baked=baked)
    return found["operator"]


def _deepest(exc: BaseException) -> BaseException:
    """The innermost cause: torch.onnx wraps the useful sentence in pages of advice."""
    seen = exc
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    return seen


class _Signature:
    """What onnxscript would have parsed from a function's source: its domain without that, anything else with it."""

    def __init__(self, function: Any, parse: Callable[[Any], Any]) -> None:
        self.domain = function.opset.domain
        self._function, self._parse = function, parse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parse(self._function), name)


@contextlib.contextmanager
def _unparsed() -> Iterator[None]:
    """onnxscript parses the source of its 500 functions whenever they are listed, to say in which domain each is, which
    nobody asks: half a second of every export."""
    from onnxscript._internal import values

    traced = getattr(values, "TracedOnnxFunction", None)
    parsed = getattr(traced, "function_ir", None)
    if not isinstance(parsed, property) or parsed.fget is None:  # another onnxscript: then it takes that time
        yield
        return
    parse = parsed.fget
    setattr(traced, "function_ir", property(lambda function: _Signature(function, parse)))  # noqa: B010
    try:
        yield
    finally:
        setattr(traced, "function_ir", parsed)  # noqa: B010
