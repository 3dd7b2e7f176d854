"""Where images with labels come from: digits, samples, folder:PATH, npz:PATH, cifar10:PATH, cifar100:PATH.

numpy and pillow only, so that a device can verify on real data; scikit-learn and scikit-image (extra ``data``) are
needed just for ``digits`` and ``samples``. Nothing is ever downloaded.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from edgevit import cifar
from edgevit.errors import MissingDependency, UnknownName, UsageError
from edgevit.images import decode

Pixels = np.ndarray[Any, Any]
Split = Literal["all", "train", "held-out"]

HELD_OUT = 0.2
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
SCHEMES = ("digits", "samples", "folder:PATH", "npz:PATH", "cifar10:PATH", "cifar100:PATH")
_HELD_OUT_FOLDERS = ("val", "valid", "validation", "test")
_CROP = 320
# Colour photos inside the wheels, (package, path below it). Others of skimage.data would be downloaded on first use.
_PHOTOS = (
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    *(
        ("skimage", f"data/{name}")
        for name in (
            "astronaut.png",
            "chelsea.png",
            "coffee.png",
            "rocket.jpg",
            "motorcycle_left.png",
            "retina.jpg",
            "hubble_deep_field.jpg",
            "ihc.png",
        )
    ),
)


class Images(Sequence[Pixels]):
    """Images loaded one at a time by ``load(index)``: (H, W, 3) uint8 each. Slicing loads nothing."""

    def __init__(self, load: Callable[[int], Pixels], indices: Iterable[int]) -> None:
        self._load = load
        self._indices = [int(index) for index in indices]

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> Images: ...
    def __getitem__(self, index: int | slice) -> Pixels | Images:
        if isinstance(index, slice):
            return Images(self._load, self._indices[index])
        return self._load(self._indices[index])

    def take(self, indices: Iterable[int]) -> Images:
        """The images at ``indices``, in that order, still unloaded."""
        return Images(self._load, (self._indices[index] for index in indices))


@dataclass(frozen=True)
class LabelledData:
    """Images with the class of each.

    images   one (H, W, 3) uint8 RGB array each; sizes may differ; folders decode on access
    labels   (N,) int64 indices into ``classes``, or None for images without labels
    cropped  to what one model takes, so that nothing is left to do but its normalisation (``crops:PATH``)
    """

    name: str
    images: Images
    labels: np.ndarray[Any, np.dtype[np.int64]] | None = None
    classes: tuple[str, ...] | None = None
    cropped: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Iterable[int]) -> LabelledData:
        """The rows at ``indices``, in that order."""
        chosen = np.fromiter(indices, dtype=np.int64)
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, images=self.images.take(chosen), labels=labels)


def open_data(spec: str, *, split: Split = "all", seed: int = 0) -> LabelledData:
    """Open a data source by its spec; ``split`` picks the fixed 80 % for training or the 20 % held out from it.

    CIFAR and folders with ``train`` and ``val``/``test`` keep their own split. Images without labels are split as one
    class. Raises UnknownName for a spec of no known kind, UsageError for a source that is missing or malformed,
    MissingDependency where scikit-learn or scikit-image is needed and absent.
    """
    if split not in ("all", "train", "held-out"):
        raise UnknownName("split", split, ("all", "train", "held-out"))
    scheme, colon, path = spec.partition(":")
    if scheme in ("digits", "samples") and not colon:
        return _split(_digits() if scheme == "digits" else _samples(), split, seed)
    known = {"folder": _folder, "npz": _npz, "cifar10": _cifar, "cifar100": _cifar, "crops": _crops}
    if scheme not in known or not colon:
        if scheme in known:
            raise UsageError(f"data source {spec!r} lacks its path", hint=f"write {scheme}:PATH")
        raise UnknownName("data source", spec, SCHEMES) if colon else _unknown(spec)
    if not path:
        raise UsageError(f"data source {spec!r} lacks its path", hint=f"write {scheme}:PATH")
    return known[scheme](Path(path).expanduser(), spec, split, seed)


def stratified_split(
    labels: Sequence[int] | np.ndarray[Any, Any], held_out: float = HELD_OUT, seed: int = 0
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """(train indices, held-out indices), both ascending: ``ceil(held_out * N)`` rows shared out over classes.

    Each class gives its share to within one row; a class of two or more is on both sides, a class of one is trained on.
    """
    if not 0 < held_out < 1:
        raise UsageError(f"the held-out share must be between 0 and 1, not {held_out}")
    values = np.asarray(labels)
    # RandomState, not default_rng: its stream is frozen for all numpy versions, so devices get the build host's split.
    random = np.random.RandomState(seed)
    classes, counts = np.unique(values, return_counts=True)
    held = [
        random.permutation(np.flatnonzero(values == label))[:quota]
        for label, quota in zip(classes, _quotas(counts, held_out), strict=True)
    ]
    held_idx = np.sort(np.concatenate([np.empty(0, np.int64), *held])).astype(np.int64)
    return np.setdiff1d(np.arange(len(values), dtype=np.int64), held_idx), held_idx


def _quotas(counts: np.ndarray[Any, Any], held_out: float) -> np.ndarray[Any, Any]:
    """How many rows each class gives: largest remainders, then at least one and never all."""
    exact = counts * held_out
    quotas = np.floor(exact).astype(np.int64)
    total = math.ceil(round(float(exact.sum()), 9))
    by_remainder = np.argsort(quotas - exact, kind="stable")
    quotas[by_remainder[: total - int(quotas.sum())]] += 1
    bounded: Pixels = np.minimum(np.maximum(quotas, counts > 1), counts - 1)
    return bounded


def _split(data: LabelledData, split: Split, seed: int) -> LabelledData:
    if split == "all":
        return data
    labels = np.zeros(len(data), np.int64) if data.labels is None else data.labels
    train, held = stratified_split(labels, seed=seed)
    return data.take(train if split == "train" else held)


def _unknown(spec: str) -> UsageError:
    if Path(spec).is_dir():
        return UsageError(f"data source {spec!r} is a path without its kind", hint=f"write folder:{spec}")
    if spec.endswith(".npz"):
        return UsageError(f"data source {spec!r} is a path without its kind", hint=f"write npz:{spec}")
    return UnknownName("data source", spec, SCHEMES)


def _need(package: str, distribution: str, what: str) -> Path:
    """The folder of an installed package, found without importing it."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingDependency(
            f"{what} come with {distribution}, not installed here", hint="pip install 'edgevit[data]'"
        )
    return Path(next(iter(found.submodule_search_locations)))


