"""Fork choice with a list of one: who looks later, or sees more that is final, never stands elsewhere."""

from __future__ import annotations

from builders import hash32
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.ledger.forkchoice import Claim, Vote, before, claims, is_final

A, B, C = (hash32(name) for name in "abc")
votes = st.lists(st.tuples(st.sampled_from((A, B, C)), st.integers(0, 20)), max_size=8).map(
    lambda some: [Vote(digest, block) for digest, block in sorted(some, key=lambda one: one[1])]
)
"""In chain order."""


def test_the_record_that_was_anchored_first_stands_first() -> None:
    found = claims([Vote(A, 5), Vote(B, 6), Vote(A, 7)], final=5)
    assert found == (Claim(A, True), Claim(B, False))
    assert (is_final(found, A), is_final(found, B)) == (True, False)
    assert (before(found, A), before(found, B)) == ((), (Claim(A, True),))


def test_what_the_chain_has_taken_back_goes_behind_whatever_it_shows_now() -> None:
    assert before(claims([Vote(B, 6)], final=2), A) == (Claim(B, False),)
    assert before(claims([], final=2), A) == ()


@given(votes, st.integers(-1, 25), st.integers(0, 10))
def test_a_chain_that_goes_on_changes_no_order(shown: list[Vote], final: int, later: int) -> None:
    """More blocks, more of them final: what stood first stands first, and what was final is final."""
    now = claims(shown, final)
    then = claims([*shown, Vote(C, 30)], final + later)
    assert [claim.digest for claim in then][: len(now)] == [claim.digest for claim in now]
    assert {claim.digest for claim in now if claim.final} <= {claim.digest for claim in then if claim.final}


@given(votes, st.integers(-1, 25))
def test_final_ones_come_first_and_nothing_goes_before_them(shown: list[Vote], final: int) -> None:
    found = claims(shown, final)
    assert len({claim.digest for claim in found}) == len(found)
    assert [claim.final for claim in found] == sorted((claim.final for claim in found), reverse=True)
    for claim in found:
        assert (before(found, claim.digest) == ()) == (claim.final or claim is found[0])
