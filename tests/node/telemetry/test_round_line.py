"""A miner's terminal: one line a round, whatever happened in it, with what was done, what came of it and how long."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.node.telemetry import events
from muster.node.telemetry.events import Event
from muster.node.telemetry.journal import Noted
from muster.node.telemetry.round_line import RoundLine
from muster.protocol.reasons import REASONS, sentence_of

ME, OTHER = "5Me", "5Other"


def applied(
    round_: int = 3, kind: str = "round", accepted: tuple[str, ...] = (), rejected: dict[str, str] | None = None
) -> events.Applied:
    """A record with these outcomes."""
    return events.Applied(
        round_, kind=kind, root="r", outer_step=1, accepted=accepted, rejected=rejected or {}, bytes_up=0, bytes_down=0
    )


TRAINED = events.Trained(3, steps=30, seconds=19.0, loss=3.214)
SUBMITTED = events.Submitted(3, bytes=2_100_000, values=9)
KEY = events.Key(3)


def told(*timed: tuple[float, Event]) -> list[str]:
    """The lines that events at these times make."""
    lines: list[str] = []
    line = RoundLine(lines.append)
    line.note(Noted(0.0, events.Joined(0, hotkey=ME)))
    for time, event in timed:
        line.note(Noted(time, event))
    return lines


def work(at: float = 100.0) -> tuple[tuple[float, Event], ...]:
    """A round's work until its key is shown."""
    return (at, events.Training(3)), (at + 19.2, TRAINED), (at + 21.2, SUBMITTED), (at + 24.3, KEY)


def test_a_round_is_one_line_with_everything() -> None:
    (line,) = told(*work(), (125.3, applied(accepted=(ME, OTHER))))
    assert line == (
        "round 3: trained 30 steps (loss 3.214), sent 2.1 MB, accepted with 1 other; "
        "25.3 s: train 19.2, submit 2.0, seal 3.1, record 1.0; next: round 4"
    )


def test_what_came_late_is_told_beside_what_came_of_the_round() -> None:
    record = replace(applied(rejected={ME: "late"}), late=(ME, OTHER, ME))
    (line,) = told(*work(), (125.3, record))
    assert "not accepted (late): " in line
    assert "work of 2 earlier rounds taken in late" in line
    assert "taken in late" not in told(*work(), (125.3, replace(record, late=(OTHER,))))[0]


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_why_it_was_not_accepted(reason: str) -> None:
    (line,) = told(*work(), (125.3, applied(rejected={ME: reason})))
    assert f"not accepted ({reason}): {sentence_of(reason)[:-1]}; 25.3 s" in line


@pytest.mark.parametrize(
    ("timed", "said"),
    [
        (work(), "sent 2.1 MB, not accepted: it came after the seal"),
        (work()[:2], "trained 30 steps (loss 3.214), nothing sent: the round was over first; "),
        ((), "round 3: nothing sent: the round was over first; next"),
        (((100.0, events.Lost(3, problem="a number")),), "round 3: nothing sent: a number; next"),
        (((100.0, events.Unregistered(3)),), "sat out: this hotkey has no slot"),
        # a life that begins in the middle of the round has seen its end only
        (((120.0, KEY),), "5.0 s: record 5.0"),
        # what belongs to another round is not this one's
        (((1.0, events.Trained(2, steps=7, seconds=1.0, loss=9.0)), *work()), "round 3: trained 30 steps"),
    ],
)
def test_what_happened(timed: tuple[tuple[float, Event], ...], said: str) -> None:
    lines = told(*timed, (125.0, applied(accepted=(OTHER,))))
    assert len(lines) == 1
    assert said in lines[0]


def test_pay_is_told_once_and_why_there_is_none() -> None:
    paid = events.Judged(1, validator="v", peers=4, share=0.25, reason="It is paid for all its work.", rank=2)
    unpaid = events.Judged(2, validator="v", peers=4, share=0.0, reason="It has not been measured yet.")
    first, second, third = told((1.0, paid), (2.0, applied(3)), (3.0, unpaid), (4.0, applied(4)), (5.0, applied(5)))
    assert "; pay of round 1: rank 2 of 4, share 0.250; next" in first
    assert "; pay of round 2: no rank, share 0.000 (It has not been measured yet.); next" in second
    assert "pay" not in third


def test_the_end_and_the_way_back() -> None:
    lines = told(
        (1.0, applied(3)), (2.0, events.Undone(3, record="x", root="r", outer_step=0)), (3.0, applied(3, "close"))
    )
    assert lines[1] == "round 3 is open again: its record was taken back; next: round 3"
    assert lines[2] == "round 3: closed, nothing is applied any more; the run is over"


ANY = st.sampled_from(
    [
        events.Training(3), TRAINED, SUBMITTED, KEY, events.Lost(3, problem="p\nq"), events.Unregistered(3),
        events.Trouble(3, problem="p"), events.SealRefused(3, seal="s", problem="p"), applied(accepted=(ME,)),
        applied(4),
    ]
)  # fmt: skip


@given(st.lists(st.tuples(st.floats(0, 1e6), ANY)))
def test_every_record_is_one_line(timed: list[tuple[float, Event]]) -> None:
    lines = told(*timed)
    assert len(lines) == sum(isinstance(event, events.Applied) for _, event in timed)
    assert not any("\n" in line or "-" in line.partition(" s: ")[2] for line in lines)
