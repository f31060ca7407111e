"""A peer behind a pointer, on Bittensor's own runtime."""

from __future__ import annotations

import pytest
from local_chain import Subnet
from pointed_peer import PointedPeer, World

from muster.protocol.chain.bittensor import BittensorChain
from muster.protocol.storage.locations import MemoryBuckets

pytestmark = [pytest.mark.chain, pytest.mark.timeout(600)]


@pytest.fixture
async def world(subnet: Subnet, client: BittensorChain) -> World:
    """A miner of the subnet."""
    return World(client, subnet.members[2], MemoryBuckets())


class TestOnChain(PointedPeer):
    """Of a run on Bittensor."""
