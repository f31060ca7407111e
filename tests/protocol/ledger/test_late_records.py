"""Records that take late work in: what one may, to the bit, and a sentence for everything that it may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from builders import LEADER, MINERS, OWNER, hash32, identity, layout
from closed_rounds import ALICE, BOB, Closed, Taken, changed, close, open_tip, taken_in

from muster.protocol import wire
from muster.protocol.errors import LedgerError
from muster.protocol.ledger import Tip, advance
from muster.protocol.reasons import KEY_MISSING, LATE, NULL_ROUND, UNAVAILABLE
from muster.protocol.rules.weighing import as_applied, limits_of
from muster.protocol.wire import Entry, Kind, ScoresUsed, UsedScore

AGES = (0.5, 0.25)
CAROL, DAVE = (identity(name).public for name in ("carol", "dave"))
NAMES = (*MINERS, "carol", "dave")


@dataclass(frozen=True)
class Missed:
    """A round in which Bob's payload did not come: where the ledger stands after it, the seal, and what Bob sent."""

    tip: Tip
    closed: Closed
    bob: Taken

    @property
    def seal(self) -> bytes:
        """The digest of the round's seal, which Bob's key answers."""
        return self.closed.record.seal

    @property
    def late(self) -> tuple[Taken, bytes]:
        """Bob's work, as a later record takes it in."""
        return self.bob, self.seal


def outer(ages: tuple[float, ...] = AGES, **fields: Any) -> dict[str, Any]:
    """The section of a spec."""
    return {"age_weights": ages, **fields}


def missed(
    tip: Tip | None = None, reason: str = UNAVAILABLE, others: tuple[str, ...] = ("alice",), **sections: Any
) -> Missed:
    """Round 0, or another one, without Bob's payload."""
    tip = tip or open_tip(**({"outer": outer()} | sections))
    bob = taken_in(tip, "bob", 1)
    closed = close(tip, [bob, *(taken_in(tip, name, NAMES.index(name)) for name in others)], {BOB: reason})
    return Missed(closed.verify().tip, closed, bob)


def following(tip: Tip, *late: tuple[Taken, bytes], names: tuple[str, ...] = ("alice",), **more: Any) -> Closed:
    """The record of a tip's round, with the work of these miners in time."""
    return close(tip, [taken_in(tip, name, NAMES.index(name)) for name in names], late=late, **more)


@cache
def usual() -> Missed:
    """Of the default kind."""
    return missed()


@pytest.mark.parametrize("reason", [KEY_MISSING, UNAVAILABLE])
def test_what_did_not_come_in_time_is_late_and_stays_open(reason: str) -> None:
    round_ = missed(reason=reason)
    entries = {entry.public: entry.reason for entry in round_.closed.record.entries}
    assert entries == {ALICE: "", BOB: LATE}
    (one,) = round_.tip.late
    assert one.place == (0, BOB)
    assert (one.uid, one.head, one.seal) == (1, wire.head_digest(round_.bob.head.data), round_.seal)
    assert round_.tip.past[-1].missing(BOB), "it counts as missing all the same"
    with pytest.raises(LedgerError, match=f"recorded as {reason} where the rules make it late"):
        entry = next(i for i, entry in enumerate(round_.closed.record.entries) if entry.public == BOB)
        told = list(round_.closed.record.entries)
        told[entry] = replace(told[entry], reason=reason)
        changed(round_.closed, entries=tuple(told)).verify()


@pytest.mark.parametrize("reason", [KEY_MISSING, UNAVAILABLE])
def test_a_run_that_takes_no_late_work_is_as_it_was(reason: str) -> None:
    round_ = missed(reason=reason, outer={})
    assert {entry.public: entry.reason for entry in round_.closed.record.entries} == {ALICE: "", BOB: reason}
    assert round_.tip.late == ()
    told = tuple(replace(e, reason=LATE) if e.reason else e for e in round_.closed.record.entries)
    with pytest.raises(LedgerError, match="recorded as late, and this run takes no late work"):
        changed(round_.closed, entries=told).verify()
    with pytest.raises(LedgerError, match="may not be taken in any more, or never"):
        following(round_.tip, round_.late).verify()


