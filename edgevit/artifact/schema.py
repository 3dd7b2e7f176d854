"""What all that is written as JSON and read again has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Error = Annotated[float, Field(ge=0)]  # of an output, absolute or relative


class Strict(BaseModel):
    """Frozen; an unknown field, another type or a number that is none is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
