"""Seats are given by what the ledger says and nothing else, so a leader has no choice to sell."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from blake3 import blake3
from builders import hash32, run_spec
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import LedgerError
from muster.protocol.reasons import (
    DECISIONS,
    KEY_MISSING,
    KEY_SEAL,
    NOT_ORIGINAL,
    NOT_SELECTED,
    NULL_ROUND,
    PAYLOAD_REASONS,
)
from muster.protocol.rules.attendance import Attendance
from muster.protocol.rules.selection import DEMOTION, Standing, choose, order, seat, standings
from muster.protocol.spec import GauntletSpec, RunSpec
from muster.protocol.wire import Kind, ScoresUsed, UsedScore

BEACON = bytes(range(32))
PEERS = [hash32("peer", i) for i in range(12)]
peers = st.lists(st.sampled_from(PEERS), unique=True)
groups = st.frozensets(st.sampled_from(PEERS))
scores = st.floats(0, 100, allow_nan=False)
pasts = st.lists(st.builds(Attendance, groups, groups, groups), max_size=12)
known_reasons = st.dictionaries(
    st.sampled_from(PEERS), st.sampled_from(["", KEY_MISSING, "payload_auth", KEY_SEAL, "possession", "unregistered"])
)


def gauntlet(seats: int, newcomer_share: float = 0.1) -> GauntletSpec:
    fields = {"seats": seats, "newcomer_share": newcomer_share}
    return run_spec().gauntlet.model_copy(update=fields)


def spec_of(seats: int, least: int = 1, newcomer_share: float = 0.1) -> RunSpec:
    return run_spec(
        gauntlet={"seats": seats, "newcomer_share": newcomer_share}, clock={"min_submissions": min(least, seats)}
    )


def by(validator: int, stake: int, *rows: tuple[bytes, float, bool] | tuple[bytes, float, bool, bool]) -> ScoresUsed:
    made = tuple(UsedScore(*row) for row in sorted(rows))
    return ScoresUsed(hash32("validator", validator), stake, 0, hash32("file", validator), made)


def drawn(among: Sequence[bytes], beacon: bytes = BEACON) -> list[bytes]:
    """Peers as the lot orders them."""
    return sorted(among, key=lambda p: blake3(beacon + p).digest())


def copied_in(judged: Sequence[ScoresUsed]) -> set[bytes]:
    """Who sent others' work, as more than half of the stake says."""
    return {peer for peer, standing in standings(judged).items() if standing.copier}


def failed_in(*rounds: Sequence[bytes]) -> list[Attendance]:
    """Records in which these peers' payloads were not good."""
    return [Attendance(frozenset(), frozenset(PEERS), frozenset(failed)) for failed in rounds]


@st.composite
def judgements(draw: st.DrawFn) -> list[ScoresUsed]:
    return [
        by(
            i,
            draw(st.integers(0, 9)),
            *((p, draw(scores), draw(st.booleans()), draw(st.booleans())) for p in draw(peers)),
        )
        for i in range(draw(st.integers(0, 3)))
    ]


@given(peers, judgements(), pasts, st.integers(1, 12), st.floats(0, 1), st.integers())
def test_one_total_order_whatever_order_it_is_given(
    candidates: list[bytes], judged: list[ScoresUsed], past: list[Attendance], seats: int, share: float, salt: int
) -> None:
    spec = gauntlet(seats, share)
    ranked = order(candidates, judged, past, BEACON, spec)
    assert sorted(ranked) == sorted(candidates)
    rng = random.Random(salt)
    shuffled, judged_otherwise = rng.sample(candidates, len(candidates)), rng.sample(judged, len(judged))
    assert order(shuffled, judged_otherwise, past, BEACON, spec) == ranked


@given(peers, judgements(), st.integers(1, 12), st.floats(0, 1))
def test_newcomers_get_free_seats_and_a_small_share_of_the_others(
    candidates: list[bytes], judged: list[ScoresUsed], seats: int, share: float
) -> None:
    ranked, copied = order(candidates, judged, [], BEACON, gauntlet(seats, share)), copied_in(judged)
    candidates = [peer for peer in candidates if peer not in copied]
    assert set(ranked[len(candidates) :]) <= copied, "behind all others"
    chosen, known = set(ranked[: min(seats, len(candidates))]), standings(judged)
    proven = {p for p in candidates if p in known and known[p].positive}
    free = max(0, seats - len(proven))
    if proven and len(candidates) > seats:
        assert len(chosen - proven) <= max(int(share * seats), free)
    worst = min((known[p].score for p in proven & chosen), default=math.inf)
    assert all(known[p].score <= worst for p in proven - chosen)


