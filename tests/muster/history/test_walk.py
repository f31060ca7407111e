"""Where a run stands is what half of its aggregators have reached: neither the dead nor a liar decides that."""

from __future__ import annotations

import pytest
from builders import hash32, identity
from closed_rounds import open_tip
from hypothesis import given
from hypothesis import strategies as st

from muster.history.walk import reached_beyond
from muster.protocol.chain.base import AnchorSeen
from muster.protocol.ledger import Tip
from muster.protocol.types import Anchor

NAMES = [f"aggregator-{i}" for i in range(5)]


def tip_of(count: int) -> Tip:
    """The tip of a run with so many aggregators."""
    return open_tip(genesis={"leaders": tuple(identity(name).hotkey for name in NAMES[:count])})


def seen(name: str, round_: int) -> AnchorSeen:
    return AnchorSeen(identity(name).hotkey, Anchor(round_, hash32(round_)), round_, 0)


def test_before_the_first_anchor_nothing_is_reached() -> None:
    assert reached_beyond([], tip_of(3)) == 0
    assert reached_beyond([seen("stranger", 8)], tip_of(3)) == 0


@pytest.mark.parametrize(
    ("rounds", "beyond"),
    [
        ([7], 8),
        ([7, 5], 8),
        ([50, 50, 3], 51),
        ([10**9, 50, 50], 51),
        ([10**9, 10**9, 50, 49, 50], 51),
    ],
)
def test_half_of_those_with_an_anchor_decide(rounds: list[int], beyond: int) -> None:
    anchors = [seen(name, round_) for name, round_ in zip(NAMES, rounds, strict=False)]
    assert reached_beyond(anchors, tip_of(len(rounds))) == beyond


@given(st.lists(st.integers(0, 90), min_size=3, max_size=5), st.integers(0, 10**9), st.integers(0, 4))
def test_one_of_three_or_more_cannot_lead_beyond_what_another_has_reached(
    rounds: list[int], claim: int, liar: int
) -> None:
    rounds[liar % len(rounds)] = claim
    others = [round_ for i, round_ in enumerate(rounds) if i != liar % len(rounds)]
    anchors = [seen(name, round_) for name, round_ in zip(NAMES, rounds, strict=False)]
    assert min(others) < reached_beyond(anchors, tip_of(len(rounds))) <= max(others) + 1


def test_of_one_the_newest_counts() -> None:
    assert reached_beyond([seen(NAMES[0], 4), seen(NAMES[0], 6), seen(NAMES[0], 5)], tip_of(1)) == 7
