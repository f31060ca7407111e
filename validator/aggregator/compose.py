"""Composing a record: what the leader signs, from what it decided, by the rules everybody will check it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from muster.protocol.ledger import NO_CHECKPOINT, Tip, adopt_amendments, next_opening
from muster.protocol.rules.attendance import remember
from muster.protocol.rules.selection import Choice
from muster.protocol.rules.weighing import Weighed
from muster.protocol.types import Beacon
from muster.protocol.wire import Entry, Kind, Record, ScoresUsed, Seal


@dataclass(frozen=True, slots=True)
class Decision:
    """Everything a leader's record depends on besides the submissions; beacons come from the chain's newest block.

    `turn` is the one in which the round is closed; the seal may be of an earlier one. `rescuer` is who makes the record
    where that follows from no turn (`ledger.rescue`).
    """

    seal: Seal
    seal_digest: bytes
    root: bytes
    scores: tuple[ScoresUsed, ...]
    assign: Beacon
    possess: Beacon
    checkpoint: bytes = NO_CHECKPOINT
    amendments: tuple[bytes, ...] = ()
    proofs: tuple[bytes, ...] = ()
    closing: bool = False
    turn: int = 0
    rescuer: bytes | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What the record applies: the choice (`Tip.choose`), what the accepted come to, and their bundle, both by key; and
    the entries of late work, by round and key, which come after these in both."""

    choice: Choice
    weighed: Weighed
    bundle: bytes
    bundle_bytes: int
    late: tuple[Entry, ...] = ()


def compose(tip: Tip, decision: Decision, heads: Mapping[bytes, bytes], work: Work) -> Record:
    """The record of the open round; `heads` are the sealed heads' bytes by peer, `work.bundle` is a digest."""
    reasons = work.choice.reasons
    sealed = tuple(Entry(peer, tip.round, heads[peer], reasons[peer]) for peer, _ in decision.seal.headers)
    record = Record(
        run_id=tip.run_id,
        leader=decision.rescuer or tip.leader(decision.turn),
        round=tip.round,
        kind=Kind.CLOSE if decision.closing else work.choice.kind,
        parent=tip.parent,
        turn=decision.turn,
        seal=decision.seal_digest,
        outer_step=tip.outer_step,
        root=decision.root,
        spec_digest=tip.opening.spec_digest,
        entries=(*sealed, *work.late),
        scores=decision.scores,
        weights=work.weighed.weights,
        unmoved=work.weighed.unmoved,
        bundle=work.bundle,
        bundle_bytes=work.bundle_bytes,
        checkpoint=decision.checkpoint,
        amendments=decision.amendments,
        proofs=decision.proofs,
        opening=None,
    )
    if decision.closing:
        return record
    history = adopt_amendments(tip, record)
    past = remember(tip.past, record)
    return replace(record, opening=next_opening(history, tip.round + 1, past, decision.assign, decision.possess))
