"""The parser's and the builder's errors, in terms of ONNX nodes and of the PyTorch modules they came from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgevit.errors import EdgeVitError, ExportFailed, Unsupported
from edgevit.export.onnx.places import Places, node_in, place_of

_TURING = re.compile(r"Cannot compile operation '(?P<node>[^']+)' for \w+ \(SM(?P<sm>\d+)\): (?P<why>[^.]+)\.")
_NO_PLUGIN = "was not found in plugin registry"  # it has the operator elsewhere, in a library of its own
_WORKSPACE = "within workspace limit"
_OTHER_TARGET = "rewrite that part of the model, or use -t onnx with ONNX Runtime's CUDA provider"


@dataclass(frozen=True)
class ParserError:
    """One error of TensorRT's ONNX parser. ``code`` is the name of its ErrorCode, ``said`` the parser's own words."""

    code: str
    node: str
    operator: str
    said: str


def _use_of(code: str) -> str:
    """What of an operator's use the parser's ``code`` finds fault with."""
    kind = code.removeprefix("UNSUPPORTED_NODE").strip("_").lower()
    what = {"attr": "with these attributes", "input": "with these inputs", "datatype": "of this type"}
    return what.get(kind, "as it is used")


def parser_refused(
    errors: Sequence[ParserError], known: Mapping[str, bool], places: Places, title: str
) -> EdgeVitError:
    """What the parser's first error means. ``known``: whether it has the operator at all; ``places``: of nodes.

    An operator or a use of one that TensorRT lacks is Unsupported; anything else is a graph that we wrote wrongly.
    """
    if not errors:
        return ExportFailed(
            f"{title} could not read the ONNX graph and gave no reason", hint="please report this model"
        )
    first = errors[0]
    where = place_of(first.node, places)
    if not known.get(first.operator, True) or _NO_PLUGIN in first.said:
        return Unsupported(f"{title} has no {first.operator}{where}", hint=_OTHER_TARGET)
    if first.code.startswith("UNSUPPORTED"):
        used = _use_of(first.code)
        return Unsupported(
            f"{title} cannot take {first.operator} {used}{where}: {_one_line(first.said)}", hint=_OTHER_TARGET
        )
    named = f"{first.operator}{where}: " if first.operator else ""
    return ExportFailed(f"{title} could not read the ONNX graph: {named}{_one_line(first.said)}", hint=_OTHER_TARGET)


def build_refused(errors: Sequence[str], places: Places, title: str) -> EdgeVitError:
    """What the builder's last errors mean, oldest first."""
    text = _one_line(" ".join(errors))
    if match := _TURING.search(text):
        sm = int(match["sm"])
        node = node_in(match["node"], places.modules) or match["node"]  # the builder adds endings of its own
        where = place_of(node, places, named=False)
        return Unsupported(
            f"{title} cannot compile {node}{where} for SM {sm // 10}.{sm % 10}: {match['why']}",
            hint=f"leave {sm} out of tensorrt.sm, or build it with --precision fp16",
        )
    if _WORKSPACE in text:
        return ExportFailed(
            f"no kernel of {title} fits the workspace limit", hint="raise tensorrt.workspace_mb, or leave it out"
        )
    node = node_in(text, places.modules)
    about = f" at {node}{place_of(node, places, named=False)}" if node else ""
    return ExportFailed(f"{title} could not build the engine{about}: {text or 'it gave no reason'}", hint=_OTHER_TARGET)


def _one_line(text: str) -> str:
    """Without line breaks and source positions ("In compileGraph at /_src/x.cpp:12"), at most 300 characters."""
    flat = re.sub(r"\s+", " ", text)
    flat = re.sub(r"\s*\bIn \w+ at /_src/\S+?:\d+\)?", "", flat)
    return flat.strip()[:300]
