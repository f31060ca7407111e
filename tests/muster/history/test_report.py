"""The page is self-contained, well-formed, deterministic, and no peer can write into it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from builders import score_row
from hypothesis import given
from hypothesis import strategies as st

from muster.history.report import Frame, headline, legend, loss_figure, render_report, span, ticks, write_report
from muster.history.status import PeerRow, RoundRow, RunSummary
from muster.protocol.columns import columns_of
from muster.protocol.errors import StorageError
from muster.protocol.incentive.row import ScoreRow

ROOTS = tuple(f"{i:02x}" * 32 for i in range(3))
EVIL = "<script>alert(1)</script>\"'&\x1b"

SCORE = score_row("alice", mu=0.4, rating_mu=26.0, rating_sigma=3.0, peer_score=6.0)


def peer(uid: int, name: str) -> PeerRow:
    return PeerRow(uid, f"5F{uid}", name, "honest", 3, 2, {"tardy": 1, "possession": 2}, SCORE, "rank 1 of 2")


def round_row(number: int) -> RoundRow:
    phases = {"train": 4.0, "seal": 1.0}
    return RoundRow(number, "round", 2, 2, 5.0 - number, 5.0, phases, 1000, ROOTS[number], bytes_down=2000)


SUMMARY = RunSummary(
    run_id="ab" * 32,
    preset="tiny",
    directory="/runs/my run",
    round=3,
    rounds_total=3,
    phase="closed",
    peers=(peer(0, "miner-0"), peer(1, "miner-1")),
    rounds=tuple(round_row(i) for i in range(3)),
    processes=(),
    unigram=3.3121,
    elapsed_s=15.0,
    note="",
    first_record_s=5.0,
    wall_s=75.0,
    state_roots=ROOTS,
    roots_agree=True,
    bits_per_value=9.61,
    compression_ratio=213.2,
    bytes_up=3000,
    bytes_down=6000,
    utilisation=0.8,
    events=("miner-1 crashed",),
    ratings_history={f"5F{uid}": tuple((r, 25.0 + r, 8.0) for r in range(3)) for uid in range(2)},
)


class Outline(HTMLParser):
    """Checks that elements nest, and collects them and their text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_tells_the_run() -> None:
    page = Outline(render_report(SUMMARY))
    assert page.seen.count("svg") == 4
    for expected in (
        "2 miners brought held-out loss from 5.000 to 3.000 nat/byte in 3 rounds; every honest replica",
        *("1:15", "80.0%", "213×", "9.61 bits", "letter frequencies alone (3.3121)"),
        *(
            "miner-0",
            "26.00 ± 3.00",
            "17.00",
            "2 × The peer did not show that",
            "1 × tardy",
            "rank 1 of 2",
            "50.0%",
            ROOTS[2],
            ROOTS[0][:16],
            "miner-1 crashed",
        ),
        *("muster audit '/runs/my run'", "round 1, train: 4.00 s", "round 2: 1.0 kB up"),
    ):
        assert expected in page.text, expected


def test_every_column_with_a_title_is_in_the_table() -> None:
    fresh = replace(SUMMARY.peers[0], score=None)
    for peers in ((fresh,), SUMMARY.peers):
        page = Outline(render_report(replace(SUMMARY, peers=peers)))
        for column in columns_of(ScoreRow):
            assert column.about.title in page.text


def test_the_page_needs_nothing_from_outside() -> None:
    text = render_report(SUMMARY)
    page = Outline(text)
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(page.seen)
    assert {"src", "href", "onload", "onclick"}.isdisjoint(name for name, _ in page.attributes)
    assert "://" not in text
    assert "url(" not in text
    assert "prefers-color-scheme:dark" in text
    assert "width=device-width" in text


def test_no_text_of_a_peer_becomes_markup() -> None:
    evil = replace(peer(0, EVIL), hotkey=EVIL, behaviour=EVIL, rejected={EVIL: 1})
    page = render_report(
        replace(
            SUMMARY,
            run_id=EVIL,
            preset=EVIL,
            directory=EVIL,
            events=(EVIL,),
            peers=(evil,),
            state_roots=(EVIL, EVIL, EVIL),
            ratings_history={EVIL: ((0, 25.0, 8.0),), EVIL * 2: ((0, 25.0, 8.0),)},
        )
    )
    outline = Outline(page)
    assert "script" not in outline.seen
    assert EVIL[:-1] + "?" in outline.text
    assert "\x1b" not in page


def test_same_summary_same_bytes_whatever_the_order_of_maps() -> None:
    again = replace(SUMMARY, ratings_history=dict(sorted(SUMMARY.ratings_history.items(), reverse=True)))
    assert render_report(again) == render_report(SUMMARY)


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": (), "state_roots": (), "peers": (), "ratings_history": {}},
        {"rounds": (round_row(0),), "state_roots": ROOTS[:1], "ratings_history": {"5F0": ((0, 25.0, 0.0),)}},
        {"rounds": (replace(round_row(0), loss=None, bytes_up=0, bytes_down=None, phases={}),)},
        {"rounds": (replace(round_row(0), loss=math.nan), round_row(1))},
        {"ratings_history": {"5F0": ()}},
    ],
)
def test_odd_runs_have_a_page_too(changes: dict[str, object]) -> None:
    page = render_report(replace(SUMMARY, **changes))  # type: ignore[arg-type]
    Outline(page)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', page)


def test_headline_says_when_replicas_disagree() -> None:
    assert headline(replace(SUMMARY, roots_agree=False)).endswith("honest replicas disagree.")
    assert headline(replace(SUMMARY, rounds=(), peers=(peer(0, "a"),))).startswith("1 miner closed in 0 rounds")


def test_loss_points_are_where_the_axes_say() -> None:
    svg = loss_figure(SUMMARY)
    xs = [float(x) for x in re.findall(r'cx="([\d.]+)"', svg)]
    ys = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)
    assert ys[0] < ys[1] < ys[2]


def test_colours_of_a_legend_name_their_series() -> None:
    assert legend([(1, "a<b")]) == '<span class="key"><i class="k1">■</i> a&lt;b</span>'


bounded = st.floats(-1e9, 1e9)


@given(values=st.lists(bounded, max_size=8), zero=st.booleans())
def test_an_axis_holds_its_values_and_has_ticks_inside(values: list[float], zero: bool) -> None:
    low, high = span(values, zero=zero)
    assert low < high
    assert all(low <= value <= high for value in values)
    marks = ticks(low, high)
    slack = (high - low) * 1e-6
    assert 2 <= len(marks) <= 14
    assert all(low - slack <= mark <= high + slack for mark in marks)


@given(x=st.floats(0, 1), y=st.floats(0, 1))
def test_a_frame_maps_up_to_up(x: float, y: float) -> None:
    frame = Frame((0.0, 1.0), (0.0, 1.0))
    (left, bottom), (right, top) = frame.at(0, 0), frame.at(1, 1)
    across, up = frame.at(x, y)
    assert left <= across <= right
    assert top <= up <= bottom


def test_the_file_is_written_whole(tmp_path: Path) -> None:
    write_report(SUMMARY, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_report(SUMMARY)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write the report .*: No such file"):
        write_report(SUMMARY, tmp_path / "none" / "report.html")
