"""MIL operations in numpy, by subject. Importing this package fills ``OPERATIONS``, the table of what is supported."""

from edgevit.runtimes.coreml.ops import (
    activation,
    convolution,
    elementwise,
    layout,
    linear,
    normalization,
    pooling,
    reduction,
    resize,
    tensor,
)
from edgevit.runtimes.coreml.ops.registry import OPERATIONS, Operation

__all__ = [
    "OPERATIONS",
    "Operation",
    "activation",
    "convolution",
    "elementwise",
    "layout",
    "linear",
    "normalization",
    "pooling",
    "reduction",
    "resize",
    "tensor",
]
