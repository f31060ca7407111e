"""What an aggregator makes of leaders that signed two: its own proof, others', and the one that its record carries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from builders import LEADER, MINERS, block, hash32, identity
from closed_rounds import changed, close, open_tip, taken_in
from leader_world import World, play
from noted import rounds

from muster.lab.faults import Fault, Script
from muster.node.ledger.participant import Errands
from muster.node.telemetry.journal import Journal
from muster.protocol import paths
from muster.protocol.identity import Identity
from muster.protocol.ledger import Tip
from muster.protocol.reasons import KEY_MISSING
from muster.protocol.rules.equivocation import Strike
from muster.protocol.wire import (
    Seal,
    decode_equivocation,
    digest_of,
    encode_equivocation,
    encode_seal,
)
from muster.validator.aggregator.twice import Twice

NAMES = (LEADER, "second", "third")
LIAR, FINDER, THIRD = (identity(name) for name in NAMES)


def seal(tip: Tip, number: int, leader: Identity = LIAR) -> bytes:
    return encode_seal(Seal(tip.run_id, leader.public, tip.round, tip.parent, 0, block(number), ()), leader)


async def looked(twice: Twice, world: World, tip: Tip) -> None:
    """One look, to its end."""
    async with asyncio.TaskGroup() as tasks:
        twice.look(tip, Errands(tasks, world.chain))


async def begin(script: Script | None = None) -> tuple[World, Twice, Journal]:
    """A world of three, and what the second one knows."""
    world, journal = await World.begin(leaders=NAMES, data={"slots": 60, "windows": 610}), Journal(None, lambda: 0.0)
    return world, Twice(world.context("second", script or Script(), journal), world.run_id), journal


async def put(world: World, name: str, *seals: bytes) -> None:
    for data in seals:
        await world.bucket(name).put(paths.seal(world.run_id, 0, digest_of(data)), data)


def liars(proofs: Sequence[bytes], world: World) -> list[bytes]:
    return [decode_equivocation(data, world.run_id)[0].once.signer for data in proofs]


def test_what_it_finds_it_publishes_once_and_carries() -> None:
    async def main() -> None:
        refused = Script([Fault("error", "store.put", "*.two", count=1)])
        world, twice, journal = await begin(refused)
        await looked(twice, world, world.tip)
        assert twice.carried(world.tip) == ()
        await put(world, LEADER, *(seal(world.tip, number) for number in (5, 6)))
        for _ in range(3):
            await looked(twice, world, world.tip)
        assert liars(twice.carried(world.tip), world) == [LIAR.public]
        (published,) = world.stored(paths.proof_of_two(world.run_id, LIAR.public), "second")
        assert (published,) == twice.carried(world.tip)
        assert decode_equivocation(published, world.run_id)[0].signer == FINDER.public
        assert rounds(journal, "signed_twice") == [0]
        assert not refused.unfired()

    play(main())


def test_what_others_found_it_carries_and_mirrors() -> None:
    async def main() -> None:
        world, twice, journal = await begin()
        data = encode_equivocation(THIRD, world.run_id, seal(world.tip, 5), seal(world.tip, 6))
        name = paths.proof_of_two(world.run_id, LIAR.public)
        await world.bucket("third").put(name, data)
        await looked(twice, world, world.tip)
        assert twice.carried(world.tip) == (data,)
        assert world.stored(name, "second") == [data]
        assert rounds(journal, "signed_twice") == [], "somebody else did"

    play(main())


@pytest.mark.parametrize("against", ["another", "nobody"])
def test_what_is_no_proof_is_read_once_and_carried_never(against: str) -> None:
    async def main() -> None:
        script = Script()
        world, twice, _ = await begin(script)
        two = [seal(world.tip, number, THIRD) for number in (5, 6)]
        data = encode_equivocation(THIRD, world.run_id, *two) if against == "another" else b"rubbish"
        await world.bucket("third").put(paths.proof_of_two(world.run_id, LIAR.public), data)
        for _ in range(3):
            await looked(twice, world, world.tip)
        assert twice.carried(world.tip) == ()
        assert script.asked(operation="store.get", sort="twice.two") == 1

    play(main())


def test_a_miner_whose_key_does_not_count_shows_which_seal_it_answered() -> None:
    """The liar has taken its first seal away, and the record names the second."""

    async def main() -> None:
        world, twice, _ = await begin()
        tip = world.tip
        first, second = (seal(tip, number) for number in (5, 6))
        await put(world, LEADER, second)
        await world.bucket(MINERS[1]).put(paths.answered(world.run_id, 0), first)
        made = open_tip()
        record = close(
            made,
            [taken_in(made, name, uid) for uid, name in enumerate(MINERS)],
            {identity(MINERS[1]).public: KEY_MISSING},
        ).record
        twice.recorded(tip, record)
        await looked(twice, world, tip)
        assert twice.carried(tip) == (), "what the record names has not been read yet"
        twice.saw(second)
        assert liars(twice.carried(tip), world) == []
        await looked(twice, world, tip)
        assert liars(twice.carried(tip), world) == [LIAR.public]

    play(main())


def test_one_that_was_expected_and_is_left_out_is_asked_as_well() -> None:
    async def main() -> None:
        world, twice, _ = await begin()
        tip = world.tip
        assert identity(MINERS[0]).public in tip.opening.expected
        record = changed(close(open_tip(), [])).record
        await world.bucket(MINERS[0]).put(paths.answered(world.run_id, 0), seal(tip, 5))
        twice.recorded(tip, record)
        await looked(twice, world, tip)
        twice.saw(seal(tip, 6))
        await looked(twice, world, tip)
        assert liars(twice.carried(tip), world) == [LIAR.public]

    play(main())


def test_one_a_record_and_none_that_is_struck_or_alone() -> None:
    async def main() -> None:
        world, twice, _ = await begin()
        tip = world.tip
        for liar in (LIAR, THIRD):
            await put(world, LEADER, *(seal(tip, number, liar) for number in (5, 6)))
        await looked(twice, world, tip)
        (first,) = liars(twice.carried(tip), world)
        assert first == min(LIAR.public, THIRD.public)
        then = replace(tip, strikes=(Strike(first, 0, hash32("proof")),))
        (second,) = liars(twice.carried(then), world)
        assert {first, second} == {LIAR.public, THIRD.public}
        both = replace(then, strikes=(*then.strikes, Strike(second, 1, hash32("proof"))))
        assert twice.carried(both) == ()

    play(main())


def test_alone_on_the_list_it_looks_at_nothing() -> None:
    async def main() -> None:
        world, script = await World.begin(), Script()
        twice = Twice(world.context(LEADER, script, Journal(None, lambda: 0.0)), world.run_id)
        await put(world, LEADER, *(seal(world.tip, number) for number in (5, 6)))
        await looked(twice, world, world.tip)
        twice.saw(seal(world.tip, 5))
        assert twice.carried(world.tip) == ()
        assert script.asked(operation="store.list") == script.asked(operation="store.get") == 0

    play(main())
