"""Who has a seat follows from the record alone: a leader that decides otherwise signs what nobody applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from builders import beacon, hash32, identity
from closed_rounds import LEAD, Closed, close, open_tip, taken_in, with_entry

from muster.kernels import SparseUpdate
from muster.protocol.errors import LedgerError, WireError
from muster.protocol.ledger import SCORES_AGE, Tip
from muster.protocol.reasons import KEY_MISSING, NOT_SELECTED, NULL_ROUND
from muster.protocol.rules.attendance import MEMORY, Attendance
from muster.protocol.wire import Kind, ScoresUsed, Signed, UsedScore

NAMES = ("alice", "bob", "carol", "dave")
PUBLIC = [identity(name).public for name in NAMES]


def tip_with(seats: int, least: int = 1) -> Tip:
    return open_tip(gauntlet={"seats": seats}, clock={"min_submissions": least})


def closed(tip: Tip, failures: dict[bytes, str] | None = None, scores: tuple[ScoresUsed, ...] = ()) -> Closed:
    """The round of `tip` with all four miners in it."""
    return close(tip, [taken_in(tip, name, uid) for uid, name in enumerate(NAMES)], failures, scores=scores)


def reasons(made: Closed) -> dict[bytes, str]:
    return {entry.public: entry.reason for entry in made.verify().record.entries}


def claiming(made: Closed, peer: bytes, reason: str) -> Closed:
    at = [entry.public for entry in made.record.entries].index(peer)
    return with_entry(made, at, reason=reason)


def test_a_seat_that_fails_goes_to_the_next_and_nobody_behind_is_blamed() -> None:
    tip = tip_with(seats=2)
    first, second, third, last = tip.order(PUBLIC, ())
    made = closed(tip, {first: "ciphertext_digest", last: KEY_MISSING})
    assert reasons(made) == {first: "ciphertext_digest", second: "", third: "", last: NOT_SELECTED}
    for peer, claim in ((last, KEY_MISSING), (first, NOT_SELECTED), (third, NOT_SELECTED), (last, NULL_ROUND)):
        with pytest.raises(LedgerError, match="where the rules make it"):
            claiming(made, peer, claim).verify()


def test_who_has_no_seat_cannot_be_given_one() -> None:
    tip = tip_with(seats=2)
    _, second, _, last = tip.order(PUBLIC, ())
    made = claiming(claiming(closed(tip), second, NOT_SELECTED), last, "")
    with pytest.raises(LedgerError, match="where the rules make it"):
        made.verify()


def test_what_a_leader_watched_keeps_a_submission_out_of_the_order() -> None:
    tip = tip_with(seats=2)
    first, second, third, last = tip.order(PUBLIC, ())
    made = closed(tip, {first: "uid_mismatch", last: "unregistered"})
    assert reasons(made) == {first: "uid_mismatch", second: "", third: "", last: "unregistered"}


def test_with_free_seats_every_reason_stands() -> None:
    tip = tip_with(seats=4)
    first, *_, last = tip.order(PUBLIC, ())
    found = reasons(closed(tip, {first: KEY_MISSING, last: "frame_zstd"}))
    assert sorted(found.values()) == ["", "", "frame_zstd", KEY_MISSING]


def test_too_few_good_ones_make_a_null_record_and_keep_the_reasons_of_the_others() -> None:
    tip = tip_with(seats=3, least=3)
    first, second, third, last = tip.order(PUBLIC, ())
    made = closed(tip, {first: KEY_MISSING, third: "payload_auth"})
    assert made.record.kind is Kind.NULL
    assert reasons(made) == {first: KEY_MISSING, second: NULL_ROUND, third: "payload_auth", last: NULL_ROUND}
    assert made.verify().tip.opening.expected == tuple(sorted((second, last)))


def test_the_lot_is_drawn_before_any_payload_is_read() -> None:
    """By the possession beacon: the block that the leader records at changes nobody's seat."""
    tip = tip_with(seats=2)
    made = closed(tip)
    taken = [taken_in(tip, name, uid) for uid, name in enumerate(NAMES)]
    later = close(tip, taken, possess=beacon("possess", 1, 9))
    assert reasons(later) == reasons(made)
    other = replace(tip, opening=replace(tip.opening, possess=beacon("possess", 7)))
    assert other.order(PUBLIC, ()) != tip.order(PUBLIC, ())


