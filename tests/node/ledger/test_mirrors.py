"""Several buckets of the same objects: the good copy is found, and who hung or lied is asked last from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from builders import LEADER, checkpoint_of, identity, run_spec
from hypothesis import given
from hypothesis import strategies as st
from ledger_world import ME, Life, NewestOnly, World

from muster.lab import clock
from muster.lab.faults import Fault
from muster.node.ledger.catch_up import CatchUp
from muster.node.ledger.mirrors import BLAMED_SECONDS, HEDGE_SECONDS, LACKING_SECONDS, Conduct, Mirrors
from muster.node.ledger.reader import Reader, genesis_tip
from muster.node.telemetry.events import BadMirror
from muster.protocol import paths
from muster.protocol.errors import LedgerError, ObjectDamaged, ObjectMissing, StorageError
from muster.protocol.ledger import tip_info
from muster.protocol.storage import Store
from muster.protocol.storage.memory import MemoryStore

GOOD, LACKS, LIES, HANGS, SLOW = "good", "lacks", "lies", "hangs", "slow"
MANNERS = (GOOD, LACKS, LIES, HANGS, SLOW)
LATE = 3.0
"""Seconds: late, and before anybody loses patience."""


class Shelf:
    """Buckets that behave in these ways, and who was asked in which order."""

    def __init__(self, *manners: str) -> None:
        self.manners: dict[Store, str] = {MemoryStore(): manner for manner in manners}
        self.asked: list[Store] = []
        self.told: list[Store] = []
        self.conduct = Conduct(lambda store, _problem: self.told.append(store))

    @property
    def stores(self) -> tuple[Store, ...]:
        return tuple(self.manners)

    def named(self, stores: list[Store]) -> list[str]:
        return [self.manners[store] for store in stores]

    async def read(self, hedge: float = HEDGE_SECONDS) -> str:
        """One object, from whichever has it; `asked` is of this read."""
        self.asked.clear()
        return await Mirrors(self.stores, self.conduct).read(self._get, hedge)

    async def _get(self, store: Store) -> str:
        self.asked.append(store)
        manner = self.manners[store]
        if manner == HANGS:
            await asyncio.get_running_loop().create_future()
        if manner == SLOW:
            await asyncio.sleep(LATE)
        if manner == LACKS:
            raise ObjectMissing("it is not there")
        if manner == LIES:
            raise ObjectDamaged("it is not what was asked for")
        return "whole"


def timed(shelf: Shelf, reads: int = 1) -> float:
    """Seconds that so many reads take, one after the other."""

    async def go() -> float:
        for _ in range(reads):
            assert await shelf.read() == "whole"
        return asyncio.get_running_loop().time()

    return clock.run(go())


def test_who_hangs_costs_its_few_seconds_once() -> None:
    assert timed(Shelf(HANGS, GOOD), reads=100) == HEDGE_SECONDS


def test_who_hung_or_lied_is_told_of_once_and_asked_last() -> None:
    shelf = Shelf(LIES, HANGS, LACKS, GOOD)
    assert timed(shelf, reads=3) == HEDGE_SECONDS
    assert shelf.named(shelf.told) == [LIES, HANGS]
    assert shelf.named(shelf.asked) == [GOOD]


def test_who_is_only_late_is_not_blamed() -> None:
    shelf = Shelf(SLOW, GOOD)
    assert timed(shelf, reads=2) == 2 * LATE
    assert shelf.told == []


def test_where_all_are_as_slow_nobody_is_blamed() -> None:
    """A large bundle takes longer than anybody's patience: two are asked, and the first has it first."""
    shelf = Shelf(SLOW, SLOW, SLOW)
    assert clock.run(shelf.read(LATE / 2)) == "whole"
    assert (len(shelf.asked), shelf.told) == (2, [])


@pytest.mark.parametrize(("manner", "seconds"), [(LIES, BLAMED_SECONDS), (LACKS, LACKING_SECONDS)])
def test_it_is_forgotten_after_a_while(manner: str, seconds: float) -> None:
    shelf = Shelf(manner, GOOD)

    async def go() -> list[list[str]]:
        orders = []
        for wait in (0.0, 0.0, seconds):
            await asyncio.sleep(wait)
            await shelf.read()
            orders.append(shelf.named(shelf.asked))
        return orders

    assert clock.run(go()) == [[manner, GOOD], [GOOD], [manner, GOOD]]


def test_where_the_others_have_it_not_who_failed_is_asked_after_all() -> None:
    shelf = Shelf(LIES, GOOD)

    async def go() -> str:
        await shelf.read()
        liar, good = shelf.stores
        shelf.manners[liar], shelf.manners[good] = GOOD, LACKS
        return await shelf.read()

    assert clock.run(go()) == "whole"
    assert shelf.named(shelf.asked) == [LACKS, GOOD]


