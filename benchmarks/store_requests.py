"""What a simulated run asks of everybody's stores, by operation and kind of object, whichever build it is played by."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib import import_module as part
from pathlib import Path
from typing import Any

from two_builds import of, roster_of

MINERS, ROUNDS, TRAINING = 4, 6, 25
PARTICIPANTS = MINERS + 2


class Counting:
    """A bucket that counts what is asked of it, by operation and kind of object."""

    def __init__(self, store: Any, counts: Counter[str]) -> None:
        self._store = store
        self._counts = counts

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(key: str = "", *arguments: Any, **named: Any) -> Any:
            folder, _, rest = key.partition("/")[2].partition("/")
            self._counts[f"{name} {folder}.{rest.rpartition('.')[2]}"] += 1
            return await getattr(self._store, name)(key, *arguments, **named)

        return call


class CountingBuckets:
    """Everybody's buckets, counted."""

    def __init__(self, counts: Counter[str]) -> None:
        self._behind = of("muster.protocol.storage.locations:MemoryBuckets")()
        self._counts = counts

    def bucket(self, location: str) -> Any:
        """The bucket at a location."""
        return Counting(self._behind.bucket(location), self._counts)

    async def close(self) -> None:
        """Close what is behind."""
        await self._behind.close()


def requests(folder: Path) -> dict[str, int]:
    """Requests of a whole run, by operation and kind."""
    builders, roster = part("run_builders"), of("muster.testnet.roster:Roster").of(0, MINERS, 1, {})
    made = builders.template(clock={"deadline": 2 * TRAINING, "min_blocks": 1})
    stage = builders.lay_out(folder / "run", builders.write_text(folder / "text"), made, roster)
    counts = Counter[str]()

    class Slow(of("muster.node.miner.miner:Miner")):  # type: ignore[misc]  # whichever build's
        async def train(self) -> None:
            """Training that lasts so many blocks."""
            chain = (self.context if hasattr(self, "context") else self.surroundings).chain
            head = await chain.head()
            for _ in range(TRAINING):
                head = await chain.next_block(head.number)
            await super().train()

    def slow(context: Any, tip: Any, *around: Any) -> Any:
        """Such a miner, with the engine that this build gives to miners."""
        engine = of("muster.node.miner.inner").LocalEngine(tip.spec.model, tip.spec.inner)
        return Slow(context, tip, *around, engine)

    engines = hasattr(of("muster.node.miner.inner"), "LocalEngine")  # before, a miner trained by itself
    choice = {"makers": lambda _: slow} if engines else {"classes": lambda _: Slow}
    simulator = of("muster.lab.simulator:Simulator")(
        roster_of(stage), stage.spec, stage.text, buckets=CountingBuckets(counts), **choice
    )
    run = asyncio.run(simulator.run(ROUNDS))
    assert len(run.state_roots) == ROUNDS
    return dict(counts)
