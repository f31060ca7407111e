"""What a round's work is compared with: what the record before applied, and what came late, which is nobody's copy."""

from __future__ import annotations

from builders import MINERS, identity, update
from closed_rounds import Taken, close, open_tip, taken_in

from muster.protocol.ledger import Applied
from muster.protocol.reasons import UNAVAILABLE
from muster.validator.gauntlet.judging import accepted_updates, late_updates

ALICE, BOB = (identity(name) for name in MINERS)


def taken_late() -> tuple[Applied, Applied]:
    """Round 0 without Bob's payload, and round 1, in which he is in time and his work of round 0 is taken in."""
    tip = open_tip(outer={"age_weights": (0.5,)})
    alice, bob = taken_in(tip, "alice", 0), taken_in(tip, "bob", 1)
    first = close(tip, [alice, bob], {BOB.public: UNAVAILABLE})
    before = first.verify()
    again: list[Taken] = [taken_in(before.tip, "alice", 0, update(5)), taken_in(before.tip, "bob", 1, update(6))]
    return before, close(before.tip, again, late=[(bob, first.record.seal)]).verify()


def test_late_work_is_what_came_before_the_rounds_own() -> None:
    before, applied = taken_late()
    assert [hotkey for hotkey, _ in accepted_updates(before)] == [ALICE.hotkey]
    assert late_updates(before) == ()
    ((hotkey, work),) = late_updates(applied)
    assert hotkey == BOB.hotkey
    assert work.scale_limit is None, "as it was sent"
    assert work.indices.equal(update(2).indices)
    seated = {hotkey: work.indices for hotkey, work in accepted_updates(applied)[: len(applied.record.seated)]}
    assert seated[BOB.hotkey].equal(update(6).indices)
    assert [hotkey for hotkey, _ in accepted_updates(applied)].count(BOB.hotkey) == 2


def test_a_peer_may_be_in_time_and_late_in_one_record() -> None:
    before, applied = taken_late()
    assert [entry.public for entry in applied.record.seated] == sorted((ALICE.public, BOB.public))
    assert [(entry.round, entry.public) for entry in applied.record.late] == [(0, BOB.public)]
    seen = applied.tip.past[-1]
    assert seen.accepted == {ALICE.public, BOB.public}
    assert not seen.missing(BOB.public)
    assert before.tip.past[-1].missing(BOB.public)
