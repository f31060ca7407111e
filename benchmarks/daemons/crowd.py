"""How the processor time of each role grows with the peers of a round: 128, 256 and 512 of them in one process.

All but two of the peers are names whose objects one honest miner writes as a side job (`tests/runs/crowd.py`); that
one is not counted. Everything that meets these objects is the daemons' own: leader, validator and the other miner,
each under the session, on the bench's model of 6,064 parameters. A task's time is its participant's.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from crowd import Crowd, CrowdBuckets, puppeteer, puppets  # tests/runs
from run_builders import lay_out, write_text  # tests/runs

from muster.lab.nano import counting_miner, nano_template
from muster.lab.simulator import Simulator
from muster.protocol.spec import Template
from muster.protocol.types import Block
from muster.testnet.roster import Roster
from muster.validator.aggregator.aggregator import Aggregator

PEERS = (128, 256, 512)
WARM_UP, ROUNDS = 2, 3
"""Rounds that are not counted, and those that are: scores steer from round `lag` on."""

WORDS = 2_000
"""Of each of the text's files: the windows of 512 peers fit in."""

MAKER = "maker"
"""The behaviour of the miner that writes the crowd's objects."""

ROLES = {"leader": "aggregator-0", "validator": "validator-0", "miner": "miner-0"}
"""What is told, and whose it is."""

_role: ContextVar[str] = ContextVar("role", default="")
_spent: dict[str, int] = {}
"""Nanoseconds of processor time so far, by role."""


class Timed(Coroutine[Any, Any, Any]):
    """A coroutine whose every step is put down to the role that runs it."""

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def send(self, value: Any) -> Any:
        """One step."""
        began = time.process_time_ns()
        try:
            return self._inner.send(value)
        finally:
            self._put_down(began)

    def throw(self, *error: Any) -> Any:
        """One step, with an error."""
        began = time.process_time_ns()
        try:
            return self._inner.throw(*error)
        finally:
            self._put_down(began)

    def close(self) -> None:
        """End it."""
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    @staticmethod
    def _put_down(began: int) -> None:
        role = _role.get()
        _spent[role] = _spent.get(role, 0) + time.process_time_ns() - began


def timed(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """A task of a loop, as its factory makes it."""
    return asyncio.Task(Timed(work), loop=loop, **options)


class NamedSimulator(Simulator):
    """A simulator that notes whose each task is."""

    async def _live(self, name: str, *what: Any) -> None:
        _role.set(name)
        await super()._live(name, *what)


def template(slots: int) -> Template:
    """The bench's template with room for a subnet."""
    document = nano_template().model_dump()
    document["data"] |= {"slots": slots}
    return Template.model_validate(document)


def round_of(peers: int, folder: Path) -> dict[str, float]:
    """Milliseconds of processor time of a round, by role."""
    roster = Roster.of(0, 1, 1, {MAKER: 1})
    stage = lay_out(
        folder / "run", write_text(folder / "text", words=WORDS), template(peers + len(roster.operators)), roster
    )
    crowd = puppets(peers - len(roster.miners), ("good", None))
    genesis = stage.spec.genesis
    known = {"miners": (*genesis.miners, *(puppet.identity.hotkey for puppet in crowd))}
    spec = stage.spec.model_copy(update={"genesis": genesis.model_copy(update=known)})
    marks: list[dict[str, int]] = []

    class Leader(Aggregator):
        """One that notes what was spent whenever it has published a record."""

        async def publish_record(self, head: Block) -> None:
            await super().publish_record(head)
            marks.append(dict(_spent))

    makers = {MAKER: puppeteer(Crowd(crowd))}
    simulator = NamedSimulator(
        roster,
        spec,
        stage.text,
        makers=lambda behaviour: makers.get(behaviour, counting_miner),
        buckets=CrowdBuckets(crowd),
        leader=Leader,
    )

    async def play() -> None:
        asyncio.get_running_loop().set_task_factory(timed)
        await simulator.run(WARM_UP + ROUNDS)

    _spent.clear()
    asyncio.run(play())
    before, after = marks[WARM_UP - 1], marks[WARM_UP + ROUNDS - 1]
    return {name: (after[who] - before[who]) / ROUNDS / 1e6 for name, who in ROLES.items()}


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The b of the least-squares fit of values = a · sizes^b."""
    slope, _ = statistics.linear_regression([math.log(size) for size in sizes], [math.log(value) for value in values])
    return slope


def prepare(millions: float, folder: Path) -> Callable[[], dict[str, float]]:  # noqa: ARG001 - the model is the bench's
    """A run of each number of peers."""

    def play() -> dict[str, float]:
        found = []
        for peers in PEERS:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                found.append(round_of(peers, Path(place)))
        figures = {f"{name}_exponent": exponent(PEERS, [each[name] for each in found]) for name in ROLES}
        return figures | {
            f"{name}_{peers}_ms": each[name] for peers, each in zip(PEERS, found, strict=True) for name in ROLES
        }

    return play
