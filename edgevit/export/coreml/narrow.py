"""Weights alone in few bits, as constants of a Core ML program that are made floats where they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.export.coreml.quiet import mb, types
from edgevit.quantize.narrow import Stored

_BLOCKWISE = 18  # the iOS from which on scales are of blocks, and tables are tensors
_INDEX_BITS = 4


@dataclass(frozen=True)
class Narrow:
    """The place of one weight.

    weight   the constant that it was
    turned   whether that has its output channels on the second axis
    """

    operation: Any
    constant: Any
    turned: bool
    ios: int

    def weight(self, own: Stored, bits: int) -> Any:
        """``own`` in place of the constant, in its type and shape."""
        if own.table is not None:
            return self._looked_up(own.integers, own.table)
        if own.scales is None:
            raise ValueError("a weight has scales or a table")
        whole, name = self._laid(own.integers), f"{self.operation.name}_int{bits}"
        scales = own.scales.astype(self._dtype)
        if self.ios < _BLOCKWISE:
            return mb.constexpr_affine_dequantize(
                quantized_data=whole, zero_point=np.int8(0), scale=scales, axis=int(self.turned),
                before_op=self.operation, name=name,
            )  # fmt: skip
        whole = whole.astype(types.np_int4_dtype) if bits == _INDEX_BITS else whole
        along = self._laid(scales.reshape(*scales.shape, *[1] * (own.values.ndim - scales.ndim)))
        return mb.constexpr_blockwise_shift_scale(data=whole, scale=along, before_op=self.operation, name=name)

    def _looked_up(self, places: Array, table: Array) -> Any:
        whole, name = self._laid(places).astype(np.uint8), f"{self.operation.name}_places"
        lut = table.astype(self._dtype)
        if self.ios < _BLOCKWISE:
            bits = np.unpackbits(whole.reshape(-1, 1), axis=1, bitorder="little")[:, :_INDEX_BITS]
            return mb.constexpr_lut_to_dense(
                indices=np.packbits(bits, bitorder="little"), lut=lut, shape=np.array(whole.shape, np.uint32),
                before_op=self.operation, name=name,
            )  # fmt: skip
        shape = (*[1] * whole.ndim, len(lut), 1)
        return mb.constexpr_lut_to_dense(
            indices=whole.astype(types.np_uint4_dtype), lut=lut.reshape(shape), before_op=self.operation, name=name
        )

    def _laid(self, array: Array) -> Array:
        """(O, I, …) as the constant has its axes: of a linear layer that is a convolution there are more."""
        found = np.ascontiguousarray(array.T if self.turned else array)
        return found.reshape(*found.shape, *[1] * (self.constant.rank - found.ndim))

    @property
    def _dtype(self) -> Any:
        return types.nptype_from_builtin(self.constant.dtype)
