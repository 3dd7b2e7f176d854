"""Real rows: what a model is traced, scanned and proved on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from edgevit.artifact.golden import GOLDEN_ROWS
from edgevit.artifact.manifest import Array
from edgevit.data.labelled import LabelledData
from edgevit.data.source import open_data
from edgevit.data.split import spread
from edgevit.errors import UsageError
from edgevit.framing import PADDING
from edgevit.images import Preprocess, shrink, with_channels
from edgevit.request import MIN_ROWS

if TYPE_CHECKING:
    from torch import nn

    from edgevit.models.spec import ModelSpec

MAX_ROWS = 32
DEFAULT_DATA = "samples"
GOLDEN_SIDE = 512  # pixels: photos are shrunk to it, since four of them travel in every artifact


@dataclass(frozen=True)
class Rows:
    """Model inputs by name, 16 rows or more, and the images they were made from (none for models of other inputs)."""

    inputs: Mapping[str, Array]
    data: str
    pixels: Sequence[Array] = field(default=())

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def image_rows(data: str, preprocess: Preprocess, wanted: int) -> Rows:
    """Between 16 and 32 preprocessed images, spread over the held-out part of ``data``.

    UsageError when there are fewer than 16 images; open_data's errors.
    """
    chosen = images_of_proof(data, wanted)
    seen = (np.asarray(one) if preprocess.pixel_channels == 4 else with_channels(one, 3) for one in chosen.images)
    pixels = [shrink(image, max(GOLDEN_SIDE, *preprocess.size)) for image in seen]
    if all(image.shape[0] == image.shape[1] for image in pixels[:GOLDEN_ROWS]):
        # A square picture tells no centre crop from a squash, and the golden pictures have to.
        pixels[GOLDEN_ROWS - 1] = _oblong(pixels[GOLDEN_ROWS - 1])
    if preprocess.crop in PADDING:  # one that has to be scaled down is padded as it is letterboxed
        pixels[0] = _inside(pixels[0], preprocess.size)
    if preprocess.pixel_channels == 4:
        pixels = [_fading(image) for image in pixels]
    return Rows({"image": preprocess.batch(pixels)}, data, pixels)


def images_of_proof(data: str, wanted: int) -> LabelledData:
    """Those of ``image_rows``, as they are in the data."""
    found = open_data(data, split="held-out")
    if len(found) < MIN_ROWS:
        found = open_data(data)
    if len(found) < MIN_ROWS:
        raise UsageError(
            f"{data} has {len(found)} images; a proof needs {MIN_ROWS}",
            hint=f"use --data {DEFAULT_DATA}, or more images",
        )
    return spread(found, min(max(wanted, MIN_ROWS), MAX_ROWS))


def labelled(spec: ModelSpec, data: str | None) -> ModelSpec:
    """``spec`` of a classifier without labels with the classes of ``data`` as its labels, in their order, where they
    are as many; a note says so, and where they are not."""
    if data is None or spec.labels is not None or spec.num_classes is None:
        return spec
    labels, notes = labels_in(data, spec.num_classes)
    return replace(spec, labels=labels, notes=(*spec.notes, *notes))


def labels_in(data: str, classes: int) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The classes of ``data`` as labels of so many classes, None where they are not as many, and what to say of it."""
    names = open_data(data).classes
    if names is None:
        return None, ()
    if len(names) == classes:
        return tuple(names), (f"its {len(names)} labels are the classes of {data}, in their order",)
    return None, (f"it has no labels, and {data} has {len(names)} classes where it has {classes}; say --labels",)


def _oblong(image: Array) -> Array:
    """The upper three quarters of a picture."""
    return image[: max(1, image.shape[0] * 3 // 4)]


def _inside(image: Array, size: tuple[int, int]) -> Array:
    """The corner of a picture that leaves room in both directions."""
    return image[: max(1, size[0] * 3 // 4), : max(1, size[1] // 2)]


def _fading(image: Array) -> Array:
    """A picture that is opaque only at its right edge: one that is so everywhere proves nothing of alpha."""
    if image.shape[2] == 4:
        return image
    alpha = np.linspace(0, 255, image.shape[1]).round().astype(np.uint8)
    return np.dstack((image, np.broadcast_to(alpha, image.shape[:2])))


def tensor_rows(module: nn.Module, inputs: Mapping[str, Array]) -> Rows:
    """The caller's own arrays, in the order of forward's arguments. UsageError unless names and row counts fit.

    A forward that takes ``*args`` gets those it does not name in the order given, under the caller's names.
    """
    import inspect

    parameters = inspect.signature(module.forward).parameters.values()
    names = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        names += [name for name in inputs if name not in names]
    if not set(inputs) <= set(names) or list(names[: len(inputs)]) != [name for name in names if name in inputs]:
        raise UsageError(
            f"inputs are {', '.join(inputs) or 'missing'}; the model's forward takes {', '.join(names)}",
            hint="name the inputs as forward's arguments, none left out before the last",
        )
    short = {name: len(array) if array.ndim else 0 for name, array in inputs.items()}
    if min(short.values()) < MIN_ROWS:
        raise UsageError(f"inputs have {min(short.values())} rows; a proof needs {MIN_ROWS} real ones")
    ordered = {name: np.ascontiguousarray(inputs[name][:MAX_ROWS]) for name in names if name in inputs}
    return Rows(ordered, "given inputs")


def take_rows(array: Array, rows: int) -> Array:
    """The first ``rows`` rows, going round again when there are fewer."""
    return np.ascontiguousarray(array[np.arange(rows) % len(array)])