@given(peers, judgements(), pasts, st.integers(1, 12))
def test_who_failed_lately_stands_behind_its_kind(
    candidates: list[bytes], judged: list[ScoresUsed], past: list[Attendance], seats: int
) -> None:
    ranked = order(candidates, judged, past, BEACON, gauntlet(seats))
    known, veterans = standings(judged), {p for seen in past for p in seen.accepted}
    failed = {p for seen in past[-DEMOTION:] for p in seen.failed}

    def first_kind(peer: bytes) -> bool:
        return (peer in known and known[peer].positive) if known else peer in veterans

    for kind in (True, False):
        own = [peer for peer in ranked if peer not in copied_in(judged)]
        mine = [peer in failed for peer in own if first_kind(peer) is kind]
        assert mine == sorted(mine)


def test_scores_decide_between_the_proven() -> None:
    judged = [by(0, 1, *((p, float(i), True) for i, p in enumerate(PEERS)))]
    assert list(order(PEERS, judged, [], BEACON, gauntlet(5))) == PEERS[::-1]


def test_a_newcomer_has_one_seat_in_ten() -> None:
    """Nine seats for the best proven, one for a newcomer, then the last proven, then the other newcomer."""
    proven, newcomers = PEERS[:10], drawn(PEERS[10:])
    judged = [by(0, 1, *((p, float(i), True) for i, p in enumerate(proven)))]
    ranked = order(PEERS, judged, [], BEACON, gauntlet(10))
    assert list(ranked) == [*proven[:0:-1], newcomers[0], proven[0], newcomers[1]]
    assert list(order(PEERS, judged, [], BEACON, gauntlet(9))) == [*proven[::-1], *newcomers]


def test_seats_that_the_proven_do_not_fill_are_the_newcomers() -> None:
    judged = [by(0, 1, *((p, float(i), True) for i, p in enumerate(PEERS[:3])))]
    ranked = order(PEERS, judged, [], BEACON, gauntlet(5))
    assert list(ranked) == [*PEERS[2::-1], *drawn(PEERS[3:])]


@pytest.mark.parametrize("judged", [[], [by(0, 1)]], ids=["no file", "no row"])
def test_without_scores_whoever_was_accepted_lately_comes_first(judged: list[ScoresUsed]) -> None:
    """Where validators are held up, seats do not go to whoever holds most keys."""
    assert list(order(PEERS, judged, [], BEACON, gauntlet(4))) == drawn(PEERS) != drawn(PEERS, bytes(32))
    past = [Attendance(frozenset(PEERS[:3]), frozenset(PEERS), frozenset(PEERS[2:5]))]
    ranked = order(PEERS, judged, past, BEACON, gauntlet(2))
    assert list(ranked) == [*drawn(PEERS[:2]), PEERS[2], *drawn(PEERS[5:]), *drawn(PEERS[3:5])]


def test_a_score_of_nothing_is_a_score() -> None:
    """One row is enough to go by scores, so a validator that has seen nobody prove itself leaves it to the lot."""
    past = [Attendance(frozenset(PEERS[:3]), frozenset(PEERS))]
    assert list(order(PEERS, [by(0, 1, (PEERS[0], 0.0, False))], past, BEACON, gauntlet(4))) == drawn(PEERS)


def test_ties_go_by_beacon() -> None:
    judged = [by(0, 1, *((p, 1.0, True) for p in PEERS))]
    assert list(order(PEERS, judged, [], BEACON, gauntlet(5, 0.0))) == drawn(PEERS)


def test_a_failure_is_forgotten_after_eight_records() -> None:
    judged = [by(0, 1, *((p, float(i), True) for i, p in enumerate(PEERS)))]
    best = PEERS[-1]
    for later in range(DEMOTION):
        past = failed_in([best], *[[]] * later)
        assert order(PEERS, judged, past, BEACON, gauntlet(5, 0.0))[-1] == best
    past = failed_in([best], *[[]] * DEMOTION)
    assert order(PEERS, judged, past, BEACON, gauntlet(5, 0.0))[0] == best


@given(peers, groups, st.integers(1, 12))
def test_seats_are_the_first_good_ones(ranked: list[bytes], failed: frozenset[bytes], seats: int) -> None:
    seated = seat(ranked, failed, seats)
    good = [peer for peer in ranked if peer not in failed]
    assert len(seated) == min(seats, len(good))
    assert list(seated) == good[: len(seated)]


