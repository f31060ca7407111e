"""The records of a round as buckets have them: each once, whole, whichever bucket has it so."""

from __future__ import annotations

import pytest
from builders import hash32
from ledger_world import World

from muster.lab.faults import Fault
from muster.node.ledger.seals import MAX_SIBLINGS
from muster.node.ledger.siblings import siblings
from muster.protocol import paths
from muster.protocol.storage import Store

FIRST, SECOND = LIST = ("leader", "second")


async def looked_at(*faults: Fault) -> tuple[World, list[Store]]:
    """Two aggregators and an open round; and their buckets as the watcher has them."""
    world = await World.begin(*faults, leaders=LIST)
    return world, list((await world.reader().stores(world.tip)).values())


async def test_each_is_given_once_with_its_digest() -> None:
    world, stores = await looked_at()
    in_time, late = await world.write(()), await world.write((), turn=1)
    await world.put(in_time)
    await world.put(late, SECOND)
    found, problems = await siblings(stores, world.tip, 0)
    assert {digest: record.turn for record, digest in found} == {in_time.digest: 0, late.digest: 1}
    assert problems == {}
    assert world.script.asked(operation="store.get") == 2


@pytest.mark.parametrize("kind", ["damaged", "truncated", "error", "missing"])
async def test_a_copy_that_is_not_whole_is_read_elsewhere(kind: str) -> None:
    world, stores = await looked_at(Fault(kind, "store.get", "*.rec", owner=FIRST))  # type: ignore[arg-type]
    written = await world.write(())
    await world.put(written)
    found, problems = await siblings(stores, world.tip, 0)
    assert [digest for _, digest in found] == [written.digest]
    assert problems == {}


async def test_a_bucket_that_does_not_answer_is_said_to_be_in_the_way() -> None:
    world, stores = await looked_at(Fault("error", "store.list", owner=FIRST))
    written = await world.write(())
    await world.put(written)
    found, problems = await siblings(stores, world.tip, 0)
    assert [digest for _, digest in found] == [written.digest]
    assert list(problems) == [stores[0]]


async def test_a_record_under_another_s_name_is_in_the_way_and_not_found() -> None:
    world, stores = await looked_at()
    written = await world.write(())
    await world.bucket_of(SECOND).put(paths.record(world.tip.run_id, 0, hash32("name")), written.object("rec")[1])
    found, problems = await siblings(stores, world.tip, 0)
    assert found == []
    ((_, problem),) = problems.items()
    assert "is another record than its name says" in str(problem)


async def test_who_fills_its_bucket_hides_nothing_of_another_s() -> None:
    world, stores = await looked_at()
    written = await world.write(())
    await world.put(written, SECOND)
    for number in range(3 * MAX_SIBLINGS):
        await world.bucket_of(FIRST).put(paths.record(world.tip.run_id, 0, number.to_bytes(32)), b"nothing")
    found, problems = await siblings(stores, world.tip, 0)
    assert [digest for _, digest in found] == [written.digest]
    assert list(problems) == [stores[0]]
    assert world.script.asked(operation="store.get") <= 2 * MAX_SIBLINGS + 1