@cache
def _digits() -> LabelledData:
    """1,797 handwritten digits of 8×8 pixels (UCI, bundled with scikit-learn), grey levels 0..16 spread over 0..255."""
    _need("sklearn", "scikit-learn", "the digits")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    return LabelledData("digits", _in_memory(grey), labels, tuple(str(digit) for digit in range(10)))


@cache
def _samples() -> LabelledData:
    """Real colour photos cut into 320×320 corners: first corner of every photo, then the second, …; no labels."""
    roots = {
        "sklearn": _need("sklearn", "scikit-learn", "the sample photos"),
        "skimage": _need("skimage", "scikit-image", "the sample photos"),
    }
    photos = [path for package, name in _PHOTOS if (path := roots[package] / name).is_file()]
    if len(photos) < 9:  # some are too low for four corners
        raise UsageError("the installed scikit-image bundles too few photos", hint="pip install -U 'edgevit[data]'")
    pixels = [decode(path) for path in photos]
    crops = [corner for which in range(4) for photo in pixels if (corner := _corner(photo, which)) is not None]
    return LabelledData("samples", _sequence(crops))


def _corner(photo: Pixels, which: int) -> Pixels | None:
    """One of four corners of a photo; None where a small photo has the same corner already."""
    height, width = min(_CROP, photo.shape[0]), min(_CROP, photo.shape[1])
    top, left = (photo.shape[0] - height) * (which >> 1), (photo.shape[1] - width) * (which & 1)
    if (which & 2 and not top) or (which & 1 and not left):
        return None
    return np.ascontiguousarray(photo[top : top + height, left : left + width])


def _rgb(array: Pixels, index: int) -> Pixels:
    """Row ``index`` of (N, H, W), (N, H, W, 1) or (N, H, W, 3) as (H, W, 3)."""
    image = array[index]
    image = image[..., None] if image.ndim == 2 else image
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else np.array(image)


def _in_memory(array: Pixels) -> Images:
    return Images(partial(_rgb, array), range(len(array)))


