"""Whoever keeps coming is waited for, and whoever comes and goes costs few deadlines."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from blake3 import blake3
from builders import hash32, opening, run_spec
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.ledger import prepare
from muster.protocol.reasons import HEAD_REASONS, NOT_SELECTED, NULL_ROUND, PAYLOAD_REASONS
from muster.protocol.rules.attendance import (
    MEMORY,
    Attendance,
    attendance,
    before_genesis,
    expected,
    remember,
    seen_in,
)
from muster.protocol.wire import Entry, Kind, Record

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
PEERS = (A, B, C)
ACCEPTED, REJECTED, FAILED, ABSENT = "A", "R", "F", "-"
"""One peer in one record: rejected is for its head or without a seat, failed for its payload."""
rows = st.text(alphabet=ACCEPTED + REJECTED + FAILED + ABSENT, max_size=3 * MEMORY)


def past_of(*columns: str, null: Sequence[int] = ()) -> tuple[Attendance, ...]:
    """The records in which the peers a, b, c did what their columns say, a letter a record."""
    past = []
    for at, letters in enumerate(zip(*columns, strict=True)):
        here = list(zip(PEERS, letters, strict=False))
        accepted, present, failed = (
            frozenset(peer for peer, letter in here if letter in wanted) for wanted in ("A", "ARF", "F")
        )
        past.append(Attendance(accepted, present, failed, at in null))
    return tuple(past)


def who(*columns: str, null: Sequence[int] = ()) -> str:
    """The expected peers by their letters."""
    return b"".join(peer[:1] for peer in expected(past_of(*columns, null=null))).decode()


def test_a0_is_waited_for_from_the_start() -> None:
    assert expected(before_genesis([B, A])) == (A, B)
    assert expected(before_genesis([])) == ()
    assert expected([]) == ()


@pytest.mark.parametrize(
    ("column", "waited"),
    [
        ("AA", True),
        ("A", False),
        ("AA-", False),
        ("AAF", False),
        ("AAR", True),
        ("ARA", True),
        ("ARR", False),
        ("A-A", True),
        ("-AA", True),
        ("AA-A-A", False),
        ("AA-A-AA", False),
        ("AAFAFAA", False),
        ("AA-A-AAA", True),
        ("AA-A-AAAR", False),
        ("AA-A-" + "R" * 11 + "AA", True),
        ("-----AA", True),
    ],
)
def test_who_is_waited_for(column: str, waited: bool) -> None:
    """Beside a peer that is always there; the last but one case forgets misses that are older than the memory."""
    found = who("A" * len(column[-MEMORY:]), column[-MEMORY:])
    assert found == ("ab" if waited else "a") or (len(column) == 1 and not found)


def test_after_a_null_record_whoever_was_valid_in_it_is_waited_for() -> None:
    """Even one that is new, or often away: it has just delivered, and waiting for nobody is waiting till the end."""
    assert who("AAA", "--A", "AA-", null=[2]) == "ab"
    assert who("AA-A-A", "AAAAAF", null=[5]) == "a"
    assert who("AAAR", "AAAA", null=[3]) == "b"


def test_a_record_without_good_work_says_nothing() -> None:
    """Its leader was cut off, or nobody was there; waiting for nobody would not be faster."""
    assert who("AA-", "AAF", null=[2]) == "ab"
    assert who("AA-A", "AAFA", null=[2]) == "ab"
    assert who("AA-----A", "AA-----A", null=[2, 3, 4, 5, 6]) == "ab"
    assert who("---", "---", null=[0, 1, 2]) == ""


@given(rows)
def test_nobody_is_judged_by_what_others_did(column: str) -> None:
    steady = "A" * len(column)
    other = column[::-1]
    assert ("b" in who(steady, column)) == ("b" in who(steady, column, other))


@given(rows, st.data())
def test_better_is_never_worse(column: str, data: st.DataObject) -> None:
    """After its first acceptance, a record in which a peer did better never makes it less expected."""
    column = column[-MEMORY:]
    first = column.find(ACCEPTED)
    if first < 0 or first == len(column) - 1:
        return
    at = data.draw(st.integers(first + 1, len(column) - 1))
    grades = ABSENT + FAILED + REJECTED + ACCEPTED
    grade = data.draw(st.integers(max(grades.index(column[at]), 1), 3))
    better = column[:at] + grades[grade] + column[at + 1 :]
    steady = "A" * len(column)
    assert who(steady, column) <= who(steady, better)


@given(rows)
def test_whoever_was_accepted_three_times_in_a_row_is_waited_for_and_who_was_missing_last_is_not(column: str) -> None:
    assert "b" in who("A" * (len(column) + 3), column + "AAA")
    assert "b" not in who("A" * (len(column) + 1), column + "-")


def deadlines(column: str) -> list[int]:
    """The rounds in which a peer that behaves like this, beside a steady one, was waited for in vain."""
    past: tuple[Attendance, ...] = before_genesis([A, B])
    cost = []
    for round_, letter in enumerate(column):
        if B in expected(past) and letter in ABSENT + FAILED:
            cost.append(round_)
        past = (*past, *past_of("A", letter))[-MEMORY:]
    return cost


@given(st.text(alphabet=ACCEPTED + REJECTED + FAILED + ABSENT, min_size=MEMORY, max_size=6 * MEMORY))
def test_one_peer_costs_at_most_a_quarter_of_the_deadlines(column: str) -> None:
    """The most that can be had is AAA- again and again: three rounds of work for one deadline."""
    cost = deadlines(column)
    for start in range(len(column) - MEMORY + 1):
        assert sum(start <= round_ < start + MEMORY for round_ in cost) <= MEMORY // 4 + 1
    assert len(cost) <= len(column) // 4 + 1


@pytest.mark.parametrize("missing", [ABSENT, FAILED])
@pytest.mark.parametrize("period", [2, 3])
def test_who_is_away_every_other_round_costs_two_deadlines_and_no_more(missing: str, period: int) -> None:
    column = (ACCEPTED * (period - 1) + missing) * 32
    assert deadlines(column) == [period - 1, 2 * period - 1]


def test_one_silent_round_is_one_deadline() -> None:
    assert deadlines("AA" + ABSENT * 20) == [2]


def record(*entries: tuple[bytes, str], kind: Kind = Kind.ROUND) -> Record:
    none = prepare([], [], run_spec())
    return Record(
        run_id=hash32("run"),
        leader=hash32("leader"),
        round=3,
        kind=kind,
        parent=hash32("parent"),
        turn=0,
        seal=hash32("seal"),
        outer_step=0,
        root=hash32("root"),
        spec_digest=hash32("spec"),
        entries=tuple(Entry(public, 3, b"head", reason) for public, reason in entries),
        scores=(),
        weights=none.weights,
        unmoved=none.unmoved,
        bundle=blake3(b"").digest(),
        bundle_bytes=0,
        checkpoint=bytes(32),
        amendments=(),
        proofs=(),
        opening=opening(),
    )


def test_what_a_record_says() -> None:
    """A valid submission counts in a null round too; one that only got no seat was there but not accepted."""
    there = attendance(record((A, NULL_ROUND), (B, NOT_SELECTED), (C, "possession"), kind=Kind.NULL))
    assert there == Attendance(frozenset({A}), frozenset(PEERS), frozenset(), null=True)
    assert attendance(record((A, ""), (B, ""))).accepted == frozenset({A, B})


def test_a_failed_payload_is_a_miss_and_a_bad_head_is_not() -> None:
    for reason in PAYLOAD_REASONS:
        assert attendance(record((A, reason))).missing(A)
    for reason in HEAD_REASONS | {"uid_mismatch", NOT_SELECTED, NULL_ROUND, ""}:
        assert not attendance(record((A, reason))).missing(A)
    assert attendance(record((A, ""))).missing(B)


def test_the_memory_is_sixteen_records_long() -> None:
    past: tuple[Attendance, ...] = ()
    for i in range(20):
        past = remember(past, record((A, ""), (hash32(i), "possession")))
    assert len(past) == MEMORY == 16
    assert seen_in(past) == {A, *(hash32(i) for i in range(4, 20))}


def test_order_of_peers_never_shows() -> None:
    entries = [(A, ""), (B, "signature"), (C, NULL_ROUND)]
    assert len({attendance(record(*order)) for order in itertools.permutations(entries)}) == 1
