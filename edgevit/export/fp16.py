"""What fp16 holds, and what must be left out of it, whoever finds it out: torch or ONNX Runtime.

fp16 holds magnitudes up to 65,504 and keeps full precision only down to 6.1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgevit.artifact.manifest import Array

FP16_MAX = 65504.0
FP16_SMALLEST_NORMAL = 2.0**-14
SAFETY = 4.0  # rows that were not scanned reach further than those that were
RANGE_LIMIT = FP16_MAX / SAFETY
WEIGHT_ERROR = 2.0**-10  # relative L2 error of rounding weights; 2**-12 is usual, more means underflow

# What a kept operator is called behind its module, and why it is kept
NORMALISATION = ("", "normalisation: sums of squares")
SOFTMAX = (" (softmax)", "softmax: exponentials")
MEAN = (" (mean)", "mean over many values")


@dataclass(frozen=True)
class PrecisionPlan:
    """What fp16 must leave alone.

    modules   module path -> why every node of that module itself (not of its children) stays in float32
    operators module path, with "(softmax)" or "(mean)" where it is not the whole module -> why single operators do
    """

    modules: Mapping[str, str]
    operators: Mapping[str, str]

    def kept(self) -> dict[str, str]:
        """Both together, for the report; a module kept whole is named once."""
        both = {**self.operators, **self.modules}
        return {f"model{path}" if path[:1] in ("", " ") else path: reason for path, reason in both.items()}


def out_of_range(reached: float) -> str:
    """Why activations that reach so far stay in float32."""
    return f"activations reach {reached:.3g}, fp16 is kept below {RANGE_LIMIT:,.0f}"


def weight_trouble(name: str, single: Array) -> str | None:
    """Why float32 weights cannot be stored in fp16, or None: they overflow, or lose more than rounding."""
    biggest = float(np.abs(single).max(initial=0.0))
    if biggest > FP16_MAX:
        return f"{name} reaches {biggest:.3g}, beyond fp16"
    exact = single.astype(np.float64)
    lost = float(np.linalg.norm(exact - single.astype(np.float16))) / max(float(np.linalg.norm(exact)), 1e-30)
    return f"{name} loses {lost:.1%} to underflow in fp16" if lost > WEIGHT_ERROR else None