@pytest.mark.parametrize("age", [1, 2, 3])
def test_it_is_taken_in_while_it_is_young_enough_and_weighs_by_its_age(age: int) -> None:
    round_ = usual()
    tip = round_.tip
    for _ in range(age - 1):
        tip = following(tip).verify().tip
    closed = following(tip, round_.late)
    if age > len(AGES):
        assert tip.late == ()
        with pytest.raises(LedgerError, match="may not be taken in any more, or never"):
            closed.verify()
        return
    applied = closed.verify()
    assert [place(entry) for entry in applied.record.accepted] == [(age, ALICE), (0, BOB)]
    assert len(applied.updates) == 2
    alone = following(tip).verify()
    np.testing.assert_array_equal(applied.weights[0], alone.weights[0])
    assert applied.record.unmoved == alone.record.unmoved
    windows = usual().tip.spec.inner.steps * usual().tip.spec.inner.batch
    in_time = limits_of([taken_in(tip, "alice", 0).work], [windows], tip.spec.outer)
    _, clip = as_applied(round_.bob.work, windows, in_time, tip.spec.outer)
    np.testing.assert_array_equal(applied.weights[1], clip * np.float32(AGES[age - 1]))
    assert applied.tip.late == (), "it is taken in once"
    assert applied.tip.past == alone.tip.past, "it was not there"
    with pytest.raises(LedgerError, match="may not be taken in any more, or never"):
        following(applied.tip, round_.late).verify()


def place(entry: Entry) -> tuple[int, bytes]:
    return entry.round, entry.public


def test_a_ledger_with_late_work_can_be_followed_without_theta() -> None:
    round_ = usual()
    closed = following(round_.tip, round_.late)
    assert advance(round_.tip, closed.record, hash32("d")) == replace(closed.verify().tip, parent=hash32("d"))


def test_it_makes_no_null_round_a_round() -> None:
    round_ = missed(clock={"min_submissions": 2}, others=("alice", "carol"))
    closed = following(round_.tip)
    assert closed.record.kind is Kind.NULL
    assert {entry.reason for entry in closed.record.entries} == {NULL_ROUND}
    entry = Entry(BOB, 0, round_.bob.head.data, "")
    weights = np.ones((1, len(layout().shapes)), np.float32)
    with pytest.raises(LedgerError, match="a record that applies nothing takes late work in"):
        changed(closed, entries=(*closed.record.entries, entry), weights=weights).verify()


def test_what_was_late_for_a_null_round_may_come_later() -> None:
    round_ = missed(clock={"min_submissions": 2})
    assert round_.closed.record.kind is Kind.NULL
    applied = following(round_.tip, round_.late, names=("alice", "carol")).verify()
    assert [place(entry) for entry in applied.record.late] == [(0, BOB)]


def test_no_seat_is_taken_from_work_in_time() -> None:
    round_ = missed(gauntlet={"seats": 2})
    assert following(round_.tip, round_.late).verify().record.late
    with pytest.raises(LedgerError, match="late work takes more seats than the round's own leaves free"):
        following(round_.tip, round_.late, names=("alice", "carol")).verify()


def test_a_slots_work_of_a_round_is_accepted_once() -> None:
    tip = open_tip(outer=outer())
    both = [taken_in(tip, "alice", 0), taken_in(tip, "bob", 1), taken_in(tip, "carol", 0), taken_in(tip, "dave", 1)]
    closed = close(tip, both, {BOB: UNAVAILABLE, CAROL: UNAVAILABLE, DAVE: KEY_MISSING})
    after = closed.verify().tip
    assert {one.public for one in after.late} == {BOB, DAVE}, "of Carol's slot something is accepted"
    bob, dave = ((both[i], closed.record.seal) for i in (1, 3))
    after = replace(after, past=(*after.past, replace(after.past[-1], accepted=frozenset((BOB, DAVE)))))
    taken = following(after, bob).verify()
    assert taken.tip.late == ()
    pair = sorted((bob, dave), key=lambda one: one[0].head.public)
    with pytest.raises(LedgerError, match="two entries are of one slot's work of round 0"):
        following(after, *pair).verify()


def scored(tip: Tip, positive: bool, copier: bool, score: float = 1.0) -> tuple[ScoresUsed, ...]:
    """What one validator says of Bob."""
    row = UsedScore(BOB, score, positive, copier)
    return (ScoresUsed(identity(LEADER).public, 1, tip.round - tip.spec.gauntlet.lag, hash32("file"), (row,)),)


@pytest.mark.parametrize(("positive", "copier"), [(True, False), (True, True), (False, False)])
def test_by_scores_it_is_taken_of_the_proven_alone(positive: bool, copier: bool) -> None:
    round_ = usual()
    closed = following(round_.tip, round_.late, scores=scored(round_.tip, positive, copier))
    if positive and not copier:
        assert closed.verify().record.late
        return
    with pytest.raises(LedgerError, match="may not be taken in any more, or never"):
        closed.verify()


def test_it_is_taken_of_nobody_who_was_never_in_time_of_late() -> None:
    round_ = usual()
    forgotten = tuple(replace(seen, accepted=seen.accepted - {BOB}) for seen in round_.tip.past)
    with pytest.raises(LedgerError, match="may not be taken in any more, or never"):
        following(replace(round_.tip, past=forgotten), round_.late).verify()


