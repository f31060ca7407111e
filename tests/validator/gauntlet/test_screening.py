"""Submissions without a seat: all at once, for so many blocks and no more, and each peer alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from builders import hash32, identity
from intake_world import BLOCK, Crowd, names, play, public

from muster.lab.faults import Fault, Script
from muster.lab.faulty import FaultyChain
from muster.node.ledger.participant import Errands
from muster.node.submission import PLACE_SECONDS, Submissions
from muster.protocol import wire
from muster.protocol.errors import ChainError
from muster.protocol.identity import hotkey_of
from muster.protocol.incentive.score import PeerState
from muster.protocol.wire import Signed
from muster.validator.gauntlet.screening import FLIGHT_BYTES, MIN_FLIGHT, Screening, by_need

MANY = names(24)
REVEAL, GRACE = 6, 2


async def crowd_of(peers: Sequence[str], script: Script | None = None) -> tuple[Crowd, list[Signed]]:
    """Everybody's submission and key are public; the heads in the order of the names."""
    crowd = await Crowd.begin(peers, script, clock={"reveal": REVEAL, "grace": GRACE})
    await crowd.submit()
    await crowd.show()  # for the seal that `crowd.sealed_by` names
    ranked = []
    for name in peers:
        data = await crowd.bucket(name).get(crowd.head_key, max_bytes=2**20)
        ranked.append(wire.decode_head(data, crowd.tip.run_id))
    return crowd, ranked


async def screened(
    crowd: Crowd, ranked: Sequence[Signed], pressed: bool = False, payload_bytes: int = 2**16
) -> tuple[list[str], int]:
    """Whose submissions were opened, in order, and how many blocks it took."""

    async def is_pressed() -> bool:
        return pressed

    async with crowd.intake() as intake:
        submissions = Submissions(crowd.tip, crowd.opening)
        screening = Screening(submissions, crowd.sealed_by, crowd.stores(), intake.errands, payload_bytes)
        before = crowd.chain.height
        found = await screening.run(ranked, crowd.chain, crowd.tip.spec.clock, is_pressed)
        took = crowd.chain.height - before
        await asyncio.sleep(1.0)
        assert not intake.errands._running, "what is not there in time goes on no longer"
    known = {public(name): name for name in crowd.peers}
    for signed, update in found:
        assert update.indices.numel(), signed
    return [known[signed.header.public] for signed, _ in found], took


def test_all_that_can_be_read_are_opened_at_once_and_in_order() -> None:
    async def main() -> None:
        crowd, ranked = await crowd_of(MANY)
        assert await screened(crowd, ranked) == (list(MANY), 0)
        assert crowd.opening.calls == len(MANY)

    play(main())


@pytest.mark.parametrize(
    "fault",
    [
        Fault("hang", "store.get", "*.key"),
        Fault("hang", "store.get", "*.sub"),
        Fault("slow", "store.get", "*.sub", seconds=500.0),
        Fault("slow", "store.get", "*.key", seconds=29.0),
        Fault("error", "store.*"),
        Fault("missing", "store.get", "*.key"),
        Fault("damaged", "store.get", "*.sub"),
    ],
    ids=lambda fault: f"{fault.kind} {fault.operation} {fault.key}",
)
def test_who_cannot_be_read_is_left_out_alone_and_costs_no_more_than_the_budget(fault: Fault) -> None:
    """Its own submission where it drips, but slowly enough for the time there is, is measured."""

    async def main() -> None:
        bad = MANY[:-1]
        befallen = {field: getattr(fault, field) for field in ("kind", "operation", "seconds")}
        crowd, ranked = await crowd_of(MANY, Script(Fault(**befallen, owner=name) for name in bad))
        opened, took = await screened(crowd, ranked)
        assert opened == ([*MANY] if fault.seconds == 29.0 else [MANY[-1]])
        assert took <= REVEAL

    play(main())


