"""What the sections of a spec have in common: frozen, strict, no key unknown, and the numbers they are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0, lt=2**53)]
Natural = Annotated[int, Field(ge=0, lt=2**53)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of a spec."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
