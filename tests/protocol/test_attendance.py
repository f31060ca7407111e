"""Whoever keeps coming is waited for, and whoever stays away costs one deadline once."""

from __future__ import annotations

import itertools

from blake3 import blake3
from builders import beacon, hash32, opening, run_spec
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.attendance import MEMORY, NULL_ROUND, Attendance, attendance, before_genesis, expected
from muster.protocol.ledger import prepare
from muster.protocol.wire import Entry, Kind, Record

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
PEERS = (A, B, C)


def seen(accepted: str = "", present: str = "") -> Attendance:
    """Of one record, with one letter a peer; who is accepted is present."""
    keys = dict(zip("abc", PEERS, strict=True))
    return Attendance(frozenset(keys[c] for c in accepted), frozenset(keys[c] for c in accepted + present))


def test_a0_is_waited_for_from_the_start() -> None:
    assert expected(before_genesis([B, A])) == (A, B)
    assert expected(before_genesis([])) == ()
    assert expected([]) == ()


def test_one_silent_round_is_one_deadline() -> None:
    history = list(before_genesis([A, B]))
    history.append(seen("a"))
    assert expected(history) == (A,)
    history.append(seen("a"))
    assert expected(history) == (A,)


def test_who_comes_back_is_waited_for_after_two_acceptances() -> None:
    history = [seen("ab"), seen("a"), seen("a")]
    assert expected(history) == (A,)
    history.append(seen("ab"))
    assert expected(history) == (A,)
    history.append(seen("ab"))
    assert expected(history) == (A, B)


def test_one_rejection_is_forgiven_and_two_are_not() -> None:
    assert expected([seen("a"), seen("a"), seen("", "a")]) == (A,)
    assert expected([seen("a"), seen("", "a"), seen("", "a")]) == ()
    assert expected([seen("", "a"), seen("a"), seen("a")]) == (A,)


@given(st.lists(st.tuples(st.frozensets(st.sampled_from(PEERS)), st.frozensets(st.sampled_from(PEERS))), max_size=6))
def test_law(rows: list[tuple[frozenset[bytes], frozenset[bytes]]]) -> None:
    history = [Attendance(accepted, accepted | present) for accepted, present in rows]
    waited = expected(history)
    assert list(waited) == sorted(set(waited))
    assert waited == expected(history[-MEMORY:])
    for peer in PEERS:
        times = sum(peer in row.accepted for row in history[-3:])
        assert (peer in waited) == (times >= 2 and peer in history[-1].present)


def record(*entries: tuple[bytes, str]) -> Record:
    _, none = prepare([], run_spec())
    return Record(
        run_id=hash32("run"),
        leader=hash32("leader"),
        round=3,
        kind=Kind.NULL,
        parent=hash32("parent"),
        turn=0,
        seal=hash32("seal"),
        outer_step=0,
        root=hash32("root"),
        spec_digest=hash32("spec"),
        entries=tuple(Entry(public, b"head", reason) for public, reason in entries),
        scores=(),
        weights=none,
        bundle=blake3(b"").digest(),
        bundle_bytes=0,
        evaluate=beacon("evaluate"),
        checkpoint=bytes(32),
        amendments=(),
        opening=opening(),
    )


def test_what_a_record_says() -> None:
    """A valid submission counts in a null round too; one that only got no seat was there but not accepted."""
    there = attendance(record((A, NULL_ROUND), (B, "not_selected"), (C, "possession")))
    assert there == Attendance(frozenset({A}), frozenset(PEERS))
    assert attendance(record((A, ""), (B, ""))).accepted == frozenset({A, B})


def test_order_of_peers_never_shows() -> None:
    rows = [(A, ""), (B, "signature"), (C, NULL_ROUND)]
    assert len({attendance(record(*order)) for order in itertools.permutations(rows)}) == 1
