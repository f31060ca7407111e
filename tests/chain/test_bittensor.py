"""Bittensor's own runtime as the chain: what the rest of Muster relies on is really so there."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3
from hotkey_process import OPERATOR, digest, line, other_process
from local_chain import TEMPO, Subnet

from muster.protocol.chain.bittensor import BittensorChain
from muster.protocol.chain.bittensor.endpoints import PAUSES, Endpoints
from muster.protocol.chain.bittensor.runtime import Runtime
from muster.protocol.chain.bittensor.setup import await_permits
from muster.protocol.chain.bittensor.signing import HotkeySigner, submit
from muster.protocol.chain.commitments import to_info
from muster.protocol.errors import ChainError, ChainUnreachable, NotPermitted, NotRegistered, RateLimited, StaleChain
from muster.protocol.identity import Identity
from muster.protocol.types import Anchor

pytestmark = [pytest.mark.chain, pytest.mark.timeout(600)]

STRANGER = Identity.derive(9, "stranger")
LOCATION = "s3://READ:SECRET@127.0.0.1:9000/bucket"
NOWHERE = "ws://127.0.0.1:9"
"""The discard port: nobody listens there."""


async def location_of(client: BittensorChain, identity: Identity) -> str | None:
    """Where a member's bucket is."""
    return (await client.snapshot()).by_hotkey()[identity.hotkey].location


async def test_members_have_uids_in_order_and_whoever_has_stake_a_permit(
    subnet: Subnet, client: BittensorChain
) -> None:
    peers = (await client.snapshot()).peers
    assert [(peer.uid, peer.hotkey) for peer in peers] == [
        (uid, member.hotkey) for uid, member in enumerate(subnet.members)
    ]
    assert [peer.permit for peer in peers] == [True, True, False, False]
    assert peers[0].stake > peers[1].stake > peers[2].stake == 0
    assert [await client.register(member) for member in subnet.members] == [0, 1, 2, 3]


async def test_the_chain_says_which_it_is(subnet: Subnet, client: BittensorChain) -> None:
    origin = await client.origin()
    assert (origin.kind, origin.netuid) == ("bittensor", subnet.netuid)
    assert origin.genesis == (await client.block(0)).hash
    assert 0 < origin.registered <= (await client.head()).number
    space = await client.commit_space()
    assert space is not None
    assert (space.bytes, space.blocks) == (3100, TEMPO)
    nobodys = BittensorChain((subnet.chain.url,), 60_000)
    with pytest.raises(ChainError, match="no subnet 60000"):
        await nobodys.origin()
    await nobodys.close()


async def test_a_stranger_is_told_how_to_register_and_may_do_nothing(client: BittensorChain) -> None:
    with pytest.raises(NotRegistered, match=r"btcli subnets register --netuid"):
        await client.register(STRANGER)
    with pytest.raises(NotRegistered, match="the commitment of"):
        await client.commit(STRANGER, LOCATION)
    with pytest.raises(NotRegistered):
        await client.set_weights(STRANGER, {2: 1})


@pytest.mark.parametrize("location", [LOCATION, "s3://127.0.0.1/" + "b" * 497], ids=["short", "longest"])
async def test_a_location_and_the_newest_anchor_are_read_back(
    subnet: Subnet, client: BittensorChain, location: str
) -> None:
    miner, anchor = subnet.members[2], Anchor(len(location), blake3(location.encode()).digest())
    await client.commit(miner, location, anchor)
    assert await location_of(client, miner) == location
    assert [seen.anchor for seen in await client.anchors(0) if seen.hotkey == miner.hotkey] == [anchor]
    await client.commit(miner, LOCATION + "/moved")
    assert await location_of(client, miner) == LOCATION + "/moved"
    (seen,) = [seen for seen in await client.anchors(anchor.round) if seen.hotkey == miner.hotkey]
    assert seen.anchor == anchor, "a new location leaves the anchor alone"
    assert await client.anchors(anchor.round + 1) == ()


