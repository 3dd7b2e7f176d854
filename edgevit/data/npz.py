"""Arrays in a .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgevit.data.labelled import LabelledData, Pixels, Split, from_array
from edgevit.data.split import part
from edgevit.errors import UsageError, first_line
from edgevit.foreign import opened
from edgevit.images import MAX_BYTES

ROW_TYPES = ("float32", "float16", "uint8", "int32", "int64", "bool")  # of inputs of an artifact


def read(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    """Arrays ``images`` (N, H, W[, 1 or 3]), uint8 or floats in 0..1, and optional ``labels`` (N,), ``classes``."""
    arrays, names = _arrays(path, ("images", "labels", "classes"))
    if "images" not in arrays:
        raise UsageError(f"{path}: no array named 'images'", hint=f"it holds: {', '.join(names) or 'nothing'}")
    images = _checked_images(arrays["images"], path)
    if "labels" not in arrays:
        return part(LabelledData(spec, from_array(images)), split, seed)
    labels, classes = _checked_labels(arrays["labels"], arrays.get("classes"), len(images), path)
    return part(LabelledData(spec, from_array(images), labels, classes), split, seed)


def read_rows(path: Path, fewest: int = 1) -> dict[str, Pixels]:
    """Rows of a model's inputs: (rows, …) by the names of the inputs. UsageError for what is no .npz of such arrays,
    for other numbers of rows, and for fewer than ``fewest``."""
    arrays, _ = _arrays(path)
    if not arrays:
        raise UsageError(f"{path} holds no arrays", hint="numpy.savez(path, name=rows, …), by the names of the inputs")
    for name, array in arrays.items():
        _check_rows(name, array, path)
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise UsageError(f"{path}: the numbers of rows differ: {listed}", hint="as many of each, row by row")
    if (count := min(lengths.values())) < fewest:
        raise UsageError(
            f"{path} has {count} row{'s' if count != 1 else ''}; {fewest} are needed", hint="add real rows"
        )
    return arrays


def read_arrays(path: Path) -> dict[str, Pixels]:
    """All arrays by name; UsageError for what is no .npz of plain ones."""
    return _arrays(path)[0]


def _check_rows(name: str, array: Pixels, path: Path) -> None:
    if str(array.dtype) not in ROW_TYPES:
        hint = f"{name}.astype(np.float32)" if array.dtype.kind == "f" else f"use {', '.join(ROW_TYPES)}"
        raise UsageError(f"{path}: {name} is {array.dtype}, which no artifact takes", hint=hint)
    if array.ndim == 0 or 0 in array.shape[1:]:
        raise UsageError(f"{path}: {name} has the shape {array.shape}", hint="one row an item: (rows, …)")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"{path}: {name} holds NaN or infinity", hint="give rows that the model is used with")


def _arrays(path: Path, wanted: Collection[str] | None = None) -> tuple[dict[str, Pixels], list[str]]:
    """The ``wanted`` ones that are there (None: all), by name, and the names of all."""
    try:
        with (
            opened(path, "an .npz", hint="check the path") as stream,
            np.load(
                _begun(stream, path, b"PK", "a readable .npz of plain arrays", "numpy.savez"), allow_pickle=False
            ) as file,
        ):
            arrays = {name: file[name] for name in file.files if wanted is None or name in wanted}
            return arrays, sorted(file.files)
    except MemoryError as exc:
        raise UsageError(f"{path}: its arrays do not fit into memory", hint="store fewer rows in it") from exc
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as exc:
        raise UsageError(
            f"{path}: not a readable .npz of plain arrays ({exc})", hint="write it with numpy.savez"
        ) from exc


def read_array(path: Path) -> Pixels:
    """The array of an .npy; UsageError for anything else, and for one that needs pickle."""
    with opened(path, "an .npy", limit=MAX_BYTES) as stream:
        try:
            array = np.load(_begun(stream, path, b"\x93NUMPY", "a readable .npy", "numpy.save"), allow_pickle=False)
        except (ValueError, TypeError, EOFError, MemoryError) as exc:
            raise UsageError(
                f"{path}: not a readable .npy ({first_line(exc)})", hint="write it with numpy.save"
            ) from exc
    return np.asarray(array)


def _begun(stream: BinaryIO, path: Path, magic: bytes, what: str, writer: str) -> BinaryIO:
    """The file, if it begins as it should: numpy takes any other for a pickle, and advises to trust it."""
    begun = stream.read(len(magic))
    stream.seek(0)
    if begun != magic:
        raise UsageError(f"{path}: not {what}", hint=f"write it with {writer}")
    return stream


def _checked_images(images: Pixels, path: Path) -> Pixels:
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)) or 0 in images.shape:
        raise UsageError(
            f"{path}: images have shape {images.shape}", hint="expected (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise UsageError(f"{path}: images are {images.dtype}", hint="store uint8, or floats from 0 to 1")
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise UsageError(f"{path}: float images leave the range 0 to 1", hint="store uint8, or floats from 0 to 1")
    scaled: Pixels = np.rint(images * 255).astype(np.uint8)
    return scaled


def _checked_labels(
    labels: Pixels, classes: Pixels | None, count: int, path: Path
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], tuple[str, ...]]:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}",
            hint=f"expected {count} integers, one an image",
        )
    highest = int(labels.max())
    if labels.min() < 0:
        raise UsageError(f"{path}: a label is negative", hint="count the classes from 0")
    if classes is None:
        return labels.astype(np.int64), tuple(str(index) for index in range(highest + 1))
    if classes.ndim != 1 or highest >= len(classes):
        raise UsageError(f"{path}: label {highest} has no name in classes", hint="list one name a class, in order")
    return labels.astype(np.int64), tuple(str(name) for name in classes)
