"""A whole run in one process: every participant real, only the store in memory and the clock turned by hand.

The session, round machine, replica and rules are the daemons' own; work happens in place, one thing at a time, so a
simulated run is one fixed order of events and takes no longer than its arithmetic. A script of faults gives each
participant its own view of stores and chain; with `block_seconds`, on a loop of `muster.lab.clock`, time passes for
whoever waits, so deadlines in seconds and in blocks both mean something.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from muster.lab.adversary import maker_of
from muster.lab.faults import Script
from muster.lab.faulty import FaultyBuckets, FaultyChain
from muster.node.context import Context, in_place
from muster.node.data.dataset import TextReader
from muster.node.ledger.bootstrap import bootstrap
from muster.node.ledger.participant import Follower
from muster.node.ledger.session import Session
from muster.node.miner import MakeMiner, Memory, Miner
from muster.node.telemetry import events
from muster.node.telemetry.facts import CLOSE
from muster.node.telemetry.journal import Journal, Noted
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.spec import RunSpec
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Buckets
from muster.protocol.storage.locations import MemoryBuckets
from muster.testnet.roster import Member, Roster
from muster.validator.aggregator.aggregator import Aggregator
from muster.validator.gauntlet.score_store import ScoreStore
from muster.validator.gauntlet.validator import Validator

E = TypeVar("E", bound=events.Event)

Absence = Callable[[str, int], bool]
"""(member name, round) → whether that miner sits the round out."""

Makers = Callable[[str], MakeMiner]
"""Behaviour → what makes miners that behave so."""

Make = Callable[[Context], Awaitable[Follower]]
"""Joins the run and gives the participant."""

_MEMORY = Path("/dev/shm")  # noqa: S108 - folders made there have names of their own


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """What a simulated run leaves behind: its store and chain, and each participant's journal by name."""

    spec: RunSpec
    chain: VirtualChain
    buckets: Buckets
    journals: Mapping[str, Sequence[Noted]]
    participants: Mapping[str, Follower]

    def events(self, name: str, kind: type[E]) -> list[E]:
        """One participant's events of a kind."""
        return [noted.event for noted in self.journals[name] if isinstance(noted.event, kind)]

    def roots(self, name: str) -> dict[int, str]:
        """State roots by round, as one participant has them (the closing record aside)."""
        return {event.round: event.root for event in self.events(name, events.Applied) if event.kind != CLOSE}

    @property
    def state_roots(self) -> list[str]:
        """State roots after each round; every participant has the same ones or the run is wrong.

        Raises:
            AssertionError: two replicas disagree on a round, or somebody does not stand at the last one.
        """
        agreed: dict[int, str] = {}
        for name in self.participants:
            agreed |= self.roots(name)
        for name in self.participants:
            own = self.roots(name)
            assert own and own.items() <= agreed.items() and max(own) == max(agreed), f"{name} disagrees"
        return [agreed[round_] for round_ in sorted(agreed)]

    @property
    def losses(self) -> list[float]:
        """Held-out loss after each round, nat/token."""
        return [event.loss for event in self.events("validator-0", events.Heldout)]


def _in_memory() -> Path | None:
    """A folder that is no disk, for what need not outlive a run; None where the system has none."""
    return _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None