@given(known_reasons, judgements(), pasts, st.integers(1, 12), st.integers(1, 4))
def test_a_choice_leaves_nothing_to_choose(
    known: dict[bytes, str], judged: list[ScoresUsed], past: list[Attendance], seats: int, least: int
) -> None:
    """Its own reasons give it again, and reading fewer payloads than all changes nothing behind the last seat."""
    spec = spec_of(seats, least)
    made = choose(known, judged, past, BEACON, spec)
    assert choose(made.reasons, judged, past, BEACON, spec) == made
    unread = {p: "" if made.reasons[p] in (NOT_SELECTED, NOT_ORIGINAL) else reason for p, reason in known.items()}
    assert choose(unread, judged, past, BEACON, spec) == made
    good = [peer for peer, reason in known.items() if not reason]
    own = [peer for peer in good if peer not in copied_in(judged)]
    needed = spec.clock.min_submissions
    assert (made.kind is Kind.NULL) == (len(good) < needed)
    assert len(made.accepted) == (0 if made.kind is Kind.NULL else max(min(seats, len(own)), needed))
    assert made.kind is Kind.NULL or set(own) <= set(made.accepted) or set(made.accepted) <= set(own)
    assert set(made.accepted) == {peer for peer, reason in made.reasons.items() if not reason}
    for peer, reason in known.items():
        if reason and reason not in PAYLOAD_REASONS:
            assert made.reasons[peer] == reason, "what is no candidate keeps its reason"
        elif made.kind is Kind.NULL:
            assert made.reasons[peer] == (reason or NULL_ROUND)
        else:
            assert made.reasons[peer] in {reason, NOT_ORIGINAL if peer in copied_in(judged) else NOT_SELECTED}


@given(known_reasons, judgements(), pasts, st.integers(1, 12))
def test_behind_the_last_seat_nothing_is_said_and_ahead_everything(
    known: dict[bytes, str], judged: list[ScoresUsed], past: list[Attendance], seats: int
) -> None:
    spec = spec_of(seats)
    made = choose(known, judged, past, BEACON, spec)
    candidates = [peer for peer, reason in known.items() if not reason or reason in PAYLOAD_REASONS]
    ranked = order(candidates, judged, past, BEACON, spec.gauntlet)
    told = [made.reasons[peer] for peer in ranked]
    last = max((at for at, reason in enumerate(told) if not reason), default=len(told) - 1)
    ahead, behind = told[: last + 1], told[last + 1 :]
    assert not DECISIONS & set(ahead)
    if made.kind is not Kind.NULL:
        own = {made.reasons[peer] for peer in ranked[last + 1 :] if peer not in copied_in(judged)}
        assert own <= ({NOT_SELECTED} if len(made.accepted) == seats else PAYLOAD_REASONS)
        assert {made.reasons[peer] for peer in ranked[last + 1 :] if peer in copied_in(judged)} <= {NOT_ORIGINAL}
    else:
        assert set(behind) <= PAYLOAD_REASONS


def test_who_sent_others_work_has_no_seat_though_some_are_free() -> None:
    judged = [by(0, 1, *((p, 1.0, True, p in PEERS[:2]) for p in PEERS))]
    made = choose(dict.fromkeys(PEERS, ""), judged, [], BEACON, spec_of(20))
    assert set(made.accepted) == set(PEERS[2:])
    assert [made.reasons[peer] for peer in PEERS[:2]] == [NOT_ORIGINAL] * 2


def test_no_judgement_stops_a_run() -> None:
    """Where too few others are left, who sent others' work has as many seats as are missing."""
    judged = [by(0, 1, *((p, float(i), True, i > 0) for i, p in enumerate(PEERS)))]
    made = choose(dict.fromkeys(PEERS, ""), judged, [], BEACON, spec_of(6, least=3))
    assert set(made.accepted) == {PEERS[0], PEERS[-1], PEERS[-2]}


@pytest.mark.parametrize(
    ("stakes", "copied"), [([(1, True), (1, False)], False), ([(2, True), (1, False)], True), ([(0, True)], False)]
)
def test_others_work_is_what_more_than_half_the_stake_says(stakes: Sequence[tuple[int, bool]], copied: bool) -> None:
    judged = [by(i, stake, (PEERS[0], 1.0, True, flag)) for i, (stake, flag) in enumerate(stakes)]
    assert standings(judged)[PEERS[0]].copier is copied


def test_bad_payloads_in_front_leave_no_seat_empty() -> None:
    """Half of those who come first by score fail: the next ones have their seats."""
    judged = [by(0, 1, *((p, float(i), True) for i, p in enumerate(PEERS)))]
    known = dict.fromkeys(PEERS, "") | dict.fromkeys(PEERS[-2:-9:-2], "ciphertext_digest")
    made = choose(known, judged, [], BEACON, spec_of(6, newcomer_share=0.0))
    assert set(made.accepted) == {*PEERS[-1:-8:-2], PEERS[2], PEERS[3]}
    assert [made.reasons[peer] for peer in PEERS[:2]] == [NOT_SELECTED] * 2


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
    row = UsedScore(hash32("peer"), 5.0, True)
    said = ScoresUsed(hash32("loud"), 2, 0, hash32("file"), (row,))
    silent = ScoresUsed(hash32("silent"), 3, 0, hash32("file"), ())
    assert standings([said, silent]) == {row.public: Standing(0.0, False)}
    assert standings([said]) == {row.public: Standing(5.0, True)}
