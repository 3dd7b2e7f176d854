"""Pictures of a Python program: paths, numpy arrays, PIL images, and any iterable of those."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import UsageError
from edgevit.images import ImageError, of_pillow
from edgevit.prediction.inputs import Inputs
from edgevit.prediction.picture import Picture
from edgevit.prediction.results import Failure, failed
from edgevit.prediction.videos import Sampling

if TYPE_CHECKING:
    import PIL.Image

Image: TypeAlias = "str | os.PathLike[str] | Array | PIL.Image.Image"
_KINDS = "give a path, a numpy array (height, width, 3) of uint8, or a PIL image"


def pictures(
    images: Image | Iterable[Image | Picture | Failure], sampling: Sampling | None = None
) -> Iterator[Picture | Failure]:
    """The pictures of one image or of many, each looked at when it is its turn; a path may name all that ``Inputs``
    takes, whose pictures are taken as they are. UsageError for what is no picture."""
    if _single(images):
        yield from _of(images, "image", sampling)
        return
    if isinstance(images, bytes) or not isinstance(images, Iterable):
        raise UsageError(f"a picture cannot be {_called(images)}", hint=_KINDS)
    for index, image in enumerate(images):
        yield from _of(image, f"images[{index}]", sampling)


def _single(images: Any) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim != 4  # four axes are many pictures, whose first is which
    return isinstance(images, str | os.PathLike) or _is_pillow(images)


def _of(image: Any, name: str, sampling: Sampling | None) -> Iterator[Picture | Failure]:
    if isinstance(image, Picture | Failure):
        yield image
    elif isinstance(image, str | os.PathLike):
        yield from Inputs([os.fsdecode(os.fspath(image))], sampling)
    elif isinstance(image, np.ndarray):
        yield Picture(name, checked(image, name))
    elif _is_pillow(image):
        named = getattr(image, "filename", None)
        yield _pillow(image, os.fsdecode(named) if isinstance(named, str | bytes) and named else name)
    else:
        raise UsageError(f"{name} cannot be {_called(image)}", hint=_KINDS)


def _pillow(image: Any, name: str) -> Picture | Failure:
    try:
        return Picture(name, of_pillow(image, name, 4 if image.has_transparency_data else 3))
    except ImageError as error:
        return failed(name, error)


def checked(array: Array, name: str) -> Array:
    """The array, if it is (H, W, 3) or (H, W, 4) uint8; UsageError says what it is, and how it becomes that."""
    shape = "×".join(map(str, array.shape)) or "a single number"
    planes = array.ndim == 3 and array.shape[0] == 3 and array.size > 0
    alpha = array.ndim == 3 and array.shape[-1] == 4 and not planes
    if (alpha or (array.ndim == 3 and array.shape[-1] == 3)) and array.size:
        if array.dtype == np.uint8:
            return np.ascontiguousarray(array)
        hint = "(array * 255).astype(np.uint8), if it lies in 0 to 1" if array.dtype.kind == "f" else "use uint8"
        raise UsageError(f"{name} is an array of {array.dtype}, where bytes of 0 to 255 are needed", hint=hint)
    grey = "np.repeat(array[..., None], 3, axis=-1), if it is grey"
    advice = "array.transpose(1, 2, 0)" if planes else grey if array.ndim == 2 and array.size else _KINDS
    raise UsageError(f"{name} is an array of {shape}, where height × width × 3 is needed", hint=advice)


def _is_pillow(image: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")  # who has made one has imported it
    return pillow is not None and isinstance(image, pillow.Image)


def _called(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
