"""Fork choice: who looks later, or sees more that is final, never stands elsewhere; and something is always decided.

The model goes through every schedule of votes of lists of 1 to 5 with fewer than half of them evil. Schedules that
leave the same votes standing and the same record decided go on alike, so one of each kind stands for all. Evil members
vote for anything at any time, and honest ones for whichever record they come to hold first, which the schedule says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import pytest
from builders import hash32
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.ledger.forkchoice import Claim, Roll, Vote, before, claims, is_final

A, B, C = (hash32(name) for name in "abc")
TOUCH, DUE = 50, 40
MEMBERS = tuple(hash32(f"member {i}") for i in range(5))
TURNS = {A: 0, B: 1, C: 2}


def roll(members: int, due: int = DUE, since: int = 0) -> Roll:
    return Roll(MEMBERS[:members], TOUCH, due, since)


def vote(member: int, block: int, stands: bytes | None) -> Vote:
    return Vote(MEMBERS[member], block, stands)


histories = st.integers(1, 5).flatmap(
    lambda members: st.tuples(
        st.just(members),
        st.lists(
            st.tuples(st.integers(0, members - 1), st.integers(0, 3 * TOUCH), st.sampled_from((A, B, C, None))),
            max_size=12,
        ).map(lambda some: [vote(*one) for one in sorted(some, key=lambda one: one[1])]),
    )
)
"""How long the list is, and votes in chain order."""


class TestOneLeader:
    """A list of one: the record that was anchored first is the one."""

    def test_the_record_that_was_anchored_first_stands_first(self) -> None:
        found = claims([vote(0, 5, A), vote(0, 6, B), vote(0, 7, A)], roll(1), final=5)
        assert found == (Claim(A, True), Claim(B, False))
        assert (is_final(found, A), is_final(found, B)) == (True, False)
        assert (before(found, A), before(found, B)) == ((), (Claim(A, True),))

    def test_what_the_chain_has_taken_back_goes_behind_whatever_it_shows_now(self) -> None:
        assert before(claims([vote(0, 6, B)], roll(1), final=2), A) == (Claim(B, False),)
        assert before(claims([], roll(1), final=2), A) == ()


class TestSeveral:
    """Votes of a list."""

    def test_more_than_half_of_those_in_touch_decide(self) -> None:
        assert claims([vote(0, 5, A)], roll(3), final=9) == (Claim(A, False),)
        assert claims([vote(0, 5, A), vote(1, 6, A)], roll(3), final=9) == (Claim(A, True),)
        assert claims([vote(0, 5, A), vote(1, 6, A)], roll(3), final=5) == (Claim(A, False),)

    def test_who_changes_a_vote_after_the_decision_changes_nothing(self) -> None:
        shown = [vote(0, 5, A), vote(1, 6, A), vote(1, 7, B), vote(2, 8, B)]
        assert claims(shown, roll(3), final=9) == (Claim(A, True), Claim(B, False))

    def test_the_larger_half_goes_first_and_of_equals_the_lower_turn_then_the_lower_digest(self) -> None:
        def order(*votes: Vote) -> list[bytes]:
            return [claim.digest for claim in claims(votes, roll(5), 9, TURNS)]

        assert order(vote(0, 5, A), vote(1, 6, B), vote(2, 7, B)) == [B, A]
        assert order(vote(0, 5, B), vote(1, 6, A)) == [A, B]
        assert [claim.digest for claim in claims([vote(0, 5, A), vote(1, 6, B)], roll(5), 9)] == sorted((A, B))

    def test_where_it_has_to_hold_a_majority_that_changes_is_none(self) -> None:
        shown = [vote(0, 5, A), vote(1, 6, A), vote(1, 8, B), vote(2, 8, B)]

        def final(shown: list[Vote], block: int) -> list[bytes]:
            return [claim.digest for claim in claims(shown, roll(3), block, settle=3) if claim.final]

        assert final(shown[:2], 8) == []
        assert final(shown[:2], 9) == [A]
        assert (final(shown, 10), final(shown, 11)) == ([], [B])

    def test_the_poll_says_who_is_missing(self) -> None:
        shown = [vote(0, 5, A), vote(1, 6, B)]
        now = roll(3).poll(shown, 9, roll(3).patience(shown))
        assert now.missing(A) == (MEMBERS[1], MEMBERS[2])


class TestTouch:
    """Who has not anchored for long is not waited for."""

    def test_the_dead_count_until_they_are_out_of_touch(self) -> None:
        shown = [vote(1, 3, None), vote(0, 5, A)]
        assert claims(shown, roll(2), final=3 + TOUCH) == (Claim(A, False),)
        assert claims(shown, roll(2), final=4 + TOUCH) == (Claim(A, True),)

    def test_who_never_anchored_counts_from_the_beginning(self) -> None:
        assert claims([vote(0, 5, A)], roll(2), final=TOUCH) == (Claim(A, False),)
        assert claims([vote(0, 5, A)], roll(2), final=TOUCH + 1) == (Claim(A, True),)

    def test_after_a_break_of_the_whole_run_all_are_waited_for(self) -> None:
        """Who comes back first is not alone: the time in which nobody could vote costs nobody the vote."""
        back = 30 * TOUCH
        shown = [*(vote(member, DUE, None) for member in range(3)), vote(2, back, B)]
        assert claims(shown, roll(3), final=back + TOUCH // 2) == (Claim(B, False),)
        shown += [vote(0, back + 3, A), vote(1, back + 4, A)]
        assert claims(shown, roll(3), final=back + TOUCH // 2) == (Claim(A, True), Claim(B, False))


class TestRescue:
    """The owner's record counts where the list decides none."""

    def test_it_is_decided_by_its_anchor_and_stays_so(self) -> None:
        shown = [vote(0, 5, A), vote(1, 6, B), vote(4, 40, C)]
        listed = replace(roll(3), rescues=frozenset((C,)))
        assert claims(shown, listed, final=39)[0] == Claim(C, False)
        assert claims(shown, listed, final=40)[0] == Claim(C, True)
        shown += [vote(0, 41, B), vote(2, 42, B)]
        assert claims(shown, listed, final=99)[0] == Claim(C, True)

    def test_what_the_list_decided_before_stands(self) -> None:
        shown = [vote(0, 5, A), vote(1, 6, A), vote(4, 90, C)]
        assert claims(shown, replace(roll(3), rescues=frozenset((C,))), final=99)[0] == Claim(A, True)

    def test_of_two_the_one_that_was_anchored_first(self) -> None:
        shown = [vote(3, 80, B), vote(4, 90, C)]
        assert claims(shown, replace(roll(3), rescues=frozenset((B, C))), final=99)[0] == Claim(B, True)

    def test_without_one_its_anchor_is_nobodys_vote(self) -> None:
        assert claims([vote(4, 90, C)], roll(3), final=99) == (Claim(C, False),)


