"""The outer step of a spec: what is made of the accepted submissions, late ones of earlier rounds among them."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from muster.protocol.spec.section import Natural, Positive, Rate, Section, Share

MOST_AGE = 3
"""Rounds by which work may be late: miners keep the objects of four rounds, their own and three more."""


class OuterSpec(Section):
    """The outer step. `alpha` is a table of (first outer step, α); `scale_cap` is c of the scale cap, 0 for none.

    Rule and α are by default what serves any number of peers best (docs/results.md, 2). A tensor that fewer than
    `min_owners` of the accepted bring anything for is left alone: 2 is the fewest whose cap and clip are not one peer's
    own, as of two the lower median is the smaller; with more, peers that hold their part back could stop a tensor.

    `age_weights` are what work counts that comes one round late, two, and so on, beside work in time, which counts 1;
    a float32 each. Without any, which is left out of a spec's JSON, no late work is taken.
    """

    rule: Literal["mean", "sender_mean", "damped_mean"] = "damped_mean"
    alpha: tuple[tuple[Natural, Rate], ...] = ((0, 1.41),)
    scale_cap: Rate
    norm_clip: bool
    min_owners: Positive = 2
    age_weights: Annotated[tuple[Share, ...], Field(max_length=MOST_AGE)] = ()

    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("alpha"), list):
            data = {**data, "alpha": tuple(tuple(row) for row in data["alpha"])}
        if isinstance(data, dict) and isinstance(data.get("age_weights"), list):
            data = {**data, "age_weights": tuple(data["age_weights"])}
        return data

    @model_validator(mode="after")
    def _table_is_ordered(self) -> Self:
        steps = [step for step, _ in self.alpha]
        if not steps or steps[0] != 0 or steps != sorted(set(steps)):
            raise ValueError("alpha must be a table that starts at outer step 0 and is strictly increasing")
        return self

    @model_validator(mode="after")
    def _later_counts_no_more(self) -> Self:
        if any(float(np.float32(weight)) != weight for weight in self.age_weights):
            raise ValueError("age_weights must be float32 numbers, as weights in records are")
        if any(later > weight for weight, later in pairwise(self.age_weights)):
            raise ValueError("age_weights must not increase: older work counts no more than younger")
        return self

    @model_serializer(mode="wrap")
    def _without_none(self, made: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = made(self)
        return fields if self.age_weights else {name: value for name, value in fields.items() if name != "age_weights"}

    @property
    def max_age(self) -> int:
        """Rounds by which work may be late; 0: late work is lost."""
        return len(self.age_weights)

    def age_weight(self, age: int) -> float:
        """What work counts that comes so many rounds late; 1 in time, 0 where it comes too late."""
        return 1.0 if age == 0 else self.age_weights[age - 1] if 0 < age <= self.max_age else 0.0

    def alpha_at(self, outer_step: int) -> float:
        """α of an outer step: the last row of the table that has begun."""
        return [alpha for step, alpha in self.alpha if step <= outer_step][-1]