async def test_the_form_of_existing_subnets_is_read(subnet: Subnet, client: BittensorChain) -> None:
    text = "a" * 32 + "K" * 32 + "s" * 64
    runtime = Runtime(subnet.chain.url)
    await runtime.connect()
    call = ("Commitments", "set_commitment", {"netuid": subnet.netuid, "info": to_info([text.encode()])})
    await submit(runtime, await runtime.compose(call), HotkeySigner(subnet.members[3]), "a commitment")
    await runtime.close()
    account, key, secret = "a" * 32, "K" * 32, "s" * 64
    found = await location_of(client, subnet.members[3])
    assert found == f"s3://{key}:{secret}@{account}.r2.cloudflarestorage.com/{account}?region=auto"


async def test_beacons_come_from_final_blocks(subnet: Subnet, client: BittensorChain) -> None:
    await subnet.chain.mine(client, 1)
    head = await client.head()
    assert await client.block(head.number) == head
    beacon = await client.beacon("assign", 7, head.number)
    assert beacon == blake3(b"muster/block-beacon/v1assign" + (7).to_bytes(8, "little") + head.hash).digest()
    others = [("assign", 8, head.number), ("evaluate", 7, head.number), ("assign", 7, head.number - 1)]
    assert len({beacon, *[await client.beacon(*other) for other in others]}) == 4
    with pytest.raises(ChainError, match="no final block"):
        await client.beacon("assign", 7, head.number + 100)
    with pytest.raises(ChainError, match="no final block -1"):
        await client.block(-1)


async def test_next_block_waits_for_one(subnet: Subnet, client: BittensorChain) -> None:
    head = await client.head()
    assert await client.next_block(head.number - 1) == head
    waiting = asyncio.create_task(client.next_block(head.number))
    await subnet.chain.mine(client, 1)
    assert (await waiting).number > head.number


async def test_of_two_anchors_in_one_block_the_first_extrinsic_comes_first(
    subnet: Subnet, client: BittensorChain
) -> None:
    if not subnet.chain.ours:
        pytest.skip("the order within a block can be arranged on a chain of one's own only")
    first, second = subnet.members[1], subnet.members[0]
    await subnet.chain.rpc("dev_setBlockBuildMode", "Manual")
    try:
        async with asyncio.TaskGroup() as tasks:
            for number, operator in enumerate((first, second), start=1):
                tasks.create_task(client.commit(operator, LOCATION, Anchor(40, bytes([number]) * 32)))
                await subnet.chain.pending(number)
            await subnet.chain.mine(client, 1)
    finally:
        await subnet.chain.rpc("dev_setBlockBuildMode", "Instant")
    seen = [seen for seen in await client.anchors(40) if seen.hotkey in (first.hotkey, second.hotkey)]
    assert seen[0].block == seen[1].block
    assert seen[0].index < seen[1].index
    block = await _extrinsics(subnet, seen[0].block)
    assert [block[each.index] for each in seen] == [each.hotkey for each in seen]


async def _extrinsics(subnet: Subnet, number: int) -> list[str | None]:
    """Who signed the extrinsics of a block."""
    runtime = Runtime(subnet.chain.url)
    await runtime.connect()
    try:
        found = await runtime.get_block(block_number=number)
        assert found is not None
        return [extrinsic.get("address") for extrinsic in found["extrinsics"]]
    finally:
        await runtime.close()


async def test_weights_are_paid_in_proportion_and_set_once_an_epoch(subnet: Subnet, client: BittensorChain) -> None:
    validator, miner = subnet.members[0], subnet.members[2]
    with pytest.raises(NotPermitted, match="no validator permit"):
        await client.set_weights(miner, {3: 1})
    with pytest.raises(ChainError, match="unknown uid"):
        await client.set_weights(validator, {9: 1})
    with pytest.raises(ChainError, match="not from 0 to 65535"):
        await client.set_weights(validator, {2: 65_536})
    await _when_due(subnet, client, validator, {2: 300, 3: 100})
    with pytest.raises(RateLimited, match=r"due again in block \d+"):
        await client.set_weights(validator, {2: 1})
    await subnet.chain.mine(client, 2 * TEMPO + 2)
    peers = (await client.snapshot()).peers
    assert [peer.incentive for peer in peers] == pytest.approx([0, 0, 0.75, 0.25], abs=1e-3)
    assert peers[2].emission > peers[3].emission > 0


