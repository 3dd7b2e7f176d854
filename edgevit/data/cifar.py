"""CIFAR-10 and CIFAR-100 as their authors publish them: the binary files, or the python pickles read with care.

Formats: https://www.cs.toronto.edu/~kriz/cifar.html. Images are stored as 3 planes of 32×32 bytes, red first.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.errors import UsageError
from edgevit.foreign import entries, read_bounded

Array = np.ndarray[Any, Any]
_PIXELS = 3 * 32 * 32
_BATCH_BYTES = 1 << 30  # the largest published, train of CIFAR-100, has 155 MB


@dataclass(frozen=True)
class _Layout:
    """File names of one published format of ``which``; ``label_at`` is the byte of a binary record with the label."""

    which: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int = 1
    label_at: int = 0
    key: str = "labels"
    names_key: str = "label_names"


_HOLDS = "give the folder that holds data_batch_1.bin or data_batch_1 (cifar10), train.bin or train (cifar100)"
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_BINARY = (
    _Layout("cifar10", tuple(f"{name}.bin" for name in _BATCHES), "test_batch.bin", "batches.meta.txt"),
    _Layout("cifar100", ("train.bin",), "test.bin", "fine_label_names.txt", label_bytes=2, label_at=1),
)
_PICKLED = (
    _Layout("cifar10", _BATCHES, "test_batch", "batches.meta"),
    _Layout("cifar100", ("train",), "test", "meta", key="fine_labels", names_key="fine_label_names"),
)


def read(folder: Path, split: str, which: str) -> tuple[Array, Array, tuple[str, ...]]:
    """((N, 32, 32, 3) uint8, (N,) int64, class names) of a folder with ``which``, cifar10 or cifar100 (fine labels).
    ``split`` is all, train or held-out (the test file).

    Missing batches after the first are left out, so that a part of the download can be used. Raises UsageError naming
    the file that is missing or malformed, and for a folder of the other data set.
    """
    layout, batch, names = _recognise(folder)
    if layout.which != which:
        raise UsageError(
            f"{folder} holds {layout.train[0]}, which is not of {which}", hint=f"write {layout.which}:{folder}"
        )
    train = [folder / name for name in layout.train if (folder / name).is_file()]
    files = {"train": train, "held-out": [folder / layout.test], "all": [*train, folder / layout.test]}[split]
    parts = [batch(path, layout) for path in files]
    images = np.concatenate([part[0] for part in parts]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.concatenate([part[1] for part in parts]).astype(np.int64)
    classes = names(folder / layout.names, layout)
    if len(labels) and (labels.min() < 0 or labels.max() >= len(classes)):
        raise UsageError(
            f"{folder}: label {int(labels.max())} has no name in {layout.names}", hint="is the copy complete?"
        )
    return np.ascontiguousarray(images), labels, classes


_Batch = Callable[[Path, _Layout], tuple[Array, Array]]
_Names = Callable[[Path, _Layout], tuple[str, ...]]


def _recognise(folder: Path) -> tuple[_Layout, _Batch, _Names]:
    entries(folder, _HOLDS)
    for layout in _BINARY:
        if (folder / layout.train[0]).is_file():
            return layout, _binary_batch, _binary_names
    for layout in _PICKLED:
        if (folder / layout.train[0]).is_file():
            return layout, _pickled_batch, _pickled_names
    raise UsageError(f"{folder}: no CIFAR files here", hint=_HOLDS)


def _bytes(path: Path) -> bytes:
    return read_bounded(path, _BATCH_BYTES, "a CIFAR batch", hint="is the CIFAR copy complete?")


def _binary_batch(path: Path, layout: _Layout) -> tuple[Array, Array]:
    record = layout.label_bytes + _PIXELS
    flat = np.frombuffer(_bytes(path), dtype=np.uint8)
    if not len(flat) or len(flat) % record:
        raise UsageError(f"{path}: {len(flat)} bytes are not whole records of {record}", hint="is the copy complete?")
    rows = flat.reshape(-1, record)
    return rows[:, layout.label_bytes :], rows[:, layout.label_at]


def _binary_names(path: Path, layout: _Layout) -> tuple[str, ...]:
    lines = _bytes(path).decode("utf-8", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _pickled_batch(path: Path, layout: _Layout) -> tuple[Array, Array]:
    content = _load(path)
    images, labels = content.get("data"), content.get(layout.key)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (_PIXELS,):
        raise UsageError(f"{path}: 'data' is not an (N, {_PIXELS}) uint8 array", hint="is this a CIFAR batch?")
    if not isinstance(labels, list) or len(labels) != len(images) or not all(type(label) is int for label in labels):
        raise UsageError(
            f"{path}: {layout.key!r} is not a list of {len(images)} integers", hint="is this a CIFAR batch?"
        )
    return images, np.asarray(labels, np.int64)


def _pickled_names(path: Path, layout: _Layout) -> tuple[str, ...]:
    names = _load(path).get(layout.names_key)
    if not isinstance(names, list):
        raise UsageError(f"{path}: no list named {layout.names_key!r}", hint="is the CIFAR copy complete?")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)


_NDARRAY = object()  # stands for numpy.ndarray in a pickle, so that none can call it


class _CifarUnpickler(pickle.Unpickler):
    """Admits byte arrays, bytes, dicts and lists, all that CIFAR's pickles hold; never a callable of their choice."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return _NDARRAY
        if (module, name) == ("numpy", "dtype"):
            return _byte_type
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _empty_array
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes at protocol 2
            return _latin1
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no CIFAR file needs")


def _empty_array(kind: Any, shape: Any, typecode: Any) -> Array:
    """What numpy's own ``_reconstruct`` gives a well-formed file: an empty array whose state follows."""
    if kind is not _NDARRAY or shape != (0,):
        raise pickle.UnpicklingError("it holds an array of an unusual kind")
    return np.ndarray((0,), np.uint8)


def _byte_type(code: Any, *_flags: Any) -> np.dtype[Any]:
    if code not in ("u1", b"u1", "|u1"):
        raise pickle.UnpicklingError(f"it holds an array of {code!r}, not of bytes")
    return np.dtype(np.uint8)


def _latin1(text: str, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("it holds text of an unusual encoding")
    return text.encode("latin1")


def _load(path: Path) -> dict[str, Any]:
    try:
        content = _CifarUnpickler(io.BytesIO(_bytes(path)), encoding="bytes").load()
    except UsageError:
        raise
    except Exception as exc:  # a hostile or cut pickle can raise anything
        raise UsageError(
            f"{path}: not a CIFAR pickle ({exc})", hint="use the files from cs.toronto.edu/~kriz/cifar.html"
        ) from exc
    if not isinstance(content, dict):
        raise UsageError(f"{path}: not a CIFAR pickle (no dict inside)", hint="use the files as published")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}
