"""Seats are given by what a record names and nothing else, so a leader has no choice to sell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from blake3 import blake3
from builders import hash32, run_spec
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import LedgerError
from muster.protocol.selection import Standing, select, standings
from muster.protocol.spec import GauntletSpec
from muster.protocol.wire import ScoreRow, ScoresUsed

BEACON = bytes(range(32))
PEERS = [hash32("peer", i) for i in range(12)]
peers = st.lists(st.sampled_from(PEERS), unique=True)
scores = st.floats(0, 100, allow_nan=False)


def gauntlet(seats: int, newcomer_share: float = 0.1) -> GauntletSpec:
    fields = {"seats": seats, "newcomer_share": newcomer_share}
    return run_spec().gauntlet.model_copy(update=fields)


def by(validator: int, stake: int, *rows: tuple[bytes, float, bool]) -> ScoresUsed:
    made = tuple(ScoreRow(*row) for row in sorted(rows))
    return ScoresUsed(hash32("validator", validator), stake, 0, hash32("file", validator), made)


@st.composite
def judgements(draw: st.DrawFn) -> list[ScoresUsed]:
    return [
        by(i, draw(st.integers(0, 9)), *((p, draw(scores), draw(st.booleans())) for p in draw(peers)))
        for i in range(draw(st.integers(0, 3)))
    ]


@given(peers, judgements(), st.integers(1, 12), st.floats(0, 1), st.randoms(use_true_random=False))
def test_pure_and_blind_to_order(
    candidates: list[bytes], judged: list[ScoresUsed], seats: int, share: float, random: st.DataObject
) -> None:
    spec = gauntlet(seats, share)
    chosen = select(candidates, judged, BEACON, spec)
    shuffled, judged_otherwise = list(candidates), list(judged)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    random.shuffle(judged_otherwise)  # type: ignore[attr-defined]
    assert select(shuffled, judged_otherwise, BEACON, spec) == chosen
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(candidates)
    assert len(chosen) == min(seats, len(candidates))


@given(peers, judgements(), st.integers(1, 12), st.floats(0, 1))
def test_newcomers_get_free_seats_and_a_small_share_of_the_others(
    candidates: list[bytes], judged: list[ScoresUsed], seats: int, share: float
) -> None:
    chosen = select(candidates, judged, BEACON, gauntlet(seats, share))
    known = standings(judged)
    proven = {p for p in candidates if p in known and known[p].positive}
    free = max(0, seats - len(proven))
    if proven and len(candidates) > seats:
        assert len(set(chosen) - proven) <= max(int(share * seats), free)
    worst = min((known[p].score for p in proven & set(chosen)), default=math.inf)
    assert all(known[p].score <= worst for p in proven - set(chosen))


def test_scores_decide_between_the_proven() -> None:
    judged = [by(0, 1, *((p, float(i), True) for i, p in enumerate(PEERS)))]
    assert select(PEERS, judged, BEACON, gauntlet(5)) == tuple(sorted(PEERS[-5:]))


def test_a_newcomer_has_one_seat_in_ten() -> None:
    proven, newcomers = PEERS[:10], PEERS[10:]
    judged = [by(0, 1, *((p, float(i), True) for i, p in enumerate(proven)))]
    chosen = select(PEERS, judged, BEACON, gauntlet(10))
    assert len(set(chosen) & set(newcomers)) == 1
    assert set(proven) - set(chosen) == {proven[0]}
    assert set(select(PEERS, judged, BEACON, gauntlet(9))) == set(proven[1:])


def test_without_scores_seats_go_by_beacon() -> None:
    def drawn(beacon: bytes) -> tuple[bytes, ...]:
        return tuple(sorted(sorted(PEERS, key=lambda p: blake3(beacon + p).digest())[:4]))

    for beacon in (BEACON, bytes(32)):
        assert select(PEERS, [], beacon, gauntlet(4)) == drawn(beacon)
    assert drawn(BEACON) != drawn(bytes(32))


def test_ties_go_by_beacon() -> None:
    judged = [by(0, 1, *((p, 1.0, True) for p in PEERS))]
    ranked = sorted(PEERS, key=lambda p: blake3(BEACON + p).digest())
    assert select(PEERS, judged, BEACON, gauntlet(5, 0.0)) == tuple(sorted(ranked[:5]))


@pytest.mark.parametrize(
    ("stakes_and_scores", "median"),
    [
        ([(1, 5.0)], 5.0),
        ([(1, 5.0), (1, 1.0)], 1.0),
        ([(1, 1.0), (1, 2.0), (1, 9.0)], 2.0),
        ([(3, 9.0), (1, 1.0), (1, 2.0)], 9.0),
        ([(2, 9.0), (1, 1.0), (1, 2.0)], 2.0),
        ([(0, 9.0), (0, 1.0)], 1.0),
    ],
)
def test_stake_weighted_lower_median(stakes_and_scores: list[tuple[int, float]], median: float) -> None:
    judged = [by(i, stake, (PEERS[0], score, False)) for i, (stake, score) in enumerate(stakes_and_scores)]
    assert standings(judged) == {PEERS[0]: Standing(median, False)}


@pytest.mark.parametrize(
    ("flags", "positive"),
    [([(1, True), (1, False)], False), ([(2, True), (1, False)], True), ([(0, True)], False), ([], None)],
)
def test_positive_needs_more_than_half_the_stake(flags: Sequence[tuple[int, bool]], positive: bool | None) -> None:
    judged = [by(i, stake, (PEERS[0], 1.0, flag)) for i, (stake, flag) in enumerate(flags)]
    found = standings(judged).get(PEERS[0])
    assert (None if found is None else found.positive) == positive


@given(st.lists(st.tuples(st.integers(1, 9), scores), min_size=1, max_size=6))
def test_a_minority_cannot_move_the_median_beyond_the_others(
    rows: list[tuple[int, float]],
) -> None:
    judged = [by(i, stake, (PEERS[0], score, False)) for i, (stake, score) in enumerate(rows)]
    liar = by(99, sum(stake for stake, _ in rows) - 1, (PEERS[0], 1e6, True))
    median = standings([*judged, liar])[PEERS[0]].score
    assert min(score for _, score in rows) <= median <= max(score for _, score in rows)


@pytest.mark.parametrize("score", [-1.0, float("nan"), float("inf")])
def test_what_is_no_score_is_refused(score: float) -> None:
    with pytest.raises(LedgerError, match="is not a PeerScore"):
        standings([by(0, 1, (PEERS[0], score, True))])


def test_a_minority_alone_cannot_lift_a_peer() -> None:
    """A validator that says nothing of a peer says 0 with its whole stake."""
    row = ScoreRow(hash32("peer"), 5.0, True)
    said = ScoresUsed(hash32("loud"), 2, 0, hash32("file"), (row,))
    silent = ScoresUsed(hash32("silent"), 3, 0, hash32("file"), ())
    assert standings([said, silent]) == {row.public: Standing(0.0, False)}
    assert standings([said]) == {row.public: Standing(5.0, True)}
