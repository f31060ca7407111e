"""Late work is taken in once, young, of one slot at most one, and of who has shown its work."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
from builders import hash32, header, identity, round_facts, run_spec
from closed_rounds import good
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.protocol import wire
from muster.protocol.errors import LedgerError
from muster.protocol.reasons import KEY_MISSING, LATE, PAYLOAD_REASONS, UNAVAILABLE
from muster.protocol.rules.attendance import Attendance, attendance
from muster.protocol.rules.late import Late, admissible, still_open
from muster.protocol.rules.selection import choose
from muster.protocol.spec import RunSpec
from muster.protocol.spec.history import SpecHistory
from muster.protocol.wire import Entry, Kind, Record, ScoresUsed, UsedScore

NAMES = ("alice", "bob", "carol", "dave")
SLOTS = {"alice": 0, "bob": 1, "carol": 1, "dave": 2}
"""Bob and Carol claim one slot, each of which may be accepted."""

PUBLICS = {name: identity(name).public for name in NAMES}


@cache
def history(ages: tuple[float, ...]) -> SpecHistory:
    return SpecHistory.of(run_spec(outer={"age_weights": ages}))


@cache
def head(name: str, round_: int) -> bytes:
    """A head as somebody's slot and round make it; the rest of it is not looked at here."""
    facts = round_facts()
    made = header(facts, identity(name), SLOTS[name], b"x" * 100, hash32("key"))
    run_id = good().record.run_id
    return wire.encode_head(replace(made, round=round_, run_id=run_id), identity(name))


def record(round_: int, outcomes: dict[str, str], late: tuple[Entry, ...] = (), kind: Kind = Kind.ROUND) -> Record:
    """A record of a round; only its entries and its seal are looked at."""
    own = tuple(Entry(PUBLICS[n], round_, head(n, round_), reason) for n, reason in outcomes.items())
    own = tuple(sorted(own, key=lambda entry: entry.public))
    return replace(good().record, round=round_, entries=(*own, *late), seal=hash32("seal", round_), kind=kind)


def entry_of(one: Late) -> Entry:
    name = next(name for name, public in PUBLICS.items() if public == one.public)
    return Entry(one.public, one.round, head(name, one.round), "")


outcomes = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["", LATE, LATE, "payload_auth"]))


@settings(max_examples=60)
@given(data=st.data(), max_age=st.integers(0, 3))
def test_whatever_is_late_is_accepted_once_and_young(data: st.DataObject, max_age: int) -> None:
    known = history((0.5,) * max_age)
    open_: tuple[Late, ...] = ()
    accepted, slots, missed = Counter[tuple[int, bytes]](), Counter[tuple[int, int]](), set[tuple[int, bytes]]()
    for round_ in range(6):
        told = data.draw(outcomes)
        if not told.get("bob", LATE) and not told.get("carol", LATE):
            del told["carol"]  # of a slot one is accepted: the judge sees to that
        pick = data.draw(st.lists(st.sampled_from(open_), unique_by=lambda one: one.slot)) if open_ else []
        made = record(round_, told, tuple(entry_of(one) for one in sorted(pick)))
        for entry in made.accepted:
            accepted[entry.round, entry.public] += 1
            uid = wire.decode_head(entry.head, made.run_id).header.uid
            slots[entry.round, uid] += 1
            assert 0 <= round_ - entry.round <= max_age
            assert entry.round == round_ or (entry.round, entry.public) in missed
        missed |= {(round_, entry.public) for entry in made.sealed if entry.reason == LATE}
        open_ = still_open(open_, made, known)
        assert list(open_) == sorted(set(open_))
        assert all(one.place in missed and not slots[one.slot] for one in open_)
        assert all(1 <= round_ + 1 - one.round <= max_age for one in open_)
        assert attendance(made) == attendance(replace(made, entries=made.sealed)), "who was there is another matter"
    assert set(accepted.values()) | set(slots.values()) <= {1}


def test_what_nobody_takes_stays_open_for_as_long_as_it_is_young() -> None:
    open_ = still_open((), record(0, {"alice": "", "bob": LATE}), history((0.5, 0.5)))
    for round_, left in ((1, True), (2, False)):
        open_ = still_open(open_, record(round_, {"alice": ""}), history((0.5, 0.5)))
        assert bool(open_) is left


def test_a_head_that_is_none_leaves_nothing_open() -> None:
    broken = record(0, {"bob": LATE})
    broken = replace(broken, entries=(replace(broken.entries[0], head=b"junk"),))
    with pytest.raises(LedgerError, match="not readable: truncated"):
        still_open((), broken, history((0.5,)))
    assert still_open((), broken, history(())) == (), "where no late work is taken nobody looks"


BOB = Late(0, PUBLICS["bob"], 1, hash32("head"), hash32("seal"))
VETERAN = (Attendance(frozenset((BOB.public,)), frozenset((BOB.public,))),)


def by(stake: int, *rows: UsedScore) -> ScoresUsed:
    return ScoresUsed(hash32("validator", stake), stake, 0, hash32("file"), rows)


@pytest.mark.parametrize(
    ("scores", "taken"),
    [
        ((), True),
        ((by(1),), True),
        ((by(1, UsedScore(BOB.public, 0.0, True)),), True),
        ((by(1, UsedScore(BOB.public, 1.0, False)),), False),
        ((by(1, UsedScore(BOB.public, 1.0, True, True)),), False),
        ((by(1, UsedScore(PUBLICS["alice"], 1.0, True)),), False),
        ((by(1, UsedScore(BOB.public, 1.0, True, True)), by(2, UsedScore(BOB.public, 1.0, True))), True),
        ((by(1, UsedScore(BOB.public, 1.0, True)), by(2, UsedScore(BOB.public, 1.0, False))), False),
    ],
)
def test_of_whom_it_is_taken(scores: tuple[ScoresUsed, ...], taken: bool) -> None:
    found = admissible((BOB,), 1, scores, VETERAN, history((0.5,)))
    assert found == ((BOB,) if taken else ())
    assert admissible((BOB,), 1, scores, (), history((0.5,))) == (), "who never was in time"


def test_which_ages_are_taken() -> None:
    taken = [bool(admissible((BOB,), round_, (), VETERAN, history((0.5, 0.25, 0.0)))) for round_ in range(1, 6)]
    assert taken == [True, True, False, False, False]


reasons = st.dictionaries(
    st.sampled_from([hash32("peer", i) for i in range(6)]),
    st.sampled_from(["", KEY_MISSING, UNAVAILABLE, LATE, "payload_auth", "possession"]),
)


@cache
def scarce(least: int, ages: tuple[float, ...]) -> RunSpec:
    """Of three seats, and so many submissions at least."""
    return run_spec(clock={"min_submissions": least}, gauntlet={"seats": 3}, outer={"age_weights": ages})


@given(known=reasons, least=st.integers(1, 3))
def test_late_changes_a_choice_by_its_name_alone(known: dict[bytes, str], least: int) -> None:
    """Seats, kind and all other reasons are as where the run takes no late work."""
    late = choose(known, (), (), bytes(32), scarce(least, (0.5,)))
    never = choose(known, (), (), bytes(32), scarce(least, ()))
    assert (late.kind, late.accepted, late.reasons.keys()) == (never.kind, never.accepted, never.reasons.keys())
    for peer, reason in late.reasons.items():
        assert reason == (LATE if never.reasons[peer] in (KEY_MISSING, UNAVAILABLE) else never.reasons[peer])
    assert LATE in PAYLOAD_REASONS
    again = choose(late.reasons, (), (), bytes(32), scarce(least, (0.5,)))
    assert again.reasons == late.reasons
