"""The book gives back what was committed, whatever happens to the process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.incentive.rating import Rating
from muster.protocol.incentive.score import PeerState
from muster.validator.gauntlet.book import Book

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**53)
peers = st.builds(
    PeerState,
    hotkey=st.text("abcXYZ19", min_size=1, max_size=4),
    mu=numbers,
    rating=st.builds(Rating, numbers, numbers),
    evaluated=counts,
    failures=counts,
    inactive=counts,
    last_score=st.none() | numbers,
    positive=st.booleans(),
)
standings = st.lists(peers, max_size=4).map(lambda some: {peer.hotkey: peer for peer in some})

ONE = {"b": PeerState("b", mu=0.1, last_score=1 / 3, positive=True), "a": PeerState("a")}
TWO = {**ONE, "a": PeerState("a", mu=-0.05, rating=Rating(24.0, 8.0), evaluated=1)}


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "book.sqlite")


def test_a_new_book_is_empty(book: Book) -> None:
    assert book.newest_round() is None
    with pytest.raises(LedgerError, match="no standings of round 0"):
        book.states(0)


def test_rounds_come_back_as_they_were(book: Book, tmp_path: Path) -> None:
    book.commit(0, ONE)
    book.commit(5, TWO)
    again = Book(tmp_path / "book.sqlite")
    assert again.newest_round() == 5
    assert again.states(0) == ONE
    assert again.states(5) == TWO
    assert list(again.states(5)) == ["a", "b"]
    assert type(again.states(0)["b"].positive) is bool


def test_a_round_without_peers_is_a_round(book: Book) -> None:
    book.commit(0, {})
    book.commit(0, {})
    assert book.newest_round() == 0
    assert book.states(0) == {}
    with pytest.raises(LedgerError, match="other standings"):
        book.commit(0, ONE)


def test_the_same_round_twice_must_be_the_same(book: Book) -> None:
    book.commit(3, ONE)
    book.commit(3, dict(reversed(ONE.items())))
    for other in (TWO, {}, {"a": ONE["a"]}):
        with pytest.raises(LedgerError, match="other standings"):
            book.commit(3, other)
    assert book.states(3) == ONE


def test_an_older_round_that_is_known_may_be_repeated(book: Book) -> None:
    book.commit(3, ONE)
    book.commit(4, TWO)
    book.commit(3, ONE)
    assert book.newest_round() == 4


def test_what_lies_before_the_newest_round_is_closed(book: Book) -> None:
    book.commit(3, ONE)
    with pytest.raises(LedgerError, match="round 2 cannot follow round 3"):
        book.commit(2, ONE)
    assert book.newest_round() == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(first=standings, second=standings)
def test_every_value_survives(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, PeerState], second: dict[str, PeerState]
) -> None:
    book = Book(tmp_path_factory.mktemp("book") / "b")
    book.commit(0, first)
    book.commit(1, second)
    book.commit(0, first)
    assert book.states(0) == first
    assert book.states(1) == second


CHILD = """
import os, signal, sys
from pathlib import Path
from muster.validator.gauntlet.book import Book
from muster.protocol.incentive.score import PeerState

class Dying(dict):
    def __getitem__(self, hotkey):
        if hotkey == "z":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(hotkey)

book = Book(Path(sys.argv[1]))
book.commit(0, {"a": PeerState("a", mu=0.05)})
book.commit(1, Dying({h: PeerState(h, mu=0.1) for h in [*(f"a{i}" for i in range(5000)), "z"]}))
"""


def test_killed_in_the_middle_of_a_commit(tmp_path: Path) -> None:
    path = tmp_path / "book.sqlite"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, "-c", CHILD, str(path)], env=environment, timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL
    book = Book(path)
    assert book.newest_round() == 0
    assert book.states(0) == {"a": PeerState("a", mu=0.05)}
    book.commit(1, ONE)
    assert book.states(1) == ONE


def test_any_thread_may_use_it(book: Book) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: book.commit(0, ONE), range(8)))
    assert book.states(0) == ONE


def test_a_file_that_is_no_book_is_named(tmp_path: Path) -> None:
    path = tmp_path / "book.sqlite"
    path.write_bytes(b"not a database, and longer than the header of one" * 40)
    with pytest.raises(LedgerError, match=r"book\.sqlite is damaged or not a book"):
        Book(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "book.sqlite"
    Book(path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(LedgerError, match="has format 2"):
        Book(path)


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot use the book"):
        Book(tmp_path / "missing" / "book.sqlite")
