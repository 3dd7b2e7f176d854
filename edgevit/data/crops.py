"""Images as one model sees them, with all that the data says of each: what travels to a device that lacks the data.

What is true of an image stays in the image's own pixels, and the image's size goes along: so answers are judged on the
device as they are where the data lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from edgevit.data.labelled import LabelledData, Split, from_array
from edgevit.data.npz import read_arrays
from edgevit.data.targets import Array, Kind, Objects, Targets
from edgevit.errors import UsageError
from edgevit.images import Preprocess

_SHAPE, _BITS = ".shape", ".bits"  # of an array whose rows have shapes of their own; whether eight are in a byte


def arrays_of(data: LabelledData, steps: Preprocess) -> dict[str, Array]:
    """``data`` as ``read`` takes it back: the crops, and beside them labels, classes and targets where there are."""
    crops, sizes = [], []
    for image in data.images:
        crops.append(steps.crop_pixels(image))
        sizes.append(image.shape[:2])
    found = {"images": np.stack(crops), "sizes": np.array(sizes)}
    if data.labels is not None:
        found["labels"] = data.labels
    if data.classes is not None:
        found["classes"] = np.asarray(data.classes)
    if data.targets is not None:
        rows = [_parts(target) for target in data.targets]
        found["kind"] = np.array(data.targets.kind)
        for name in rows[0]:
            found |= dict(_joined(f"target.{name}", [row[name] for row in rows]))
    return found


def read(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    """The images of a file of such arrays, all of them whatever the ``split``. UsageError for any other."""
    found = read_arrays(path)
    try:
        return _read(found, spec)
    except (KeyError, IndexError, ValueError, TypeError) as exc:
        raise UsageError(f"{path} holds no crops: {exc}", hint="send the images anew") from exc


def _read(found: Mapping[str, Array], spec: str) -> LabelledData:
    images = found["images"]
    labels, classes = found.get("labels"), found.get("classes")
    sizes = found["sizes"] if "sizes" in found else np.array([image.shape[:2] for image in images])
    if len({len(one) for one in (images, sizes, *(() if labels is None else (labels,)))}) != 1:
        raise ValueError("the numbers of images, sizes and labels differ")
    return LabelledData(
        spec,
        from_array(images),
        None if labels is None else labels.astype(np.int64),
        None if classes is None else tuple(map(str, classes)),
        sizes=sizes,
        targets=_targets(found, len(images)) if "kind" in found else None,
    )


def _targets(found: Mapping[str, Array], count: int) -> Targets:
    kind = str(found["kind"])
    if kind not in get_args(Kind):
        raise ValueError(f"{kind} is no kind of target")
    names = [key.removesuffix(_SHAPE).removeprefix("target.") for key in found if key.endswith(_SHAPE)]
    parts = {name: _parted(f"target.{name}", found) for name in names}
    if not parts or any(len(rows) != count for rows in parts.values()):
        raise ValueError("the numbers of images and targets differ")
    rows = [_target(cast("Kind", kind), {name: parts[name][row] for name in names}) for row in range(count)]
    return Targets(cast("Kind", kind), rows.__getitem__, range(count))


def _parts(target: Any) -> dict[str, Array]:
    """The arrays of a target, by name; an optional one that it lacks is left out."""
    if not isinstance(target, Objects):
        return {"whole": target}
    return {field.name: value for field in fields(target) if (value := getattr(target, field.name)) is not None}


def _target(kind: Kind, parts: Mapping[str, Array]) -> Any:
    if kind == "objects":
        return Objects(parts["boxes"], parts["classes"].astype(np.int64), parts.get("masks"), parts["crowd"])
    whole = parts["whole"]
    return whole.astype(np.int64) if kind == "masks" else whole


def _joined(name: str, rows: Sequence[Array]) -> Iterator[tuple[str, Array]]:
    """Rows of any shapes as one flat array, whole numbers in the smallest type that holds them, and their shapes."""
    yield name + _SHAPE, np.array([row.shape for row in rows], np.int64)
    flat = np.concatenate([_small(row).reshape(-1) for row in rows])
    yield (name + _BITS, np.packbits(flat)) if flat.dtype == np.bool_ else (name, flat)


def _parted(name: str, found: Mapping[str, Array]) -> list[Array]:
    shapes = found[name + _SHAPE]
    counts = [math.prod(map(int, shape)) for shape in shapes]
    flat = found[name] if name in found else np.unpackbits(found[name + _BITS], count=sum(counts)).astype(np.bool_)
    if sum(counts) != flat.size:
        raise ValueError(f"{name} has {flat.size} values where its shapes have {sum(counts)}")
    ends = np.cumsum([0, *counts])
    return [flat[start:end].reshape(shape) for start, end, shape in zip(ends, ends[1:], shapes, strict=False)]


def _small(row: Array) -> Array:
    if row.dtype != np.int64 or not row.size:
        return row
    least, most = int(row.min()), int(row.max())
    return row.astype(np.min_scalar_type(most if least >= 0 else min(least, -most - 1)))
