"""The base of every model of the spec, and the field types they share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class SpecModel(BaseModel):
    """Frozen and strict: an unknown key is an error, and so is a value of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


Seconds = Annotated[float, Field(strict=False, gt=0, le=86_400, allow_inf_nan=False)]
"""A duration in seconds; at most a day."""

Port = Annotated[int, Field(ge=1, le=65_535)]
"""A TCP port; 0 ("any free one") is not taken, since clients must know where to go."""
