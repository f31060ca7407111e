"""Whoever reads a journal beside its writer gets whole events, in order, each once."""

from __future__ import annotations

from pathlib import Path

from muster.node.telemetry.events import Finished, Joined, Key, Submitted, Trained
from muster.node.telemetry.journal import Journal, Noted, read_journal


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
