"""MIL operations in numpy, by subject. Importing this package fills ``OPERATIONS``, the table of what is supported."""

from edgevit.runtimes.coreml.ops import (
    activation,
    convolution,
    deconvolution,
    elementwise,
    layout,
    linear,
    normalization,
    pooling,
    quantisation,
    ranking,
    reduction,
    resize,
    sampling,
    scattering,
    tensor,
)
from edgevit.runtimes.coreml.ops.registry import OPERATIONS, Operation

__all__ = [
    "OPERATIONS",
    "Operation",
    "activation",
    "convolution",
    "deconvolution",
    "elementwise",
    "layout",
    "linear",
    "normalization",
    "pooling",
    "quantisation",
    "ranking",
    "reduction",
    "resize",
    "sampling",
    "scattering",
    "tensor",
]