@given(st.lists(st.sampled_from(MANNERS), min_size=2, max_size=6), st.integers(1, 4))
def test_whatever_they_do_one_good_bucket_is_enough(manners: list[str], reads: int) -> None:
    """All reads together wait for each of the bad ones once at most."""
    shelf = Shelf(*manners, GOOD)
    assert timed(shelf, reads) <= HEDGE_SECONDS * manners.count(HANGS) + LATE * reads


def test_of_bytes_that_are_the_very_ones_and_no_such_object_no_other_copy_is_asked_for() -> None:
    async def go() -> None:
        async def judge(_store: Store) -> str:
            raise LedgerError("it is anchored and not valid")

        shelf = Shelf(GOOD, GOOD)
        with pytest.raises(LedgerError):
            await Mirrors(shelf.stores, shelf.conduct).read(judge)
        assert shelf.told == []

    clock.run(go())


def test_without_any_bucket_and_without_a_good_one_it_says_so() -> None:
    for shelf in (Shelf(), Shelf(LIES), Shelf(LIES, LACKS)):
        with pytest.raises(StorageError):
            clock.run(shelf.read())


BAD: dict[str, Callable[[str], list[Fault]]] = {
    "hangs": lambda who: [Fault("hang", "store.*", who=ME, owner=who)],
    "flips-bits": lambda who: [Fault("damaged", "store.get", who=ME, owner=who)],
    "cuts": lambda who: [Fault("truncated", "store.get", who=ME, owner=who)],
    "lacks": lambda who: [Fault("missing", "store.get", who=ME, owner=who)],
    "foreign": lambda _who: [],
}
"""What the aggregators' buckets do that a newcomer meets before the good one; the last has another run's objects."""

PINNED, ROUNDS = 5, 105
"""The round before which there is a checkpoint, and how many there are."""


async def damaged_world() -> World:
    """A run of a list of six, of which one has a good bucket, on a chain that shows newest anchors only.

    Every fifth round moves θ.
    """
    faults = [fault for name, make in BAD.items() for fault in make(name)]
    leaders = (*BAD, LEADER)
    listed = {"leaders": tuple(identity(name).hotkey for name in leaders)}
    spec = run_spec(genesis=listed, data={"slots": 9, "windows": 90})
    world = await World.begin(*faults, spec=spec, leaders=leaders, make=NewestOnly)
    other = await World.begin(spec=run_spec(clock={"reveal": 9}))
    foreign = {kind: (await other.write()).object(kind)[1] for kind in ("rec", "seal", "bin")}
    honest = [name for name in world.leaders if name != "foreign"]
    for round_ in range(ROUNDS):
        how = {}
        if round_ == PINNED:
            files, digest = checkpoint_of(world.replica, round_, tip=tip_info(world.tip))
            for owner in world.leaders:
                for name, data in files.items():
                    key = paths.checkpoint(world.tip.run_id, round_, name)
                    await world.bucket_of(owner).put(key, foreign["rec"] if owner == "foreign" else data)
            how = {"checkpoint": digest}
        written = await world.write(() if round_ % 5 else ("alice", "bob"), **how)
        await world.put(written, *honest)
        for key in written.objects:
            await world.bucket_of("foreign").put(key, foreign[key.rpartition(".")[2]])
        await world.anchor(written)
        world.go_on(written)
    return world


def test_a_newcomer_comes_through_a_hundred_rounds_of_which_one_bucket_in_six_has_a_good_copy() -> None:
    """It reads back to the checkpoint, loads it, and judges every record since; who hangs costs seconds."""
    told: list[str] = []

    async def go() -> None:
        world = await damaged_world()
        around, start = world.around(), await genesis_tip(world.tip.history, world.chain)
        looking = Reader(around.chain, around.directory, told=lambda owner, _problem: told.append(owner))
        tip, replica = await CatchUp(start).go(looking)
        assert replica is not None
        assert tip.round == PINNED
        assert asyncio.get_running_loop().time() == HEDGE_SECONDS
        life = await Life.of(world, tip=tip)
        life.participant.replica = replica
        await life.live(lambda: world.close(closing=True))
        assert life.rounds == [*range(PINNED, ROUNDS + 1)]
        assert life.agrees
        named = [event.owner for event in life.events(BadMirror)]
        bad = {identity(name).hotkey for name in BAD if name != "lacks"}
        assert set(told) == bad
        assert set(named) == bad
        assert len(told) + len(named) == 2 * len(bad)
        assert world.script.unfired() == []

    clock.run(go())
