"""A run of any length fits into the machine it began on: nothing that a participant holds or keeps grows by the round.

Measured is the slope of a census (`leaks`) over rounds with churn: one miner there every other round, one that leaves
for long and comes back. What the bench itself remembers (events, anchors ever made) is thrown away meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from leaks import Census, Trend, resident
from leaks import census as taken_now
from nano_stage import BLOCK, NanoStage, Setting

from muster.lab import clock
from muster.lab.faults import Asked, Script
from muster.lab.nano import counting_miner
from muster.lab.simulator import Simulator
from muster.node.ledger import reader, witness
from muster.node.ledger.participant import Errands
from muster.protocol.chain.base import AnchorSeen
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.ledger import tip
from muster.protocol.rules import attendance
from muster.protocol.storage.memory import MemoryStore, _Object
from muster.protocol.wire import submission
from muster.validator.aggregator import steering
from muster.validator.aggregator.aggregator import Aggregator

CLOCK = {"min_blocks": 3, "deadline": 8, "reveal": 8, "grace": 3, "seal_age": 1, "evaluate": 2, "term": 3}
CLOCK |= {"checkpoint_every": 2, "turn": 8, "touch": 80}


BYTES_A_ROUND = 4096
"""Of memory, besides the ledger, which the bench's buckets keep there."""

ENTRY_BYTES = 160
"""What one more entry of a dictionary takes, with the float that it holds."""

LEDGER = ("records", "seals")
SCORES = ("scores", "disputes")
"""What is kept for ever: the ledger, and what validators said of it."""


class Observed(Simulator):
    """A run that is counted after each round from `first` on; the bench's own memory of it is thrown away."""

    first, every = 0, 1
    shown = 240
    """Anchors that the bench's chain goes on showing: more than any rule looks back at."""

    def __init__(self, *what: object, **how: object) -> None:
        super().__init__(*what, **how)  # type: ignore[arg-type]
        self.trend = Trend()

    async def _drive(self, participants: int) -> None:
        counting = asyncio.create_task(self._count())
        try:
            await super()._drive(participants)
        finally:
            counting.cancel()
            with suppress(asyncio.CancelledError):
                await counting

    async def _count(self) -> None:
        seen = -1
        while True:
            await asyncio.sleep(BLOCK / 2)
            first = self.participants.get("aggregator-0")
            if first is None or first.tip.round == seen:
                continue
            seen = first.tip.round
            for journal in self._journals.values():
                journal.noted.clear()
            del self.chain._anchors[: -self.shown]
            submission._good_head.cache_clear()
            if seen >= self.first and seen % self.every == 0:
                self.trend.add(seen, self._now())

    def _now(self) -> Census:
        found = taken_now(ignored=BENCH)
        found.update(Counter(self._objects()))
        found["bytes"] = resident() - self._kept()
        return found

    def _kept(self) -> int:
        """Bytes of memory that what is kept for ever takes in the bench's buckets."""
        return sum(
            sys.getsizeof(key) + sys.getsizeof(one) + sys.getsizeof(one.data) + ENTRY_BYTES
            for bucket in self._buckets._open.values()
            if isinstance(bucket, MemoryStore)
            for key, one in bucket._objects.items()
            if key.split("/")[1] in (*LEDGER, *SCORES)
        )

    def _objects(self) -> Iterator[str]:
        """What lies in the buckets, by kind and owner."""
        for location, bucket in self._buckets._open.items():
            assert isinstance(bucket, MemoryStore)
            for key in bucket._objects:
                kind = key.split("/")[1]
                yield f"{kind} of {location}"


BENCH = (MemoryStore, _Object, VirtualChain, AnchorSeen, Script, Asked)
"""What the bench remembers all the same."""


def played(
    folder: Path, operators: int, rounds: int, first: int, shown: int = Observed.shown, every: int = 1, **more: Any
) -> Observed:
    """A run with churn, counted from a round on."""
    stage = NanoStage.lay(Setting("long", CLOCK, 4, operators=operators), folder)

    def absent(name: str, round_: int) -> bool:
        return (name == "miner-1" and round_ % 2 == 1) or (name == "miner-0" and round_ % 50 in range(30, 34))

    how = {"absent": absent, "makers": lambda _: counting_miner, "block_seconds": BLOCK, "keep": 0} | more
    run = Observed(stage.roster, stage.spec, stage.text, **how)
    run.first, run.shown, run.every = first, shown, every
    clock.run(run.run(rounds), rounds * 40 * BLOCK)
    return run


def kept(run: Observed, operators: int) -> float:
    """Objects of the ledger that all buckets together get in a round, which is the least and the most."""
    found = run.trend.slopes()
    return sum(found[f"{kind} of mem:operator-{i}"] for kind in LEDGER for i in range(operators))


def grows(run: Observed, bound: float) -> dict[str, float]:
    """What grows, the ledger and the memory that it takes aside."""
    found = run.trend.growing(bound)
    return {
        name: slope for name, slope in found.items() if name.partition(" of ")[0] not in (*LEDGER, *SCORES, "bytes")
    }


WINDOWS = {
    reader: "MEMORY",
    witness: "KEPT",
    attendance: "MEMORY",
    tip: "SCORES_AGE",
    steering: "SCORES_AGE",
}
"""How far back rules look: as many rounds as pass before a census stands still."""


def test_nothing_grows_by_the_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With short windows, so that few rounds show it."""
    for module, name in WINDOWS.items():
        monkeypatch.setattr(module, name, 4)
    run = played(tmp_path, 2, 20, 10, shown=18)
    assert grows(run, 0.4) == {}
    assert kept(run, 2) == pytest.approx(6.0, abs=0.5), "a seal and a record each, and what their leader keeps beside"


class Leaky(Aggregator):
    """It keeps one thing a round that it never looks at again."""

    __module__ = "muster.leaky"

    def begin(self, errands: Errands) -> None:
        super().begin(errands)
        self.hoard = getattr(self, "hoard", [])
        self.hoard.append(self.tip.round)


@pytest.mark.slow
def test_a_leak_of_one_number_a_round_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in WINDOWS.items():
        monkeypatch.setattr(module, name, 4)
    run = played(tmp_path, 2, 20, 10, shown=18, leader=Leaky)
    assert list(grows(run, 0.4)) == ["muster.leaky.Leaky.hoard"]


@pytest.mark.night
def test_a_thousand_rounds_end_as_large_as_they_were_after_the_first_hundred(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    run = played(tmp_path, 3, 1000, 100, every=7)
    record_property("growth", run.trend.growing(0.001))
    assert grows(run, 0.01) == {}
    assert kept(run, 3) == pytest.approx(8.0, abs=0.05)
    assert run.trend.slopes()["bytes"] < BYTES_A_ROUND
