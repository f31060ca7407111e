"""The score store gives back what was committed, whatever happens to the process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_files import file_size

from muster.node.telemetry.ailments import Ailments
from muster.node.telemetry.events import Ailing, Event, Recovered
from muster.protocol.errors import DiskFailed, LedgerError, StorageError
from muster.validator.gauntlet.score_store import KEPT, Committed, ScoreStore, Stage

A, B = b"a" * 32, b"b" * 32


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / "scores.sqlite")


def test_a_new_store_is_empty(store: ScoreStore) -> None:
    assert (store.find(A), store.newest(9), store.unfinished()) == (None, None, [])


def test_files_come_back_as_they_were(store: ScoreStore, tmp_path: Path) -> None:
    assert store.commit(0, A, b"one") == Committed(0, A, b"one", Stage.COMMITTED)
    store.commit(5, B, b"two")
    again = ScoreStore(tmp_path / "scores.sqlite")
    assert again.find(A) == Committed(0, A, b"one", Stage.COMMITTED)
    assert again.newest(6) == again.find(B) == Committed(5, B, b"two", Stage.COMMITTED)
    assert again.newest(5) == again.find(A)
    assert again.newest(0) is None


def test_a_record_is_judged_once(store: ScoreStore) -> None:
    store.commit(3, A, b"one")
    store.reached(A, Stage.PUBLISHED)
    assert store.commit(3, A, b"one").stage is Stage.PUBLISHED
    with pytest.raises(LedgerError, match="another file of round 3"):
        store.commit(3, A, b"two")
    assert store.find(A) == Committed(3, A, b"one", Stage.PUBLISHED)


def test_siblings_stand_beside_each_other(store: ScoreStore) -> None:
    store.commit(3, A, b"one")
    store.commit(3, B, b"two")
    assert [one.record for one in store.unfinished()] == [A, B]
    assert store.newest(4) == store.find(B), "the one that was judged last"


def test_stages_only_go_on(store: ScoreStore) -> None:
    store.commit(0, A, b"one")
    store.reached(A, Stage.DONE)
    store.reached(A, Stage.PUBLISHED)
    assert store.find(A) == Committed(0, A, b"one", Stage.DONE)
    assert store.unfinished() == []


def test_old_rounds_are_let_go_of(store: ScoreStore) -> None:
    for round_ in range(KEPT + 2):
        store.commit(round_, bytes([round_]) * 32, b"file")
    assert store.find(bytes([1]) * 32) is None
    assert store.find(bytes([2]) * 32) is not None


CHILD = """
import os, signal, sqlite3, sys
from pathlib import Path
from muster.validator.gauntlet.score_store import ScoreStore

store = ScoreStore(Path(sys.argv[1]))
store.commit(0, b"a" * 32, b"one")

connect = sqlite3.connect

class Connection(sqlite3.Connection):
    def execute(self, statement, *rest):
        found = super().execute(statement, *rest)
        if statement.startswith("INSERT"):
            os.kill(os.getpid(), signal.SIGKILL)
        return found

sqlite3.connect = lambda *args, **how: connect(*args, factory=Connection, **how)
store.commit(1, b"b" * 32, b"two")
"""


def test_killed_in_the_middle_of_a_commit(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, "-c", CHILD, str(path)], env=environment, timeout=600, check=False)
    assert child.returncode == -signal.SIGKILL
    store = ScoreStore(path)
    assert store.newest(9) == Committed(0, A, b"one", Stage.COMMITTED)
    assert store.commit(1, B, b"another").file == b"another"


def test_many_threads_may_ask(store: ScoreStore) -> None:
    store.commit(0, A, b"one")
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: store.find(A), range(32))) == {store.find(A)}


def test_another_format_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.sqlite") as db:
        db.execute("PRAGMA user_version = 2")
    with pytest.raises(LedgerError, match="has format 2; this release reads format 3"):
        ScoreStore(tmp_path / "old.sqlite")
    (tmp_path / "text").write_text("not a database, but long enough to look at " * 40)
    with pytest.raises(LedgerError, match="damaged or not a score store"):
        ScoreStore(tmp_path / "text")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot use the score store"):
        ScoreStore(tmp_path / "nowhere" / "scores.sqlite")


class TestDisk:
    """One that goes and comes back ends nothing."""

    @pytest.fixture
    def told(self) -> list[Event]:
        return []

    @pytest.fixture
    def store(self, tmp_path: Path, told: list[Event]) -> ScoreStore:
        (tmp_path / "disk").mkdir()
        made = ScoreStore(tmp_path / "disk" / "scores.sqlite", Ailments(told.append))
        made.commit(0, A, b"one")
        return made

    def test_it_is_said_and_what_was_there_is_there_again(
        self, tmp_path: Path, store: ScoreStore, told: list[Event]
    ) -> None:
        disk = tmp_path / "disk"
        disk.rename(tmp_path / "away")
        for _ in range(2):
            with pytest.raises(DiskFailed, match="cannot use the score store"):
                store.commit(1, B, b"two")
        (event,) = told
        assert isinstance(event, Ailing)
        (tmp_path / "away").rename(disk)
        assert store.commit(1, B, b"two").round == 1
        assert store.newest(1) == Committed(0, A, b"one", Stage.COMMITTED)
        assert told[1:] == [Recovered(event.what)]

    def test_a_full_one_can_still_be_read(self, store: ScoreStore, told: list[Event]) -> None:
        with file_size(1):
            with pytest.raises(DiskFailed):
                store.commit(1, B, b"two" * 10_000)
            assert store.find(A) is not None
            assert store.find(B) is None
        assert [type(event) for event in told] == [Ailing], "that it can be read heals nothing"
        store.commit(1, B, b"two")
        assert [type(event) for event in told] == [Ailing, Recovered]

    def test_one_that_came_back_empty_is_begun_anew(self, tmp_path: Path, store: ScoreStore) -> None:
        """As a restart would begin it: what was published stands in the own bucket."""
        (tmp_path / "disk" / "scores.sqlite").unlink()
        assert store.find(A) is None
        assert store.commit(1, B, b"two") == store.find(B)
