"""A network in pieces: the majority goes on, everybody else waits, and after healing all stand on one ledger again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from nano_stage import BLOCK, NanoStage, Setting
from run_builders import MAX_BYTES

from muster.history.standing import look
from muster.lab import clock
from muster.lab.faults import Script
from muster.lab.faulty import FaultyBuckets
from muster.lab.nano import counting_miner
from muster.lab.partitions import Partition, drawn, processes_of
from muster.lab.simulator import SimulatedRun, Simulator
from muster.node.directory import Directory
from muster.node.telemetry.events import Transition, Undone
from muster.protocol import wire
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.spec.history import SpecHistory
from muster.protocol.spec.layout import layout_of
from muster.protocol.wire import Record

CLOCK = {"min_blocks": 3, "deadline": 8, "reveal": 6, "grace": 3, "seal_age": 2, "evaluate": 3, "term": 2, "anchor": 4}
CLOCK |= {"turn": 6, "touch": 200}
FROM, BLOCKS = 16, 90
"""When a network falls apart, and for how long: two turns can pass in vain, and nobody is out of touch."""

STUCK = ("is not final", "has to serve it", "to publish the seal")
"""What a status says where a run cannot go on, after whom it names."""

ROUNDS = 12
TOGETHER = 2
"""Rounds after healing within which all stand at one place."""

Stood = Mapping[str, tuple[int, bytes]]
"""Where everybody stood: round, and the digest of the record before it."""


class Watched(Simulator):
    """A run of which is known where everybody stood at each block, and what somebody's `muster status` said at one."""

    def __init__(self, *what: Any, asked_at: int, **how: Any) -> None:
        super().__init__(*what, **how)
        self.stood: dict[int, Stood] = {}
        self.said: dict[str, str] = {}
        self._asked_at = asked_at
        self._asking: list[asyncio.Task[None]] = []

    async def _drive(self, participants: int) -> None:
        watching = asyncio.create_task(self._watch())
        try:
            await super()._drive(participants)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await asyncio.gather(*self._asking)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(BLOCK / 2)
            height = self.chain.height
            self.stood[height] = {name: (one.tip.round, one.tip.parent) for name, one in self.participants.items()}
            if height == self._asked_at and not self._asking:
                asked = [name for name in self.participants if name.startswith("aggregator")]
                self._asking = [asyncio.create_task(self._ask(name)) for name in asked]

    async def _ask(self, who: str) -> None:
        """What `muster status` says where somebody is."""
        buckets = FaultyBuckets(self._buckets, self._script, lambda: self.chain.height, who)
        try:
            standing = await look(SpecHistory.of(self._spec), self.chain, Directory(self.chain, buckets))
            self.said[who] = " ".join(standing.sentences)
        except (StorageError, LedgerError) as error:
            self.said[who] = str(error)


class Torn:
    """A run through a partition, finished."""

    def __init__(self, folder: Path, operators: int, partition: Partition | int, rounds: int = ROUNDS) -> None:
        """`partition` may be the seed by which one is drawn."""
        stage = NanoStage.lay(Setting("torn", CLOCK, 2, operators=operators), folder)
        self.operators = [member.name for member in stage.roster.operators]
        places = [*self.operators, *(member.name for member in stage.roster.miners)]
        self.partition = drawn(partition, places, FROM, BLOCKS) if isinstance(partition, int) else partition
        self.sim = Watched(
            stage.roster,
            stage.spec,
            stage.text,
            makers=lambda _: counting_miner,
            script=Script(self.partition.faults()),
            block_seconds=BLOCK,
            asked_at=self.partition.until_block - (20 if self.partition.cut == "hang" else 4),
        )
        self.played = rounds
        self.run = clock.run(self.sim.run(rounds), 100 * rounds * BLOCK)

    @property
    def healed(self) -> Stood:
        """Where everybody stood when it was over."""
        return self.sim.stood[min(self.partition.until_block - 1, max(self.sim.stood))]

    def rounds(self, places: Sequence[str], block: int) -> list[int]:
        """Where the processes of some places stood."""
        return [self.sim.stood[block][who][0] for place in places for who in processes_of(place)]

    def is_one_ledger_again(self) -> None:
        """Everybody ends on the same bits, was together soon, and nothing final was undone or taken in twice."""
        assert len(self.run.state_roots) == self.played
        assert len({one.tip.parent for one in self.sim.participants.values()}) == 1
        top = max(round_ for round_, _ in self.healed.values())
        after = [at for block, at in self.sim.stood.items() if block >= self.partition.until_block] or [self.healed]
        end = {name: (one.tip.round, one.tip.parent) for name, one in self.sim.participants.items()}
        met = next((at for at in after if len(set(at.values())) == 1), end)  # it may be over within a block
        assert {round_ for round_, _ in met.values()}.pop() <= top + TOGETHER
        final = dict[int, str]()
        for name in self.sim.participants:
            for round_, digest in finals(self.run, name).items():
                assert final.setdefault(round_, digest) == digest, f"two records of round {round_} are final"
        heads = [entry.head for round_ in sorted(final) for entry in self.record(final[round_]).accepted]
        assert len(heads) == len(set(heads))

    def record(self, digest: str) -> Record:
        """A record in whichever bucket has it."""
        spec = self.run.spec
        for name in self.operators:
            store = self.run.buckets.bucket(f"mem:{name}")
            for info in asyncio.run(store.list(f"{spec.run_id().hex()}/records/")):
                if info.key.endswith(f"-{digest[:16]}.rec"):
                    data = asyncio.run(store.get(info.key, max_bytes=MAX_BYTES))
                    return wire.decode_record(data, spec.run_id(), len(layout_of(spec.model).shapes))[0]
        raise AssertionError(f"nobody has the record {digest}")