def test_a_key_must_answer_the_seal_of_its_own_round() -> None:
    round_ = usual()
    for seal in (hash32("another"), following(round_.tip).record.seal):
        with pytest.raises(LedgerError, match="key_seal: its key answers another seal than that of its round"):
            following(round_.tip, (round_.bob, seal)).verify()


def entries(of: Callable[[tuple[Entry, ...]], tuple[Entry, ...]]) -> Callable[[Closed], Closed]:
    """The same record with its entries changed."""

    def change(closed: Closed) -> Closed:
        told = of(closed.record.entries)
        shape = sum(not entry.reason for entry in told), closed.record.weights.shape[1]
        return changed(closed, entries=told, weights=np.ones(shape, np.float32))

    return change


def head_of(entry: Entry, at: int) -> Entry:
    head = bytearray(entry.head)
    head[at] ^= 1
    return replace(entry, head=bytes(head))


MALFORMED: dict[str, tuple[Callable[[Closed], Closed], str]] = {
    "before the round's own": (entries(lambda own: own[::-1]), "late work stands before the round's own"),
    "twice": (entries(lambda own: (*own, own[-1])), "late work is not each once, by round and hotkey"),
    "with a reason": (
        entries(lambda own: (own[0], replace(own[1], reason="unavailable"))),
        "late work of round 0 is recorded as unavailable: it is taken in or left",
    ),
    "late again": (
        entries(lambda own: (own[0], replace(own[1], reason=LATE))),
        "late work of round 0 is recorded as late: it is taken in or left",
    ),
    "of a round to come": (
        entries(lambda own: (own[0], replace(own[1], round=9))),
        "names work of round 9 that may not be taken in any more, or never",
    ),
    "of somebody else": (
        entries(lambda own: (own[0], replace(own[1], public=CAROL))),
        "names work of round 0 that may not be taken in any more, or never",
    ),
    "accepted in its own round": (
        entries(lambda own: (own[0], replace(own[0], round=0, head=usual().closed.record.entries[0].head))),
        "names work of round 0 that may not be taken in any more, or never",
    ),
    "another head": (
        entries(lambda own: (own[0], head_of(own[1], -1))),
        "names work of round 0 that may not be taken in any more, or never",
    ),
    "a weight of work in time": (
        lambda c: changed(c, weights=c.record.weights * np.array([[1], [2]], np.float32)),
        "the weights are not what the accepted submissions give",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_refused_by_name(name: str) -> None:
    mutate, sentence = MALFORMED[name]
    closed = following(usual().tip, usual().late)
    closed.verify()
    with pytest.raises(LedgerError) as caught:
        mutate(closed).verify()
    assert sentence in str(caught.value)


def test_two_of_a_record_stand_by_round_and_hotkey() -> None:
    first = usual()
    second = missed(first.tip)
    assert [one.place for one in second.tip.late] == [(0, BOB), (1, BOB)]
    applied = following(second.tip, first.late, second.late).verify()
    assert [place(entry) for entry in applied.record.late] == [(0, BOB), (1, BOB)]
    with pytest.raises(LedgerError, match="late work is not each once, by round and hotkey"):
        following(second.tip, second.late, first.late).verify()


def test_work_of_another_k_is_lost() -> None:
    tip = open_tip(outer=outer(), clock={"amend_delay": 1})
    wish = wire.encode_amendment(identity(OWNER), tip.run_id, 1, 1, "sparse.k", "32")
    bob = taken_in(tip, "bob", 1)
    closed = close(tip, [bob, taken_in(tip, "alice", 0)], {BOB: UNAVAILABLE}, amendments=(wish,))
    after = closed.verify().tip
    assert after.late
    assert after.admissible(()) == ()


def test_the_table_may_be_amended() -> None:
    tip = open_tip(clock={"amend_delay": 1})
    wish = wire.encode_amendment(identity(OWNER), tip.run_id, 1, 1, "outer.age_weights", "[0.5]")
    tip = close(tip, [taken_in(tip, name, uid) for uid, name in enumerate(MINERS)], amendments=(wish,)).verify().tip
    round_ = missed(tip)
    assert following(round_.tip, round_.late).verify().record.late


def test_an_age_that_weighs_nothing_is_not_taken_in() -> None:
    round_ = missed(outer=outer((0.5, 0.0)))
    later = following(round_.tip).verify().tip
    assert later.late
    with pytest.raises(LedgerError, match="may not be taken in any more, or never"):
        following(later, round_.late).verify()
