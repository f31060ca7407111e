"""One chain and one subnet for the whole suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from hotkey_process import OPERATOR
from local_chain import TEMPO, ChainAbsent, LocalChain, Subnet, local_chain

from muster.protocol.chain.bittensor import BittensorChain, set_up_subnet
from muster.protocol.identity import Identity

TAO = 10**9


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalChain]:
    """A development chain."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        # The SDK's caches; the genesis hash of such chains is always the same, so a shared one would mix runtimes up.
        patch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(folder / "runtimes"))
        patch.setenv("BTCLI_TOKEN_SYMBOLS_CACHE", str(folder / "symbols.json"))
        patch.setenv("BTCLI_CONFIG", str(folder / "btcli.json"))
        try:
            with local_chain(folder) as found:
                yield found
        except ChainAbsent as absent:
            pytest.skip(str(absent))


@pytest.fixture(scope="session")
def subnet(chain: LocalChain) -> Subnet:
    """A fresh subnet, in which who has stake has a permit."""
    return asyncio.run(_set_up(chain))


async def _set_up(chain: LocalChain) -> Subnet:
    members = (*(Identity.derive(9, name) for name in ("operator", "rival", "miner-0")), OPERATOR)
    hotkeys = [member.hotkey for member in members]
    netuid = await set_up_subnet(chain.url, hotkeys, {hotkeys[0]: 500 * TAO, hotkeys[1]: 400 * TAO}, tempo=TEMPO)
    # Miners are paid in stake here; none may become a validator by that.
    await chain.sudo("AdminUtils", "sudo_set_max_allowed_validators", netuid=netuid, max_allowed_validators=2)
    return Subnet(chain, netuid, members)


@pytest.fixture
async def client(subnet: Subnet) -> AsyncIterator[BittensorChain]:
    """A client of the subnet."""
    chain = subnet.chain.client(subnet.netuid)
    yield chain
    await chain.close()
