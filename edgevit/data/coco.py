"""COCO's annotations: boxes, the masks of instances, and panoptic segments, all as objects.

Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.data.labelled import LabelledData, Split, digest_of_file, from_files
from edgevit.data.outlines import mask_of
from edgevit.data.planes import coloured_plane
from edgevit.data.records import Record, records
from edgevit.data.split import part
from edgevit.data.targets import Objects, Targets
from edgevit.errors import UsageError
from edgevit.foreign import entries, parse_json, read_bounded
from edgevit.images import MAX_PIXELS

Array = np.ndarray[Any, Any]

MOST = 128 << 20  # bytes of annotations, which take some ten times that while they are read; all of val2017 has 20 MB
MASK_BYTES = 1 << 30  # of all masks of one image
_HINT = "give the JSON of annotations, or a folder that holds one: coco:PATH/annotations/instances_val2017.json"


@dataclass(frozen=True)
class _Image:
    """One image: its file, (height, width), and what was annotated; ``segments`` is its panoptic PNG."""

    file: Path
    size: tuple[int, int]
    notes: tuple[Record, ...]
    segments: Path | None


def read(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    """Every image with its objects; classes in the order of their ids. Masks are made when they are looked at.

    UsageError for what is no annotations, for images that are missing, and on access for a mask that is none.
    """
    file = _annotations(path)
    whole = _parsed(file)
    names = _names(file, whole)
    images = _images(file, whole, set(names))
    ids = {category: place for place, category in enumerate(names)}
    targets = Targets("objects", partial(_objects, images, ids), range(len(images)), partial(_digest, images, names))
    found = LabelledData(
        spec, from_files([image.file for image in images]), classes=tuple(names.values()), targets=targets
    )
    return part(found, split, seed)


def _annotations(path: Path) -> Path:
    """The JSON file that is meant."""
    if not path.is_dir():
        return path
    inner = path / "annotations"
    found = [one for one in entries(inner if inner.is_dir() else path, _HINT) if one.suffix.lower() == ".json"]
    if not found:
        raise UsageError(f"{path}: no JSON of annotations here", hint=_HINT)
    if len(found) > 1:
        raise UsageError(f"{path}: {len(found)} files of annotations", hint=f"name one of them: coco:{found[0]}")
    return found[0]


def _parsed(file: Path) -> Record:
    try:
        whole = parse_json(read_bounded(file, MOST, "COCO annotations", hint=_HINT).decode("utf-8-sig"))
    except ValueError as exc:  # of UTF-8 too
        raise UsageError(f"{file}: not COCO annotations: {exc}", hint=_HINT) from exc
    if not isinstance(whole, dict) or not {"images", "annotations", "categories"} <= whole.keys():
        raise UsageError(f"{file}: not COCO annotations: images, annotations and categories belong there", hint=_HINT)
    return whole


def _names(file: Path, whole: Record) -> dict[int, str]:
    """id -> name of every category."""
    found = {one["id"]: one["name"] for one in records(file, whole, "categories", id=int, name=str)}
    if len(found) < len(whole["categories"]) or len(set(found.values())) < len(found):
        raise UsageError(f"{file}: two categories have the same id or name", hint="give each its own")
    return dict(sorted(found.items()))


def _images(file: Path, whole: Record, known: set[int]) -> list[_Image]:
    pictures = records(file, whole, "images", id=int, file_name=str, width=int, height=int)
    if len({one["id"] for one in pictures}) < len(pictures):
        raise UsageError(f"{file}: two images have the same id", hint="give each its own")
    notes: defaultdict[int, list[Record]] = defaultdict(list)
    segments: dict[int, Path] = {}
    places = _Places(file)
    for note in records(file, whole, "annotations", image_id=int):
        parts = _parts(file, note, known)
        notes[note["image_id"]] += parts
        if "segments_info" in note:
            segments[note["image_id"]] = places.segments(note.get("file_name"))
    if strange_ids := notes.keys() - {one["id"] for one in pictures}:
        raise UsageError(f"{file}: image {min(strange_ids)} is annotated and not listed", hint="add it to images")
    return [
        _Image(places.image(one["file_name"]), _size(file, one), tuple(notes[one["id"]]), segments.get(one["id"]))
        for one in pictures
    ]


def _parts(file: Path, note: Record, known: set[int]) -> list[Record]:
    """The segments of a panoptic annotation, any other itself, each of a category that is known."""
    panoptic = "segments_info" in note
    whole = note if panoptic else {"annotations": [note]}
    parts = records(file, whole, "segments_info" if panoptic else "annotations", category_id=int)
    if panoptic:
        records(file, note, "segments_info", id=int)
    if strange := {int(one["category_id"]) for one in parts} - known:
        raise UsageError(f"{file}: category {min(strange)} has no name", hint="add it to categories")
    return parts


def _size(file: Path, picture: Record) -> tuple[int, int]:
    height, width = picture["height"], picture["width"]
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise UsageError(f"{file}: {picture['file_name']} is said to have {width}×{height} pixels", hint="correct it")
    return height, width


class _Places:
    """Where files named in the annotations lie: beside them, or where COCO's own archives put them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        part = file.stem.split("_")[-1]  # instances_val2017 -> val2017
        roots = (file.parent, file.parent.parent)
        inner = ("", "images", part, f"images/{part}")
        self._images = [root / name for root in roots for name in inner if (root / name).is_dir()]
        self._segments = [root / name for root in roots for name in (file.stem, "") if (root / name).is_dir()]

    def image(self, name: str) -> Path:
        return self._at(self._images, name, "image")

    def segments(self, name: Any) -> Path:
        return self._at(self._segments, name, "panoptic PNG")

    def _at(self, folders: list[Path], name: Any, what: str) -> Path:
        if not _is_below(name):
            raise UsageError(f"{self._file}: {name!r} is no file beside it", hint="name files below the annotations")
        found: Path | None = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if found is None:
            tried = ", ".join(map(str, folders))
            raise UsageError(f"{self._file}: its {what} {name} is in none of {tried}", hint="put the images there")
        return found


