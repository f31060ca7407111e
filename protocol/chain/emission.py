"""Who is paid what: validators' weights become incentive, and incentive becomes an integer split of emission.

This is the miners' half of Yuma Consensus (docs.learnbittensor.org/yuma-consensus), so that a local run pays
as mainnet does. The validators' half, bonds and dividends, is not modelled: a local chain's validators earn
nothing and its stakes never change. Neither are activity cut-offs: a validator that set no weights counts as
one that gives nothing to anybody.

Everything is integer arithmetic on shares with 32 fractional bits (the chain's own I32F32), so the same
weights give the same payment on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

KAPPA = Fraction(1, 2)
"""κ: the part of the stake that must back a share (Bittensor's default consensus majority, 32767/65535)."""

SHARE_ONE = 1 << 32
"""The integer that stands for a share of 1."""


def normalised(weights: Mapping[int, int]) -> dict[int, int]:
    """A validator's weights (uid → integer ≥ 0) in parts of `SHARE_ONE`, rounded down; none if all are 0."""
    total = sum(weights.values())
    return {uid: weight * SHARE_ONE // total for uid, weight in weights.items()} if total else {}


def consensus(stakes: Mapping[int, int], shares: Mapping[int, Mapping[int, int]]) -> dict[int, int]:
    """The stake-weighted median of the shares every uid is given.

    Args:
        stakes: validator uid → stake > 0; all of it counts, whether or not its holder set weights.
        shares: validator uid → uid → share (see `normalised`); an absent one is 0.

    Returns:
        uid → the largest share that validators with more than κ of the stake give it at least.
    """
    total = sum(stakes.values())
    given: dict[int, list[tuple[int, int]]] = {}
    for validator, row in shares.items():
        for uid, share in row.items():
            given.setdefault(uid, []).append((share, stakes[validator]))
    return {uid: _backed(votes, total) for uid, votes in sorted(given.items())}


def _backed(votes: list[tuple[int, int]], total: int) -> int:
    """The largest share with more than κ of `total` stake at or above it; `votes` are (share, stake)."""
    support = 0
    for share, stake in sorted(votes, reverse=True):
        support += stake
        if support > KAPPA * total:
            return share
    return 0


def ranks(stakes: Mapping[int, int], weights: Mapping[int, Mapping[int, int]]) -> dict[int, int]:
    """Σ over validators of stake × min(share given, consensus), for every uid that has more than 0.

    Args:
        stakes: permitted validator uid → stake > 0.
        weights: validator uid → uid → weight ≥ 0, for validators that set any; its keys are keys of `stakes`.

    Returns:
        uid → rank > 0, in uid order. Only the proportions mean something.
    """
    shares = {validator: normalised(row) for validator, row in weights.items()}
    agreed = consensus(stakes, shares)
    rank = {
        uid: sum(stakes[validator] * min(row.get(uid, 0), ceiling) for validator, row in shares.items())
        for uid, ceiling in agreed.items()
    }
    return {uid: value for uid, value in rank.items() if value}


def incentives(rank: Mapping[int, int]) -> dict[int, float]:
    """Ranks as parts of their sum: each correctly rounded, together 1 up to that rounding; empty if none."""
    total = sum(rank.values())
    return {uid: value / total for uid, value in rank.items()}


def split(amount: int, rank: Mapping[int, int]) -> dict[int, int]:
    """Divide `amount` ≥ 0 smallest units in proportion to `rank`: largest remainder, ties to the lowest uid.

    Returns:
        uid → units, in sum exactly `amount`; empty if nobody has rank (then nothing is paid).
    """
    total = sum(rank.values())
    paid = {uid: amount * value // total for uid, value in rank.items()}
    by_remainder = sorted(rank, key=lambda uid: (-(amount * rank[uid] % total), uid))
    for uid in by_remainder[: amount - sum(paid.values())]:
        paid[uid] += 1
    return paid
