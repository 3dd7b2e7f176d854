"""What a TensorRT build can be asked for. "" and 0 mean the default, because a manifest stores plain values."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from edgevit.engines.nvidia import Flavor
from edgevit.errors import Unsupported, UsageError
from edgevit.export.base import Options
from edgevit.export.tensorrt.targets import parse_sms


class TensorRtOptions(Options):
    """Options of the TensorRT target."""

    flavor: Literal["", "tensorrt", "rtx"] = Field(
        default="", description="tensorrt (10, 11) or rtx (TensorRT-RTX); default: the one installed, tensorrt first"
    )
    sm: str = Field(
        default="",
        description="compute capabilities to build for, as 86,89,120; default: the GPU's, and that list without a GPU",
    )
    opt_batch: int = Field(default=0, ge=0, description="rows that the engine is tuned for; default: the largest batch")
    optimization_level: int = Field(
        default=3, ge=0, le=5, description="0 builds fastest, 5 searches longest for the fastest engine"
    )
    workspace_mb: int = Field(default=0, ge=0, description="limit of scratch memory in MiB; default: no limit")
    timing_cache: str = Field(
        default="", description="file of kernel timings to read and extend, so that the next build is shorter"
    )
    version_compatible: bool = Field(
        default=False, description="the engine also runs with later TensorRT versions, a little slower"
    )

    @field_validator("sm")
    @classmethod
    def _capabilities(cls, text: str) -> str:
        return ",".join(str(sm) for sm in parse_sms(text)) if text.strip() else ""

    @property
    def sms(self) -> tuple[int, ...]:
        """The capabilities that were asked for, () where none were."""
        return parse_sms(self.sm) if self.sm else ()


def check_flavor_has(options: TensorRtOptions, flavor: Flavor) -> None:
    """Unsupported, with the alternative, for an option that ``flavor`` lacks."""
    if flavor.name != "rtx":
        return
    if options.timing_cache:
        raise Unsupported(
            "TensorRT-RTX has no timing cache: it times nothing while it builds",
            hint="drop timing_cache; on the device, the session option runtime_cache=FILE keeps its compiled kernels",
        )
    if options.version_compatible:
        raise Unsupported(
            "a TensorRT-RTX engine runs only with the version that built it",
            hint="drop version_compatible and install the same tensorrt-rtx on the device, or use flavor=tensorrt",
        )


def tuned_batch(options: TensorRtOptions, low: int, high: int) -> int:
    """Rows that the profile is tuned for. UsageError when they lie outside the batch range."""
    chosen = options.opt_batch or high
    if not low <= chosen <= high:
        raise UsageError(f"tensorrt.opt_batch={chosen} lies outside the batch range {low}-{high}")
    return chosen
