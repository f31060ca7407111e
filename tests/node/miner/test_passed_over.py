"""What a miner can say of a leader that did not see its work: only where its own bucket had it in time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import MINERS, identity
from closed_rounds import close, open_tip, taken_in

from muster.node.miner.passed_over import Shown, passed_over
from muster.node.miner.state import Made
from muster.protocol.ledger import RESCUE, Applied
from muster.protocol.reasons import KEY_MISSING
from muster.protocol.wire import Kind

ALICE, BOB = (identity(name).public for name in MINERS)
TIP = open_tip()
MADE = Made(0, TIP.parent, b"", b"")


def closed(*names: str, failures: dict[bytes, str] | None = None) -> Applied:
    """Round 0 with submissions of these, sealed at the deadline where one is missing and recorded two blocks later."""
    taken = [taken_in(TIP, name, uid) for uid, name in enumerate(MINERS) if name in names]
    return close(TIP, taken, failures).verify()


def changed(applied: Applied, **fields: Any) -> Applied:
    return replace(applied, record=replace(applied.record, **fields))


def test_who_was_there_two_blocks_before_a_seal_that_does_not_list_it_was_passed_over() -> None:
    applied = closed("alice")
    sealed = applied.sealed.number
    said = passed_over(Shown(MADE, sent=sealed - 2), BOB, applied)
    assert said == f"it had sent by block {sealed - 2}, and the seal of block {sealed} does not list it"
    for sent in (sealed - 1, sealed, None):
        assert passed_over(Shown(MADE, sent=sent), BOB, applied) == ""
    assert passed_over(Shown(MADE, sent=0), ALICE, applied) == "", "it is accepted"


def test_who_had_shown_its_key_before_the_block_of_a_record_that_says_it_had_not() -> None:
    applied = closed(*MINERS, failures={BOB: KEY_MISSING})
    assert applied.record.opening is not None
    made_at = applied.record.opening.open.number
    said = passed_over(Shown(MADE, sent=1, key=made_at - 1), BOB, applied)
    there = f"submission and key were there by block {made_at - 1}"
    assert said == f"{there}, and the record of block {made_at} says key_missing"
    for sent, key in ((1, made_at), (made_at, 1), (1, None), (None, 1)):
        assert passed_over(Shown(MADE, sent=sent, key=key), BOB, applied) == ""


@pytest.mark.parametrize("fields", [{"round": 1}, {"parent": b"p" * 32}, {"turn": RESCUE}, {"kind": Kind.CLOSE}])
def test_of_another_record_a_rescue_or_the_end_it_says_nothing(fields: dict[str, Any]) -> None:
    assert passed_over(Shown(MADE, sent=0), BOB, changed(closed("alice"), **fields)) == ""
