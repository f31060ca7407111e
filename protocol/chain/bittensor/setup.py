"""A subnet of one's own on a development chain, for a run of the testnet: //Alice may do anything there.

On a public network none of this works, and nothing of it is needed: there the subnet's owner has done it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import bittensor as bt
from bittensor.sp_core import Keypair

from muster.protocol.chain.bittensor.endpoints import SUBMIT_SECONDS, Endpoints
from muster.protocol.chain.bittensor.runtime import Runtime
from muster.protocol.chain.bittensor.signing import submit
from muster.protocol.errors import ChainError

OWNER = "//Alice"
"""The account that development chains give money and root."""

TEMPO = 20
"""Blocks of an epoch: a testnet lasts hundreds of blocks and has to show epochs."""

QUICK_TEMPO = 3
"""Blocks of the epochs until the operators have their permits, which an epoch gives."""

PERMIT_EPOCHS = 4
"""Epochs in which a hotkey with stake has its permit, counted from the stake: the first or the second."""

MAX_UIDS = 256
"""Slots of a subnet; as many may register in one interval here."""


async def set_up_subnet(
    url: str,
    members: Sequence[str],
    stakes: Mapping[str, int],
    *,
    owner_uri: str = OWNER,
    tempo: int = TEMPO,
    weights_rate_limit: int = 0,
    commit_reveal: bool = False,
) -> int:
    """Create a subnet on the development chain at `url`, wait for the operators' permits, and return its netuid.

    Args:
        members: hotkeys to register, in uid order; the first one becomes the subnet's owner hotkey, uid 0.
        stakes: hotkey → smallest units of TAO to stake on it, of the owner's.
        owner_uri: the development account that is root there and pays for everything.
        tempo: blocks of an epoch.
        weights_rate_limit: blocks between two weights of a validator.
        commit_reveal: whether weights are sealed until the next epoch.

    Raises:
        ChainError: the chain is no development chain of this owner's, gives no permits, or cannot be reached.
    """
    if not members:
        raise ChainError("a subnet needs at least one member, whose hotkey owns it")
    owner, calls = _Owner(url, owner_uri), bt.calls.SubtensorModule
    try:
        await owner.sudo("sudo_set_network_rate_limit", rate_limit=0)
        netuid = _netuid(await owner.send(calls.register_network(hotkey=members[0]), "a new subnet"))
        for function, params in _hyperparameters(weights_rate_limit, commit_reveal):
            await owner.sudo(function, netuid=netuid, **params)
        for hotkey in members[1:]:
            await owner.register(netuid, hotkey)
        await owner.send(calls.start_call(netuid=netuid), "the start of the subnet")
        for hotkey, amount in stakes.items():
            stake = calls.add_stake(hotkey=hotkey, netuid=netuid, amount_staked=amount)
            await owner.send(stake, f"the stake of {hotkey}")
        await await_permits(lambda: owner.permits(netuid), [members.index(hotkey) for hotkey in stakes])
        await owner.sudo("sudo_set_tempo", netuid=netuid, tempo=tempo)
    finally:
        await owner.close()
    return netuid


class _Owner:
    """The account that is root on a development chain and pays for everything there."""

    def __init__(self, url: str, uri: str) -> None:
        # A development chain may make a block only for a transaction: how old its newest one is says nothing.
        self._endpoints = Endpoints([url], lambda: 0.0, asyncio.sleep)
        self._pair = Keypair.create_from_uri(uri)
        self._uri = uri

    async def send(self, call: Any, what: str) -> bt.ExtrinsicResult:
        """Submit a call until it is in a block; `what` names it in errors."""

        async def write(runtime: Runtime) -> bt.ExtrinsicResult:
            return await submit(runtime, await runtime.compose(call), self._pair, what, final=False)

        return await self._endpoints.ask(write, SUBMIT_SECONDS)

    async def sudo(self, function: str, **params: Any) -> None:
        """Submit a call that only root may make."""
        inner = await self._endpoints.ask(lambda runtime: runtime.compose(("AdminUtils", function, params)))
        await self.send(bt.calls.Sudo.sudo(call=inner), f"{function} by {self._uri}")

    async def register(self, netuid: int, hotkey: str) -> None:
        """Give a hotkey a slot of the subnet, unless it has one."""
        call, what = bt.calls.SubtensorModule.burned_register(netuid=netuid, hotkey=hotkey), f"registering {hotkey}"

        async def write(runtime: Runtime) -> None:
            # This may be asked again because an answer came too late.
            if await runtime.query("SubtensorModule", "Uids", [netuid, hotkey]) is None:
                await submit(runtime, await runtime.compose(call), self._pair, what, final=False)

        await self._endpoints.ask(write, SUBMIT_SECONDS)

    async def permits(self, netuid: int) -> list[bool]:
        """Whether each uid has one, after another block."""
        # A transaction, because there are chains that make blocks for nothing else.
        await self.send(bt.calls.System.remark(remark="0x"), "an empty transaction")
        held = await self._endpoints.ask(lambda runtime: runtime.query("SubtensorModule", "ValidatorPermit", [netuid]))
        return list(held or [])

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoints.close()


async def await_permits(held: Callable[[], Awaitable[Sequence[bool]]], uids: Sequence[int]) -> None:
    """Look once a block until all of these uids have a permit."""
    for _ in range(PERMIT_EPOCHS * (QUICK_TEMPO + 1)):
        permits = await held()
        if all(uid < len(permits) and permits[uid] for uid in uids):
            return
    raise ChainError("those with stake have no validator permit after several epochs; this chain wants more stake")


def _hyperparameters(rate_limit: int, commit_reveal: bool) -> tuple[tuple[str, dict[str, Any]], ...]:
    return (
        ("sudo_set_tempo", {"tempo": QUICK_TEMPO}),
        ("sudo_set_weights_set_rate_limit", {"weights_set_rate_limit": rate_limit}),
        ("sudo_set_min_allowed_weights", {"min_allowed_weights": 1}),
        ("sudo_set_commit_reveal_weights_enabled", {"enabled": commit_reveal}),
        ("sudo_set_max_registrations_per_block", {"max_registrations_per_block": MAX_UIDS}),
        ("sudo_set_target_registrations_per_interval", {"target_registrations_per_interval": MAX_UIDS}),
        ("sudo_set_subtoken_enabled", {"subtoken_enabled": True}),
    )


def _netuid(made: bt.ExtrinsicResult) -> int:
    """The subnet's number, from the event that its registration triggered."""
    for event in made.events:
        if event.get("event_id") == "NetworkAdded":
            return int(event["attributes"][0])
    raise ChainError("the chain registered a subnet without saying its number; its runtime is not one we know")
