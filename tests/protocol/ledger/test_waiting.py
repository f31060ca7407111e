"""What a run waits for: of an open one never nobody; no block of the past without whose fault it is; never in vain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from builders import beacon, hash32, identity, opening, run_spec
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.ledger import Tip, genesis_tip
from muster.protocol.ledger.round import Duty, Instruction, Phase, RoundState, wanted
from muster.protocol.ledger.waiting import Lack, Seen, Stage, Unfinal, Vote, Waiting, in_touch, unfinal, waiting
from muster.protocol.spec.history import SpecHistory
from muster.protocol.types import Block
from muster.protocol.wire import Seal

ROUND = 3
NAMES = ("leader", "second", "third")
LEADERS = tuple(identity(name) for name in NAMES)
KEYS = tuple(leader.public for leader in LEADERS)
ALICE, BOB, CAROL = (identity(name).public for name in ("alice", "bob", "carol"))
TURN, HOLD, TOUCH = 7, 2, 60


def tip(leaders: int = 1, *, closed: bool = False, min_submissions: int = 1, expected: Sequence[bytes] = ()) -> Tip:
    """A ledger whose round 3 is open: sealed from 101, at the latest at 110, to be anchored by 120."""
    spec = run_spec(
        genesis={"leaders": tuple(leader.hotkey for leader in LEADERS[:leaders])},
        clock={"min_submissions": min_submissions, "turn": TURN, "touch": TOUCH, "finality": HOLD},
    )
    start = genesis_tip(SpecHistory.of(spec), beacon("assign"), beacon("possess"))
    return replace(start, opening=opening(expected=tuple(sorted(expected))), closed=closed)


def sealed(at: int, *peers: bytes, turn: int = 0) -> Seal:
    headers = tuple((peer, bytes(32)) for peer in sorted(peers))
    return Seal(tip().run_id, KEYS[turn], ROUND, tip().parent, turn, Block(at, bytes(32)), headers)


MINERS = st.sets(st.sampled_from([ALICE, BOB, CAROL]))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Tip, Seen, Unfinal | None]:
    """An open round with anything in it, at any block, whoever may close it."""
    leaders = draw(st.integers(1, 3))
    ledger = tip(leaders, min_submissions=draw(st.integers(1, 3)), expected=tuple(draw(MINERS)))
    block = draw(st.integers(100, 200))
    turn = ledger.turn_at(block)
    seal = draw(
        st.none()
        | st.builds(
            lambda at, by, peers: sealed(at, *peers, turn=by % leaders),
            st.integers(100, block),
            st.integers(0, turn),
            MINERS,
        )
    )
    seen = Seen(
        block,
        seal,
        revealing=draw(st.integers(0, block)),
        there=frozenset(draw(MINERS)),
        scored=frozenset(draw(st.sets(st.sampled_from(KEYS)))),
        recorded=draw(st.booleans()),
    )
    held = draw(st.none() | st.builds(Unfinal, st.integers(0, ROUND - 1), st.just(KEYS[:1]) | st.just(())))
    return ledger, seen, held


@given(situations())
def test_while_a_run_is_open_somebody_can_move_it(situation: tuple[Tip, Seen, Unfinal | None]) -> None:
    found = waiting(*situation)
    assert found.phase is not Stage.CLOSED
    assert found.awaited
    assert all(one.whom for one in found.awaited)
    assert found.movers


@given(situations())
def test_no_block_lies_in_the_past_without_whose_fault_it_is(
    situation: tuple[Tip, Seen, Unfinal | None],
) -> None:
    found = waiting(*situation)
    for one in found.awaited:
        if one.until is not None and one.until <= found.block:
            assert set(one.whom) & set(found.late)
    assert set(found.late) <= set(found.movers)
    assert found.next_turn is None or found.next_turn > found.block


@given(situations())
def test_who_has_done_what_was_awaited_is_not_waited_for_again(
    situation: tuple[Tip, Seen, Unfinal | None],
) -> None:
    """Whatever of it comes, the answer is another one; so following it leads on."""
    ledger, seen, held = situation
    found = waiting(*situation)
    for one in found.awaited:
        after, settled = seen, held
        match one.what:
            case Lack.SUBMISSIONS | Lack.KEYS:
                after = replace(seen, there=seen.there | set(one.whom))
            case Lack.SCORES:
                after = replace(seen, scored=seen.scored | set(one.whom))
            case Lack.SEAL | Lack.DEADLINE | Lack.MIN_BLOCK | Lack.MORE_SUBMISSIONS:
                after = replace(seen, seal=sealed(seen.block))
            case Lack.RECORD:
                after = replace(seen, recorded=True)
            case Lack.VOTES:
                settled = Unfinal(found.round, ())
            case Lack.FINAL_BLOCK:
                settled = None
            case Lack.ANCHOR:
                continue  # the round is over: the tip is another one
        assert one not in waiting(ledger, after, settled).awaited


@given(st.data())
def test_the_leader_is_waited_for_exactly_when_the_machine_has_it_act(data: st.DataObject) -> None:
    """A leader that looks at every block, and sees what the outsider sees, has to seal or to decide just then."""
    expected = data.draw(MINERS)
    ledger = tip(expected=tuple(expected), min_submissions=data.draw(st.integers(1, 3)))
    block, there = data.draw(st.integers(101, 130)), frozenset(data.draw(MINERS))
    listed = data.draw(st.none() | MINERS)
    seal = None if listed is None else sealed(data.draw(st.integers(100, block - 1)), *listed)
    scored = frozenset(KEYS[:1]) if data.draw(st.booleans()) else frozenset()
    spec, opened = ledger.spec, ledger.opening
    state = RoundState(
        Duty.LEAD, KEYS[0], opened, spec.clock, spec.gauntlet.score_wait, opened=True, block=block,
        since=opened.open.number, looked=block, submitted=there & expected,
    )  # fmt: skip
    if seal is not None:
        peers, at = frozenset(peer for peer, _ in seal.headers), seal.block.number
        state = replace(
            state, phase=Phase.REVEAL, sealed=peers, sealed_block=at, revealing_since=at, looks=2,
            settled=there & peers, scored=bool(scored),
        )  # fmt: skip
    seen = Seen(block, seal, there=there if seal is not None else there & expected, scored=scored)
    asked = [one.what for one in waiting(ledger, seen).awaited]
    acts = {Instruction.PUBLISH_SEAL: Lack.SEAL, Instruction.PUBLISH_RECORD: Lack.RECORD}
    assert [acts[one] for one in wanted(state)] == [what for what in asked if what in acts.values()]


class TestTurns:
    """From anchor_by, block 120, on the turn passes every 7 blocks."""

    @pytest.mark.parametrize(
        ("block", "turn", "next_turn", "whom", "late"),
        [
            (109, 0, 120, (0,), ()),
            (110, 0, 120, (0,), (0,)),
            (119, 0, 120, (0,), (0,)),
            (120, 1, 127, (0, 1), (0,)),
            (126, 1, 127, (0, 1), (0,)),
            (127, 2, 134, (0, 1, 2), (0, 1)),
            (134, 3, 141, (1, 2, 0), (0, 1, 2)),
        ],
    )
    def test_who_may_seal_and_whose_time_has_passed(
        self, block: int, turn: int, next_turn: int, whom: tuple[int, ...], late: tuple[int, ...]
    ) -> None:
        ledger = tip(3, expected=(ALICE,))
        found = waiting(ledger, Seen(block, there=frozenset((ALICE,))))
        assert (found.turn, found.next_turn, found.leader) == (turn, next_turn, KEYS[turn % 3])
        (one,) = found.awaited
        assert (one.what, one.whom) == (Lack.SEAL, tuple(KEYS[i] for i in whom))
        assert one.until == (110 if not turn else next_turn)
        assert set(found.late) == {KEYS[i] for i in late}

    def test_only_the_turns_from_the_seal_on_decide(self) -> None:
        found = waiting(tip(3), Seen(130, sealed(122, turn=1), scored=frozenset(KEYS)))
        (one,) = found.awaited
        assert (found.phase, one.what, one.whom, one.until) == (Stage.RECORD, Lack.RECORD, KEYS[1:], 134)
        assert found.late == KEYS[1:2]

    def test_a_list_of_one_never_passes_on(self) -> None:
        """Its time has passed since block 120, and nobody else's has come."""
        ledger = tip(1)
        found = waiting(ledger, Seen(10_000, sealed(105), scored=frozenset(KEYS)))
        assert (found.turn, found.next_turn, found.late) == (0, None, KEYS[:1])
        assert [(one.what, one.whom, one.until) for one in found.awaited] == [(Lack.RECORD, KEYS[:1], 120)]


