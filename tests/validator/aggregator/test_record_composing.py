"""A record says what its leader decided and what follows from it for the next round, and nothing by itself."""

from __future__ import annotations

import numpy as np
from builders import MINERS, OWNER, beacon, block, hash32, identity, layout
from closed_rounds import ALICE, BOB, LEAD, open_tip

from muster.protocol import wire
from muster.protocol.ledger import NO_CHECKPOINT, Tip, next_opening
from muster.protocol.reasons import KEY_MISSING
from muster.protocol.rules.attendance import remember
from muster.protocol.rules.selection import Choice
from muster.protocol.rules.weighing import Weighed
from muster.protocol.wire import Kind, Seal
from muster.validator.aggregator.compose import Decision, Work, compose

HEADS = {identity(name).public: f"the head of {name}".encode() for name in MINERS}
WEIGHTS = np.full((1, len(layout().shapes)), 0.5, np.float32)
WEIGHED = Weighed([], WEIGHTS, (3,))
NOTHING = Weighed([], WEIGHTS[:0], ())
WORK = Work(Choice(Kind.ROUND, (ALICE,), {ALICE: "", BOB: KEY_MISSING}), WEIGHED, hash32("bundle"), 1234)


def decision(tip: Tip, peers: tuple[bytes, ...] = tuple(sorted(HEADS)), **changes: object) -> Decision:
    listed = tuple((peer, hash32(peer)) for peer in peers)
    seal = Seal(tip.run_id, LEAD.public, tip.round, tip.parent, 0, block(5), listed)
    fields = {
        "seal": seal,
        "seal_digest": hash32("seal"),
        "root": hash32("root"),
        "scores": (),
        "assign": beacon("assign", 1, 0),
        "possess": beacon("possess", 1, 7),
    }
    return Decision(**(fields | changes))  # type: ignore[arg-type]


def test_it_takes_over_what_was_decided() -> None:
    """The bundle is named by digest and size: composing needs no payload."""
    tip = open_tip()
    record = compose(tip, decision(tip, checkpoint=hash32("manifest")), HEADS, WORK)
    assert [(e.public, e.head) for e in record.entries] == sorted(HEADS.items())
    assert {entry.public: entry.reason for entry in record.entries} == WORK.choice.reasons
    assert (record.bundle, record.bundle_bytes, record.kind) == (WORK.bundle, WORK.bundle_bytes, Kind.ROUND)
    assert record.weights is WEIGHTS
    assert record.unmoved == (3,)
    assert (record.round, record.parent, record.leader, record.turn) == (0, tip.parent, LEAD.public, 0)
    assert (record.seal, record.root, record.checkpoint) == (hash32("seal"), hash32("root"), hash32("manifest"))
    assert record.spec_digest == tip.opening.spec_digest


def test_the_next_round_follows_from_it() -> None:
    tip = open_tip()
    made = decision(tip)
    record = compose(tip, made, HEADS, WORK)
    past = remember(tip.past, record)
    assert record.opening == next_opening(tip.history, 1, past, made.assign, made.possess)
    assert record.opening is not None
    assert record.opening.expected == (ALICE,), "bob owed his key"


def test_an_amendment_is_in_force_in_the_opening() -> None:
    tip = open_tip(clock={"amend_delay": 1})
    wish = wire.encode_amendment(identity(OWNER), tip.run_id, 1, 1, "clock.deadline", "77")
    record = compose(tip, decision(tip, amendments=(wish,)), HEADS, WORK)
    assert record.amendments == (wish,)
    assert record.opening is not None
    assert record.opening.deadline == record.opening.open.number + 77


def test_a_null_record_applies_nothing() -> None:
    tip = open_tip()
    none = Work(Choice(Kind.NULL, (), dict.fromkeys(HEADS, "null_round")), NOTHING, hash32("nothing"), 0)
    record = compose(tip, decision(tip), HEADS, none)
    assert (record.kind, record.accepted, record.checkpoint) == (Kind.NULL, (), NO_CHECKPOINT)
    assert record.opening is not None
    assert record.opening.expected == tuple(sorted(HEADS))


def test_the_closing_record_opens_no_round() -> None:
    tip = open_tip()
    none = Work(Choice(Kind.NULL, (), {}), NOTHING, hash32("nothing"), 0)
    record = compose(tip, decision(tip, peers=(), closing=True), {}, none)
    assert (record.kind, record.entries, record.opening) == (Kind.CLOSE, (), None)
