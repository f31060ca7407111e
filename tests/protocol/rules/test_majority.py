"""Who speaks for the run without its owner: more than half of the validators that are heard, and of the stake."""

from __future__ import annotations

from builders import OWNER, hash32, identity
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.rules.majority import carried_by, outweigh
from muster.protocol.wire import ScoresUsed

KEYS = sorted(identity(f"validator-{i}").public for i in range(7))
STRANGERS = [identity("stranger").public, identity(OWNER).public]

stakes = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 5), max_size=7)
some = st.frozensets(st.sampled_from([*KEYS, *STRANGERS]))
lists = st.frozensets(st.sampled_from(KEYS), min_size=1)


def used(table: dict[bytes, int]) -> list[ScoresUsed]:
    return [ScoresUsed(public, table[public], 8, hash32("used"), ()) for public in sorted(table)]


def carried(signers: frozenset[bytes], heard: frozenset[bytes], table: dict[bytes, int]) -> bool:
    return carried_by(heard, used(table))(signers)


@given(some, lists, stakes)
def test_it_takes_more_than_half_of_both(
    signers: frozenset[bytes], heard: frozenset[bytes], table: dict[bytes, int]
) -> None:
    """Written out: whoever is not on the list does not count, one alone never does, half is not enough."""
    there = [public for public in heard if public in signers]
    missing = [public for public in heard if public not in signers]
    with_stake = sum(table.get(public, 0) for public in there)
    without = sum(stake for public, stake in table.items() if public not in there)
    expected = len(there) > 1 and len(there) > len(missing) and with_stake > without
    assert carried(signers, heard, table) == expected


@given(some, lists, stakes)
def test_two_that_share_nobody_never_both_carry(
    signers: frozenset[bytes], heard: frozenset[bytes], table: dict[bytes, int]
) -> None:
    others = frozenset([*KEYS, *STRANGERS]) - signers
    assert not (carried(signers, heard, table) and carried(others, heard, table))


@given(some, some, lists, stakes)
def test_more_signatures_never_undo_it(
    signers: frozenset[bytes], more: frozenset[bytes], heard: frozenset[bytes], table: dict[bytes, int]
) -> None:
    assert carried(signers | more, heard, table) >= carried(signers, heard, table)


@given(lists, st.integers(1, 10**9))
def test_with_equal_stakes_every_proper_subset_below_the_bound_is_refused(heard: frozenset[bytes], stake: int) -> None:
    ranked, table = sorted(heard), dict.fromkeys(heard, stake)
    bound = max(2, len(heard) // 2 + 1)
    found = [carried(frozenset(ranked[:count]), heard, table) for count in range(len(heard) + 1)]
    assert found == [count >= bound for count in range(len(heard) + 1)]


def test_a_leader_cannot_make_a_majority_by_what_it_writes() -> None:
    """Of five validators it uses the scores of two, whom it gives all the stake."""
    heard, pair = frozenset(KEYS[:5]), frozenset(KEYS[:2])
    assert outweigh(pair, dict.fromkeys(pair, 10**9), 2)
    assert not carried(pair, heard, dict.fromkeys(pair, 10**9))


def test_heads_without_stake_are_no_majority() -> None:
    """Three of five, whose stake the record does not say, or says to be half."""
    heard = frozenset(KEYS[:5])
    three, two = frozenset(KEYS[:3]), frozenset(KEYS[3:5])
    assert not carried(three, heard, {})
    assert not carried(three, heard, dict.fromkeys(two, 1))
    assert not carried(three, heard, {KEYS[0]: 2, KEYS[4]: 2})
    assert carried(three, heard, {KEYS[0]: 3, KEYS[4]: 2})
