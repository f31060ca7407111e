"""One anchor proves every record before it, and nothing else passes for one."""

from dataclasses import replace

import pytest
from builders import hash32
from closed_rounds import good
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import LedgerError
from muster.protocol.ledger.lineage import Lineage
from muster.protocol.types import Anchor
from muster.protocol.wire import Record

RECORD = good().record


def digest(round_: int) -> bytes:
    """The digest of a round's record."""
    return hash32("record", round_)


def record(round_: int) -> Record:
    """A record that continues the one of the round before."""
    return replace(RECORD, round=round_, parent=digest(round_ - 1))


def read_back(lineage: Lineage, newest: Anchor, round_: int) -> list[int]:
    """Follow an anchor back to a round; the rounds whose records had to be read."""
    read = []
    while (at := lineage.trace(newest, round_)).round > round_:
        lineage.take(at, record(at.round), digest(at.round))
        read.append(at.round)
    assert at == Anchor(round_, digest(round_))
    return read


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=8))
def test_every_record_is_read_once_whatever_is_asked_in_whatever_order(asked: list[tuple[int, int]]) -> None:
    lineage, read = Lineage(), []
    for newest, round_ in asked:
        read += read_back(lineage, Anchor(max(newest, round_), digest(max(newest, round_))), min(newest, round_))
    assert len(set(read)) == len(read)


@pytest.mark.parametrize(
    ("made", "found"),
    [(record(5), digest(4)), (record(5), hash32("other")), (record(4), digest(5)), (record(6), digest(5))],
)
def test_another_record_is_refused_and_teaches_nothing(made: Record, found: bytes) -> None:
    lineage, at = Lineage(), Anchor(5, digest(5))
    with pytest.raises(LedgerError, match="round 5 is not the one"):
        lineage.take(at, made, found)
    assert lineage.trace(at, 2) == at


def test_a_digest_proves_its_own_round_only() -> None:
    lineage = Lineage()
    assert read_back(lineage, Anchor(5, digest(5)), 0) == [5, 4, 3, 2, 1]
    misplaced = Anchor(9, digest(5))
    assert lineage.trace(misplaced, 0) == misplaced


@given(newest=st.integers(1, 20), round_=st.integers(0, 20), again=st.integers(0, 20))
def test_what_is_forgotten_is_read_again_and_nothing_else(newest: int, round_: int, again: int) -> None:
    lineage, anchor = Lineage(), Anchor(newest, digest(newest))
    read_back(lineage, anchor, 0)
    lineage.forget(round_)
    assert read_back(lineage, anchor, min(again, newest)) == list(range(min(round_ - 1, newest), again, -1))


@given(first=st.integers(0, 12), last=st.integers(0, 12), known=st.integers(0, 8))
def test_what_lies_between_is_as_much_as_is_known(first: int, last: int, known: int) -> None:
    """Of the rounds `known` … 8 every record has been read, or is the anchored one."""
    lineage, newest = Lineage(), Anchor(8, digest(8))
    read_back(lineage, newest, known)
    expected = [Anchor(round_, digest(round_)) for round_ in range(8, known - 1, -1) if first <= round_ <= last]
    assert lineage.between(newest, first, last) == expected
