"""Which seal a miner answers: the rule by which the keys bind the seal.

A record counts only the keys that answer the seal it names, and a miner answers one seal a round. So a leader that
seals twice, or late with an early block in its seal, gets no keys for it.
"""

from __future__ import annotations

from muster.protocol.ledger.tip import RESCUE, Tip
from muster.protocol.types import Block
from muster.protocol.wire import Seal


def continues(tip: Tip, seal: Seal) -> bool:
    """Whether a seal is of the open round of this ledger, by an aggregator whose turn it was at the seal's block."""
    in_turn = seal.leader == tip.leader(seal.turn) and seal.block.number >= tip.turn_begins(seal.turn)
    return in_turn and seal.turn != RESCUE and seal.round == tip.round and seal.parent == tip.parent


def unanswerable(tip: Tip, seal: Seal, public: bytes, head: bytes, newest: Block) -> str:
    """Why a miner must not show its key for a seal, "" where it may.

    Args:
        tip: where the miner's ledger stands.
        seal: a seal whose block is the chain's own.
        public: the miner's key.
        head: the digest of its head.
        newest: the block at which it sees the seal.
    """
    if not continues(tip, seal):
        return "it is not of this ledger's open round, by the leader in turn"
    if not seal.lists(public, head):
        return "it does not list this submission"
    if newest.number - seal.block.number > tip.spec.clock.seal_age:
        return f"it names block {seal.block.number}, which is too old at block {newest.number}"
    return ""
