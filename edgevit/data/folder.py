"""Folders of images."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from edgevit.data.labelled import Images, LabelledData, Pixels, Split, from_files
from edgevit.data.split import part
from edgevit.errors import UsageError
from edgevit.foreign import entries

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_HINT = "check the path after folder:"
HELD_OUT_FOLDERS = ("val", "valid", "validation", "test")


def files_of(folder: Path, endings: Collection[str] = EXTENSIONS, *, deep: bool) -> list[Path]:
    """The images in a folder, or what has other ``endings``, by name; ``deep`` those of its sub-folders too."""
    found: list[Path] = []
    for path in entries(folder, _HINT):
        if deep and path.is_dir() and not path.is_symlink():  # a link may lead round in a circle
            found += files_of(path, endings, deep=True)
        elif path.suffix.lower() in endings and not path.name.startswith(".") and path.is_file():
            found.append(path)
    return found


def _sub_folders(folder: Path) -> list[Path]:
    return [path for path in entries(folder, _HINT) if path.is_dir() and not path.name.startswith(".")]


def read(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    """A class per sub-folder; or ``train`` and ``val`` holding those; or images alone, which are unlabelled."""
    names = {sub.name for sub in _sub_folders(path)}
    held = [name for name in HELD_OUT_FOLDERS if name in names]
    if "train" in names and held and names <= {"train", *HELD_OUT_FOLDERS}:
        return _own_split(path, held[0], spec, split)
    loose = files_of(path, deep=False)
    if names and not loose:
        return part(_class_folders(path, spec), split, seed)
    if names:
        raise UsageError(
            f"{path} holds both images and sub-folders, so their classes are unclear",
            hint="put every image into its class's sub-folder",
        )
    if not loose:
        raise UsageError(f"{path}: no images in this folder", hint=f"known endings: {' '.join(sorted(EXTENSIONS))}")
    return part(LabelledData(spec, from_files(loose)), split, seed)


def _class_folders(path: Path, spec: str, classes: tuple[str, ...] | None = None) -> LabelledData:
    """Images below each sub-folder, labelled by its place in ``classes`` (the sub-folders' own names by default)."""
    folders = _sub_folders(path)
    known = classes or tuple(folder.name for folder in folders)
    if strange := [folder.name for folder in folders if folder.name not in known]:
        raise UsageError(f"{path}: class {strange[0]!r} has no folder among those trained on", hint="train on it too")
    paths: list[Path] = []
    labels: list[int] = []
    for folder in folders:
        files = files_of(folder, deep=True)
        if not files:
            raise UsageError(f"{folder}: no images for class {folder.name!r}", hint="add some, or remove the folder")
        paths += files
        labels += [known.index(folder.name)] * len(files)
    if not paths:
        raise UsageError(f"{path}: no images in this folder", hint="give every class its own sub-folder of images")
    return LabelledData(spec, from_files(paths), np.asarray(labels, np.int64), known)


def _own_split(path: Path, held_name: str, spec: str, split: Split) -> LabelledData:
    train = _class_folders(path / "train", spec)
    if split == "train":
        return train
    held = _class_folders(path / held_name, spec, train.classes)
    return held if split == "held-out" else _joined(train, held)


def _joined(first: LabelledData, second: LabelledData) -> LabelledData:
    both = first.images, second.images
    images = Images(partial(_either, *both), range(len(first) + len(second)), partial(_either_digest, *both))
    if first.labels is None or second.labels is None:
        return replace(first, images=images, labels=None)
    return replace(first, images=images, labels=np.concatenate([first.labels, second.labels]))


def _either(first: Images, second: Images, index: int) -> Pixels:
    return first[index] if index < len(first) else second[index - len(first)]


def _either_digest(first: Images, second: Images, index: int) -> bytes:
    return first.digest(index) if index < len(first) else second.digest(index - len(first))
