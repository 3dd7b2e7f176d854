"""Images, loaded when they are looked at, and the class of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgevit.data.loaded import Loaded
from edgevit.data.targets import Targets
from edgevit.errors import MissingDependency
from edgevit.foreign import opened
from edgevit.images import MAX_BYTES, ImageError, Preprocess, decode
from edgevit.registry import pip_line

Pixels = np.ndarray[Any, Any]
Split = Literal["all", "train", "held-out"]


class Images(Loaded[Pixels]):
    """Images loaded one at a time: (H, W, 3) uint8 each, or (H, W, 4) where a file has alpha."""

    def _hash_of(self, row: Pixels) -> bytes:
        pixels = np.ascontiguousarray(row)
        return hashlib.sha256(f"{pixels.shape}|".encode() + pixels.tobytes()).digest()


@dataclass(frozen=True)
class LabelledData:
    """Images with the class of each.

    images   one (H, W, 3) uint8 RGB array each, or (H, W, 4) with alpha, which preprocessing lays over white for models
             that take none; sizes may differ; folders decode on access
    labels   (N,) int64 indices into ``classes``, or None for images without labels
    sizes    (N, 2) height and width of each image, where ``images`` are what one model sees of them, so that nothing is
             left to do but its normalisation (``crops:PATH``); else None
    targets  what dense data says of each image, else None; ``classes`` names what they count
    """

    name: str
    images: Images
    labels: np.ndarray[Any, np.dtype[np.int64]] | None = None
    classes: tuple[str, ...] | None = None
    sizes: np.ndarray[Any, np.dtype[np.int64]] | None = None
    targets: Targets | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def cropped(self) -> bool:
        """Whether the images are cropped already."""
        return self.sizes is not None

    def steps(self, whole: Preprocess) -> Preprocess:
        """What of a model's preprocessing is left to do to the images."""
        return whole.after_crop() if self.cropped else whole

    def take(self, indices: Iterable[int]) -> LabelledData:
        """The rows at ``indices``, in that order."""
        chosen = np.fromiter(indices, dtype=np.int64)
        labels = None if self.labels is None else self.labels[chosen]
        targets = None if self.targets is None else self.targets.take(chosen)
        sizes = None if self.sizes is None else self.sizes[chosen]
        return replace(self, images=self.images.take(chosen), labels=labels, sizes=sizes, targets=targets)


def _rgb(array: Pixels, index: int) -> Pixels:
    """Row ``index`` of (N, H, W), (N, H, W, 1) or (N, H, W, 3) as (H, W, 3)."""
    image = array[index]
    image = image[..., None] if image.ndim == 2 else image
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else np.array(image)


def from_array(array: Pixels) -> Images:
    return Images(partial(_rgb, array), range(len(array)))


def from_arrays(images: list[Pixels]) -> Images:
    return Images(images.__getitem__, range(len(images)))


def _decode_at(paths: list[Path], index: int) -> Pixels:
    return decode(paths[index], channels=None)


def digest_of_file(paths: list[Path], index: int) -> bytes:
    """Hash of a file's bytes; ImageError for what is none."""
    digest = hashlib.sha256()
    with opened(paths[index], "an image", limit=MAX_BYTES, error=ImageError) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.digest()


def from_files(paths: list[Path]) -> Images:
    return Images(partial(_decode_at, paths), range(len(paths)), partial(digest_of_file, paths))


def installed_at(package: str, distribution: str, what: str) -> Path:
    """The folder of an installed package, found without importing it."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingDependency(f"{what} come with {distribution}, not installed here", hint=pip_line("edgevit[data]"))
    return Path(next(iter(found.submodule_search_locations)))
