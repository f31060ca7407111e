"""Partitions as scripts: across the cut nothing is reached, within a group everything is, before and after it all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.lab.faults import Request, Script
from muster.lab.partitions import Partition, drawn, processes_of

PLACES = ("operator-0", "operator-1", "operator-2", "miner-0", "miner-1")
OPERATORS = PLACES[:3]
FROM, BLOCKS = 10, 5


def reached(script: Script, who: str, owner: str, height: int) -> bool:
    """Whether somebody reads something in a bucket."""
    request = Request(who, owner, "store.get", "R/records/00000001-d.rec")
    return script.before(request, height) is None and script.after(request, height) is None


@given(st.integers(0, 2**32), st.sampled_from([FROM - 1, FROM, FROM + BLOCKS - 1, FROM + BLOCKS]))
def test_a_bucket_is_reached_from_its_own_group_and_before_and_after(seed: int, height: int) -> None:
    partition = drawn(seed, PLACES, FROM, BLOCKS)
    assert sorted(place for group in partition.groups for place in group) == sorted(PLACES)
    script = Script(partition.faults())
    for group in partition.groups:
        for place in group:
            for owner in PLACES:
                expected = owner in group or not FROM <= height < FROM + BLOCKS
                assert all(reached(script, who, owner, height) == expected for who in processes_of(place))


@given(st.integers(0, 2**32))
def test_the_chain_is_late_or_away_for_whom_it_says(seed: int) -> None:
    partition = drawn(seed, PLACES, FROM, BLOCKS)
    script = Script(partition.faults())
    for place in PLACES:
        for who in processes_of(place):
            fault = script.before(Request(who, "chain", "chain.anchors", "0"), FROM)
            if place in partition.chainless:
                assert fault is not None
                assert fault.kind == "error"
            elif place in partition.late:
                assert fault is not None
                assert (fault.kind, fault.seconds) == ("slow", partition.late[place])
            else:
                assert fault is None


def test_who_is_in_no_group_reaches_everybody_and_is_reached() -> None:
    script = Script(Partition((frozenset(PLACES[:1]), frozenset(PLACES[1:2])), FROM, FROM + BLOCKS).faults())
    assert reached(script, "miner-0", "operator-1", FROM)
    assert reached(script, "aggregator-1", "miner-0", FROM)
    assert not reached(script, "validator-1", "operator-0", FROM)


@pytest.mark.parametrize(
    ("groups", "chainless", "most"),
    [
        ((PLACES[:2], PLACES[2:]), (), PLACES[:2]),
        ((PLACES[:2], PLACES[2:]), PLACES[:1], ()),
        ((PLACES[:1], PLACES[1:2], PLACES[2:]), (), ()),
        ((PLACES[:3], PLACES[3:]), PLACES[2:3], PLACES[:2]),
    ],
)
def test_a_majority_is_of_operators_who_have_the_chain(
    groups: tuple[tuple[str, ...], ...], chainless: tuple[str, ...], most: tuple[str, ...]
) -> None:
    partition = Partition(tuple(map(frozenset, groups)), FROM, FROM + BLOCKS, chainless=frozenset(chainless))
    assert partition.majority(OPERATORS) == frozenset(most)
