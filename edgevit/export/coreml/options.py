"""What a Core ML build can be asked for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgevit.engines import apple
from edgevit.errors import Unsupported, UsageError
from edgevit.export.base import Options

INTEGERS_SINCE = 17  # iOS, of activations
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
        default="fp16", description="of int8: what everything else is computed in; the Neural Engine has no fp32"
    )
    weights_only: bool = Field(
        default=False, description="of int8: weights are stored in one byte each, and everything is computed in floats"
    )
    author: str = Field(default="", description="author in the package's metadata")
    license: str = Field(default="", description="licence in the package's metadata")
    version: str = Field(default="", description="version in the package's metadata; default: edgevit and its version")

    def require(self, precision: str) -> None:
        """Unsupported where the packages of an iOS have no integers, UsageError for what only integers have."""
        if precision != "int8":
            if given := sorted({"floats", "weights_only"} & self.model_fields_set):
                raise UsageError(f"coreml.{given[0]} is of integers", hint="add --precision int8, or leave it out")
        elif int(self.ios) < INTEGERS_SINCE and not self.weights_only:
            raise Unsupported(
                f"packages for iOS {self.ios} compute nothing in int8: activations are quantised from iOS "
                f"{INTEGERS_SINCE} on",
                hint=f"use --option coreml.ios={INTEGERS_SINCE}, or --option coreml.weights_only=true",
            )
