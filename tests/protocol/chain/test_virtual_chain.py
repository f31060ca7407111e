"""The virtual clock: it moves when all participants wait for it, and only then."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from muster.lab import clock
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.types import Block

GENESIS = ChainGenesis(7)


async def spin(turns: int = 50) -> None:
    """Give every other task of the loop many turns."""
    for _ in range(turns):
        await asyncio.sleep(0)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a thread of a test waits for; opened in any case, lest a failed test hang."""
    event = threading.Event()
    yield event
    event.set()


class TestVirtualClock:
    async def test_drive_adds_a_block_when_all_are_parked_and_ends_with_the_last(self) -> None:
        chain, log = VirtualChain(GENESIS), []

        async def walk(name: str, every: int, until: int) -> None:
            with chain.participant():
                while (head := (await chain.head()).number) < until:
                    log.append((name, head))
                    await chain.next_block(head + every - 1)

        async with asyncio.TaskGroup() as group:
            group.create_task(walk("slow", 3, 6))
            group.create_task(walk("fast", 1, 4))
            assert (await chain.drive(participants=2)).number == 6
        assert log == [("slow", 0), ("fast", 0), ("fast", 1), ("fast", 2), ("slow", 3), ("fast", 3)]

    async def test_participants_wake_in_the_order_they_joined(self) -> None:
        chain, log = VirtualChain(GENESIS), []

        async def step(name: str, turns: int) -> None:
            with chain.participant():
                await spin(turns)
                await chain.next_block(0)
                log.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(step("first", turns=9))
            group.create_task(step("second", turns=0))
            await chain.drive(participants=2)
        assert log == ["first", "second"]

    async def test_the_clock_waits_for_work_in_a_thread(self, gate: threading.Event) -> None:
        chain = VirtualChain(GENESIS)

        async def parked() -> None:
            with chain.participant():
                await chain.next_block(3)

        async def working() -> None:
            with chain.participant():
                await asyncio.to_thread(gate.wait)

        async with asyncio.TaskGroup() as group:
            group.create_task(parked())
            group.create_task(working())
            driving = group.create_task(chain.drive(participants=2))
            await spin()
            assert (await chain.head()).number == 0
            gate.set()
            assert (await driving).number == 4

    async def test_the_clock_waits_for_a_hold_beside_a_parked_task(self) -> None:
        chain = VirtualChain(GENESIS)

        async def parked() -> None:
            with chain.participant():
                await chain.next_block(3)

        async with asyncio.TaskGroup() as group:
            with chain.hold():
                group.create_task(parked())
                driving = group.create_task(chain.drive())
                await spin()
                assert (await chain.head()).number == 0
            assert (await driving).number == 4

    async def test_tasks_of_a_participant_park_for_it(self) -> None:
        chain = VirtualChain(GENESIS)

        async def parent() -> None:
            with chain.participant():
                async with asyncio.TaskGroup() as children:
                    children.create_task(chain.next_block(1))

        async with asyncio.TaskGroup() as group:
            group.create_task(parent())
            assert (await chain.drive()).number == 2

    async def test_an_onlooker_neither_stops_nor_drives_the_clock(self) -> None:
        chain = VirtualChain(GENESIS)
        onlooker = asyncio.create_task(chain.next_block(0))
        await spin()
        assert (await chain.head()).number == 0
        with chain.participant():
            driving = asyncio.create_task(chain.drive())
            await spin()
            assert not onlooker.done()
        assert (await driving).number == 0
        chain.advance()
        assert (await onlooker).number == 1

    async def test_one_that_dies_stops_nobody_and_one_may_join_late(self) -> None:
        chain = VirtualChain(GENESIS)

        async def wait(until: int) -> None:
            with chain.participant():
                await chain.next_block(until - 1)

        async def cast() -> None:
            with chain.participant():
                victim = asyncio.create_task(wait(1_000_000))
                await chain.next_block(4)
                victim.cancel()
                latecomer = asyncio.create_task(wait(8))
                await spin()
            await latecomer

        async with asyncio.TaskGroup() as group:
            group.create_task(cast())
            assert (await chain.drive(participants=2)).number == 8

    async def test_drive_waits_for_the_expected_participants(self) -> None:
        chain = VirtualChain(GENESIS)
        with chain.participant():
            early = asyncio.create_task(chain.next_block(0))
            driving = asyncio.create_task(chain.drive(participants=2))
            await spin()
            assert not early.done()
            with chain.participant():
                pass
            assert (await early).number == 1
            driving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await driving


class TestDriveByClock:
    def test_who_is_late_misses_blocks_and_nobody_waits_for_it(self) -> None:
        chain, log = VirtualChain(GENESIS), []

        async def quick() -> None:
            with chain.participant():
                head = 0
                while head < 9:
                    head = (await chain.next_block(head)).number
                    log.append((head, asyncio.get_running_loop().time()))

        async def slow() -> None:
            with chain.participant():
                await asyncio.sleep(100)
                log.append(("slow", chain.height))

        async def main() -> Block:
            async with asyncio.TaskGroup() as group:
                group.create_task(quick())
                group.create_task(slow())
                return await chain.drive_by_clock(12, participants=2)

        assert clock.run(main()).number == 9
        blocks = [(number, 12.0 * number) for number in range(1, 10)]
        assert log == [*blocks[:8], ("slow", 8), blocks[8]]

    def test_it_waits_for_the_first_participants_and_ends_without_any(self) -> None:
        chain = VirtualChain(GENESIS)

        async def walk(delay: float) -> None:
            await asyncio.sleep(delay)
            with chain.participant():
                assert (await chain.next_block(0)).number == 1

        async def main() -> tuple[Block, float]:
            async with asyncio.TaskGroup() as group:
                for delay in (0, 1000):
                    group.create_task(walk(delay))
                head = await chain.drive_by_clock(5, participants=2)
            return head, asyncio.get_running_loop().time()

        head, at = clock.run(main())
        assert (head.number, at) == (1, 1010)