@given(histories, st.integers(-1, 200), st.integers(0, 100), st.frozensets(st.sampled_from((A, B, C))))
def test_what_is_final_is_final_whatever_comes(
    history: tuple[int, list[Vote]], final: int, later: int, rescues: frozenset[bytes]
) -> None:
    """More votes in later blocks, more of them final: never another record."""
    members, shown = history
    listed = replace(roll(members), rescues=rescues)
    seen = [one for one in shown if one.block <= final]
    now, then = claims(seen, listed, final), claims(shown, listed, final + later)
    assert {claim.digest for claim in now if claim.final} <= {claim.digest for claim in then if claim.final}


@given(histories, st.integers(-1, 200))
def test_one_is_final_at_most_and_it_comes_first(history: tuple[int, list[Vote]], final: int) -> None:
    members, shown = history
    found = claims(shown, roll(members), final)
    assert len({claim.digest for claim in found}) == len(found)
    assert [claim.final for claim in found[1:]] == [False] * len(found[1:])
    for claim in found:
        assert (before(found, claim.digest) == ()) == (claim.final or claim is found[0])


class Reached(NamedTuple):
    """A schedule of votes, what is decided by its last block, and which record stands first."""

    shown: tuple[Vote, ...]
    decided: bytes | None
    head: bytes | None


