"""The file itself: is it ONNX, is all of it there, and can its age and its operators be read here?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from edgevit.artifact.files import sha256_of
from edgevit.disk import why
from edgevit.errors import Unsupported, UsageError, first_line
from edgevit.export.from_onnx.refusals import refuse
from edgevit.printable import printable

OLDEST_OPSET = 7  # what ONNX Runtime itself goes back to
LARGEST = (1 << 31) - 1  # bytes: protobuf's own limit of one message
_BEGINNINGS = (
    (b"PK\x03\x04", "a zip, as PyTorch checkpoints are", "give the model as PyTorch, with --weights FILE"),
    (b"\x80\x02", "a pickle, as old PyTorch checkpoints are", "give the model as PyTorch, with --weights FILE"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    (b"<", "a web page, or other markup", "download the file itself"),
    (b"\x89HDF", "an HDF5 file, as Keras writes", "convert it first: tf2onnx makes ONNX of it"),
    (b"ftrtptr", "a TensorRT engine", "give the ONNX file that it was built from"),
)


@dataclass(frozen=True)
class OnnxFile:
    """A file that was read and can be used.

    model   without the weights that lie in other files
    sha256  of the file and of those that hold its weights
    """

    path: Path
    model: ModelProto
    sha256: str

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says about itself, by key."""
        return {entry.key: entry.value for entry in self.model.metadata_props}


def read(path: Path) -> OnnxFile:
    """The file, checked. UsageError for what is no whole ONNX file, Unsupported for what no target here takes."""
    model = _parsed(path)
    _check_age(path, model)
    beside = _beside(path, model)
    refuse(model, printable(str(path)))
    try:
        onnx.checker.check_model(str(path))
    except Exception as exc:  # the checker raises its own kind, and others
        raise UsageError(
            f"{printable(str(path))} is no valid ONNX model: {printable(first_line(exc))}", hint="export it anew"
        ) from exc
    return OnnxFile(path, model, _hash(path, beside))


def check_there(path: Path) -> None:
    """UsageError unless there is a file that may be ONNX; cheap, and without the onnx package."""
    shown = printable(str(path))
    try:
        if path.is_dir():
            raise UsageError(f"{shown} is a folder, and not an ONNX file", hint="give the .onnx file in it")
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(32)
    except OSError as exc:
        raise UsageError(f"no ONNX file {shown}: {why(exc)}", hint="check the path") from exc
    if not size:
        raise UsageError(f"{shown} is empty", hint="export or download it again")
    for mark, what, hint in _BEGINNINGS:
        if begin.startswith(mark):
            raise UsageError(f"{shown} is not an ONNX file: it is {what}", hint=hint)
    if size > LARGEST:
        raise UsageError(
            f"{shown} is larger than 2 GiB, which no ONNX file can be",
            hint="save it with its weights beside it (external data)",
        )


def _parsed(path: Path) -> ModelProto:
    check_there(path)
    shown = printable(str(path))
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except Exception as exc:  # protobuf's own errors
        raise UsageError(
            f"{shown} is not an ONNX file, or not all of it: {printable(first_line(exc))}",
            hint="export or download it again",
        ) from exc
    if not model.HasField("graph") or not model.graph.output or not model.graph.node:
        raise UsageError(f"{shown} holds no graph with nodes and outputs", hint="export it anew")
    return model


def _check_age(path: Path, model: ModelProto) -> None:
    """Unsupported for a file that is too new or too old for the onnx package that is installed here."""
    shown, newest = printable(str(path)), onnx.defs.onnx_opset_version()
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if model.ir_version > onnx.IR_VERSION or opset > newest:
        raise Unsupported(
            f"{shown} is newer than the onnx {onnx.__version__} here: IR version {model.ir_version}, opset {opset}, "
            f"where {onnx.IR_VERSION} and {newest} are known",
            hint=f"pip install -U onnx onnxruntime, or export the model in opset {min(newest, 20)}",
        )
    if opset < OLDEST_OPSET:
        raise Unsupported(
            f"{shown} is of opset {opset}, older than {OLDEST_OPSET}, the first that ONNX Runtime runs",
            hint="export the model again, in opset 20",
        )


def _beside(path: Path, model: ModelProto) -> list[Path]:
    """The files that hold weights of the model. UsageError for one that is missing, short, or not in its folder."""
    found: dict[str, int] = {}
    for tensor in tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            said = {entry.key: entry.value for entry in tensor.external_data}
            try:
                end = int(said.get("offset", 0)) + int(said.get("length", 0))
            except ValueError:
                end = 0
            location = said.get("location", "")
            found[location] = max(found.get(location, 0), end)
    return [_weights_file(path, location, end) for location, end in found.items()]


def _weights_file(path: Path, location: str, end: int) -> Path:
    shown, name = printable(str(path)), printable(location)
    inside = Path(os.path.normpath(location))
    if not location or inside.is_absolute() or ".." in inside.parts:
        raise UsageError(
            f"{shown} says that its weights are in {name or 'a file without a name'}, which is not in its folder",
            hint="save it again with its weights beside it",
        )
    file = path.parent / inside
    if not file.is_file():
        raise UsageError(f"the weights of {shown} are in {name}, which is not there", hint=f"copy {name} beside it")
    if file.stat().st_size < end:
        raise UsageError(
            f"{name}, with the weights of {shown}, is shorter than they are", hint="copy or download it again"
        )
    return file


def _hash(path: Path, beside: list[Path]) -> str:
    hashes = [sha256_of(file) for file in (path, *beside)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor that a graph holds: initialisers, and those in attributes, of inner graphs too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
    for node in graph.node:
        for attribute in node.attribute:
            yield from _held(attribute)


def _held(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
        yield from tensors(inner)
