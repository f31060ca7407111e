"""Whoever reads a journal beside its writer gets whole events, in order, each once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_files import file_size

from muster.node.telemetry.events import Finished, Joined, Key, Submitted, Trained
from muster.node.telemetry.facts import Facts
from muster.node.telemetry.health import problems
from muster.node.telemetry.journal import Journal, Noted, read_journal

SOON = 0.005
"""Seconds between two tries, and between two looks at what a thread has done."""

DEADLINE = 20.0


def test_events_are_read_in_order_and_once(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "miner.jsonl"
    ticks = iter((1.0, 2.0, 3.0))
    journal = Journal(path, clock=lambda: next(ticks))
    told = [Trained(0, steps=2, seconds=0.5, loss=1.5), Submitted(0, bytes=7, values=3), Finished(root="ab")]
    journal.note(told[0])
    journal.note(told[1])
    journal.close()
    first = read_journal(path)
    assert first.noted == [Noted(1.0, told[0]), Noted(2.0, told[1])]
    again = Journal(path, clock=lambda: next(ticks))
    again.note(told[2])
    again.close()
    assert read_journal(path, first.offset).noted == [Noted(3.0, told[2])]
    lines = path.read_text().splitlines()
    assert lines[0] == '{"time":1.0,"event":"trained","round":0,"steps":2,"seconds":0.5,"loss":1.5}'


def test_half_a_line_is_left_for_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"time":1,"event":"key","round":1}\n{"time":2,"event":"k')
    look = read_journal(path)
    assert look.noted == [Noted(1.0, Key(1))]
    with path.open("ab") as file:
        file.write(b'ey","round":2}\n')
    assert read_journal(path, look.offset).noted == [Noted(2.0, Key(2))]


def test_lines_that_are_no_events_are_passed_over_and_wrong_ones_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    cut, other, wrong = b'{"time":1,"event":"k{"time":2}', b"[1]", b'{"time":1,"event":"key","round":"one"}'
    later, good = b'{"time":1,"event":"of_a_later_release"}', b'{"time":3,"event":"key","round":3}'
    path.write_bytes(b"\n".join([cut, other, wrong, later, b"", good, b""]))
    look = read_journal(path)
    assert (look.noted, look.wrong) == ([Noted(3.0, Key(3))], 1)
    assert look.offset == path.stat().st_size


def test_a_journal_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none.jsonl", 5) == ([], 5, 0)


def test_without_a_file_events_stay_in_memory() -> None:
    journal = Journal(None, clock=lambda: 0.0)
    journal.note(Joined(3, hotkey="5Me"))
    journal.close()
    assert journal.noted == [Noted(0.0, Joined(3, hotkey="5Me"))]


class TestDisk:
    """A disk that is full, read-only or gone loses no line unless that lasts too long, and it heals by itself."""

    @pytest.fixture
    def facts(self) -> Facts:
        return Facts()

    @pytest.fixture
    def journal(self, tmp_path: Path, facts: Facts) -> Iterator[Journal]:
        """It tries again at once, and holds three lines."""
        made = Journal(tmp_path / "logs" / "a.jsonl", lambda: 0.0, facts.note, retry=SOON, most=3)
        yield made
        made.close()

    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "logs" / "a.jsonl"

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for the writer's thread."""
        end = time.monotonic() + DEADLINE
        while not true():
            assert time.monotonic() < end
            time.sleep(SOON)

    def rounds(self, tmp_path: Path) -> list[int]:
        found = [noted.event for noted in read_journal(self.path(tmp_path)).noted]
        return [event.round for event in found if isinstance(event, Key)]

    def test_a_full_disk(
        self, tmp_path: Path, journal: Journal, facts: Facts, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal.note(Key(0))
        self.until(lambda: self.rounds(tmp_path) == [0])
        size = self.path(tmp_path).stat().st_size
        with file_size(size + 10):  # half of the next line fits
            journal.note(Key(1))
            self.until(lambda: bool(facts.ailing))
            (sentence,) = facts.ailing.values()
            assert sentence == "the journal cannot be kept on disk: File too large; free space or mend the disk"
            assert sentence in problems(facts, None, 0.0)
            assert self.path(tmp_path).stat().st_size == size, "no half of a line stands there"
        self.until(lambda: not facts.ailing)
        self.until(lambda: self.rounds(tmp_path) == [0, 1])
        names = [noted.event.name for noted in read_journal(self.path(tmp_path)).noted]
        assert names == ["key", "key", "ailing", "recovered"]
        told = [record.getMessage() for record in caplog.records if "journal" in record.getMessage()]
        assert told == [f"{sentence} (it is tried again)"], "once"

    def test_a_folder_that_is_gone(self, tmp_path: Path, journal: Journal, facts: Facts) -> None:
        """What was written is gone with it; the file is made again when it can be."""
        journal.note(Key(0))
        self.until(lambda: self.rounds(tmp_path) == [0])
        folder = self.path(tmp_path).parent
        folder.rename(tmp_path / "elsewhere")
        folder.touch()
        journal.note(Key(1))
        self.until(lambda: bool(facts.ailing))
        folder.unlink()
        self.until(lambda: self.rounds(tmp_path) == [1])
        assert not facts.ailing

    def test_more_than_it_holds_is_counted(self, tmp_path: Path, journal: Journal, facts: Facts) -> None:
        folder = self.path(tmp_path).parent
        folder.rename(tmp_path / "elsewhere")
        folder.touch()
        journal.note(Key(0))
        self.until(lambda: bool(facts.ailing))  # which is a line itself: Key(0) is at work, and the queue holds one
        for round_ in range(1, 6):
            journal.note(Key(round_))
        folder.unlink()
        self.until(lambda: facts.lines_lost > 0)
        assert facts.lines_lost == 4, "three of these, and that it can be written again"
        self.until(lambda: self.rounds(tmp_path) == [0, 1, 2])
        self.until(lambda: b'"lines_lost"' in self.path(tmp_path).read_bytes())

    def test_closing_waits_for_no_disk(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        journal = Journal(tmp_path / "logs" / "a.jsonl", retry=DEADLINE)
        (tmp_path / "logs").rename(tmp_path / "elsewhere")
        (tmp_path / "logs").touch()
        journal.note(Key(0))
        journal.close()
        assert any("of the journal are lost" in record.getMessage() for record in caplog.records)

    def test_at_the_start_somebody_is_there_to_be_told(self, tmp_path: Path) -> None:
        (tmp_path / "logs").touch()
        with pytest.raises(FileExistsError):
            Journal(tmp_path / "logs" / "a.jsonl")

    def test_whatever_the_writer_meets_it_goes_on(
        self, tmp_path: Path, journal: Journal, facts: Facts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its thread is nobody's: what ended it would be seen by nobody."""
        fails = iter((True, True))
        plain = os.write

        def stumbles(handle: int, data: bytes) -> int:
            if next(fails, False):
                raise RuntimeError("a bug")
            return plain(handle, data)

        monkeypatch.setattr(os, "write", stumbles)
        journal.note(Key(0))
        self.until(lambda: self.path(tmp_path).exists() and self.rounds(tmp_path) == [0])
        self.until(lambda: not facts.ailing)

    def test_half_a_line_of_a_life_that_was_killed_is_ended_first(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"time":1,"event":"k')
        journal = Journal(path, clock=lambda: 2.0)
        journal.note(Key(3))
        journal.close()
        assert read_journal(path).noted == [Noted(2.0, Key(3))]
        assert path.read_bytes().count(b"\n") == 2

    def test_a_file_begun_anew_is_read_from_its_beginning(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"time":1,"event":"key","round":1}\n' * 2)
        offset = read_journal(path).offset
        path.write_bytes(b'{"time":2,"event":"key","round":2}\n')
        assert read_journal(path, offset).noted == [Noted(2.0, Key(2))]