class Schedules:
    """Every state that votes of `members`, the last `evil` of them evil, can come to; each with a schedule to it.

    A state is what each stands on, and what is decided. `dead` honest members are out of touch; all others were there
    in the round before, and stay in touch for as long as any schedule here takes.
    """

    def __init__(self, members: int, evil: int, dead: int = 0) -> None:
        self.roll, self.honest = roll(members, due=2 * TOUCH), range(dead, members - evil)
        self.evil = range(members - evil, members)
        start = self.after(tuple(vote(member, TOUCH, None) for member in range(dead, members)))
        self.reached: dict[tuple[object, ...], Reached] = {}
        fresh = deque([start])
        while fresh:
            now = fresh.popleft()
            for step in (*self.honest_steps(now), *self.evil_steps(now)):
                then = self.after((*now.shown, step))
                assert now.decided in (None, then.decided), "two records were final"
                state = (then.decided, *(one.stands for one in newest(then.shown)))
                if state not in self.reached:
                    self.reached[state] = then
                    fresh.append(then)

    def after(self, shown: tuple[Vote, ...]) -> Reached:
        found = claims(shown, self.roll, shown[-1].block, TURNS)
        decided = next((claim.digest for claim in found if claim.final), None)
        return Reached(shown, decided, found[0].digest if found else None)

    def evil_steps(self, now: Reached) -> Iterator[Vote]:
        for member in self.evil:
            yield from (vote(member, now.shown[-1].block + 1, stands) for stands in (A, B, None))

    def honest_steps(self, now: Reached) -> Iterator[Vote]:
        """First for one that it holds; then for the one that stands first."""
        block, votes = now.shown[-1].block + 1, {one.voter: one for one in now.shown}
        for member in self.honest:
            mine = votes[MEMBERS[member]]
            if mine.stands is None:
                yield from (vote(member, block, stands) for stands in (A, B))
            elif now.head != mine.stands:
                yield vote(member, block, now.head)


def newest(shown: Sequence[Vote]) -> list[Vote]:
    """Each one's newest, by member."""
    votes = {one.voter: one for one in shown}
    return [votes[voter] for voter in sorted(votes)]


LISTS = [(members, evil, 0) for members in range(1, 6) for evil in range((members + 1) // 2)]
LISTS += [(2, 0, 1), (3, 0, 1), (3, 0, 2), (4, 1, 1), (5, 1, 1), (5, 1, 2)]
"""Members, evil ones, dead honest ones: of those that are left, more than half are honest."""


@pytest.fixture(scope="module", params=LISTS, ids=lambda numbers: "members-{}-evil-{}-dead-{}".format(*numbers))
def schedules(request: pytest.FixtureRequest) -> Schedules:
    return Schedules(*request.param)


class TestEverySchedule:
    """Fewer than half are evil: never two finals (each schedule looks at that on its way), always one."""

    def test_something_is_decided_once_the_honest_ones_have_voted(self, schedules: Schedules) -> None:
        """From anywhere, with the evil ones silent from then on: honest ones vote, and go over to what stands first."""
        for reached in schedules.reached.values():
            now = reached
            while now.decided is None:
                now = schedules.after((*now.shown, next(schedules.honest_steps(now))))
                assert len(now.shown) < len(reached.shown) + 2 * len(MEMBERS)

    def test_who_comes_late_and_waits_until_the_honest_ones_have_gone_over_sees_no_other_majority(
        self, schedules: Schedules
    ) -> None:
        """Where only the newest anchors are shown: whatever the evil ones stand on by then."""
        for reached in schedules.reached.values():
            now = reached
            while now.decided is not None and (step := next(schedules.honest_steps(now), None)) is not None:
                now = schedules.after((*now.shown, step))
            for stands in product((A, B, None), repeat=len(schedules.evil)):
                block = now.shown[-1].block
                later = [vote(member, block, each) for member, each in zip(schedules.evil, stands, strict=True)]
                poll = schedules.roll.poll(newest((*now.shown, *later)), block, TOUCH)
                assert reached.decided is None or poll.winner in (None, reached.decided)


def test_by_the_newest_anchors_at_one_block_who_comes_late_could_be_wrong() -> None:
    """Why a majority has to hold there: a liar that changes sides shows two."""
    found = Schedules(3, 1)
    assert any(
        found.roll.poll(newest(shown), shown[-1].block, TOUCH).winner not in (None, decided)
        for shown, decided, _ in found.reached.values()
        if decided is not None
    )


def test_two_with_one_liar_never_have_two_finals_and_may_wait_for_ever() -> None:
    found = Schedules(2, 1)
    assert any(now.decided is None and not [*found.honest_steps(now)] for now in found.reached.values())
