"""Which seal a miner answers: one of its ledger's open round, with its head in it, made of late."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import block, hash32, identity
from closed_rounds import ALICE, BOB, LEAD, good, open_tip
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.ledger import continues, unanswerable
from muster.protocol.types import Block
from muster.protocol.wire import Seal, head_digest

TIP, SEAL = good().tip, good().seal
HEAD = dict(SEAL.headers)[ALICE]
AGE = TIP.spec.clock.seal_age


def problem(seal: Seal = SEAL, public: bytes = ALICE, head: bytes = HEAD, newest: int = SEAL.block.number) -> str:
    return unanswerable(TIP, seal, public, head, block(newest))


@given(st.integers(0, 3 * AGE), st.booleans(), st.booleans())
def test_it_is_answered_where_it_is_of_this_round_lists_the_head_and_is_young(age: int, own: bool, ours: bool) -> None:
    seal = SEAL if ours else replace(SEAL, parent=hash32("another record"))
    head = HEAD if own else hash32("another head")
    assert (problem(seal, head=head, newest=SEAL.block.number + age) == "") == (own and ours and age <= AGE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"round": 1}, "open round"),
        ({"parent": hash32("x")}, "open round"),
        ({"leader": BOB}, "leader in turn"),
        ({"headers": ()}, "does not list this submission"),
        ({"headers": ((ALICE, hash32("x")),)}, "does not list this submission"),
        ({"headers": ((BOB, HEAD),)}, "does not list this submission"),
    ],
)
def test_what_is_wrong_with_a_seal_is_a_sentence(changes: dict[str, Any], words: str) -> None:
    assert words in problem(replace(SEAL, **changes))


def test_an_early_block_does_not_make_a_late_seal_an_early_one() -> None:
    """What will be measured is drawn by block SEAL + evaluate, which nobody knows when the last key goes out."""
    late = SEAL.block.number + AGE + 1
    assert problem(newest=late) == f"it names block {SEAL.block.number}, which is too old at block {late}"
    assert SEAL.block.number + TIP.spec.clock.evaluate > late - 1


def test_a_flipped_bit_of_a_head_is_another_head() -> None:
    head = good().record.entries[0].head
    flipped = head[:-1] + bytes((head[-1] ^ 1,))
    assert problem(head=head_digest(head), public=good().record.entries[0].public) == ""
    assert "does not list" in problem(head=head_digest(flipped), public=good().record.entries[0].public)


def test_turns_are_the_lists_and_each_begins_at_its_block() -> None:
    second = identity("second")
    tip = open_tip(genesis={"leaders": (LEAD.hotkey, second.hotkey)})
    for turn in (1, 3):
        begins = tip.turn_begins(turn)
        assert begins == tip.opening.anchor_by + (turn - 1) * tip.spec.clock.turn
        assert (tip.turn_at(begins - 1), tip.turn_at(begins)) == (turn - 1, turn)
        seal = Seal(tip.run_id, second.public, 0, tip.parent, turn, Block(begins, bytes(32)), ())
        assert continues(tip, seal)
        assert not continues(tip, replace(seal, turn=0))
        assert not continues(tip, replace(seal, leader=LEAD.public))
        assert not continues(tip, replace(seal, block=Block(begins - 1, bytes(32))))


@pytest.mark.parametrize(("author", "round_", "first"), [(0, 1, 0), (1, 1, 1), (1, 4, 2), (2, 4, 0), (None, 1, 0)])
def test_a_turn_goes_on_with_who_made_the_newest_record_and_moves_on_where_a_term_ends(
    author: int | None, round_: int, first: int
) -> None:
    names = (LEAD, identity("second"), identity("third"))
    tip = open_tip(genesis={"leaders": tuple(one.hotkey for one in names)}, clock={"term": 4})
    by = identity("somebody else").public if author is None else names[author].public
    tip = replace(tip, author=by, opening=replace(tip.opening, round=round_))
    assert [tip.leader(turn) for turn in range(4)] == [names[(first + turn) % 3].public for turn in range(4)]
