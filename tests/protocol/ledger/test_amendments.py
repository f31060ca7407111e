"""Amendments in records: what is adopted, by whose signatures, and when it counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import OWNER, hash32, identity
from closed_rounds import LEAD, close, open_tip

from muster.protocol import wire
from muster.protocol.errors import LedgerError
from muster.protocol.ledger import Tip, adopt_amendments, advance, spec_digest
from muster.protocol.spec.history import SpecHistory
from muster.protocol.wire import ScoresUsed


def test_an_amendment_reaches_the_next_opening() -> None:
    tip = open_tip(clock={"amend_delay": 1})
    wish = wire.encode_amendment(identity(OWNER), tip.run_id, 1, 1, "clock.deadline", "77")
    applied = close(tip, [], amendments=(wish,)).verify()
    assert applied.tip.spec.clock.deadline == 77
    assert applied.tip.opening.deadline == applied.tip.opening.open.number + 77
    assert applied.tip.opening.spec_digest == spec_digest(applied.tip.spec)
    with pytest.raises(LedgerError, match="too soon"):
        adopt_amendments(tip, replace(applied.record, round=1))


VALIDATORS = [LEAD, *(identity(f"validator-{i}") for i in range(3))]
STAKES = dict(zip((one.public for one in VALIDATORS), (1, 1, 1, 4), strict=True))
USED = tuple(ScoresUsed(public, STAKES[public], 0, hash32("used"), ()) for public in sorted(STAKES))


def signed_by(tip: Tip, *signers: int) -> bytes:
    """An amendment that these validators have signed."""
    first, *others = (VALIDATORS[i] for i in signers)
    data = wire.encode_amendment(first, tip.run_id, 1, 1, "clock.deadline", "77")
    for one in others:
        data = wire.cosign_amendment(one, tip.run_id, data)
    return data


def listing_validators() -> Tip:
    return open_tip(clock={"amend_delay": 1}, genesis={"leaders": tuple(one.hotkey for one in VALIDATORS)})


@pytest.mark.parametrize("signers", [(1, 2, 3), (3, 0, 1), (0, 1, 2, 3)])
def test_validators_amend_by_what_the_adopting_record_says_of_their_stake(signers: tuple[int, ...]) -> None:
    tip = listing_validators()
    record = close(tip, [], amendments=(signed_by(tip, *signers),), scores=USED).record
    assert advance(tip, record, hash32("d")).spec.clock.deadline == 77
    for other in (
        replace(tip, silenced=frozenset((VALIDATORS[2].public, VALIDATORS[3].public))),
        listing_only(tip, 0),
    ):
        with pytest.raises(LedgerError, match="more than half of its validators"):
            adopt_amendments(other, record)
    with pytest.raises(LedgerError, match="more than half of its validators"):
        adopt_amendments(tip, replace(record, scores=()))


def listing_only(tip: Tip, validator: int) -> Tip:
    """The tip where the list in force has only this one of them, and two that have signed nothing."""
    listed = (VALIDATORS[validator].hotkey, identity("new").hotkey, identity("newer").hotkey)
    history = SpecHistory.of(open_tip(genesis={"leaders": listed}).spec)
    return replace(tip, history=replace(history, run_id=tip.run_id))


@pytest.mark.parametrize("signers", [(0,), (3,), (2, 3), (0, 1, 2)])
def test_too_few_validators_or_too_little_stake_amend_nothing(signers: tuple[int, ...]) -> None:
    tip = listing_validators()
    with pytest.raises(LedgerError, match="more than half of its validators with more than half of the stake"):
        close(tip, [], amendments=(signed_by(tip, *signers),), scores=USED)
