"""What the Bittensor client decides, without a chain: when weights are due, and what its answers mean."""

from __future__ import annotations

from dataclasses import replace

import bittensor as bt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from muster.protocol.chain.base import AnchorSeen
from muster.protocol.chain.bittensor import BittensorChain
from muster.protocol.chain.bittensor.endpoints import refused, shown
from muster.protocol.chain.bittensor.reading import (
    commit_order,
    in_chain_order,
    read_commitments,
    read_metagraph,
    read_snapshot,
)
from muster.protocol.chain.bittensor.weights import END_SHARE, EPOCH_END, WeightFacts, due
from muster.protocol.chain.commitments import Commitment, encode, to_info
from muster.protocol.errors import ChainError, NotPermitted, NotRegistered, RateLimited
from muster.protocol.types import Anchor, Block

MAINNET = WeightFacts(block=1_000, updated=600, epoch=900, tempo=360, rate_limit=100)


@st.composite
def facts(draw: st.DrawFn) -> WeightFacts:
    """Any subnet, somewhere in an epoch."""
    tempo = draw(st.integers(1, 400))
    block = draw(st.integers(0, 5_000))
    epoch = block - draw(st.integers(0, min(tempo, block)))
    updated = draw(st.none() | st.integers(0, block))
    return WeightFacts(block, updated, epoch, tempo, draw(st.integers(0, 800)))


def quiet(tempo: int) -> int:
    """How many blocks before an epoch nothing is set in."""
    return min(EPOCH_END, tempo // END_SHARE)


@pytest.mark.parametrize(
    ("changes", "when"),
    [
        ({}, 1_000),
        ({"updated": None}, 1_000),
        ({"updated": 950}, 1_261),  # this epoch has them: the next one begins in block 1,261
        ({"updated": 900}, 1_261),
        ({"updated": 899, "rate_limit": 150}, 1_049),
        ({"block": 1_249}, 1_249),
        ({"block": 1_251}, 1_261),
        ({"block": 1_260}, 1_261),
        ({"updated": 899, "rate_limit": 355}, 1_261),
    ],
)
def test_weights_of_mainnets_timing(changes: dict[str, int | None], when: int) -> None:
    assert due(replace(MAINNET, **changes)) == when  # type: ignore[arg-type]


@given(facts())
def test_weights_are_never_set_when_the_chain_would_refuse_or_miss_them(now: WeightFacts) -> None:
    when = due(now)
    assert when >= now.block
    if now.updated is not None:
        assert when >= now.updated + now.rate_limit
        assert now.updated < now.epoch or when > now.epoch + now.tempo
    into = (when - now.epoch) % (now.tempo + 1)
    assert into <= now.tempo - quiet(now.tempo)


@given(facts())
def test_weights_are_due_in_every_epoch_that_the_rate_limit_allows(now: WeightFacts) -> None:
    assume(now.updated is None or now.block - now.updated >= now.rate_limit)
    assert due(now) <= now.epoch + now.tempo + 1


GRAPH = {
    "hotkeys": ["a", "b"],
    "total_stake": [7, 0],
    "validator_permit": [True, False],
    "incentives": [0, 65_535],
    "emission": [0, 5],
    "last_update": [3, 0],
    "block": 9,
    "blocks_since_last_step": 4,
    "tempo": 20,
    "weights_rate_limit": 100,
    "weights_version": 1,
}
BLOCK = Block(9, bytes(32))


def test_a_snapshot_joins_metagraph_and_commitments() -> None:
    info = to_info(encode(Commitment("dir:b", Anchor(3, bytes(32)))))
    committed, blocks = read_commitments([("b", {"info": info, "block": 8}), ("gone", None)])
    assert blocks == {"b": 8}
    peers = read_snapshot(read_metagraph(GRAPH), BLOCK, committed).peers
    assert [(p.uid, p.hotkey, p.stake, p.permit, p.incentive, p.emission, p.location) for p in peers] == [
        (0, "a", 7, True, 0.0, 0, None),
        (1, "b", 0, False, 1.0, 5, "dir:b"),
    ]


def test_before_the_first_epoch_nobody_has_incentive() -> None:
    peers = read_snapshot(read_metagraph(GRAPH | {"incentives": [0, 0]}), BLOCK, {}).peers
    assert [peer.incentive for peer in peers] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "does not exist"),
        ("text", "not in the form"),
        ({}, "not in the form"),
        (GRAPH | {"tempo": None}, "not in the form"),
        (GRAPH | {"hotkeys": ["a"]}, "different lengths"),
    ],
)
def test_an_answer_that_is_no_metagraph_is_refused(answer: object, says: str) -> None:
    with pytest.raises(ChainError, match=says):
        read_metagraph(answer)


def test_the_order_of_a_block_is_that_of_its_extrinsics() -> None:
    def extrinsic(who: str, netuid: int, function: str = "set_commitment") -> dict[str, object]:
        arguments = [{"name": "netuid", "value": netuid}, {"name": "info", "value": {}}]
        call = {"call_module": "Commitments", "call_function": function, "call_args": arguments}
        return {"address": who, "call": call}

    timestamp = {"call": {"call_module": "Timestamp", "call_function": "set", "call_args": []}}
    block = [timestamp, extrinsic("b", 1), None, extrinsic("a", 2), extrinsic("c", 1), extrinsic("b", 1)]
    assert commit_order(block, 1) == {"c": 4, "b": 5}
    seen = [
        AnchorSeen(who, Anchor(0, bytes(32)), at, index) for who, at, index in (("a", 2, 0), ("b", 1, 5), ("c", 1, 4))
    ]
    assert [anchor.hotkey for anchor in in_chain_order(seen)] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("name", "code", "kind"),
    [
        ("SpaceLimitExceeded", None, RateLimited),
        ("SettingWeightsTooFast", None, RateLimited),
        ("AccountNotAllowedCommit", None, NotRegistered),
        ("HotKeyNotRegisteredInSubNet", None, NotRegistered),
        ("NeuronNoValidatorPermit", None, NotPermitted),
        (None, bt.ErrorCode.RATE_LIMITED, RateLimited),
        (None, bt.ErrorCode.INTERNAL, ChainError),
    ],
)
def test_refusals_have_names_of_ours(name: str | None, code: bt.ErrorCode | None, kind: type[ChainError]) -> None:
    error = refused("the weights of X", bt.ChainError("Something happened.", name, code))
    assert type(error) is kind
    assert str(error).startswith("the weights of X was refused")
    assert error.exit_status == (13 if kind is NotRegistered else 5)


def test_endpoints_are_shown_without_what_may_be_secret() -> None:
    assert shown("wss://user:pass@node.example:443/token?key=1") == "wss://node.example:443"
    assert shown("ws://[::1]:9944/x") == "ws://[::1]:9944"


@pytest.mark.parametrize("endpoints", [(), ("http://node.example",), ("node.example:9944",), ("wss://",)])
def test_what_is_no_endpoint_is_refused(endpoints: tuple[str, ...]) -> None:
    with pytest.raises(ChainError, match="endpoint"):
        BittensorChain(endpoints, 1)
