"""Who may close the open round although it has no turn, because the owner says so: looked for where a run hangs.

The owner's amendment lies where any registered peer's bucket can show it: the owner's, or that of whom it names. Where
rounds are closed as they should be nothing is read for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from muster.node.amendments import PERIOD, Rescue, read_amendment, rescues
from muster.node.directory import Directory
from muster.protocol import paths
from muster.protocol.chain.base import Chain
from muster.protocol.ledger import RESCUE, Tip


class Rescuers:
    """The rescuers of one run; what was found is looked for again only now and then, however many rounds go by."""

    def __init__(self, chain: Chain, directory: Directory) -> None:
        self._chain = chain
        self._directory = directory
        self._number = 0
        self._again = 0
        self._found: frozenset[bytes] = frozenset()

    async def of(self, tip: Tip) -> Mapping[bytes, Rescue]:
        """Who may close the open round, or one of the next, by key.

        Raises:
            ChainError: the chain does not say.
        """
        block = (await self._chain.head()).number
        if tip.closed or block < tip.turn_begins(RESCUE):
            return {}
        number = len(tip.history.adopted) + 1
        if number != self._number or block >= self._again:
            stores = self._directory.stores(await self._directory.snapshot())
            key = paths.amendment(tip.run_id, number)
            read = await asyncio.gather(*(read_amendment(store, key) for store in stores.values()))
            self._found = frozenset(data for data in read if data is not None)
            self._number, self._again = number, block + PERIOD
        return self.known(tip)

    def known(self, tip: Tip) -> Mapping[bytes, Rescue]:
        """The same by what was found so far."""
        return rescues(tip, self._found) if len(tip.history.adopted) + 1 == self._number else {}