RECORDS = [hash32(round_) for round_ in range(ROUND)]


def vote(who: int, round_: int, block: int, digest: bytes | None = None) -> Vote:
    return Vote(KEYS[who], round_, digest or RECORDS[round_], block)


class TestFinality:
    def test_a_list_of_one_is_final_when_its_anchor_is(self) -> None:
        votes = [vote(0, round_, 10 * round_) for round_ in range(ROUND)]
        for final, oldest in ((-1, 0), (0, 1), (9, 1), (10, 2), (19, 2)):
            assert unfinal(KEYS[:1], votes, RECORDS, final) == Unfinal(oldest, ())
        assert unfinal(KEYS[:1], votes, RECORDS, 20) is None
        assert unfinal(KEYS[:1], votes[:2], RECORDS, 20) == Unfinal(2, KEYS[:1])

    def test_of_three_two_are_enough_and_the_third_is_named_only_while_it_is_needed(self) -> None:
        votes = [vote(0, 2, 5), vote(1, 1, 5), vote(2, 0, 5)]
        assert unfinal(KEYS[:3], votes, RECORDS, 9) == Unfinal(2, tuple(sorted(KEYS[1:])))
        assert unfinal(KEYS[:3], [*votes, vote(2, 2, 7)], RECORDS, 9) is None
        assert unfinal(KEYS[:3], [*votes, vote(2, 2, 7)], RECORDS, 6) == Unfinal(2, (KEYS[1],))

    def test_of_two_both(self) -> None:
        assert unfinal(KEYS[:2], [vote(0, 2, 5)], RECORDS, 9) == Unfinal(0, (KEYS[1],))

    def test_who_has_been_silent_for_long_is_none_of_the_voters(self) -> None:
        """By fork choice's own rule; and where all have been, all are waited for."""
        ledger, votes = tip(3), [vote(0, 2, 80), vote(1, 1, 30)]
        assert in_touch(ledger, votes, TOUCH) == KEYS
        assert in_touch(ledger, votes, 30 + TOUCH) == KEYS[:2]
        assert in_touch(ledger, votes, 31 + TOUCH) == KEYS[:1]
        assert in_touch(ledger, votes, 500) == KEYS

    @pytest.mark.parametrize("digest", [hash32("another"), bytes(32)])
    def test_a_vote_for_another_ledger_or_of_a_stranger_is_none(self, digest: bytes) -> None:
        votes = [vote(0, 2, 5, digest), Vote(ALICE, 2, RECORDS[2], 5), Vote(KEYS[0], 99, digest, 5)]
        assert unfinal(KEYS[:1], votes, RECORDS, 9) == Unfinal(0, KEYS[:1])

    @pytest.mark.parametrize(
        ("held", "phase", "whom"),
        [
            (Unfinal(ROUND - HOLD, KEYS[1:]), Stage.NOT_FINAL, KEYS[1:]),
            (Unfinal(ROUND - HOLD, ()), Stage.NOT_FINAL, KEYS[:1]),
            (Unfinal(ROUND - HOLD + 1, KEYS[1:]), Stage.SUBMIT, (ALICE,)),
        ],
    )
    def test_a_leader_runs_no_further_ahead_than_it_may(
        self, held: Unfinal, phase: Stage, whom: tuple[bytes, ...]
    ) -> None:
        found = waiting(tip(3, expected=(ALICE,)), Seen(105), held)
        assert (found.phase, found.movers, found.unfinal) == (phase, whom, held)

    def test_the_end(self) -> None:
        closed = tip(closed=True)
        assert waiting(closed, Seen(200), None).phase is Stage.CLOSED
        held = waiting(closed, Seen(200), Unfinal(3, KEYS[:1]))
        assert (held.phase, held.movers, held.awaited[0].what) == (Stage.NOT_FINAL, KEYS[:1], Lack.VOTES)
        chain = waiting(closed, Seen(200), Unfinal(3, ()))
        assert (chain.phase, chain.movers, chain.awaited[0].what) == (Stage.NOT_FINAL, (), Lack.FINAL_BLOCK)
        for found in (held, chain):
            assert (found.next_turn, found.late) == (None, ())


