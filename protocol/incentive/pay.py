"""Turn PeerScores into pay: convex, so that one strong peer earns more than the sybils it can split into."""

from __future__ import annotations

import math
from collections.abc import Mapping

from muster.protocol.types import WEIGHT_MAX


def incentives(scores: Mapping[str, float], power: float) -> dict[str, float]:
    """Each hotkey's share, proportional to score**power (power 2 in Gauntlet, arXiv 2505.21684), by hotkey.

    The shares sum to 1 up to rounding, or are all 0 where no score is positive. A score of 0 earns nothing at
    any power. With power ≥ 1 no peer gains by splitting its score among hotkeys.

    Raises:
        ValueError: a score or the power is negative, NaN or infinite.
    """
    if not (math.isfinite(power) and power >= 0):
        raise ValueError(f"an incentive power of {power} is not a number ≥ 0")
    for hotkey, score in scores.items():
        if not (math.isfinite(score) and score >= 0):
            raise ValueError(f"the score of {hotkey} is {score}, not a finite number ≥ 0")
    best = max(scores.values(), default=0.0)
    if best == 0:
        return dict.fromkeys(sorted(scores), 0.0)
    # Relative to the best, so that no power of a large score can overflow.
    parts = {hotkey: (scores[hotkey] / best) ** power if scores[hotkey] else 0.0 for hotkey in sorted(scores)}
    total = math.fsum(parts.values())
    return {hotkey: part / total for hotkey, part in parts.items()}


def chain_weights(shares: Mapping[str, float], uids: Mapping[str, int]) -> dict[int, int]:
    """The weights a validator publishes, uid → 1…`WEIGHT_MAX`, in uid order; the largest share gets that.

    Others are rounded to the nearest integer (halves to even); those that come to 0 are left out, as are
    hotkeys that have no uid any more. `shares` are finite and ≥ 0, as `incentives` makes them.
    """
    present = {uids[hotkey]: share for hotkey, share in shares.items() if hotkey in uids}
    largest = max(present.values(), default=0.0)
    if largest == 0:
        return {}
    scaled = {uid: round(present[uid] / largest * WEIGHT_MAX) for uid in sorted(present)}
    return {uid: weight for uid, weight in scaled.items() if weight}
