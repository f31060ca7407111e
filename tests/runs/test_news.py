"""Where the chain can tell that something was written, rounds take fewer blocks, and nothing else is different."""

from __future__ import annotations

import asyncio

import pytest
from run_builders import Ledger, MakeStage, play

from muster.lab import simulator
from muster.lab.simulator import SimulatedRun
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain, _current, _Waiter
from muster.protocol.types import Block

ROUNDS = 3


class RingingChain(VirtualChain):
    """A virtual chain that tells at once what is announced; who has heard it holds the clock."""

    def __init__(self, genesis: ChainGenesis, final_after: int = 0) -> None:
        super().__init__(genesis, final_after)
        self._listening: list[_Waiter] = []
        self.heard = 0

    async def news(self, after: int) -> Block:
        if self.height <= after:
            waiter = _Waiter(after, _current.get(), asyncio.get_running_loop().create_future())
            for line in (lines := (self._waiters, self._listening)):
                line.append(waiter)
            self._changed.set()
            try:
                await waiter.woken
            finally:
                for line in lines:
                    if waiter in line:
                        line.remove(waiter)
        return await self.head()

    async def announce(self) -> None:
        for waiter in [waiter for waiter in self._listening if not waiter.woken.done()]:
            self.heard += 1
            waiter.woken.set_result(None)


def lengths(run: SimulatedRun) -> list[int]:
    """Blocks from each round's opening to its record."""
    recorded = {seen.anchor.round: seen.block for seen in asyncio.run(run.chain.anchors(0))}
    return [recorded[round_] - Ledger(run).opening(round_).open.number for round_ in range(ROUNDS)]


def test_a_chain_that_tells_shortens_rounds_and_changes_no_bit(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_out = stage(seed=3)
    plain = play(laid_out, ROUNDS)
    monkeypatch.setattr(simulator, "VirtualChain", RingingChain)
    told = play(laid_out, ROUNDS)
    assert isinstance(told.chain, RingingChain)
    assert told.chain.heard > 0
    assert told.state_roots == plain.state_roots
    assert told.losses == plain.losses
    # Here work takes no time, and what is left is waits for blocks: one later than the seal's, and that of the scores.
    assert all(short <= long for short, long in zip(lengths(told), lengths(plain), strict=True))
    assert sum(lengths(told)) < sum(lengths(plain))
