"""What there is to measure of a round, and what is known of the rest of it without measuring."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from muster.node.context import Context
from muster.node.ledger.participant import Errands
from muster.node.submission import Submissions
from muster.protocol import wire
from muster.protocol.chain.base import Snapshot
from muster.protocol.identity import hotkey_of
from muster.protocol.incentive.row import PeerState
from muster.protocol.incentive.score import Failed, Outcome
from muster.protocol.ledger import Applied, Tip
from muster.protocol.reasons import DECISIONS, LEADERS_WORD, PAYLOAD_REASONS
from muster.protocol.spec.layout import max_payload_bytes
from muster.protocol.wire import Kind, Signed
from muster.validator.gauntlet.hearsay import confirmed
from muster.validator.gauntlet.judging import Work, sent
from muster.validator.gauntlet.screening import Screening, by_need


@dataclass(frozen=True, slots=True)
class Works:
    """A round's submissions: what can be measured, accepted ones in record order first; of the others what they came
    to, by hotkey; and how many windows each valid head declares."""

    works: Sequence[Work]
    outcomes: Mapping[str, Outcome]
    declared: Mapping[str, int]


async def look_through(
    context: Context,
    tip: Tip,
    applied: Applied,
    states: Mapping[str, PeerState],
    beacon: bytes | None,
    errands: Errands,
    pressed: Callable[[], Awaitable[bool]],
    spool: Path | None,
) -> Works:
    """Sort a record's entries, and fetch what has no seat. `pressed` says whether a leader waits for these scores.

    Of a null record nothing is measured, and nothing is held against anybody. Without a beacon it is too late to
    measure.

    Raises:
        ChainError: the chain does not say who is registered.
    """
    record = applied.record
    snapshot = await context.chain.snapshot()
    heads = _heads(tip, applied, snapshot)
    declared = {signed.header.hotkey: signed.header.windows for signed in heads}
    if record.kind is not Kind.ROUND:
        return Works((), {}, declared)
    outcomes = _faults(applied, declared)
    outcomes |= await confirmed(record, states.keys(), context.directory.stores(snapshot))
    if beacon is None:
        return Works((), outcomes, declared)
    accepted = {entry.public for entry in record.seated}
    seated = [signed for signed in heads if signed.header.public in accepted]
    timely = applied.updates[: len(seated)]  # late work comes after it, and is not measured
    works = [Work(signed, sent(update)) for signed, update in zip(seated, timely, strict=True)]
    others = by_need([signed for signed in heads if signed.header.public not in accepted], states, beacon)
    if others:
        fetching = Screening(
            Submissions(tip, context.offload, spool, context.ailments),
            record.seal,
            context.directory.stores(snapshot),
            errands,
            max_payload_bytes(tip.codec),
        )
        works += [Work(*found) for found in await fetching.run(others, context.chain, tip.spec.clock, pressed)]
    return Works(works, outcomes, declared)


def _heads(tip: Tip, applied: Applied, snapshot: Snapshot) -> list[Signed]:
    """The heads with which nothing is known to be wrong: accepted, or without a seat, or rejected by a leader who says
    that they claim another's slot where the chain does not."""
    slots = {peer.hotkey: peer.uid for peer in snapshot.peers}
    heads = []
    for entry in applied.record.sealed:
        doubtful = entry.reason in LEADERS_WORD - PAYLOAD_REASONS
        if entry.reason and entry.reason not in DECISIONS and not doubtful:
            continue
        signed = wire.decode_head(entry.head, tip.run_id)
        if not doubtful or slots.get(signed.header.hotkey) == signed.header.uid:
            heads.append(signed)
    return heads


def _faults(applied: Applied, declared: Mapping[str, int]) -> dict[str, Outcome]:
    """What everybody sees to be wrong, by hotkey."""
    return {
        hotkey: Failed(entry.reason)
        for entry in applied.record.sealed
        if (hotkey := hotkey_of(entry.public)) not in declared
    }