def test_who_failed_in_an_earlier_record_stands_behind() -> None:
    everyone = frozenset(PUBLIC)
    tip = replace(tip_with(seats=2), past=(Attendance(everyone, everyone),))
    first, second, third, last = tip.order(PUBLIC, ())
    after = replace(tip, past=(Attendance(everyone, everyone, frozenset({first})),))
    assert after.order(PUBLIC, ()) == (second, third, last, first)
    assert reasons(closed(after))[first] == NOT_SELECTED


def scores(round_: int, rows: Sequence[bytes] = ()) -> tuple[ScoresUsed, ...]:
    made = tuple(UsedScore(public, 1.0, True) for public in sorted(rows))
    return (ScoresUsed(LEAD.public, 1, round_, hash32("file"), made),)


def in_round(round_: int) -> Tip:
    tip = open_tip(gauntlet={"lag": 2})
    return replace(tip, opening=replace(tip.opening, round=round_, base_round=round_))


def test_scores_may_be_sixteen_rounds_older_than_the_newest_that_can_be_there() -> None:
    tip = in_round(20)
    assert list(tip.score_rounds) == list(range(18, 18 - SCORES_AGE - 1, -1))
    for round_ in tip.score_rounds:
        assert close(tip, [], scores=scores(round_)).verify().tip.round == 21
    for round_ in (20, 19, 1, 0):
        with pytest.raises(LedgerError, match=f"scores of round {round_} cannot steer round 20"):
            close(tip, [], scores=scores(round_)).verify()


def test_no_scores_come_from_before_the_run() -> None:
    assert [list(in_round(round_).score_rounds) for round_ in range(4)] == [[], [], [0], [1, 0]]


def test_rows_are_for_peers_that_there_can_be() -> None:
    """A row for every slot and everybody remembered, and not one more."""
    strangers = [hash32("peer", i) for i in range(30)]
    tip = in_round(5)
    tip = replace(tip, past=(Attendance(frozenset(), frozenset(strangers[:7])),) * MEMORY)
    most = tip.spec.data.slots + 7
    assert close(tip, [], scores=scores(3, strangers[:most])).verify().tip.round == 6
    with pytest.raises(LedgerError, match=f"have {most + 1} rows where {most} peers are possible"):
        close(tip, [], scores=scores(3, strangers[: most + 1])).verify()


def test_a_leader_judges_its_record_without_opening_anything_again() -> None:
    """It hands over the heads it has admitted and the updates it has opened; the bundle is not even at hand."""
    tip = tip_with(seats=4)
    taken = {one.head.public: one for one in (taken_in(tip, n, i) for i, n in enumerate(NAMES))}
    made = close(tip, list(taken.values()))
    asked: list[list[bytes]] = []

    def admitted(public: bytes, data: bytes) -> Signed:
        head = taken[public].head
        assert head.data == data
        assert head.signed is not None
        return head.signed

    def held(accepted: Sequence[Signed]) -> list[SparseUpdate]:
        asked.append([signed.header.public for signed in accepted])
        return [taken[signed.header.public].work for signed in accepted]

    by_bundle, by_hand = made.verify(), made.verify(admit=admitted, open_accepted=held)
    assert asked == [sorted(PUBLIC)]
    assert np.array_equal(by_bundle.weights, by_hand.weights)
    assert replace(by_hand.tip, parent=by_bundle.digest) == by_bundle.tip
    assert all(a.identical(b) for a, b in zip(by_hand.updates, by_bundle.updates, strict=True))

    def refuse(_public: bytes, _data: bytes) -> Signed:
        raise WireError("possession")

    with pytest.raises(LedgerError, match="recorded as accepted but is possession"):
        made.verify(admit=refuse)
    with pytest.raises(LedgerError, match="the weights are not"):
        made.verify(open_accepted=lambda accepted: held(accepted)[::-1])
