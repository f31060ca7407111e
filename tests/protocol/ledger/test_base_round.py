"""With a delay heads prove possession of the θ before: a judge of the record has what that takes, and a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from builders import hash32, layout, run_spec, theta
from closed_rounds import LEAD, Closed, close, open_tip, taken_in
from pydantic import ValidationError

from muster.protocol import wire
from muster.protocol.errors import LedgerError
from muster.protocol.ledger import Tip, advance, resume, tip_info, with_held
from muster.protocol.ledger.roots import held_digest
from muster.protocol.spec import RunSpec
from muster.protocol.wire import Record
from muster.protocol.wire.manifest import Manifest, TipInfo


def closed(delay: int = 1) -> Closed:
    """Round 0 with both miners accepted."""
    tip = open_tip(clock={"delay": delay})
    return close(tip, [taken_in(tip, "alice", 0), taken_in(tip, "bob", 1)])


def read(one: Closed) -> tuple[Record, bytes]:
    """The record as others have it."""
    return wire.decode_record(wire.encode_record(one.record, LEAD), one.tip.run_id, len(layout().shapes))


def manifest(tip: Tip, info: TipInfo) -> Manifest:
    """Of a checkpoint at a tip, whatever its θ is."""
    fields = {"run": tip.run_id, "root": hash32("root"), "layout": tip.layout.digest}
    named = {name: value.hex() for name, value in fields.items()}
    return Manifest(**named, round=tip.round, outer_step=tip.outer_step, shards=(), tip=info)


@pytest.mark.parametrize(("delay", "bases"), [(0, [0, 1, 2]), (1, [0, 0, 1])])
def test_the_base_is_as_many_rounds_before_as_the_spec_says(delay: int, bases: list[int]) -> None:
    one = closed(delay)
    found = [one.tip.opening.base_round]
    tip = one.verify().tip
    found.append(tip.opening.base_round)
    found.append(advance(tip, *read(close(tip, []))).opening.base_round)
    assert found == bases


def test_who_judges_a_record_keeps_of_its_theta_what_the_next_round_asks_for() -> None:
    tip = closed().verify().tip
    assert tip.held == held_digest(theta(), layout(), tip.opening.possess.value)
    assert closed(0).verify().tip.held == b""


def test_the_closing_record_opens_nothing_to_keep_anything_for() -> None:
    first = closed().verify().tip
    last = close(first, [], closing=True)
    assert last.verify(held=lambda _: pytest.fail("asked")).tip.held == b""


def test_a_tip_made_without_theta_has_nothing_of_it() -> None:
    one = closed()
    assert advance(one.tip, *read(one)).held == b""


def test_a_checkpoint_says_it_and_brings_a_newcomer_to_the_very_tip() -> None:
    one = closed()
    tip = one.verify().tip
    assert tip_info(tip).held == tip.held.hex()
    assert resume(one.tip, manifest(tip, tip_info(tip)), read(one)) == tip
    blind = advance(one.tip, *read(one))
    assert with_held(blind, manifest(tip, tip_info(tip))) == tip


def test_a_checkpoint_that_says_too_little_or_too_much_is_refused() -> None:
    one, other = closed(), closed(0)
    silent = tip_info(one.verify().tip).model_copy(update={"held": None})
    chatty = tip_info(other.verify().tip).model_copy(update={"held": "ab" * 32})
    for case, info in ((one, silent), (other, chatty)):
        with pytest.raises(LedgerError, match="does not say of the θ before"):
            resume(case.tip, manifest(case.verify().tip, info), read(case))


def test_without_a_delay_a_manifest_is_as_it_was() -> None:
    assert "held" not in json.loads(tip_info(closed(0).verify().tip).model_dump_json())


def test_more_than_one_round_is_not_offered() -> None:
    spec = run_spec()
    with pytest.raises(ValidationError, match=r"clock\.delay"):
        RunSpec.model_validate(spec.model_dump() | {"clock": spec.clock.model_dump() | {"delay": 2}})


def test_another_base_than_the_openings_is_refused() -> None:
    one = closed()
    opening = one.record.opening
    assert opening is not None
    with pytest.raises(LedgerError, match="not what the rules give"):
        replace(one, record=replace(one.record, opening=replace(opening, base_round=1))).verify()