def test_who_hangs_holds_nobodys_place() -> None:
    """Payloads so large that eight are read at one time: the last of 24 is read after two turns, not after the end."""

    async def main() -> None:
        crowd, ranked = await crowd_of(MANY, Script(Fault("hang", "store.get", "*.sub", owner=n) for n in MANY[:-1]))
        assert await screened(crowd, ranked, payload_bytes=FLIGHT_BYTES) == ([MANY[-1]], REVEAL)
        (opened_at,) = crowd.opening.times
        assert opened_at < 2 * BLOCK
        assert opened_at >= 2 * PLACE_SECONDS

    play(main())


def test_large_payloads_are_read_eight_at_a_time_by_need() -> None:
    async def main() -> None:
        crowd, ranked = await crowd_of(MANY)
        faults = {name: Fault("slow", "store.get", "*.sub", owner=name, seconds=PLACE_SECONDS / 2) for name in MANY}
        crowd.script = Script(faults.values())
        reading = asyncio.create_task(screened(crowd, ranked[::-1], payload_bytes=FLIGHT_BYTES))
        for turn in range(3):
            await asyncio.sleep(PLACE_SECONDS / 4)
            begun = {name for name in MANY if crowd.script.fired[faults[name]]}
            assert begun == set(MANY[-MIN_FLIGHT * (turn + 1) :])
            await asyncio.sleep(PLACE_SECONDS / 4)
        assert await reading == (list(MANY[::-1]), 0)

    play(main())


@pytest.mark.parametrize(("pressed", "blocks"), [(True, GRACE), (False, REVEAL)])
def test_where_the_scores_are_waited_for_it_ends_with_grace(pressed: bool, blocks: int) -> None:
    async def main() -> None:
        crowd, ranked = await crowd_of(MANY[:3], Script([Fault("hang", "store.get", "*.sub", owner=MANY[0])]))
        assert await screened(crowd, ranked, pressed) == ([*MANY[1:3]], blocks)

    play(main())


def test_a_chain_that_fails_ends_it_and_leaves_nothing_behind() -> None:
    async def main() -> None:
        crowd, ranked = await crowd_of(MANY[:3], Script([Fault("hang", owner=MANY[0])]))
        script = Script([Fault("error", "chain.next_block")])
        chain = FaultyChain(crowd.chain, script, lambda: crowd.chain.height, "validator")
        async with asyncio.TaskGroup() as tasks:
            errands = Errands(tasks, chain)
            screening = Screening(
                Submissions(crowd.tip, crowd.opening), crowd.sealed_by, crowd.stores(), errands, 2**16
            )
            with pytest.raises(ChainError):
                await screening.run(ranked, chain, crowd.tip.spec.clock, asyncio.Event().wait)
        assert asyncio.get_running_loop().time() == 0.0, "the group has waited for nobody"
        assert not script.unfired()

    play(main())


def test_a_peer_without_a_bucket_is_left_out() -> None:
    async def main() -> None:
        crowd, ranked = await crowd_of(MANY[:2])
        crowd.peers = MANY[1:2]
        assert await screened(crowd, ranked) == ([MANY[1]], 0)

    play(main())


def test_newcomers_come_first_and_then_the_lot_decides() -> None:
    """With another beacon the order is another one; a peer that was only ever absent is as good as new."""

    async def main() -> None:
        _, ranked = await crowd_of(MANY)
        known = {identity(name).hotkey: PeerState(identity(name).hotkey, evaluated=3) for name in MANY[:12]}
        absent = {identity(name).hotkey: PeerState(identity(name).hotkey, inactive=3) for name in MANY[12:15]}
        orders = [by_need(ranked, known | absent, hash32("beacon", i)) for i in range(3)]
        for order in orders:
            assert {signed.header.hotkey for signed in order[12:]} == set(known)
            assert sorted(order, key=lambda signed: signed.header.public) == ranked
        assert len({tuple(hotkey_of(signed.header.public) for signed in order) for order in orders}) == 3
        assert by_need(ranked[::-1], known, hash32("beacon", 0)) == orders[0]

    play(main())
