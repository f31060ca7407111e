"""The doctor's questions to Bittensor's own runtime: who may take part, and an endpoint that shows only old blocks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from doctor_setups import diagnose_async, lay_out_on, miniature
from local_chain import TEMPO

from muster.doctor.checks import judge_registration
from muster.doctor.finding import Status
from muster.doctor.network import Clock, find_member, watch_chain
from muster.protocol.chain.bittensor import BittensorChain
from muster.protocol.chain.commitments import CommitSpace
from muster.protocol.errors import ChainError, ConfigError, NotRegistered
from muster.protocol.identity import Identity
from muster.protocol.types import Role
from muster.run.file import BITTENSOR, NO_RUN, RunFile
from muster.run.specs import check_pace, find_standing

pytestmark = [pytest.mark.chain, pytest.mark.timeout(600)]


async def test_blocks_are_seen_to_come(subnet: Any, client: BittensorChain) -> None:
    async def mine() -> None:
        while True:
            await subnet.chain.mine(client, 1)

    mining = asyncio.ensure_future(mine())
    facts = await watch_chain(client, "the chain", Clock())
    mining.cancel()
    assert facts.height > 0
    assert facts.block_seconds > 0


async def test_members_and_strangers(subnet: Any, client: BittensorChain) -> None:
    async def judged(identity: Identity, role: Role) -> tuple[Status, int, str]:
        member = await find_member(client, identity.hotkey, registers_itself=False)
        leaders = (subnet.members[0].hotkey,)
        finding = judge_registration(member, role, leaders, subnet.netuid)
        return finding.status, finding.exit_status, finding.fix

    operator, rival, miner, _ = subnet.members
    assert (await judged(operator, Role.AGGREGATOR))[0] is Status.OK
    assert (await judged(rival, Role.VALIDATOR))[0] is Status.OK
    assert (await judged(miner, Role.MINER))[0] is Status.OK
    for who, role, fix, expected in (
        (miner, Role.VALIDATOR, "btcli stake add --netuid", ChainError),
        (Identity.derive(9, "stranger"), Role.MINER, "btcli subnets register --netuid", NotRegistered),
    ):
        status, exit_status, told = await judged(who, role)
        assert (status, exit_status) == (Status.FAIL, expected.exit_status)
        assert f"{fix} {subnet.netuid}" in told


async def test_the_quota_is_counted_before_a_run_is_made_and_before_one_is_joined(
    subnet: Any, client: BittensorChain, tmp_path: Path
) -> None:
    """Of 300 bytes in an epoch of 10 blocks two writes are a round's, one is to spare: one in 5 blocks."""
    parts = RunFile(run_id=NO_RUN, chain=BITTENSOR, netuid=subnet.netuid, endpoints=(subnet.chain.url,))
    made = miniature(clock={"min_blocks": 2})
    run = lay_out_on(tmp_path / "run", made, parts, await client.origin())
    told = {}
    try:
        for limit in (3100, 300):
            await subnet.chain.sudo("Commitments", "set_max_space", new_limit=limit)
            async with subnet.chain.making_blocks(500):
                findings = await diagnose_async(run.path, "operator-0", Role.AGGREGATOR)
            told[limit] = findings["anchors"]
            standing = await find_standing(parts)
            assert standing.space == CommitSpace(limit, TEMPO)
            if limit == 3100:
                check_pace(made.clock, standing.space)
                continue
            with pytest.raises(ConfigError, match=r"every 5 blocks .300 bytes in 10 blocks.*min_blocks to at least 4"):
                check_pace(made.clock, standing.space)
    finally:
        await subnet.chain.sudo("Commitments", "set_max_space", new_limit=3100)
    assert [told[limit].status for limit in (3100, 300)] == [Status.OK, Status.FAIL]
    assert "an anchor every 5 blocks (300 bytes in 10 blocks, 1 write to spare)" in told[300].text
    assert told[300].exit_status == ChainError.exit_status


async def test_a_stale_endpoint(subnet: Any, client: BittensorChain, tmp_path: Path) -> None:
    if not subnet.chain.ours:
        pytest.skip("a chain that makes blocks by itself is not stale")
    parts = RunFile(run_id=NO_RUN, chain=BITTENSOR, netuid=subnet.netuid, endpoints=(subnet.chain.url,))
    run = lay_out_on(tmp_path / "run", miniature(), parts, await client.origin())
    async with subnet.chain.in_network():
        findings = await diagnose_async(run.path)
    failed = {name: found.exit_status for name, found in findings.items() if found.status is Status.FAIL}
    assert failed == {"chain": ChainError.exit_status}
    assert "seconds old by this machine's clock" in findings["chain"].text
    assert findings["registration"].status is Status.SKIPPED
