"""The own-data test: was an update made from the data its peer was assigned, and not from other peers' work?

What an update gains on its own windows is compared with what it gains on others', after taking off what any update of
the round gains there: the control. Assigned and other windows are different texts, some easier than others, and a plain
difference of gains shows that before it shows whose work it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LIMIT = 3.0
"""Of |t| and of b: one round's luck, good or bad, counts as three standard errors at most."""


@dataclass(frozen=True, slots=True)
class Control:
    """What the mean of the round's accepted updates gains on a peer's windows and on the others, nat/token.

    Zeros stand for a round that has none: of one peer.
    """

    assigned: float = 0.0
    unassigned: float = 0.0


def control_factor(unassigned: float, control: Control) -> float:
    """b: how many times the control an update is, by their gains on the windows that are nobody's; in 0…3.

    0 where there is no control, or it does not lower the loss.
    """
    if control.unassigned <= 0.0:
        return 0.0
    return min(max(unassigned / control.unassigned, 0.0), LIMIT)


@dataclass(frozen=True, slots=True)
class Errors:
    """Standard errors of the means of (gain − b · control's gain) over the windows of each side, nat/token."""

    assigned: float
    unassigned: float


def statistic(assigned: float, unassigned: float, control: Control, errors: Errors) -> float:
    """x in −1…1: t, limited to ±3, over 3.

    t = ((s_a − b·c_a) − (s_r − b·c_r)) / √(e_a² + e_r²), each operation rounded in float64. 0 where there is no error
    to measure by: windows that all gain the same show nothing.
    """
    error = math.sqrt(errors.assigned * errors.assigned + errors.unassigned * errors.unassigned)
    if error == 0.0:
        return 0.0
    factor = control_factor(unassigned, control)
    difference = (assigned - factor * control.assigned) - (unassigned - factor * control.unassigned)
    return min(max(difference / error, -LIMIT), LIMIT) / LIMIT


def sign(assigned: float, unassigned: float) -> float:
    """Gauntlet's statistic: which of the two LossScores is larger, −1, 0 or 1."""
    return float((assigned > unassigned) - (assigned < unassigned))
