"""What a person sees at 80 and at 120 columns, on a terminal and in a log."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest
from builders import score_row
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from muster.history.status import PeerRow, ProcessRow, RoundRow, RunStatus, RunSummary
from muster.history.view import (
    BLOCKS,
    Dashboard,
    LiveView,
    PlainView,
    clock,
    make_view,
    number,
    reasons,
    render_summary,
    round_line,
    sparkline,
)

ROOT = "3fa9c1d2" * 8


def peer(uid: int, behaviour: str = "honest", **rejected: int) -> PeerRow:
    score = score_row("alice", mu=0.42, rating_mu=26.1, rating_sigma=3.1, incentive=0.4 / (uid + 1), peer_score=6.1)
    return PeerRow(uid, f"5F{uid}", f"miner-{uid}", behaviour, 12, 11, rejected, score)


def round_row(number: int, loss: float = 2.5) -> RoundRow:
    phases = {"record": 0.5, "train": 4.1}
    return RoundRow(number, "round", 4, 5, loss, 6.25, phases, 310_000, ROOT)


STATUS = RunStatus(
    run_id="ab" * 32,
    preset="tiny",
    directory="/runs/x",
    round=2,
    rounds_total=12,
    phase="train",
    peers=(peer(0), peer(1), peer(4, "copier", possession_mismatch=7, not_selected=3)),
    rounds=(round_row(0, 5.5), round_row(1, 4.25)),
    processes=(ProcessRow("miner-0", 7, True, 2), ProcessRow("miner-1", 8, False, 0)),
    unigram=3.3121,
    elapsed_s=62.0,
    note="waiting for miner-1",
)


def summary(**changes: object) -> RunSummary:
    values = {field: getattr(STATUS, field) for field in RunStatus.__dataclass_fields__} | {
        "first_record_s": 7.2,
        "wall_s": 92.3,
        "state_roots": (ROOT, ROOT),
        "roots_agree": True,
        "bits_per_value": 9.61,
        "compression_ratio": 213.2,
        "bytes_up": 4_100_000,
        "bytes_down": 16_000_000,
        "utilisation": 0.8123,
        "events": ("miner-0 crashed",),
        "ratings_history": {},
    }
    return RunSummary(**(values | changes))


def show(renderable: RenderableType, width: int, height: int = 40) -> str:
    console = Console(width=width, height=height, file=io.StringIO(), record=True, force_terminal=True)
    console.print(renderable)
    return console.export_text()


@given(values=st.lists(st.floats(-1e6, 1e6), max_size=60), width=st.integers(2, 40))
def test_sparkline_keeps_its_width_and_its_extremes(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(len(values), width)
    if 0 < len(values) <= width and min(values) < max(values):
        assert line[values.index(min(values))] == BLOCKS[0]
        assert line[values.index(max(values))] == BLOCKS[-1]


def test_sparkline_of_a_long_run_keeps_both_ends() -> None:
    assert sparkline([float(i) for i in range(100)], 8) == BLOCKS
    assert sparkline([2.0, 2.0]) == BLOCKS[0] * 2


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (62.9, "1:02"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_numbers_and_reasons() -> None:
    assert (number(None), number(1.234), number(1.234, 1)) == ("–", "1.23", "1.2")
    assert reasons({"b": 1, "late\x1b": 2, "a": 1}.items()) == "late? ×2, a ×1, b ×1"


def test_round_lines() -> None:
    assert round_line(round_row(5)) == (
        "round   5  loss 2.5000  accepted 4/5  6.2 s (train 4.1, record 0.5)  up 310.0 kB  root 3fa9c1d23fa9c1d2"
    )
    assert "null record" in round_line(replace(round_row(6), kind="null"))
    assert "accepted 4/5 and 2 late" in round_line(replace(round_row(5), late=2))


@pytest.mark.parametrize("width", [80, 120])
def test_dashboard_fits_and_tells_all(width: int) -> None:
    text = show(Dashboard(STATUS, ("miner-0 crashed",)), width)
    assert max(map(len, text.splitlines())) <= width
    for expected in (
        *("tiny", "2/12 rounds", "round 2 train", "4.2500 nat/byte", "█▁", "unigram 3.3121"),
        *("1:02", "left 1:02", "restarts 2", "down: miner-1", "waiting for miner-1"),
        *("miner-4", "copier", "11/12", "possession_mismatch", "0.42", "40.0%", "· miner-0 crashed"),
    ):
        assert expected in text, expected
    assert ("26.10 ± 3.10" in text) == (width == 120)
    assert ("16.80" in text) == (width == 80), "its ordinal"


def test_dashboard_counts_the_peers_that_do_not_fit() -> None:
    crowd = replace(STATUS, peers=tuple(peer(uid) for uid in range(50)))
    text = show(Dashboard(crowd, ()), 80, height=24)
    assert "… and 40 more" in text
    assert len(text.splitlines()) <= 24


def test_text_of_peers_is_neither_markup_nor_escape_sequence() -> None:
    row = replace(peer(0), name="[red]\x1b[2J", rejected={"[/]\x1b]0;x\x07": 1})
    hostile = replace(STATUS, peers=(row,))
    for shown in (Dashboard(hostile, ("[bold]\x1b[2J",)), render_summary(summary(peers=(row,)))):
        text = show(shown, 120)
        assert "[red]?[2J" in text
        assert "[/]?]0;x? ×1" in text
        assert "\x1b[2J" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_summary_fits_and_tells_all(width: int) -> None:
    text = show(render_summary(summary()), width)
    assert max(map(len, text.splitlines())) <= width
    for expected in (
        *("2 rounds of tiny in 1:32", "all honest replicas agree", "3fa9c1d23fa9c1d2", "5.5000 → 4.2500"),
        *("9.61 bits", "213×", "4.1 MB up, 16.0 MB down", "81.2%", "miner-4", "· miner-0 crashed"),
        *("/runs/x/report.html", "run    /runs/x"),
    ):
        assert expected in text, expected


def test_summary_says_when_replicas_disagree_and_bounds_events() -> None:
    text = show(render_summary(summary(roots_agree=False, events=tuple(f"event {i}" for i in range(20)))), 80)
    assert "DISAGREE" in text
    assert "12 more events in the report" in text
    assert "event 8" not in text


def test_summary_of_a_run_without_rounds() -> None:
    assert "– nat/byte" in show(render_summary(summary(rounds=(), state_roots=(), peers=())), 80)


def test_plain_view_prints_each_round_once() -> None:
    stream = io.StringIO()
    with PlainView(stream) as view:
        view.update(replace(STATUS, rounds=STATUS.rounds[:1]))
        view.note("restart\x1b[2J")
        view.update(STATUS)
        view.update(STATUS)
        view.finish(summary(rounds=(*STATUS.rounds, round_row(2))))
    lines = stream.getvalue().splitlines()
    assert [line[:9] for line in lines if line.startswith("round")] == ["round   0", "round   1", "round   2"]
    assert lines[1] == "· restart?[2J"
    assert "\x1b" not in stream.getvalue()
    assert "all honest replicas agree" in stream.getvalue()


def test_plain_view_waits_for_the_newest_loss_but_not_for_ever() -> None:
    stream, unmeasured = io.StringIO(), [replace(round_row(r), loss=None) for r in range(3)]
    view = PlainView(stream)
    view.update(replace(STATUS, rounds=tuple(unmeasured[:1])))
    assert stream.getvalue() == ""
    view.update(replace(STATUS, rounds=tuple(unmeasured[:2])))
    assert [line[:9] for line in stream.getvalue().splitlines()] == ["round   0"]
    view.update(replace(STATUS, rounds=(unmeasured[0], round_row(1))))
    assert [line[:9] for line in stream.getvalue().splitlines()] == ["round   0", "round   1"]
    view.finish(summary(rounds=(unmeasured[0], round_row(1), unmeasured[2])))
    assert "round   2  loss –" in stream.getvalue()


def test_live_view_gives_the_terminal_back() -> None:
    console = Console(width=80, height=40, file=io.StringIO(), force_terminal=True)
    with LiveView(console) as view:
        view.note("before anything")
        view.update(STATUS)
        assert "\x1b[?25l" in console.file.getvalue()  # type: ignore[attr-defined]
        view.note("miner-0 crashed")
    assert console.file.getvalue().endswith("\x1b[?25h")  # type: ignore[attr-defined]
    assert "before anything" in console.file.getvalue()  # type: ignore[attr-defined]


def test_live_view_ends_with_the_summary() -> None:
    console = Console(width=80, height=40, file=io.StringIO(), force_terminal=True)
    with LiveView(console) as view:
        view.update(STATUS)
        view.finish(summary())
    tail = console.file.getvalue().rsplit("\x1b[?25h", 1)[1]  # type: ignore[attr-defined]
    assert "replicas agree" in tail
    assert "left 1:02" not in tail


def test_the_view_fits_where_it_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    pipe = Console(file=io.StringIO(), force_terminal=False)
    assert isinstance(make_view(terminal, json=False), LiveView)
    view = make_view(pipe, json=False)
    assert isinstance(view, PlainView)
    view.note("here")
    assert pipe.file.getvalue() == "· here\n"  # type: ignore[attr-defined]
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    make_view(terminal, json=True).note("there")
    assert stderr.getvalue() == "· there\n"
    assert terminal.file.getvalue() == ""  # type: ignore[attr-defined]
