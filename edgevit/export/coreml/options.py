"""What a Core ML build can be asked for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgevit.engines import apple
from edgevit.errors import Unsupported, UsageError
from edgevit.export.base import Options
from edgevit.precisions import precision_row
from edgevit.quantize.plan import APPLE, APPLE_SINGLE, STORED, Encoding

INTEGERS_SINCE, GROUPS_SINCE = 17, 18  # iOS, of activations, and of weights in 4 bits with scales of groups
ComputeUnits = Literal["all", "cpu_only", "cpu_and_gpu", "cpu_and_ne"]


class CoreMlOptions(Options):
    """Options of the Core ML target."""

    ios: apple.Ios = Field(
        default=apple.USUAL,
        description=f"oldest iOS that runs the package ({apple.IN_PAIRS}); 18 keeps attention whole",
    )
    compute_units: ComputeUnits = Field(
        default="all", description="what the runtime uses by default: all, cpu_only, cpu_and_gpu or cpu_and_ne"
    )
    image_input: bool = Field(
        default=False, description="take a picture instead of a tensor; needs --bake-preprocess and --batch 1"
    )
    ane_layout: bool = Field(
        default=False, description="token streams as (B, C, 1, N) with 1x1 convolutions, for the Neural Engine"
    )
    floats: Literal["fp16", "fp32"] = Field(
        default="fp16", description="of int8, w8 and w4: what else is computed in; the Neural Engine has no fp32"
    )
    weights: Literal["auto", "groups", "palette"] = Field(
        default="auto",
        description="of w4: integers with a scale for each group of inputs (from iOS 18 on, then auto), or a table of "
        "16 numbers for each weight (auto below it)",
    )
    author: str = Field(default="", description="author in the package's metadata")
    license: str = Field(default="", description="licence in the package's metadata")
    version: str = Field(default="", description="version in the package's metadata; default: edgevit and its version")

    def require(self, precision: str) -> None:
        """Unsupported where the packages of an iOS have no integers, UsageError for what only integers have."""
        if not precision_row(precision).integers and "floats" in self.model_fields_set:
            raise UsageError("coreml.floats is of integers", hint="add --precision int8, w8 or w4, or leave it out")
        if precision != "w4" and "weights" in self.model_fields_set:
            raise UsageError("coreml.weights is of weights in 4 bits", hint="add --precision w4, or leave it out")
        if precision == "int8" and int(self.ios) < INTEGERS_SINCE:
            raise Unsupported(
                f"packages for iOS {self.ios} compute nothing in int8: activations are quantised from iOS "
                f"{INTEGERS_SINCE} on",
                hint=f"use --option coreml.ios={INTEGERS_SINCE}, or --precision w8, which stores weights alone so",
            )
        if self.weights == "groups" and int(self.ios) < GROUPS_SINCE:
            raise Unsupported(
                f"packages for iOS {self.ios} have no integers of 4 bits: they came with iOS {GROUPS_SINCE}",
                hint=f"use --option coreml.ios={GROUPS_SINCE}, or --option coreml.weights=palette",
            )

    def encoding(self, precision: str) -> Encoding:
        """What a plan is to be in such packages."""
        if precision == "int8":
            return {"fp16": APPLE, "fp32": APPLE_SINGLE}[self.floats]
        floats = {"fp16": "float16", "fp32": "float32"}[self.floats]
        found = {"floats": floats, "biases": floats, "weights": {"w8": 8, "w4": 4}[precision]}
        return STORED.model_copy(update={**found, "palettes": precision == "w4" and self._has_palettes()})

    def _has_palettes(self) -> bool:
        return self.weights == "palette" or (self.weights == "auto" and int(self.ios) < GROUPS_SINCE)