class Simulator:
    """Builds and drives one run."""

    def __init__(
        self,
        roster: Roster,
        spec: RunSpec,
        text: TextReader,
        absent: Absence | None = None,
        arrivals: Mapping[str, int] | None = None,
        buckets: Buckets | None = None,
        makers: Makers = maker_of,
        script: Script | None = None,
        block_seconds: float | None = None,
        folder: Path | None = None,
        leader: type[Aggregator] = Aggregator,
        final_after: int = 0,
        keep: int | None = None,
    ) -> None:
        """Lay a run out.

        Miners in `arrivals` join only once the round given there is open; `buckets` must know `mem:NAME`. `script`
        befalls requests of `aggregator-0`, `validator-0`, `miner-0` … to the buckets of `operator-0`, `miner-0` … A
        block comes every `block_seconds` of the event loop; None: whenever everybody waits for one. `folder` keeps
        what validators and miners remember from one `run` to the next; None: each begins with nothing. `leader` is
        what aggregators are, which keep `keep` bytes of bundles and checkpoints (None: everything); a block is final
        once `final_after` further ones are there.
        """
        self._roster = roster
        self._spec = spec
        self._text = text
        self._absent = absent or (lambda _name, _round: False)
        self._arrivals = arrivals or {}
        self._makers = makers
        self._script = script or Script()
        self._block_seconds = block_seconds
        self._folder = folder
        self._history = SpecHistory.of(spec)
        self._chain = VirtualChain(roster.chain_genesis(spec.data.slots), final_after)
        self._leader = leader
        self._keep = keep
        self._buckets = buckets or MemoryBuckets()
        self._journals: dict[str, Journal] = {}
        self._participants: dict[str, Follower] = {}

    @property
    def chain(self) -> VirtualChain:
        """The chain of the run."""
        return self._chain

    @property
    def participants(self) -> Mapping[str, Follower]:
        """Who takes part by now, by name; also of a run that does not end."""
        return self._participants

    async def run(self, rounds: int) -> SimulatedRun:
        """Play `rounds` rounds and the closing record; after a cancelled call, go on from what that one made public."""
        for member in self._roster.members:
            await self._chain.register(member.identity)
            await self._chain.commit(member.identity, f"mem:{member.name}")
        with tempfile.TemporaryDirectory(prefix="muster-scores-", dir=_in_memory()) as folder:
            roles: list[tuple[str, Member, Make]] = []
            for i, operator in enumerate(self._roster.operators):
                scores = (self._folder or Path(folder)) / f"validator-{i}.sqlite"
                roles.append((f"aggregator-{i}", operator, partial(self._aggregator, rounds)))
                roles.append((f"validator-{i}", operator, partial(self._validator, scores)))
            roles += [(miner.name, miner, partial(self._miner, miner)) for miner in self._roster.miners]
            async with asyncio.TaskGroup() as tasks:
                for name, member, make in roles:
                    tasks.create_task(self._live(name, member, make))
                tasks.create_task(self._drive(len(roles)))
        journals = {name: journal.noted for name, journal in self._journals.items()}
        return SimulatedRun(self._spec, self._chain, self._buckets, journals, self._participants)

    async def _drive(self, participants: int) -> None:
        if self._block_seconds is None:
            await self._chain.drive(participants)
        else:
            await self._chain.drive_by_clock(self._block_seconds, participants)

    async def _live(self, name: str, member: Member, make: Make) -> None:
        # Without a clock everything happens at once, and journals of equal runs are equal.
        clock = asyncio.get_running_loop().time if self._block_seconds else lambda: 0.0
        self._journals[name] = Journal(None, clock=clock)
        chain = FaultyChain(self._chain, self._script, lambda: self._chain.height, name)
        buckets = FaultyBuckets(self._buckets, self._script, lambda: self._chain.height, name)
        location, run_id = f"mem:{member.name}", self._history.run_id
        context = Context(member.identity, chain, buckets, location, self._journals[name], in_place, run_id=run_id)
        with self._chain.participant():
            await self._arrive(self._arrivals.get(name, 0))
            participant = await make(context)
            self._participants[name] = participant
            await Session(participant, chain, context.directory).run()

    async def _arrive(self, round_: int) -> None:
        """Let the rounds before `round_` pass."""
        head = await self._chain.head()
        while round_ and not await self._chain.anchors(round_ - 1):
            head = await self._chain.next_block(head.number)

    async def _aggregator(self, rounds: int, context: Context) -> Aggregator:
        tip, replica = await bootstrap(self._history, context)
        return self._leader(context, tip, replica, rounds, keep=self._keep)

    async def _validator(self, scores: Path, context: Context) -> Validator:
        tip, replica = await bootstrap(self._history, context)
        return Validator(context, tip, replica, self._text, ScoreStore(scores))

    async def _miner(self, member: Member, context: Context) -> Miner:
        tip, replica = await bootstrap(self._history, context)
        make = self._makers(member.behaviour)
        memory = Memory(self._folder / f"{member.name}.memory") if self._folder else None
        miner = make(context, tip, replica, self._text, memory)
        miner.sits_out = lambda round_: self._absent(member.name, round_)
        return miner
