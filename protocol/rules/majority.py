"""When validators together speak for the run: more than half of those that are heard, with more than half of the stake.

Stake is what the very record says that their word stands in, beside the scores it used: everybody who has the record
can count it again. Its leader writes these numbers and chooses whose scores it uses; that is why heads count as well,
for the list of validators is the run's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet

from muster.protocol.wire import ScoresUsed

LEAST_SIGNERS = 2
"""Validators that it takes, whatever their stake: one alone may be the leader that wrote the stakes."""


def outweigh(signers: Collection[bytes], stakes: Mapping[bytes, int], heard: int) -> bool:
    """Whether these, each one of the `heard` validators, are enough of them and of the stake."""
    stake = sum(stakes.get(signer, 0) for signer in signers)
    return are_enough(len(signers), heard) and 2 * stake > sum(stakes.values())


def are_enough(signers: int, heard: int) -> bool:
    """Whether so many of the `heard` validators are enough by their number."""
    return signers >= LEAST_SIGNERS and 2 * signers > heard


def carried_by(heard: AbstractSet[bytes], scores: Sequence[ScoresUsed]) -> Callable[[AbstractSet[bytes]], bool]:
    """Whether the signers of an amendment are enough of these validators, in a record that used these scores.

    Signatures of anybody else, of the silenced for instance, neither help nor harm.
    """
    stakes = {used.validator: used.stake for used in scores}
    return lambda signers: outweigh(signers & heard, stakes, len(heard))
