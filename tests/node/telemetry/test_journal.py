"""Whoever reads a journal beside its writer gets whole events, in order, each once."""

from __future__ import annotations

from pathlib import Path

from muster.node.telemetry.journal import Journal, read_journal


def test_events_are_read_in_order_and_once(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "miner.jsonl"
    ticks = iter((1.0, 2.0, 3.0))
    journal = Journal(path, clock=lambda: next(ticks))
    journal.event("trained", round=0, loss=1.5)
    journal.event("submitted", round=0, bytes=7)
    journal.close()
    first, offset = read_journal(path)
    assert first == [
        {"time": 1.0, "event": "trained", "round": 0, "loss": 1.5},
        {"time": 2.0, "event": "submitted", "round": 0, "bytes": 7},
    ]
    again = Journal(path, clock=lambda: next(ticks))
    again.event("started")
    again.close()
    assert read_journal(path, offset)[0] == [{"time": 3.0, "event": "started"}]


def test_half_a_line_is_left_for_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"event":"one"}\n{"event":"tw')
    events, offset = read_journal(path)
    assert events == [{"event": "one"}]
    with path.open("ab") as file:
        file.write(b'o"}\n')
    assert read_journal(path, offset)[0] == [{"event": "two"}]


def test_what_a_full_disk_left_of_a_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"event":"on{"event":"two"}\n[1]\n{"event":"three"}\n')
    assert read_journal(path)[0] == [{"event": "three"}]


def test_a_journal_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none.jsonl", 5) == ([], 5)


def test_without_a_file_events_stay_in_memory() -> None:
    journal = Journal(None, clock=lambda: 0.0)
    journal.event("joined", round=3)
    journal.close()
    assert journal.events == [{"time": 0.0, "event": "joined", "round": 3}]
