"""The score store gives back what was committed, whatever happens to the process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from score_rows import rows_of

from muster.protocol.columns import About, columns_of
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.incentive.row import PeerState
from muster.validator.gauntlet.score_store import ScoreStore, schema

standings = st.lists(rows_of(PeerState), max_size=4).map(lambda some: {state.hotkey: state for state in some})

ONE = {"b": PeerState("b", mu=0.1, last_score=1 / 3, positive=True), "a": PeerState("a")}
TWO = {**ONE, "a": PeerState("a", mu=-0.05, rating_mu=24.0, rating_sigma=8.0, evaluated=1)}


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / "scores.sqlite")


def test_a_new_store_is_empty(store: ScoreStore) -> None:
    assert store.newest_round() is None
    with pytest.raises(LedgerError, match="no standings of round 0"):
        store.states(0)


def test_rounds_come_back_as_they_were(store: ScoreStore, tmp_path: Path) -> None:
    store.commit(0, ONE)
    store.commit(5, TWO)
    again = ScoreStore(tmp_path / "scores.sqlite")
    assert again.newest_round() == 5
    assert again.states(0) == ONE
    assert again.states(5) == TWO
    assert list(again.states(5)) == ["a", "b"]
    assert type(again.states(0)["b"].positive) is bool


def test_a_round_without_peers_is_a_round(store: ScoreStore) -> None:
    store.commit(0, {})
    store.commit(0, {})
    assert store.newest_round() == 0
    assert store.states(0) == {}
    with pytest.raises(LedgerError, match="other standings"):
        store.commit(0, ONE)


def test_the_same_round_twice_must_be_the_same(store: ScoreStore) -> None:
    store.commit(3, ONE)
    store.commit(3, dict(reversed(ONE.items())))
    for other in (TWO, {}, {"a": ONE["a"]}):
        with pytest.raises(LedgerError, match="other standings"):
            store.commit(3, other)
    assert store.states(3) == ONE


def test_an_older_round_that_is_known_may_be_repeated(store: ScoreStore) -> None:
    store.commit(3, ONE)
    store.commit(4, TWO)
    store.commit(3, ONE)
    assert store.newest_round() == 4


def test_what_lies_before_the_newest_round_is_closed(store: ScoreStore) -> None:
    store.commit(3, ONE)
    with pytest.raises(LedgerError, match="round 2 cannot follow round 3"):
        store.commit(2, ONE)
    assert store.newest_round() == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(first=standings, second=standings)
def test_every_value_survives(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, PeerState], second: dict[str, PeerState]
) -> None:
    store = ScoreStore(tmp_path_factory.mktemp("store") / "b")
    store.commit(0, first)
    store.commit(1, second)
    store.commit(0, first)
    assert store.states(0) == first
    assert store.states(1) == second


CHILD = """
import os, signal, sys
from pathlib import Path
from muster.validator.gauntlet.score_store import ScoreStore
from muster.protocol.incentive.row import PeerState

class Dying(dict):
    def __getitem__(self, hotkey):
        if hotkey == "z":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(hotkey)

store = ScoreStore(Path(sys.argv[1]))
store.commit(0, {"a": PeerState("a", mu=0.05)})
store.commit(1, Dying({h: PeerState(h, mu=0.1) for h in [*(f"a{i}" for i in range(5000)), "z"]}))
"""


def test_killed_in_the_middle_of_a_commit(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, "-c", CHILD, str(path)], env=environment, timeout=600, check=False)
    assert child.returncode == -signal.SIGKILL
    store = ScoreStore(path)
    assert store.newest_round() == 0
    assert store.states(0) == {"a": PeerState("a", mu=0.05)}
    store.commit(1, ONE)
    assert store.states(1) == ONE


def test_any_thread_may_use_it(store: ScoreStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.commit(0, ONE), range(8)))
    assert store.states(0) == ONE


def test_a_file_that_is_no_score_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    path.write_bytes(b"not a database, and longer than the header of one" * 40)
    with pytest.raises(LedgerError, match=r"scores\.sqlite is damaged or not a score store"):
        ScoreStore(path)


@pytest.mark.parametrize("other", [1, 3])
def test_another_format_is_refused(other: int, tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    ScoreStore(path)
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {other}")
    db.close()
    with pytest.raises(LedgerError, match=f"has format {other}"):
        ScoreStore(path)


def test_a_standing_that_cannot_be_is_not_gone_on_from(store: ScoreStore, tmp_path: Path) -> None:
    store.commit(0, ONE)
    with sqlite3.connect(tmp_path / "scores.sqlite") as db:
        db.execute("UPDATE states SET mu = 2.0 WHERE hotkey = 'b'")
    db.close()
    with pytest.raises(LedgerError, match=r"is damaged: a PeerState cannot be: mu is 2\.0"):
        store.states(0)


def test_opening_again_changes_nothing(store: ScoreStore, tmp_path: Path) -> None:
    store.commit(0, ONE)
    before = (tmp_path / "scores.sqlite").read_bytes()
    ScoreStore(tmp_path / "scores.sqlite")
    assert (tmp_path / "scores.sqlite").read_bytes() == before


@dataclass(frozen=True)
class LaterState(PeerState):
    """A standing as a later release may have it."""

    streak: Annotated[int | None, About(30, "good rounds in a row", later=True)] = None


def test_a_column_that_came_later_is_added_to_an_older_file(store: ScoreStore, tmp_path: Path) -> None:
    """Standings of before have no value in it, and an older release reads them as it did."""
    store.commit(0, ONE)
    columns = columns_of(LaterState)
    with sqlite3.connect(tmp_path / "scores.sqlite") as db:
        there = {name for _, name, *_ in db.execute("PRAGMA table_info(states)")}
        assert schema(columns_of(PeerState), there) == []
        for statement in schema(columns, there):
            db.execute(statement)
        assert schema(columns, there | {"streak"}) == []
        assert db.execute("SELECT streak FROM states").fetchall() == [(None,), (None,)]
    db.close()
    again = ScoreStore(tmp_path / "scores.sqlite")
    assert again.states(0) == ONE
    again.commit(1, TWO)
    assert again.states(1) == TWO


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot use the score store"):
        ScoreStore(tmp_path / "missing" / "scores.sqlite")
