"""Composing a record: what the leader decides, from what it took in, by the rules everybody will check it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from blake3 import blake3

from muster.protocol.admission import UNAVAILABLE
from muster.protocol.attendance import MEMORY, NULL_ROUND, attendance
from muster.protocol.bundle import write_bundle
from muster.protocol.ledger import NO_CHECKPOINT, Tip, adopt_amendments, decide, next_opening, prepare
from muster.protocol.selection import NOT_SELECTED
from muster.protocol.wire import Beacon, Entry, Kind, Record, ScoresUsed, Seal
from muster.validator.aggregator.intake import Head, Payload


@dataclass(frozen=True, slots=True)
class Decision:
    """Everything a leader's record depends on besides the submissions; beacons come from the chain's newest block."""

    seal: Seal
    seal_digest: bytes
    root: bytes
    scores: tuple[ScoresUsed, ...]
    evaluate: Beacon
    assign: Beacon
    possess: Beacon
    checkpoint: bytes = NO_CHECKPOINT
    amendments: tuple[bytes, ...] = ()
    closing: bool = False


def compose(
    tip: Tip,
    decision: Decision,
    heads: Mapping[bytes, Head],
    payloads: Mapping[bytes, Payload],
    failures: Mapping[bytes, str],
) -> tuple[Record, bytes]:
    """The record of the open round and its bundle."""
    entries = [
        Entry(public, heads[public].data, _reason(public, heads, payloads, failures))
        for public, _ in decision.seal.headers
    ]
    draft = _draft(tip, decision, tuple(entries))
    valid = [entry.public for entry in entries if not entry.reason]
    kind, chosen = decide(tip, valid, draft)
    refusal = NOT_SELECTED if kind is Kind.ROUND else NULL_ROUND
    entries = [entry if entry.reason or entry.public in chosen else replace(entry, reason=refusal) for entry in entries]
    accepted = [payloads[entry.public] for entry in entries if not entry.reason]
    _, weights = prepare([payload.update for payload in accepted], tip.spec)
    bundle = write_bundle(payload.opened for payload in accepted)
    record = replace(
        draft,
        kind=Kind.CLOSE if decision.closing else kind,
        entries=tuple(entries),
        weights=weights,
        bundle=blake3(bundle).digest(),
        bundle_bytes=len(bundle),
    )
    return record if decision.closing else _open_next(tip, decision, record), bundle


def _draft(tip: Tip, decision: Decision, entries: Sequence[Entry]) -> Record:
    _, no_weights = prepare([], tip.spec)
    return Record(
        run_id=tip.run_id,
        leader=decision.seal.leader,
        round=tip.round,
        kind=Kind.CLOSE if decision.closing else Kind.ROUND,
        parent=tip.parent,
        turn=decision.seal.turn,
        seal=decision.seal_digest,
        outer_step=tip.outer_step,
        root=decision.root,
        spec_digest=tip.opening.spec_digest,
        entries=tuple(entries),
        scores=decision.scores,
        weights=no_weights,
        bundle=blake3(b"").digest(),
        bundle_bytes=0,
        evaluate=decision.evaluate,
        checkpoint=decision.checkpoint,
        amendments=decision.amendments,
        opening=None,
    )


def _open_next(tip: Tip, decision: Decision, record: Record) -> Record:
    history = adopt_amendments(tip.history, decision.amendments, tip.round)
    past = (*tip.past, attendance(record))[-MEMORY:]
    return replace(record, opening=next_opening(history, tip.round + 1, past, decision.assign, decision.possess))


def _reason(
    public: bytes,
    heads: Mapping[bytes, Head],
    payloads: Mapping[bytes, Payload],
    failures: Mapping[bytes, str],
) -> str:
    if heads[public].reason:
        return heads[public].reason
    if public in payloads:
        return ""
    return failures.get(public, UNAVAILABLE)
