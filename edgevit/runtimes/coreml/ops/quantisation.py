"""Integers for real numbers: ``quantize`` and ``dequantize``, and constant weights that are stored smaller.

What begins with constexpr_ reads constants alone, and is computed once when a package is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.runtimes.coreml.ops.registry import computes, moves


@computes("quantize")
def quantize(
    input: Array, scale: Array, output_dtype: str, zero_point: Array | None = None, axis: int | None = None
) -> Array:
    """Whole numbers nearest to input / scale, ties to even, + zero point, held within int8 or uint8."""
    limits = np.iinfo(np.dtype(output_dtype))
    found = np.round(input / _along(scale, input.ndim, axis))
    if zero_point is not None:
        found = found + _along(zero_point, input.ndim, axis).astype(np.float32)
    return np.asarray(np.clip(found, limits.min, limits.max))


@computes("dequantize")
def dequantize(input: Array, scale: Array, zero_point: Array | None = None, axis: int | None = None) -> Array:
    """scale · (input - zero point)."""
    found = input.astype(np.float32)
    if zero_point is not None:
        found = found - _along(zero_point, input.ndim, axis).astype(np.float32)
    return np.asarray(found * _along(scale, input.ndim, axis))


@computes("constexpr_affine_dequantize")
def constexpr_affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: int) -> Array:
    """scale · (data - zero point), both one number or one for each place of ``axis``."""
    return np.asarray(dequantize(quantized_data, scale, zero_point, axis))


@computes("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """scale · (data - offset), both for blocks of equal size along every axis."""
    found = data.astype(np.float32)
    if offset is not None:
        found = found - _over(offset, data.shape).astype(np.float32)
    return np.asarray(found * _over(scale, data.shape))


@moves("constexpr_cast")
def constexpr_cast(source_val: Array, output_dtype: str) -> Array:
    """The rounding of the result to its type is the cast."""
    return source_val


@moves("constexpr_lut_to_dense")
def constexpr_lut_to_dense(
    indices: Array, lut: Array, shape: Sequence[int] | None = None, vector_axis: int | None = None
) -> Array:
    """Numbers looked up. Before iOS 18 the indices are packed bits and the table is one; from then on every block along
    the axes may have a table of its own, of vectors that are laid along ``vector_axis``."""
    if shape is not None:
        sides = [int(side) for side in shape]
        width = int(np.log2(lut.size))
        bits = np.unpackbits(indices, bitorder="little")[: int(np.prod(sides)) * width].reshape(-1, width)
        return np.asarray(lut[bits @ (1 << np.arange(width))].reshape(sides))
    tables = lut
    for axis, side in enumerate(indices.shape):
        tables = np.repeat(tables, side // lut.shape[axis], axis)
    found = np.take_along_axis(tables, indices.astype(np.int64)[..., None, None], -2)[..., 0, :]
    if vector_axis is None:
        return np.asarray(found[..., 0])
    place = int(vector_axis) % indices.ndim
    laid = np.moveaxis(found, -1, place + 1)
    return laid.reshape(*indices.shape[:place], -1, *indices.shape[place + 1 :])


@moves("constexpr_sparse_to_dense")
def constexpr_sparse_to_dense(nonzero_data: Array, mask: Array, shape: Sequence[int] | None = None) -> Array:
    """The numbers at the places of a mask, zero elsewhere. Before iOS 18 the mask is packed bits."""
    sides = mask.shape if shape is None else tuple(int(side) for side in shape)
    where = mask if shape is None else np.unpackbits(mask, bitorder="little")[: int(np.prod(sides))].reshape(sides)
    found = np.zeros(sides, nonzero_data.dtype)
    found[where != 0] = nonzero_data
    return found


@moves("constexpr_lut_to_sparse")
def constexpr_lut_to_sparse(
    indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: int | None = None
) -> list[Array]:
    """The places of what is looked up, and what it is."""
    mask = indices_mask if vector_axis is None else np.repeat(indices_mask, lut.shape[-1], int(vector_axis))
    dense = constexpr_lut_to_dense(
        constexpr_sparse_to_dense(indices_nonzero_data, indices_mask), lut, vector_axis=vector_axis
    )
    return [mask, dense[mask != 0]]


@computes("constexpr_sparse_blockwise_shift_scale")
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> list[Array]:
    """The places of what is scaled, and what it is."""
    dense = constexpr_blockwise_shift_scale(constexpr_sparse_to_dense(nonzero_data, data_mask), scale, offset)
    return [data_mask, dense[data_mask != 0]]


def _along(value: Any, axes: int, axis: int | None) -> Array:
    """One number, or a vector along ``axis`` of a tensor of so many axes."""
    found = np.asarray(value)
    if found.ndim == 0 or axis is None:
        return found
    return found.reshape([-1 if place == int(axis) % axes else 1 for place in range(axes)])


def _over(blocks: Array, shape: tuple[int, ...]) -> Array:
    """The value of its block for every element of a tensor."""
    for axis, side in enumerate(shape):
        blocks = np.repeat(blocks, side // blocks.shape[axis], axis)
    return blocks
