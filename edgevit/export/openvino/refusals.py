"""OpenVINO's errors while it reads a graph, in terms of ONNX nodes and of the PyTorch modules they came from."""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgevit.engines.intel import said_by
from edgevit.errors import EdgeVitError, ExportFailed, Unsupported
from edgevit.export.onnx.places import Places, node_in, place_of

_UNKNOWN = re.compile(r"does not support the following ONNX operations: (?P<kinds>[^\n]+)")
_OTHER_TARGET = "rewrite that part of the model, or use -t onnx"


def refusal(exc: Exception, kinds: Mapping[str, str], places: Places) -> EdgeVitError:
    """What an error of reading means: an operator that OpenVINO lacks, or a graph that it cannot take. ``kinds``: ONNX
    node -> its operator."""
    if match := _UNKNOWN.search(str(exc)):
        unknown = match["kinds"].split(",")[0].strip()
        node = next((name for name, kind in kinds.items() if kind == unknown.rpartition(".")[2]), "")
        return Unsupported(f"OpenVINO has no {unknown}{place_of(node, places)}", hint=_OTHER_TARGET)
    node = node_in(str(exc), places.modules)
    about = f"{kinds[node]}{place_of(node, places)}: " if node in kinds else ""
    return ExportFailed(f"OpenVINO could not read the ONNX graph: {about}{said_by(exc)}", hint=_OTHER_TARGET)
