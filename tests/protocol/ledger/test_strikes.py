"""A leader that signed two has no turn, vote or say from the round after the record on that carries the proof."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import LEADER, block, hash32, identity
from closed_rounds import changed, close, open_tip

from muster.protocol import wire
from muster.protocol.errors import LedgerError
from muster.protocol.identity import Identity
from muster.protocol.ledger import Tip, advance
from muster.protocol.wire import ScoresUsed, Seal, digest_of

NAMES = (LEADER, "second", "third")
FIRST, SECOND, THIRD = (identity(name) for name in NAMES)


def tip_of(*names: str) -> Tip:
    """Round 0 of a run that these may lead."""
    return open_tip(genesis={"leaders": tuple(identity(name).hotkey for name in names)})


def proof(tip: Tip, liar: Identity, finder: Identity = SECOND) -> bytes:
    """That somebody sealed the open round twice."""
    seals = (Seal(tip.run_id, liar.public, tip.round, tip.parent, 0, block(number), ()) for number in (5, 6))
    return wire.encode_equivocation(finder, tip.run_id, *(wire.encode_seal(seal, liar) for seal in seals))


def after(tip: Tip, *proofs: bytes, **fields: Any) -> Tip:
    """The tip after a record of the open round with these proofs."""
    record = changed(close(tip, []), proofs=proofs, **fields).record
    return advance(tip, record, hash32("record", tip.round))


@pytest.mark.parametrize("liar", [SECOND, THIRD])
def test_it_leaves_turns_votes_and_scores(liar: Identity) -> None:
    tip = tip_of(*NAMES)
    next_tip = after(tip, proof(tip, liar))
    others = tuple(one.public for one in (FIRST, SECOND, THIRD) if one is not liar)
    assert tip.leaders == (FIRST.public, SECOND.public, THIRD.public)
    assert next_tip.leaders == next_tip.roll.voters == others
    assert [next_tip.leader(turn) for turn in range(4)] == [*others, *others]
    assert next_tip.struck == next_tip.silenced == {liar.public}
    assert next_tip.validators == tip.validators, "the run's, the silenced among them"
    assert next_tip.proofs == (), "disputes only"
    (strike,) = next_tip.strikes
    assert (strike.leader, strike.round) == (liar.public, tip.round)


def test_its_scores_are_not_used_any_more() -> None:
    tip = after(tip_of(*NAMES), proof(tip_of(*NAMES), THIRD))
    used = ScoresUsed(THIRD.public, 1, tip.round - 1, hash32("used"), ())
    tip = after(tip)
    with pytest.raises(LedgerError, match="of a validator that is silenced"):
        close(tip, [], scores=(replace(used, round=tip.round - tip.spec.gauntlet.lag),)).verify()


def test_in_the_round_of_that_record_it_still_stands() -> None:
    """The record itself may be its own."""
    tip = tip_of(*NAMES)
    record = changed(close(tip, []), proofs=(proof(tip, FIRST),))
    applied = record.verify()
    assert applied.record.leader == FIRST.public
    assert applied.tip.leaders == (SECOND.public, THIRD.public)
    assert applied.tip.leader_in_turn == SECOND.public


def test_one_after_the_other_until_one_is_left() -> None:
    tip = tip_of(*NAMES)
    tip = after(tip, proof(tip, SECOND))
    tip = after(tip, proof(tip, THIRD))
    assert tip.leaders == (FIRST.public,)
    with pytest.raises(LedgerError, match="cannot be struck"):
        after(tip, proof(tip, FIRST))


def test_a_list_of_one_stays_as_it_is() -> None:
    tip = tip_of(LEADER)
    with pytest.raises(LedgerError, match="cannot be struck"):
        after(tip, proof(tip, FIRST))


def test_nobody_is_struck_twice() -> None:
    tip = tip_of(*NAMES)
    tip = after(tip, proof(tip, SECOND))
    with pytest.raises(LedgerError, match="cannot be struck"):
        after(tip, proof(tip, SECOND))


def test_should_a_list_hold_none_but_the_struck_it_is_as_it_says() -> None:
    """No record strikes the last one; a later list may leave out all others."""
    tip = tip_of(LEADER, "second")
    struck = after(tip, proof(tip, SECOND))
    alone = replace(struck, history=tip_of("second").history)
    assert alone.leaders == (SECOND.public,)
    with pytest.raises(LedgerError, match="cannot be struck"):
        after(replace(alone, history=struck.history), proof(tip, SECOND))


def test_both_sorts_in_one_record_are_judged_by_the_tip_before_it() -> None:
    """Two dispute the third one's file, and it has sealed twice, too."""
    tip = after(tip_of(*NAMES))
    tip = after(tip)
    said = (hash32("file"), hash32("peer"), "it lies")
    signers = sorted((FIRST, SECOND), key=lambda one: one.public)
    disputes = tuple(wire.encode_dispute(one, tip.run_id, 1, THIRD.public, *said) for one in signers)
    scores = tuple(ScoresUsed(public, 1, tip.round - 1, hash32("used"), ()) for public in sorted(tip.validators))
    twice = proof(tip, THIRD)
    next_tip = after(tip, twice, *disputes, scores=scores)
    assert (next_tip.proofs, next_tip.silenced) == (disputes, {THIRD.public})
    assert [strike.proof for strike in next_tip.strikes] == [digest_of(twice)]
    for wrong in ((*disputes, twice), (twice, twice, *disputes), (twice, *disputes[::-1])):
        with pytest.raises(LedgerError):
            after(tip, *wrong, scores=scores)
