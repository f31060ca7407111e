"""A payload that was not up in its round is put again at every block, while a later record may take the work in."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from builders import MINERS, hash32, header, identity, payload_key, possession_of, update
from leader_world import BLOCK, World, play

from muster.lab.faults import Fault, Script
from muster.node.miner.overdue import is_open, send
from muster.node.miner.state import Made
from muster.node.telemetry import events
from muster.node.telemetry.journal import Journal
from muster.protocol import paths, wire
from muster.protocol.rules.late import Late

MINER = MINERS[0]


def made_in(world: World) -> tuple[Made, bytes]:
    """What a miner made in round 0, and its ciphertext."""
    tip, miner, key = world.tip, identity(MINER), payload_key()
    ciphertext = wire.encrypt_payload(update(), key, tip.run_id, 0, miner.public)
    facts = tip.facts(possession_of(tip.opening))
    submission = wire.encode_submission(header(facts, miner, 0, ciphertext, key), miner, ciphertext)
    return Made(0, tip.parent, key, submission), ciphertext


@pytest.mark.parametrize(
    ("faults", "sent"),
    [
        ([], True),
        ([Fault("error", "store.put", "*.sub", count=3)], True),
        ([Fault("error", "store.put", "*.sub", count=3), Fault("error", "chain.next_block", count=1)], False),
    ],
)
def test_until_the_bucket_has_it_or_the_chain_does_not_say_when_to_try_again(faults: list[Fault], sent: bool) -> None:
    async def main() -> None:
        world = await World.begin()
        made, ciphertext = made_in(world)
        journal = Journal(None, lambda: 0.0)
        context = world.context(MINER, Script(faults), journal)

        async def tick() -> None:
            while True:
                await asyncio.sleep(BLOCK)
                world.chain.advance()

        ticking = asyncio.create_task(tick())
        assert await send(context, world.tip, made) is sent
        ticking.cancel()
        assert world.stored(paths.payload(world.run_id, 0), MINER) == [ciphertext] * sent
        assert world.stored(paths.head(world.run_id, 0), MINER) == [], "what was sealed stays as it is"
        assert [noted.event for noted in journal.noted] == [events.SentLate(0)] * sent

    play(main())


def test_only_what_may_still_be_taken_in_is_sent() -> None:
    async def main() -> None:
        world = await World.begin()
        made, _ = made_in(world)
        head = wire.submitted_head(made.submission, world.run_id).digest
        late = Late(0, identity(MINER).public, 0, head, hash32("seal"))
        assert is_open(replace(world.tip, late=(late,)), made)
        assert not is_open(world.tip, made)
        assert not is_open(replace(world.tip, late=(replace(late, round=1),)), made)
        of_another_parent = replace(late, head=hash32("head"))
        assert not is_open(replace(world.tip, late=(of_another_parent,)), made)

    play(main())
