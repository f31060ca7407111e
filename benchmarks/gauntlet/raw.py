"""What a run of the benchmark leaves: the raw inputs from which every rule's judgement is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.gauntlet.scenarios import Scenario

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """Raw inputs of all judgements of a run. R rounds, V validators, P roles, W windows; NaN where there is nothing.

    Attributes:
        gains: those of `Measured` by name, fp32 (R, V, P, W).
        before: mean loss on the unassigned windows before the step, fp32 (R, V).
        screened: mean gain on the unassigned windows to first order, fp32 (R, V, P).
        present, accepted: bool (R, P).
        declared: windows it says it trained on, int16 (R, P).
        same: overlap of i with j in the round, fp32 (R, P, P).
        last: overlap of i with what j sent the round before, fp32 (R, P, P).
        heldout: loss after each round, nat/token, fp32 (R,).
    """

    gains: Mapping[str, Array]
    before: Array
    screened: Array
    present: npt.NDArray[np.bool_]
    accepted: npt.NDArray[np.bool_]
    declared: npt.NDArray[np.int16]
    same: Array
    last: Array
    heldout: Array


GAINS = (
    "assigned",
    "unassigned",
    "control_assigned",
    "control_unassigned",
    "mean_assigned",
    "mean_unassigned",
)


def blank(scenario: Scenario, windows: int) -> Raw:
    """Room for a run's, with nothing in it; `windows` is W."""
    r, v, p = scenario.rounds, scenario.validators, len(scenario.roles)

    def nan(*shape: int) -> Array:
        return np.full(shape, np.nan, np.float32)

    return Raw(
        {name: nan(r, v, p, windows) for name in GAINS},
        nan(r, v),
        nan(r, v, p),
        np.zeros((r, p), np.bool_),
        np.zeros((r, p), np.bool_),
        np.zeros((r, p), np.int16),
        nan(r, p, p),
        nan(r, p, p),
        nan(r),
    )