def finals(run: SimulatedRun, name: str) -> dict[int, str]:
    """The records that one participant found to be final, by round; none of them does it undo after that."""
    applied: dict[int, str] = {}
    final: dict[int, str] = {}
    for noted in run.journals[name]:
        match noted.event:
            case Transition(round=round_, what="RecordSeen", record=str(record)):
                applied[round_] = record
            case Transition(round=round_, what="RecordFinal"):
                final[round_] = applied[round_]
            case Undone(round=round_):
                assert round_ not in final, f"{name} undid round {round_}, which was final"
    return final


def cut(*groups: str, blocks: int = BLOCKS, **how: Any) -> Partition:
    """Groups by initials: `o0 m1` are operator-0 and miner-1."""
    long = {"o": "operator-", "m": "miner-"}
    named = (frozenset(long[short[0]] + short[1:] for short in group.split()) for group in groups)
    return Partition(tuple(named), FROM, FROM + blocks, **how)


@pytest.mark.parametrize(
    "partition",
    [
        cut("o0 o1 m0", "o2 m1", blocks=60),
        pytest.param(cut("o0", "o1 o2 m0 m1", cut="hang"), marks=pytest.mark.slow),
        pytest.param(cut("o1", "o0 o2", "m0 m1", cut="missing"), marks=pytest.mark.slow),
        pytest.param(cut("o1 m0", "o0 o2 m1", chainless=frozenset({"operator-1", "miner-0"})), marks=pytest.mark.slow),
    ],
)
def test_a_minority_waits_and_the_majority_goes_on(tmp_path: Path, partition: Partition) -> None:
    torn = Torn(tmp_path, 3, partition, 9 if partition.until_block < FROM + BLOCKS else ROUNDS)
    most = partition.majority(torn.operators)
    others = sorted(frozenset().union(*partition.groups) - most)
    ahead = min(torn.rounds(sorted(most.intersection(torn.operators)), partition.until_block - 1))
    behind = max(torn.rounds(others, partition.until_block - 1))
    assert ahead >= max(torn.rounds(torn.operators, FROM)) + 2
    assert behind <= max(torn.rounds(others, FROM)) + torn.run.spec.clock.finality, "it may lead, and nobody follows"
    torn.is_one_ledger_again()


@pytest.mark.parametrize(
    ("operators", "partition"),
    [
        (3, cut("o0 m0", "o1 m1", "o2", blocks=60)),
        pytest.param(5, cut("o0 o1 m0", "o2 o3 m1", "o4", cut="hang"), marks=pytest.mark.slow),
    ],
)
def test_where_nobody_is_a_majority_everybody_waits_and_says_so(
    tmp_path: Path, operators: int, partition: Partition
) -> None:
    torn = Torn(tmp_path, operators, partition, 6)
    finality = torn.run.spec.clock.finality
    began, ended = (torn.rounds(torn.operators, block) for block in (FROM, partition.until_block - 1))
    assert max(ended) <= max(began) + finality
    for place in torn.operators:
        said = torn.sim.said[processes_of(place)[0]]
        assert any(words in said for words in STUCK), said
    torn.is_one_ledger_again()


@pytest.mark.slow
def test_who_sealed_a_round_in_a_later_turn_records_it_in_that(tmp_path: Path) -> None:
    """A leader whose turn came again, and that took the round before back, finds its own seal of the later turn."""
    late = {"operator-1": 0.5, "operator-2": 0.5, "operator-4": 2.0, "miner-0": 0.5, "miner-1": 2.0}
    partition = cut("o2 o0", "m0 m1 o4 o1 o3", chainless=frozenset({"operator-3"}), late=late)
    Torn(tmp_path, 5, partition).is_one_ledger_again()


@pytest.mark.slow
@pytest.mark.parametrize("operators", [3, 5])
@pytest.mark.parametrize("seed", range(16))
def test_whatever_the_pieces_are_it_is_one_ledger_again(tmp_path: Path, operators: int, seed: int) -> None:
    torn = Torn(tmp_path, operators, seed)
    torn.is_one_ledger_again()
    most = torn.partition.majority(torn.operators)
    began = max(torn.rounds(torn.operators, FROM))
    if not most:
        assert max(torn.rounds(torn.operators, torn.partition.until_block - 1)) <= began + torn.run.spec.clock.finality
