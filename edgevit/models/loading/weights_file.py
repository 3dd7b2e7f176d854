"""A file of weights, whatever it is called: its content says what it is. Read without running code from it."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgevit import foreign
from edgevit.errors import UsageError
from edgevit.models.loading.inert import NumpyArray, stand_ins

State = dict[str, Tensor]

METADATA_KEY = "edgevit"
HIDDEN = "edgevit.integers/"  # begins names of tensors that are no weights, in safetensors of ours
METADATA_CHARS = 16 << 20  # labels of a million classes; more is no description of a model
_DEPTH = 6  # of dicts in dicts: Lightning's callbacks keep averaged weights in the fourth

_HEAD = 1024
_TEXT_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights themselves", "fetch them: git lfs pull"),
    (b"/annex/objects/", "a git-annex pointer, not the weights themselves", "fetch them: git annex get"),
    (b"<", "a web page, not weights", "download the file itself: the page may say why it was not given"),
    (b"{", "JSON, not weights", "give the file that it describes"),
)
_OTHER_STARTS = (
    (b"\x89HDF", "an HDF5 file (Keras, MATLAB)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x80", "a pickle that torch.save did not write"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
)
_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # in the pickle that torch.save wrote before it wrote a zip
_SAVE = "save model.state_dict() alone, best as .safetensors"


@dataclass(frozen=True)
class Content:
    """What a file holds.

    sets   every dict of tensors in it by where it lies: "" for the file itself, else "state_dict_ema", "ema.model", …
    meta   JSON that edgevit wrote beside them, or None
    """

    sets: Mapping[str, State]
    meta: str | None


def read_weights(path: Path) -> Content:
    """UsageError, in one sentence, for a file that is missing, broken, of another kind, or that would have to run code
    to load."""
    with foreign.opened(path, "a file of weights", hint="check the path") as stream:
        head = stream.read(_HEAD) or b""
        size = stream.seek(0, 2)
    if not head:
        raise UsageError(f"{path} is empty", hint="is the file complete?")
    if _is_safetensors(head, size):
        return _read_safetensors(path)
    if not head.startswith(b"PK") and _MAGIC not in head[:32] and head[257:262] != b"ustar":  # torch's three formats
        raise _of_another_kind(path, head)
    content = _read_torch(path, head)
    text = content.get(METADATA_KEY)
    return Content(dict(_sets(content)), text if isinstance(text, str) else None)


def _is_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes for the length of a header, and then the header, which is JSON."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and (length <= size or b'"dtype"' in head)


def _of_another_kind(path: Path, head: bytes) -> UsageError:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, what, hint in _TEXT_STARTS:
        if text.startswith(start):
            return UsageError(f"{path} is {what}", hint=hint)
    for start, what in _OTHER_STARTS:
        if head.startswith(start):
            return UsageError(
                f"{path} is {what}, not weights that can be read here", hint="unpack or convert it: " + _SAVE
            )
    return UsageError(f"{path} is no file of weights: neither safetensors nor what torch.save writes", hint=_SAVE)


def _read_safetensors(path: Path) -> Content:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if not name.startswith(HIDDEN)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
            return Content({"": tensors} if tensors else {}, (file.metadata() or {}).get(METADATA_KEY))
    except (SafetensorError, OSError, ValueError, AttributeError, TypeError) as exc:
        raise UsageError(f"{path} cannot be read as safetensors: {exc}", hint="is the file complete?") from exc


def read_hidden(path: Path) -> State:
    """Tensors of a checkpoint of ours that are no weights of its model, by name. UsageError as ``read_weights``."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(HIDDEN)]  # noqa: SIM118
            return {name.removeprefix(HIDDEN): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as exc:
        raise UsageError(f"{path} cannot be read as safetensors: {exc}", hint="is the file complete?") from exc


# --- torch -------------------------------------------------------------------------------------------------------


def _read_torch(path: Path, head: bytes) -> Mapping[Any, Any]:
    if head.startswith(b"PK"):
        _check_archive(path)
    try:
        with torch.serialization.safe_globals(stand_ins()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that torch is about to give up
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # a broken file makes the unpickler raise anything from KeyError to MemoryError
        raise _unreadable(path, exc) from exc
    if isinstance(content, Tensor | NumpyArray):
        raise UsageError(f"{path} holds one tensor, not a state dict", hint=_SAVE)
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds a {type(content).__name__}, not a state dict", hint=_SAVE)
    return content


def _check_archive(path: Path) -> None:
    """torch.save compresses nothing: an archive that unpacks to more than its size is none of its files."""
    if not zipfile.is_zipfile(path):
        raise UsageError(
            f"{path} cannot be read as a torch checkpoint: its end is missing", hint="is the file complete?"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as exc:
        raise UsageError(f"{path} cannot be read as a torch checkpoint: {exc}", hint="is the file complete?") from exc
    names = {entry.filename.partition("/")[2] for entry in entries}
    if "constants.pkl" in names:
        raise UsageError(f"{path} is a TorchScript program, not weights", hint=_SAVE)
    if "data.pkl" not in names:
        raise UsageError(f"{path} is a zip archive, not a torch checkpoint", hint="unpack it first")
    if sum(entry.file_size for entry in entries) > 2 * path.stat().st_size + (1 << 20):
        raise UsageError(f"{path} is a compressed archive, which torch.save does not write", hint=_SAVE)


def _unreadable(path: Path, exc: Exception) -> UsageError:
    said = str(exc)
    if named := re.search(r"GLOBAL (?P<name>\S{1,200})\S*(?: was not| whose module)", said):
        return UsageError(
            f"{path} holds more than tensors ({named['name']}), and loading it would run code from the file", hint=_SAVE
        )
    if isinstance(exc, pickle.UnpicklingError):  # torch's advice is to load it with less care
        said = said.rpartition("WeightsUnpickler error: ")[2]
    first = said.strip().splitlines()[0] if said.strip() else type(exc).__name__
    return UsageError(f"{path} cannot be read as a torch checkpoint: {first}", hint="is the file complete?")


def _sets(content: Mapping[Any, Any]) -> Iterator[tuple[str, State]]:
    """Every dict of tensors in ``content``, the outermost first; one that lies in two places is given once."""
    level: list[tuple[str, Mapping[Any, Any]]] = [("", content)]
    seen: set[int] = set()
    for _ in range(_DEPTH):
        deeper: list[tuple[str, Mapping[Any, Any]]] = []
        for where, found in level:
            if id(found) in seen:
                continue
            seen.add(id(found))
            if tensors := dict(_tensors(found)):
                yield where, tensors
            inner = ((key, _as_dict(value)) for key, value in found.items() if isinstance(key, str | int))
            deeper += [(f"{where}.{key}" if where else str(key), value) for key, value in inner if value is not None]
        level = deeper


def _as_dict(value: object) -> Mapping[Any, Any] | None:
    """A dict as it is; a list of tensors by number: averages without names are seen, though no model has those."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, Tensor) for item in value):
        return {str(number): item for number, item in enumerate(value)}
    return value if isinstance(value, Mapping) else None


def _tensors(found: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in found.items():
        tensor = value.tensor() if isinstance(value, NumpyArray) else value
        if isinstance(name, str) and isinstance(tensor, Tensor):
            yield name, tensor