def _is_below(name: Any) -> bool:
    inside = isinstance(name, str) and name != "" and "\0" not in name
    return inside and not Path(name).is_absolute() and ".." not in Path(name).parts


def _objects(images: list[_Image], ids: dict[int, int], index: int) -> Objects:
    image = images[index]
    try:
        masks = _panoptic(image, image.segments) if image.segments else _instances(image)
        boxes = [_box(note, masks[place] if masks is not None else None) for place, note in enumerate(image.notes)]
    except UsageError as exc:
        raise UsageError(f"{image.file.name}: {exc}", hint=exc.hint) from exc
    return Objects(
        np.asarray(boxes, np.float64).reshape(-1, 4),
        np.asarray([ids[note["category_id"]] for note in image.notes], np.int64),
        masks,
        np.asarray([bool(note.get("iscrowd", 0)) for note in image.notes], bool),
    )


def _instances(image: _Image) -> Array | None:
    """(n, H, W), None where not every object has an outline."""
    if not all(note.get("segmentation") for note in image.notes):
        return None
    masks = _room(image)
    for place, note in enumerate(image.notes):
        masks[place] = mask_of(note["segmentation"], image.size)
    return masks


def _panoptic(image: _Image, segments: Path) -> Array:
    numbers = coloured_plane(segments, "a panoptic PNG")
    if numbers.shape != image.size:
        raise UsageError(f"{segments} is of another size", hint="check width and height in the annotations")
    masks = _room(image)
    for place, note in enumerate(image.notes):
        masks[place] = numbers == note["id"]
    return masks


def _room(image: _Image) -> Array:
    shape = len(image.notes), *image.size
    if np.prod([float(side) for side in shape]) > MASK_BYTES:
        raise UsageError(f"{len(image.notes)} masks are too many for one image of its size", hint="leave it out")
    return np.zeros(shape, bool)


def _box(note: Record, mask: Array | None) -> list[float]:
    """x0 y0 x1 y1, around the mask where none is given."""
    box = note.get("bbox")
    if box is None and mask is not None:
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else [0.0] * 4
    if not isinstance(box, list) or len(box) != 4 or not all(type(side) in (int, float) for side in box):
        raise UsageError(f"a box is {str(box)[:40]}, not x, y, width and height", hint="is the file complete?")
    left, top, width, height = box
    if width < 0 or height < 0:
        raise UsageError(f"a box is {width:g}×{height:g} pixels large", hint="write x, y, width and height")
    return [left, top, left + width, top + height]


def _digest(images: list[_Image], names: dict[int, str], index: int) -> bytes:
    """Of what is said, whatever numbers the file gives to images, annotations and categories."""
    image = images[index]
    said = sorted(
        json.dumps(
            [names[note["category_id"]], *(note.get(key) for key in ("bbox", "segmentation", "iscrowd"))]
            + ([note["id"]] if image.segments else [])
        )
        for note in image.notes
    )
    png = digest_of_file([image.segments], 0) if image.segments else b""
    return hashlib.sha256("\n".join(said).encode() + png).digest()
