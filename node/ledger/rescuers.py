"""Who may close the open round although it has no turn, because the owner says so: looked for where a run hangs.

The owner's amendment lies where any registered peer's bucket can show it: the owner's, or that of whom it names. Where
rounds are closed as they should be nothing is read for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muster.node.amendments import PERIOD, read_amendment
from muster.node.directory import Directory
from muster.protocol import paths, wire
from muster.protocol.chain.base import Chain
from muster.protocol.errors import LedgerError, WireError
from muster.protocol.ledger import RESCUE, Tip, rescuer
from muster.protocol.storage import Store


@dataclass(frozen=True, slots=True)
class Rescue:
    """The round that a key may close as the owner wishes, and the owner's amendment."""

    round: int
    amendment: bytes


class Rescuers:
    """The rescuers of one run; what was found is looked for again only now and then."""

    def __init__(self, chain: Chain, directory: Directory) -> None:
        self._chain = chain
        self._directory = directory
        self._parent = b""
        self._again = 0
        self._found: Mapping[bytes, Rescue] = {}

    async def of(self, tip: Tip) -> Mapping[bytes, Rescue]:
        """Who may close the open round, or one of the next, by key.

        Raises:
            ChainError: the chain does not say.
        """
        block = (await self._chain.head()).number
        if tip.closed or block < tip.turn_begins(RESCUE):
            return {}
        if tip.parent != self._parent or block >= self._again:
            stores = self._directory.stores(await self._directory.snapshot())
            self._found = await find_rescues(tip, tuple(stores.values()))
            self._parent, self._again = tip.parent, block + PERIOD
        return self._found


async def find_rescues(tip: Tip, where: Sequence[Store]) -> Mapping[bytes, Rescue]:
    """The amendments at these places by which a round from the open one on may be rescued, by whom they name.

    The rounds before the one that hangs may be open, too, to who comes late: as many as may be not final.
    """
    key = paths.amendment(tip.run_id, len(tip.history.adopted) + 1)
    read = await asyncio.gather(*(read_amendment(place, key) for place in where))
    found: dict[bytes, Rescue] = {}
    for data in sorted({each for each in read if each is not None}):
        try:
            closes = wire.decode_amendment(data, tip.run_id).round - 1
            if tip.round <= closes <= tip.round + tip.spec.clock.finality:
                found[rescuer(tip, data, closes)] = Rescue(closes, data)
        except (WireError, LedgerError):
            continue  # it is no rescue, and who amends a run that goes on says what is wrong with it
    return found