def _sequence(images: list[Pixels]) -> Images:
    return Images(images.__getitem__, range(len(images)))


def _decode_at(paths: list[Path], index: int) -> Pixels:
    return decode(paths[index])


def _files(paths: list[Path]) -> Images:
    return Images(partial(_decode_at, paths), range(len(paths)))


def _image_files(folder: Path, *, deep: bool) -> list[Path]:
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(p for p in found if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".") and p.is_file())


def _sub_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _folder(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    """A class per sub-folder; or ``train`` and ``val`` holding those; or images alone, which are unlabelled."""
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder", hint="check the path after folder:")
    names = {sub.name for sub in _sub_folders(path)}
    held = [name for name in _HELD_OUT_FOLDERS if name in names]
    if "train" in names and held and names <= {"train", *_HELD_OUT_FOLDERS}:
        return _own_split(path, held[0], spec, split)
    loose = _image_files(path, deep=False)
    if names and not loose:
        return _split(_class_folders(path, spec), split, seed)
    if names:
        raise UsageError(
            f"{path} holds both images and sub-folders, so their classes are unclear",
            hint="put every image into its class's sub-folder",
        )
    if not loose:
        raise UsageError(f"{path}: no images in this folder", hint=f"known endings: {' '.join(sorted(EXTENSIONS))}")
    return _split(LabelledData(spec, _files(loose)), split, seed)


def _class_folders(path: Path, spec: str, classes: tuple[str, ...] | None = None) -> LabelledData:
    """Images below each sub-folder, labelled by its place in ``classes`` (the sub-folders' own names by default)."""
    folders = _sub_folders(path)
    known = classes or tuple(folder.name for folder in folders)
    if strange := [folder.name for folder in folders if folder.name not in known]:
        raise UsageError(f"{path}: class {strange[0]!r} has no folder among those trained on", hint="train on it too")
    paths: list[Path] = []
    labels: list[int] = []
    for folder in folders:
        files = _image_files(folder, deep=True)
        if not files:
            raise UsageError(f"{folder}: no images for class {folder.name!r}", hint="add some, or remove the folder")
        paths += files
        labels += [known.index(folder.name)] * len(files)
    if not paths:
        raise UsageError(f"{path}: no images in this folder", hint="give every class its own sub-folder of images")
    return LabelledData(spec, _files(paths), np.asarray(labels, np.int64), known)


def _own_split(path: Path, held_name: str, spec: str, split: Split) -> LabelledData:
    train = _class_folders(path / "train", spec)
    if split == "train":
        return train
    held = _class_folders(path / held_name, spec, train.classes)
    return held if split == "held-out" else _joined(train, held)


def _joined(first: LabelledData, second: LabelledData) -> LabelledData:
    images = Images(partial(_either, first.images, second.images), range(len(first) + len(second)))
    if first.labels is None or second.labels is None:
        return replace(first, images=images, labels=None)
    return replace(first, images=images, labels=np.concatenate([first.labels, second.labels]))


def _either(first: Images, second: Images, index: int) -> Pixels:
    return first[index] if index < len(first) else second[index - len(first)]


def _npz(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    """Arrays ``images`` (N, H, W[, 1 or 3]), uint8 or floats in 0..1, and optional ``labels`` (N,), ``classes``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("images", "labels", "classes") if name in file}
            names = sorted(file.files)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", hint="check the path after npz:") from None
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as exc:
        raise UsageError(
            f"{path}: not a readable .npz of plain arrays ({exc})", hint="write it with numpy.savez"
        ) from exc
    if "images" not in arrays:
        raise UsageError(f"{path}: no array named 'images'", hint=f"it holds: {', '.join(names) or 'nothing'}")
    images = _checked_images(arrays["images"], path)
    if "labels" not in arrays:
        return _split(LabelledData(spec, _in_memory(images)), split, seed)
    labels, classes = _checked_labels(arrays["labels"], arrays.get("classes"), len(images), path)
    return _split(LabelledData(spec, _in_memory(images), labels, classes), split, seed)


def _crops(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    """What ``profiles.crops.write`` wrote."""
    return replace(_npz(path, spec, split, seed), cropped=True)


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


def _cifar(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    images, labels, classes = cifar.read(path, split, spec.partition(":")[0])
    return LabelledData(spec, _in_memory(images), labels, classes)
