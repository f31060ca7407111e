"""The laws of the miners' half of Yuma Consensus, and a worked example."""

import math
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.chain.emission import SHARE_ONE, consensus, incentives, normalised, ranks, split

weight_rows = st.dictionaries(st.integers(0, 9), st.integers(0, 65_535), max_size=10)
validators = st.dictionaries(
    st.integers(100, 105), st.tuples(st.integers(1, 10**18), weight_rows), min_size=1, max_size=6
)


def unzip(
    validators: dict[int, tuple[int, dict[int, int]]],
) -> tuple[dict[int, int], dict[int, dict[int, int]]]:
    stakes = {uid: stake for uid, (stake, _) in validators.items()}
    return stakes, {uid: row for uid, (_, row) in validators.items()}


class TestExample:
    """Three validators with 40, 35 and 25 % of the stake; the last one invents a favourite, uid 3."""

    stakes: ClassVar = {10: 40, 11: 35, 12: 25}
    weights: ClassVar = {10: {1: 3, 2: 1}, 11: {1: 1, 2: 1}, 12: {3: 7}}

    def test_consensus_is_the_stake_weighted_median(self) -> None:
        shares = {uid: normalised(row) for uid, row in self.weights.items()}
        # uid 1: 40 % give 3/4 and 75 % at least 1/2; uid 2: 35 % give 1/2 and 75 % at least 1/4.
        assert consensus(self.stakes, shares) == {1: SHARE_ONE // 2, 2: SHARE_ONE // 4, 3: 0}

    def test_shares_above_consensus_are_clipped(self) -> None:
        assert incentives(ranks(self.stakes, self.weights)) == {1: 2 / 3, 2: 1 / 3}

    def test_emission_is_split_in_proportion(self) -> None:
        assert split(1_000, ranks(self.stakes, self.weights)) == {1: 667, 2: 333}


def test_exactly_half_of_the_stake_is_no_majority() -> None:
    assert ranks({1: 5, 2: 5}, {1: {7: 1}, 2: {8: 1}}) == {}
    assert list(ranks({1: 6, 2: 5}, {1: {7: 1}, 2: {8: 1}})) == [7]


def test_a_silent_validator_counts_as_giving_nothing() -> None:
    assert ranks({1: 5, 2: 6}, {1: {7: 1}}) == {}


def test_remainders_go_to_the_largest_first_and_ties_to_the_lowest_uid() -> None:
    assert split(2, {5: 1, 3: 1, 4: 1}) == {3: 1, 4: 1, 5: 0}
    assert split(4, {1: 5, 2: 6, 3: 9}) == {1: 1, 2: 1, 3: 2}


@given(validators)
def test_incentive_sums_to_one_or_is_nowhere(case: dict[int, tuple[int, dict[int, int]]]) -> None:
    shares = incentives(ranks(*unzip(case)))
    assert math.fsum(shares.values()) == pytest.approx(1 if shares else 0, abs=1e-12)
    assert all(0 < share <= 1 for share in shares.values())


@given(validators)
def test_agreement_pays_everybody_with_a_weight(case: dict[int, tuple[int, dict[int, int]]]) -> None:
    stakes, rows = unzip(case)
    row = next(iter(rows.values()))
    shares = incentives(ranks(stakes, dict.fromkeys(stakes, row)))
    total = sum(row.values())
    assert shares == pytest.approx({uid: weight / total for uid, weight in row.items() if weight}, abs=1e-8)


@given(st.integers(0, 10**12), st.dictionaries(st.integers(0, 300), st.integers(1, 10**30), min_size=1))
def test_a_split_pays_exactly_the_amount_within_a_unit_of_the_quota(amount: int, rank: dict[int, int]) -> None:
    paid = split(amount, rank)
    assert sum(paid.values()) == amount
    total = sum(rank.values())
    assert all(abs(paid[uid] * total - amount * rank[uid]) < total for uid in rank)


@given(validators, st.integers(1, 65_535), st.data())
def test_a_minority_cannot_lift_its_favourite_above_what_the_majority_gives(
    case: dict[int, tuple[int, dict[int, int]]], zeal: int, data: st.DataObject
) -> None:
    stakes, rows = unzip(case)
    favourite = data.draw(st.integers(0, 9))
    shares = {uid: normalised(row) for uid, row in rows.items()}
    colluder, up_to_half = 99, data.draw(st.integers(1, sum(stakes.values())))
    lifted = consensus({**stakes, colluder: up_to_half}, {**shares, colluder: normalised({favourite: zeal})})
    assert lifted[favourite] <= max(row.get(favourite, 0) for row in shares.values())


@given(validators, st.permutations(range(10)), st.permutations(range(100, 106)))
def test_renaming_uids_renames_the_payment(
    case: dict[int, tuple[int, dict[int, int]]], miners: list[int], seats: list[int]
) -> None:
    stakes, rows = unzip(case)
    renamed = ranks(
        {seats[uid - 100]: stake for uid, stake in stakes.items()},
        {seats[v - 100]: {miners[uid]: weight for uid, weight in row.items()} for v, row in rows.items()},
    )
    assert renamed == {miners[uid]: value for uid, value in ranks(stakes, rows).items()}


@given(validators, st.integers(2, 1000))
def test_only_proportions_of_stake_matter(case: dict[int, tuple[int, dict[int, int]]], factor: int) -> None:
    stakes, rows = unzip(case)
    scaled = {uid: stake * factor for uid, stake in stakes.items()}
    assert incentives(ranks(scaled, rows)) == incentives(ranks(stakes, rows))