async def _when_due(subnet: Subnet, client: BittensorChain, validator: Identity, weights: dict[int, int]) -> None:
    """Set weights as soon as the client would have them set."""
    try:
        await client.set_weights(validator, weights)
    except RateLimited as error:
        due = int(re.findall(r"due again in block (\d+)", str(error))[0])
        await subnet.chain.mine(client, due - (await client.head()).number)
        await client.set_weights(validator, weights)


async def test_weights_are_sealed_where_the_subnet_wants_that(subnet: Subnet, client: BittensorChain) -> None:
    switch = ("AdminUtils", "sudo_set_commit_reveal_weights_enabled")
    await subnet.chain.sudo(*switch, netuid=subnet.netuid, enabled=True)
    try:
        before = await _updated(subnet)
        await _when_due(subnet, client, subnet.members[0], {2: 1, 3: 1})
        assert await _updated(subnet) > before
        assert await _sealed(subnet) == [subnet.members[0].hotkey]
    finally:
        await subnet.chain.sudo(*switch, netuid=subnet.netuid, enabled=False)


async def _updated(subnet: Subnet) -> int:
    """The block of the first validator's last weights."""
    return int((await subnet.chain.query("SubtensorModule", "LastUpdate", [subnet.netuid]))[0])


async def _sealed(subnet: Subnet) -> list[str]:
    """Whose sealed weights wait to be revealed."""
    runtime = Runtime(subnet.chain.url)
    await runtime.connect()
    try:
        found: list[str] = []
        items = {item.name for p in (await runtime.raw.metadata_ir()).pallets for item in p.storage}
        for name in sorted(items & {"CRV3WeightCommits", "CRV3WeightCommitsV2", "TimelockedWeightCommits"}):
            for _, queue in await runtime.query_map("SubtensorModule", name, [subnet.netuid]):
                found += [str(entry[0]) for entry in queue]
        return found
    finally:
        await runtime.close()


async def test_too_many_bytes_in_an_epoch_are_refused_here_and_there(subnet: Subnet, client: BittensorChain) -> None:
    limit = int(await subnet.chain.query("Commitments", "MaxSpace", []))
    aggregator, miner = subnet.members[1], subnet.members[3]
    anchor = Anchor(45, bytes(32))
    await client.commit(aggregator, LOCATION, anchor)
    await subnet.chain.sudo("Commitments", "set_max_space", new_limit=120)
    other = subnet.chain.client(subnet.netuid)
    try:
        with pytest.raises(ChainError, match="more than the 120 of this chain"):
            await client.commit(miner, "dir:" + "x" * 200)
        # To the beginning of an epoch, so that none ends below.
        passed = int(await subnet.chain.query("SubtensorModule", "BlocksSinceLastStep", [subnet.netuid]))
        await subnet.chain.mine(client, TEMPO + 1 - passed)
        await client.commit(miner, "dir:one")
        for one in (client, other):
            with pytest.raises(RateLimited, match=r"100 of the 120 bytes .* committed from about block \d+"):
                await one.commit(miner, "dir:two")
        with pytest.raises(RateLimited, match=r"0 of the 120 bytes .* as many are kept for the next anchor"):
            await client.commit(aggregator, "dir:two")
        await client.commit(aggregator, "dir:two", replace(anchor, round=46))
    finally:
        await other.close()
        await subnet.chain.sudo("Commitments", "set_max_space", new_limit=limit)
    assert await location_of(client, miner) == "dir:one"
    assert await location_of(client, aggregator) == "dir:two", "with an anchor there is room for it"


