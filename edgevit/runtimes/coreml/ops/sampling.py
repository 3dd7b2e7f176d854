"""Reading a map at computed places: ``resample``, ``affine`` and ``crop_resize``."""

from __future__ import annotations

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import EdgeVitError
from edgevit.runtimes.coreml.ops.registry import computes


@computes("resample")
def resample(
    x: Array,
    coordinates: Array,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Array:
    """(B, C, H, W) at (x, y) places (B, h, w, 2) to (B, C, h, w), bilinear or nearest.

    Outside the map lies ``padding_value``, or the map again: its border, or itself mirrored with the border
    ("symmetric") or without it ("reflection").
    """
    across, down = (
        _pixels(coordinates[..., axis], x.shape[3 - axis], coordinates_mode, align_corners).astype(x.dtype)
        for axis in (0, 1)
    )
    if sampling_mode == "nearest":
        return _read(x, np.rint(across), np.rint(down), padding_mode, padding_value)
    left, top = np.floor(across), np.floor(down)
    found = np.zeros((*x.shape[:2], *across.shape[1:]), x.dtype)
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        weight = (1 - np.abs(across - column)) * (1 - np.abs(down - row))
        found += _read(x, column, row, padding_mode, padding_value) * weight[:, None]
    return found


def _pixels(at: Array, side: int, mode: str, align_corners: bool) -> Array:
    """Places as pixels: 0 is the centre of the first one."""
    if mode == "unnormalized":
        return at
    share = (at + 1) / 2 if mode == "normalized_minus_one_to_one" else at
    return share * (side - 1) if align_corners else share * side - 0.5


def _read(x: Array, column: Array, row: Array, padding_mode: str, padding_value: float) -> Array:
    """The pixels at whole places (B, h, w)."""
    columns, rows = (_inside(at, side, padding_mode) for at, side in ((column, x.shape[3]), (row, x.shape[2])))
    batch = np.arange(x.shape[0]).reshape(-1, 1, 1)
    found = np.moveaxis(x[batch, :, rows, columns], -1, 1)
    if padding_mode != "constant":
        return found
    hit = (columns == column) & (rows == row)
    return np.where(hit[:, None], found, x.dtype.type(padding_value))


def _inside(at: Array, side: int, padding_mode: str) -> Array:
    """Indices in 0 … side - 1 of what ``padding_mode`` shows at whole places."""
    if padding_mode == "symmetric":
        at = np.mod(at, 2 * side)
        at = np.minimum(at, 2 * side - 1 - at)
    elif padding_mode == "reflection":
        period = max(1, 2 * (side - 1))
        at = np.mod(at, period)
        at = np.minimum(at, period - at)
    return np.clip(np.nan_to_num(at), 0, side - 1).astype(np.int64)


@computes("affine")
def affine(
    x: Array,
    transform_matrix: Array,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Array:
    """(B, C, H, W) at the output's own places in -1 … 1, moved by a 2 x 3 matrix for each row of the batch."""
    down, across = (np.linspace(-1, 1, int(size), dtype=x.dtype) for size in (output_height, output_width))
    places = np.stack([*np.meshgrid(across, down), np.ones((len(down), len(across)), x.dtype)], -1)
    matrices = np.broadcast_to(transform_matrix.reshape(-1, 1, 2, 3), (x.shape[0], 1, 2, 3))
    moved = places @ matrices.swapaxes(-1, -2)
    return np.asarray(resample(x, moved, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners))


@computes("crop_resize")
def crop_resize(
    x: Array,
    roi: Array | None = None,
    boxes: Array | None = None,
    box_indices: Array | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Array:
    """Boxes of (B, C, H, W), each bilinear to a given size; places outside the map are ``pad_value``.

    ``boxes`` (N, 4), each of the image in ``box_indices``, give (N, C, h, w); a ``roi`` (N, 1, 4, 1, 1) gives
    (N, B, C, h, w), one of five values, the first an index of an image, (N, 1, C, h, w).
    """
    if boxes is None:
        boxes, box_indices = _regions(roi, x.shape[0])
    images = x[np.arange(len(boxes)) if box_indices is None else np.asarray(box_indices, np.int64)]
    corners = _corners(boxes * spatial_scale, box_coordinate_mode)
    places = []
    for axis, size in ((0, target_height), (1, target_width)):
        first, last = (
            corners[:, end, axis] * (x.shape[2 + axis] - 1 if normalized_coordinates else 1) for end in (0, 1)
        )
        places.append(_grid(first, last, int(size), sampling_mode))
    down, across = np.broadcast_arrays(places[0][:, :, None], places[1][:, None, :])
    inside = (down >= 0) & (down <= x.shape[2] - 1) & (across >= 0) & (across <= x.shape[3] - 1)
    found = resample(images, np.stack([across, down], -1), "bilinear", "border", 0.0, "unnormalized", False)
    found = np.where(inside[:, None], found, x.dtype.type(pad_value))
    if roi is None:
        return found
    return found.reshape(len(roi), -1, *found.shape[1:])


def _regions(roi: Array | None, images: int) -> tuple[Array, Array]:
    """A ``roi`` as boxes and the images they are of."""
    if roi is None:
        raise EdgeVitError("crop_resize has neither boxes nor roi", hint="the program is malformed: export anew")
    flat = roi.reshape(len(roi), -1)
    if flat.shape[1] == 5:
        return flat[:, 1:], flat[:, 0].astype(np.int64)
    return np.repeat(flat, images, axis=0), np.tile(np.arange(images), len(flat))


def _corners(boxes: Array, mode: str) -> Array:
    """(N, 4) boxes as (N, first and last, down and across)."""
    pairs = boxes.reshape(-1, 2, 2)
    if mode.endswith("WIDTH_FIRST"):
        pairs = pairs[..., ::-1]
    if mode.startswith("CORNERS"):
        return pairs
    centre, half = pairs[:, 0], pairs[:, 1] / 2
    return np.stack([centre - half, centre + half], 1)


def _grid(first: Array, last: Array, size: int, mode: str) -> Array:
    """(N, size) places between the corners, whose pixels are counted as the sides of ``resize_bilinear`` are."""
    steps, span = np.arange(size), (last - first)[:, None]
    if mode == "ALIGN_CORNERS" and size == 1:
        return np.asarray(first[:, None] + span / 2)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        return np.asarray(first[:, None] + steps * (span / max(size - 1, 1)))
    if mode == "OFFSET_CORNERS":
        return np.asarray(first[:, None] + (steps + 0.5) * (np.maximum(span, 1) / size))
    if mode == "UNALIGN_CORNERS":
        return np.asarray(first[:, None] + (steps + 0.5) * ((span + 1) / size) - 0.5)
    return np.asarray(first[:, None] + steps * ((span + 1) / size))
