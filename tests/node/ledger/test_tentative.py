"""Records that may still be taken back: one that goes before another comes to hand, and θ goes back to the bit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import pytest
from builders import MINERS
from ledger_world import ME, Life, Watcher, World, Written, nothing

from muster.lab import clock
from muster.lab.faults import Fault, Kind
from muster.node.replica import Replica
from muster.node.telemetry.events import Applied, Refused, Trouble, Undone
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.errors import StorageError

LATE = 60
"""Blocks after which one is final: longer than all that is written here takes."""


def slow_chain(genesis: ChainGenesis, final_after: int) -> VirtualChain:
    """A chain that takes its time to be sure."""
    return VirtualChain(genesis, final_after)


@dataclass
class Fork:
    """A world whose leader has anchored two records of round 0, and shown only the second one."""

    world: World
    first: Written
    second: Written

    @classmethod
    async def begin(cls, final_after: int = LATE, rounds: int = 1, valid: bool = True) -> Fork:
        """`rounds` have been played on the second record, its own included; `valid`: the first one is, and the world
        goes on from it."""
        world = await World.begin(make=partial(slow_chain, final_after=final_after))
        first = await world.write()
        if not valid:
            changed = replace(first.record, weights=first.record.weights * 2)
            first = world.sign(changed, first.seal, first.object("seal")[1], first.object("bin")[1])
        await world.anchor(first)
        world.chain.advance(1)  # of two anchors of one block only the later one counts
        second = await world.write(MINERS[:1])
        await world.put(second)
        await world.anchor(second)
        start = world.tip, world.replica
        if valid:
            world.replica = Replica.genesis(world.tip.history.genesis, world.tip.run_id)
        world.go_on(second)
        for _ in range(rounds - 1):
            await world.close()
        if valid:
            world.tip, world.replica = start
            world.go_on(first)
        return cls(world, first, second)

    async def show(self) -> None:
        """The first record comes to hand."""
        await self.world.put(self.first)

    async def end(self) -> None:
        """The run ends where the world stands."""
        await self.world.close(closing=True)


def moves(life: Life) -> list[tuple[int, str]]:
    """What was applied and taken back, in order."""
    noted = [noted.event for noted in life.around.journal.noted]
    return [(event.round, event.name) for event in noted if isinstance(event, Applied | Undone)]


BACK_AND_FORTH = [(0, "applied"), (0, "undone"), (0, "applied"), (1, "applied")]


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_record_is_undone_to_the_bit_with_all_that_came_after_it(rounds: int) -> None:
    async def follow() -> None:
        fork = await Fork.begin(rounds=rounds)
        life = await Life.of(fork.world)
        genesis = life.participant.replica.root().hex()
        await life.live(*[nothing] * (2 + rounds), fork.show, nothing, nothing, fork.end)
        forth = [(round_, "applied") for round_ in range(rounds)]
        back = [(round_, "undone") for round_ in reversed(range(rounds))]
        assert moves(life) == [*forth, *back, (0, "applied"), (1, "applied")]
        before = [genesis, *(event.root for event in life.events(Applied)[: rounds - 1])]
        assert [event.root for event in life.events(Undone)] == before[::-1]
        assert [event.outer_step for event in life.events(Undone)] == list(reversed(range(rounds)))
        assert life.agrees

    clock.run(follow())


def test_who_had_both_from_the_start_never_stood_on_the_second() -> None:
    async def follow() -> None:
        fork = await Fork.begin()
        await fork.show()
        life = await Life.of(fork.world)
        await life.live(nothing, fork.end)
        assert (moves(life), life.agrees) == ([(0, "applied"), (1, "applied")], True)

    clock.run(follow())


def test_what_is_final_is_not_taken_back() -> None:
    """With one leader, and that one a liar, who could not see a record in time stands elsewhere than the others."""

    async def follow() -> None:
        fork = await Fork.begin(final_after=2)
        life = await Life.of(fork.world)
        with pytest.raises(ExceptionGroup) as ended:
            await life.live(*[nothing] * 6, fork.show, fork.end, blocks=40)
        assert ended.group_contains(AssertionError, match="stands in round 1")
        assert moves(life) == [(0, "applied")]
        assert life.participant.tip.parent == fork.second.digest
        assert life.participant._steps == []

    clock.run(follow())


def test_one_that_is_not_valid_costs_a_step_back_once() -> None:
    async def follow() -> None:
        fork = await Fork.begin(valid=False)
        life = await Life.of(fork.world)
        await life.live(nothing, nothing, fork.show, *[nothing] * 4, fork.end)
        assert moves(life) == BACK_AND_FORTH
        assert [event.record for event in life.events(Refused)] == [fork.first.digest.hex()]
        assert life.agrees

    clock.run(follow())


@pytest.mark.parametrize("kind", ["error", "damaged", "missing"])
@pytest.mark.parametrize("object_", ["rec", "seal", "bin"])
def test_it_counts_once_all_of_it_is_at_hand(object_: str, kind: Kind) -> None:
    """Nothing is taken back for what cannot be put in its place; and what has been read is not read again."""

    async def follow() -> None:
        fork = await Fork.begin()
        key, _ = fork.first.object(object_)
        await fork.show()
        fault = Fault(kind, "store.get", key, who=ME, blocks=6)
        fork.world.script.faults = (fault,)
        life = await Life.of(fork.world)
        await life.live(*[nothing] * 12, fork.end)
        assert fork.world.script.fired[fault] >= 6
        assert (moves(life), life.agrees) == (BACK_AND_FORTH, True)
        assert fork.world.script.asked(ME, "store.get", "bundles.bin") == 2 + fork.world.script.fired[fault] * (
            object_ == "bin"
        )

    clock.run(follow())


class Reluctant(Watcher):
    """Cannot take anything back at first."""

    tries = 0

    async def before_undo(self) -> None:
        self.tries += 1
        if self.tries < 3:
            raise StorageError("the disk is busy")


@pytest.mark.parametrize("rounds", [1, 2])
def test_what_could_not_be_taken_back_is_tried_again(rounds: int) -> None:
    async def follow() -> None:
        fork = await Fork.begin(rounds=rounds)
        life = await Life.of(fork.world, Reluctant)
        await life.live(*[nothing] * (2 + rounds), fork.show, *[nothing] * 8, fork.end)
        assert isinstance(life.participant, Reluctant)
        assert life.participant.tries == 2 + rounds
        assert life.agrees

    clock.run(follow())


@pytest.mark.parametrize("final_after", [0, 1, 7])
def test_a_session_ends_when_the_last_record_is_final(final_after: int) -> None:
    async def follow() -> None:
        world = await World.begin(make=partial(slow_chain, final_after=final_after))
        await world.close()
        await world.close(closing=True)
        (last,) = await world.chain.anchors(1)
        life = await Life.of(world)
        await life.live()
        assert life.agrees
        assert (world.chain.height >= last.block + final_after, life.participant._steps) == (True, [])

    clock.run(follow())


def test_a_chain_that_does_not_say_what_is_final_costs_time_alone() -> None:
    async def follow() -> None:
        fork = await Fork.begin()
        life = await Life.of(fork.world)

        async def fail() -> None:
            fork.world.script.faults = (Fault("error", "chain.final", who=ME, count=4),)
            await fork.show()

        await life.live(nothing, nothing, fail, *[nothing] * 8, fork.end)
        assert "cannot be seen" in life.events(Trouble)[-1].problem
        assert (moves(life), life.agrees) == (BACK_AND_FORTH, True)

    clock.run(follow())