def phases(found: Waiting) -> tuple[Stage, list[tuple[Lack, int | None]]]:
    return found.phase, [(one.what, one.until) for one in found.awaited]


class TestPhases:
    """Reveal is 3 blocks, grace 1, scores have 2 more (`builders.run_spec`)."""

    @pytest.mark.parametrize(
        ("block", "there", "expected", "awaited"),
        [
            (105, (), (ALICE, BOB), (Lack.SUBMISSIONS, 110)),
            (100, (ALICE,), (ALICE,), (Lack.MIN_BLOCK, 101)),
            (101, (ALICE,), (ALICE,), (Lack.SEAL, 110)),
            (105, (), (), (Lack.DEADLINE, 110)),
            (110, (), (ALICE,), (Lack.SEAL, 110)),
        ],
    )
    def test_before_the_seal(
        self, block: int, there: tuple[bytes, ...], expected: tuple[bytes, ...], awaited: tuple[Lack, int]
    ) -> None:
        ledger = tip(expected=expected)
        assert phases(waiting(ledger, Seen(block, there=frozenset(there)))) == (Stage.SUBMIT, [awaited])

    def test_more_submissions_than_the_expected_can_bring(self) -> None:
        ledger = tip(expected=(ALICE,), min_submissions=2)
        found = waiting(ledger, Seen(105, there=frozenset((ALICE,))))
        assert phases(found) == (Stage.SUBMIT, [(Lack.MORE_SUBMISSIONS, 110)])

    @pytest.mark.parametrize(
        ("block", "scored", "phase", "awaited"),
        [
            (104, (), Stage.REVEAL, [(Lack.KEYS, 107), (Lack.KEYS, 105), (Lack.SCORES, 109)]),
            (105, KEYS, Stage.REVEAL, [(Lack.KEYS, 107)]),
            (107, (), Stage.RECORD, [(Lack.SCORES, 109)]),
            (107, KEYS, Stage.RECORD, [(Lack.RECORD, 120)]),
            (109, (), Stage.RECORD, [(Lack.RECORD, 120)]),
        ],
    )
    def test_after_the_seal(
        self, block: int, scored: tuple[bytes, ...], phase: Stage, awaited: list[tuple[Lack, int]]
    ) -> None:
        ledger, seal = tip(expected=(ALICE,)), sealed(104, ALICE, CAROL)
        assert phases(waiting(ledger, Seen(block, seal, scored=frozenset(scored)))) == (phase, awaited)

    def test_the_time_for_keys_counts_from_when_the_seal_was_public(self) -> None:
        ledger, seal = tip(expected=(ALICE,)), sealed(104, ALICE)
        found = waiting(ledger, Seen(107, seal, revealing=106, scored=frozenset(KEYS)))
        assert phases(found) == (Stage.REVEAL, [(Lack.KEYS, 109)])

    def test_a_record_that_nothing_proves(self) -> None:
        found = waiting(tip(), Seen(119, recorded=True))
        assert (*phases(found), found.late) == (Stage.RECORD, [(Lack.ANCHOR, 120)], ())
