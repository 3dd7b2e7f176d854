"""What an OpenVINO build can be asked for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgevit.errors import UsageError
from edgevit.export.base import Options


class OpenVinoOptions(Options):
    """Options of the OpenVINO target."""

    encoding: Literal["x86", "avx2"] = Field(
        default="x86", description="of int8: weights of 8 bits for x86 with VNNI, or of 7 bits for x86 without"
    )

    def require(self, precision: str) -> None:
        """UsageError for what only integers have."""
        if precision != "int8" and "encoding" in self.model_fields_set:
            raise UsageError("openvino.encoding is of integers", hint="add --precision int8, or leave it out")
