"""A published measurement made again: whoever holds θ of the round and its submissions can say whether it holds.

Losses differ between devices, so a figure that is measured again need not be the same: it is gains that are compared
(before − after, where what devices differ by cancels), within a part of the published standard error. The standard
errors are measured again as well: who inflates one would buy itself room.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from muster.node.data.dataset import TextReader
from muster.node.replica import Replica
from muster.protocol.incentive.own_data import Control, control_factor
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.ledger import Tip
from muster.validator.gauntlet.evaluation import Evaluation, Measured, RoundEvaluation
from muster.validator.gauntlet.judging import Work, candidates_of, common_windows, measuring_scale
from muster.validator.gauntlet.overlap import Overlap

LEAST = 1e-6
"""Nat/token that any two devices may differ by: a few units in the last place of a loss in fp32."""


class Again:
    """What a validator must have measured of some peers, in pieces that each leave θ as it was; `found` by hotkey."""

    def __init__(
        self,
        tip: Tip,
        works: Sequence[Work],
        accepted: Collection[bytes],
        beacon: bytes,
        text: TextReader,
        factors: Mapping[str, float],
    ) -> None:
        """Of the open round of `tip`, by a validator that drew by `beacon`.

        `works` are the accepted submissions, in record order, and those of the peers in `factors`, whose b is as it
        published their gains (`published_factor`); `accepted` are the keys of who has a seat.
        """
        self._tip = tip
        self._candidates = candidates_of(tip, works, accepted, beacon, text)
        self._common = common_windows(tip, beacon, text)
        self._hotkeys = frozenset(factors)
        # b is steep where the control gains next to nothing: by one's own, honest errors would differ at will.
        self._factors = dict(factors)
        self._evaluation: RoundEvaluation | None = None
        self._pieces: Iterator[None] = iter(())

    def go_on(self, replica: Replica) -> bool:
        """Measure a piece more, with the replica on the round's θ; False where there is nothing left to measure."""
        if self._evaluation is None:
            asked = [one for one in self._candidates if one.hotkey in self._hotkeys]
            seated = [one for one in self._candidates if one.accepted]
            scale = measuring_scale(self._tip, replica.outer_step)
            self._evaluation = RoundEvaluation(replica, asked, seated, self._common, scale, self._factors)
            self._pieces = self._evaluation.pieces()
        return next(self._pieces, self) is None

    @property
    def found(self) -> dict[str, Evaluation]:
        """What was measured so far."""
        return {} if self._evaluation is None else self._evaluation.found


def published_factor(row: ScoreRow) -> float:
    """b as it follows from the gains that a row of an exact measurement publishes."""
    gain = float(row.unassigned_before or 0.0) - float(row.unassigned_after or 0.0)
    return control_factor(gain, Control(float(row.control_assigned or 0.0), float(row.control_unassigned or 0.0)))


def disagreement(row: ScoreRow, found: Evaluation, tolerance: float) -> str:
    """What a row says otherwise than was measured again, both figures in a sentence; "" where nothing.

    `row` is one of a peer that was measured exactly, `tolerance` the spec's `loss_tolerance`.
    """
    if not isinstance(found, Measured):
        return "it cannot be measured: its losses are no numbers"
    for column, said, right, bound in _figures(row, found, tolerance):
        if not abs(said - right) <= max(LEAST, bound):
            return (
                f"`{column}` is {said:.9g}, and {right:.9g} measured again, where {max(LEAST, bound):.2g} are allowed"
            )
    return ""


def mismatch(row: ScoreRow, found: Overlap) -> str:
    """What a row says otherwise of what its peer's work has in common with others'; "" where nothing.

    These are counts of entries, the same wherever they are made.
    """
    for column, right in found.columns().items():
        if getattr(row, column) != right:
            return f"`{column}` is {getattr(row, column)}, and {right} compared again"
    return ""


def _figures(row: ScoreRow, found: Measured, tolerance: float) -> Iterator[tuple[str, float, float, float]]:
    """What is compared: its name, as published, as measured again, and by how much they may differ."""
    sides = (("assigned", found.assigned), ("unassigned", found.unassigned))
    for side, losses in sides:
        spread = float(getattr(row, f"{side}_spread"))
        gain = float(getattr(row, f"{side}_before")) - float(getattr(row, f"{side}_after"))
        yield f"{side}_before - {side}_after", gain, losses.score, tolerance * spread
        control = float(getattr(found.control, side))
        yield f"control_{side}", float(getattr(row, f"control_{side}")), control, tolerance * spread
    for kind, errors in (("spread", found.spreads), ("error", found.errors)):
        for side, _ in sides:
            right = float(getattr(errors, side))
            yield f"{side}_{kind}", float(getattr(row, f"{side}_{kind}")), right, tolerance * right