async def test_an_endpoint_that_is_behind_or_dead_is_named(subnet: Subnet) -> None:
    if not subnet.chain.ours:
        pytest.skip("only a chain of one's own is behind")
    stale = BittensorChain([NOWHERE, subnet.chain.url], subnet.netuid)
    async with subnet.chain.in_network():
        with pytest.raises(StaleChain, match=r"ws://127.0.0.1:9: .*newest final block is \d+ seconds old"):
            await stale.head()
    assert (await stale.head()).number > 0, "alone, it may be as slow as it likes"
    await stale.close()
    dead = BittensorChain([NOWHERE.replace("ws://", "ws://user:token@") + "/secret"], subnet.netuid)
    with pytest.raises(ChainUnreachable) as caught:
        await dead.head()
    assert "ws://127.0.0.1:9" in str(caught.value)
    assert not re.search("user|token|secret", str(caught.value))
    elsewhere = subnet.chain.client(netuid=999)
    with pytest.raises(ChainError, match="does not exist"):
        await elsewhere.snapshot()
    await elsewhere.close()


async def test_the_next_endpoint_is_used_where_the_first_is_dead(subnet: Subnet) -> None:
    chain = BittensorChain([NOWHERE, subnet.chain.url], subnet.netuid)
    assert len((await chain.snapshot()).peers) == len(subnet.members)
    await chain.close()
    assert len((await chain.snapshot()).peers) == len(subnet.members), "it connects again"
    await chain.close()


async def test_an_outage_is_waited_out_once_the_chain_was_there(subnet: Subnet) -> None:
    if not subnet.chain.ours:
        pytest.skip("only a chain of one's own is behind")
    pauses: list[float] = []
    now = [0.0]

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            now[0] = 0.0

    async with subnet.chain.in_network():
        endpoints = Endpoints([subnet.chain.url], lambda: now[0], sleep)
        head = await endpoints.ask(lambda runtime: runtime.block_number())
        await endpoints.close()
        now[0] = 1e12
        assert await endpoints.ask(lambda runtime: runtime.block_number()) >= head
        assert pauses == [1.0, 4.0]
        now[0] = 1e12
        await endpoints.close()
        with pytest.raises(StaleChain):
            await endpoints.ask(lambda runtime: runtime.block_number())
    assert pauses == [1.0, 4.0, *PAUSES]
    assert sum(PAUSES) == 600, "as the operator is told"


async def test_two_processes_of_one_hotkey_do_not_hinder_each_other(subnet: Subnet, client: BittensorChain) -> None:
    operator, anchor = subnet.members[1], Anchor(50, bytes(32))
    other = subnet.chain.client(subnet.netuid)
    try:
        await client.commit(operator, "dir:a", anchor)
        await other.commit(operator, "dir:b", anchor)
        await client.commit(operator, "dir:c", anchor)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.commit(operator, "dir:d", anchor))
            tasks.create_task(other.commit(operator, "dir:e", anchor))
        assert await location_of(client, operator) in ("dir:d", "dir:e")
    finally:
        await other.close()


async def test_two_processes_of_one_queue_lose_nothing_of_each_other(
    subnet: Subnet, client: BittensorChain, tmp_path: Path
) -> None:
    """One commits locations, one anchors: each looks after each of its commits whether its own are still there."""
    chain, commits = f"{subnet.chain.url}#{subnet.netuid}", 4
    with (
        other_process("anchors", chain, tmp_path, commits) as first,
        other_process("locations", chain, tmp_path, commits) as second,
    ):
        both = (first, second)
        assert [await asyncio.to_thread(line, each) for each in both] == ["ready", "ready"]
        for each in both:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        assert [await asyncio.to_thread(line, each) for each in both] == ["done", "done"]
    assert await location_of(client, OPERATOR) == f"dir:{commits - 1}"
    mine = [seen.anchor for seen in await client.anchors(0) if seen.hotkey == OPERATOR.hotkey]
    assert mine == [Anchor(commits - 1, digest(commits - 1))]


def test_a_development_chain_has_to_give_permits() -> None:
    looks: list[int] = []

    async def held() -> list[bool]:
        looks.append(len(looks))
        return [len(looks) > 2, False]

    asyncio.run(await_permits(held, [0]))
    assert len(looks) == 3
    with pytest.raises(ChainError, match="no validator permit after several epochs"):
        asyncio.run(await_permits(held, [0, 1]))
