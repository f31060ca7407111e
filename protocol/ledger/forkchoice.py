"""Fork choice: which of a round's records is the one to stand on, and which can never be taken back.

A pure value: what the chain shows, and how much of it is final, in; an order of claims out. It is the same for
whoever looks, because only the chain's order is in it: not who published first, nor what was at hand then. Here is the
rule for a list of one leader, whose anchors are the votes. The record that it anchored first is the one that the first
final block will make final, so that one is the head before, too, whatever was anchored after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vote:
    """An anchor of the leader, led back to a round: the record there that it stands on, and the anchor's block."""

    digest: bytes
    block: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A record that the chain proves for a round; `final` says that its anchor is in a final block."""

    digest: bytes
    final: bool


def claims(votes: Sequence[Vote], final: int) -> tuple[Claim, ...]:
    """A round's records, each once, the one to stand on first; the first of them that is at hand and valid counts.

    Args:
        votes: in chain order.
        final: the newest final block's height.
    """
    first: dict[bytes, int] = {}
    for vote in votes:
        first.setdefault(vote.digest, vote.block)
    return tuple(Claim(digest, block <= final) for digest, block in first.items())


def is_final(found: Sequence[Claim], standing: bytes) -> bool:
    """Whether the record that a replica stands on can never be taken back."""
    return Claim(standing, True) in found


def before(found: Sequence[Claim], standing: bytes) -> tuple[Claim, ...]:
    """The claims that go before the record a replica stands on, should one of them come to hand and be valid.

    Where the chain has taken back what it showed, and shows another record now, that is all of them.
    """
    if is_final(found, standing):
        return ()
    digests = [claim.digest for claim in found]
    return tuple(found[: digests.index(standing)] if standing in digests else found)
