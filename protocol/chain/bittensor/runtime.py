"""One connection to a Bittensor node, whichever release of the runtime it runs.

The SDK is written for the newest runtime. Older ones name some calls differently and lack some storage; the
chain's own metadata says which, so nobody has to configure it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import bittensor as bt

Call = tuple[str, str, dict[str, Any]]

_OLDER: Mapping[tuple[str, str], Callable[[dict[str, Any]], Call]] = {
    ("SubtensorModule", "set_mechanism_weights"): lambda params: (
        "SubtensorModule",
        "set_weights",
        {name: params[name] for name in ("netuid", "dests", "weights", "version_key")},
    ),
    ("SubtensorModule", "commit_timelocked_mechanism_weights"): lambda params: (
        "SubtensorModule",
        "commit_crv3_weights",
        {name: params[name] for name in ("netuid", "commit", "reveal_round")},
    ),
}
"""Calls from before a subnet could have several mechanisms; of ours only the first one is used."""


class Runtime(bt.RpcSubstrate):
    """A connection without fallbacks (which endpoint is used is not the SDK's choice)."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self._spec: int | None = None
        self._calls: frozenset[tuple[str, str]] = frozenset()
        self._storage: frozenset[tuple[str, str]] = frozenset()

    async def query(
        self, module: str, storage_function: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> Any:
        """Read one storage item; None where it is not set or this runtime does not have it."""
        await self._learn()
        if (module, storage_function) not in self._storage:
            return None
        return await super().query(module, storage_function, params, block_hash=block_hash)

    async def final_hash(self) -> str:
        """The hash of the newest final block."""
        return await self._read(lambda raw: raw.get_chain_finalised_head())

    async def height(self, block_hash: str) -> int:
        """The height of a block."""
        return await self._read(lambda raw: raw.get_block_number(block_hash))

    async def alone(self) -> bool:
        """Whether the node says that it is a chain of its own, with no network to follow.

        A node that does not say (public ones may hide it) follows one.
        """
        try:
            health = await self._read(lambda raw: raw.rpc_request("system_health"))
        except bt.ChainError:
            return False
        return isinstance(health, Mapping) and health.get("shouldHavePeers") is False

    async def compose(self, call: Any) -> Any:
        """Compose a (module, function, params) call, by its older name where the runtime has only that."""
        await self._learn()
        module, function, params = call
        older = _OLDER.get((module, function))
        if older is not None and (module, function) not in self._calls:
            call = older(params)
        return await super().compose(call)  # type: ignore[no-untyped-call]

    async def _learn(self) -> None:
        """Read what the runtime has, once and again after it was upgraded."""
        spec = await self.spec_version()
        if spec == self._spec:
            return
        pallets = (await self._read(lambda raw: raw.metadata_ir())).pallets
        self._calls = frozenset((pallet.name, call.name) for pallet in pallets for call in pallet.calls)
        self._storage = frozenset((pallet.name, item.name) for pallet in pallets for item in pallet.storage)
        self._spec = spec
