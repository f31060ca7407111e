"""Faulty stores and chains over real ones: each kind of fault does what it says, and nothing else changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from blake3 import blake3

from muster.lab import clock
from muster.lab.faults import OPERATIONS, REACH, Fault, Kind, Script
from muster.lab.faulty import FaultyBuckets, FaultyChain, FaultyStore
from muster.protocol.chain.base import Chain
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.errors import ChainUnreachable, MusterError, ObjectMissing, StorageError
from muster.protocol.identity import Identity
from muster.protocol.storage import Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.storage.memory import MemoryStore
from muster.protocol.types import Anchor

KEY, DATA = "run/seals/1.seal", bytes(range(100))
ME = Identity.derive(0, "me")


class Bench:
    """A bucket of bob's that holds `DATA`, as alice sees it, and her chain at height 5."""

    def __init__(self, *faults: Fault, folder: Path | None = None) -> None:
        self.script = Script(faults)
        self.behind = MemoryBuckets()
        self.chain_behind = VirtualChain(ChainGenesis(0, stakes={ME.hotkey: 10}, weights_rate_limit=1))
        self.folder = folder
        self.chain = FaultyChain(self.chain_behind, self.script, lambda: self.chain_behind.height, "alice")
        self.buckets = FaultyBuckets(self.behind, self.script, lambda: self.chain_behind.height, "alice")

    @property
    def true(self) -> Store:
        return self.behind.bucket("mem:bob")

    @property
    def store(self) -> Store:
        return self.buckets.bucket("mem:bob")

    @property
    def target(self) -> Path:
        assert self.folder is not None
        return self.folder / "file"

    async def prepare(self) -> None:
        await self.true.put(KEY, DATA)
        await self.chain_behind.register(ME)
        self.chain_behind.advance(5)


Call = Callable[[Bench], Awaitable[object]]


async def upload(bench: Bench) -> None:
    assert bench.folder is not None
    source = bench.folder / "source"
    await asyncio.to_thread(source.write_bytes, DATA)
    await bench.store.upload(KEY, source, deadline=60)


CALLS: dict[str, Call] = {
    "store.put": lambda b: b.store.put(KEY, b"new", deadline=60),
    "store.put_if_absent": lambda b: b.store.put_if_absent("run/new", b"new", deadline=60),
    "store.upload": upload,
    "store.delete": lambda b: b.store.delete(KEY, deadline=60),
    "store.get": lambda b: b.store.get(KEY, max_bytes=100, deadline=60),
    "store.get_range": lambda b: b.store.get_range(KEY, 10, 20, deadline=60),
    "store.download": lambda b: b.store.download(KEY, b.target, max_bytes=100, deadline=60),
    "store.head": lambda b: b.store.head(KEY, deadline=60),
    "store.list": lambda b: b.store.list("run/", deadline=60),
    "chain.origin": lambda b: b.chain.origin(),
    "chain.head": lambda b: b.chain.head(),
    "chain.next_block": lambda b: b.chain.next_block(2),
    "chain.final": lambda b: b.chain.final(),
    "chain.block": lambda b: b.chain.block(3),
    "chain.beacon": lambda b: b.chain.beacon("assign", 1, 3),
    "chain.snapshot": lambda b: b.chain.snapshot(),
    "chain.anchors": lambda b: b.chain.anchors(0),
    "chain.register": lambda b: b.chain.register(Identity.derive(0, "other")),
    "chain.commit": lambda b: b.chain.commit(ME, "mem:me", Anchor(3, bytes(32))),
    "chain.set_weights": lambda b: b.chain.set_weights(ME, {0: 1}),
}


def play(bench: Bench, *calls: Call) -> tuple[list[object], float]:
    """What each call gives (or raises), and the seconds they took."""

    async def main() -> tuple[list[object], float]:
        await bench.prepare()
        answers: list[object] = []
        for call in calls:
            try:
                answers.append(await call(bench))
            except MusterError as error:
                answers.append(error)
        return answers, asyncio.get_running_loop().time()

    return clock.run(main())


def stored(bench: Bench) -> dict[str, bytes]:
    """What really lies in the bucket."""
    store = bench.true
    assert isinstance(store, MemoryStore)

    async def main() -> dict[str, bytes]:
        return {info.key: await store.get(info.key, max_bytes=1000) for info in await store.list()}

    return asyncio.run(main())


def failure(operation: str) -> type[MusterError]:
    return StorageError if operation.startswith("store.") else ChainUnreachable


def test_every_operation_of_both_interfaces_can_fail() -> None:
    asked = {f"store.{name}" for name in Store.__abstractmethods__}
    asked |= {f"chain.{name}" for name in Chain.__abstractmethods__}
    assert asked == set(OPERATIONS) == set(CALLS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_a_fault_nothing_changes(operation: str, tmp_path: Path) -> None:
    bench, plain = Bench(folder=tmp_path), Bench(folder=tmp_path)
    plain.buckets, plain.chain = plain.behind, plain.chain_behind  # type: ignore[assignment]
    times = {"store.head", "store.list"}  # their answers carry the time of day
    (answer,), took = play(bench, CALLS[operation])
    (expected,), _ = play(plain, CALLS[operation])
    assert operation in times or answer == expected
    assert (took, stored(bench)) == (0, stored(plain))
    assert bench.script.asked("alice", operation) == bench.script.asked() == 1


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_error_once_then_the_true_answer(operation: str, tmp_path: Path) -> None:
    fault = Fault("error", operation, count=1)
    bench = Bench(fault, folder=tmp_path)
    before = {KEY: DATA}

    async def untouched(bench: Bench) -> None:
        assert await bench.true.get(KEY, max_bytes=100) == before[KEY]

    (failed, _, answer), took = play(bench, CALLS[operation], untouched, CALLS[operation])
    assert type(failed) is failure(operation)
    assert not isinstance(answer, MusterError)
    assert (took, bench.script.fired[fault]) == (0, 1)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_slow_takes_its_time_and_answers_truly(operation: str, tmp_path: Path) -> None:
    (answer,), took = play(Bench(Fault("slow", operation, seconds=45), folder=tmp_path), CALLS[operation])
    assert not isinstance(answer, MusterError)
    assert took == 45


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name.startswith("store.")])
@pytest.mark.parametrize("fault", [Fault("slow", seconds=607.0), Fault("hang")], ids=["slow", "hang"])
def test_a_deadline_ends_what_is_slower(operation: str, fault: Fault, tmp_path: Path) -> None:
    bench = Bench(fault, folder=tmp_path)
    (answer,), took = play(bench, CALLS[operation])
    assert type(answer) is StorageError
    assert took == 60
    assert stored(bench) == {KEY: DATA}, "it did not happen"


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name.startswith("chain.")])
def test_a_chain_that_hangs_is_the_callers_to_leave(operation: str, tmp_path: Path) -> None:
    async def patient(bench: Bench) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(CALLS[operation](bench), 90)

    _, took = play(Bench(Fault("hang", operation), folder=tmp_path), patient)
    assert took == 90


@pytest.mark.parametrize("operation", REACH["lost"])
def test_a_lost_answer_is_of_something_that_happened(operation: str, tmp_path: Path) -> None:
    bench, done = Bench(Fault("lost", operation), folder=tmp_path), Bench(folder=tmp_path)
    (answer,), _ = play(bench, CALLS[operation])
    play(done, CALLS[operation])
    assert type(answer) is failure(operation)
    assert stored(bench) == stored(done)
    assert asyncio.run(bench.chain_behind.snapshot()) == asyncio.run(done.chain_behind.snapshot())


@pytest.mark.parametrize("kind", ["missing", "damaged", "truncated"])
def test_a_look_that_finds_nothing_uses_up_no_fault(kind: Kind) -> None:
    """Whoever polls for an object meets the fault when the object is there."""
    fault = Fault(kind, "store.get", count=1)
    bench = Bench(fault)

    async def early(bench: Bench) -> None:
        await bench.store.get("run/none", max_bytes=100)

    (nothing, spoilt, whole), _ = play(bench, early, CALLS["store.get"], CALLS["store.get"])
    assert isinstance(nothing, ObjectMissing)
    assert spoilt != DATA
    assert whole == DATA
    assert bench.script.fired[fault] == 1


@pytest.mark.parametrize(
    ("operation", "nothing"), [("store.get", None), ("store.get_range", None), ("store.head", None), ("store.list", [])]
)
def test_missing_is_what_each_look_calls_it(operation: str, nothing: object) -> None:
    (answer,), _ = play(Bench(Fault("missing", operation)), CALLS[operation])
    assert isinstance(answer, ObjectMissing) if operation.startswith("store.get") else answer == nothing


def test_one_bit_is_damaged() -> None:
    (answer, part), _ = play(Bench(Fault("damaged")), CALLS["store.get"], CALLS["store.get_range"])
    for found, true in ((answer, DATA), (part, DATA[10:30])):
        assert isinstance(found, bytes)
        changed = int.from_bytes(found, "big") ^ int.from_bytes(true, "big")
        assert (len(found), changed.bit_count()) == (len(true), 1)


def test_half_is_truncated() -> None:
    (answer,), _ = play(Bench(Fault("truncated")), CALLS["store.get"])
    assert answer == DATA[:50]


@pytest.mark.parametrize("kind", ["damaged", "truncated"])
def test_a_spoilt_download_is_a_file_with_its_own_digest(kind: Kind, tmp_path: Path) -> None:
    (digest,), _ = play(Bench(Fault(kind), folder=tmp_path), CALLS["store.download"])
    found = (tmp_path / "file").read_bytes()
    assert found != DATA
    assert digest == blake3(found).digest()


def test_a_missing_download_leaves_no_file(tmp_path: Path) -> None:
    (answer,), _ = play(Bench(Fault("missing"), folder=tmp_path), CALLS["store.download"])
    assert isinstance(answer, ObjectMissing)
    assert not (tmp_path / "file").exists()


def test_one_bucket_is_down_for_everybody_and_one_peer_sees_none() -> None:
    script, behind = Script([Fault("error", owner="bob"), Fault("error", who="carol")]), MemoryBuckets()

    async def works(who: str, owner: str) -> bool:
        store = FaultyBuckets(behind, script, lambda: 0, who).bucket(f"mem:{owner}")
        assert isinstance(store, FaultyStore)
        try:
            await store.list()
        except StorageError:
            return False
        return True

    async def main() -> dict[tuple[str, str], bool]:
        names = ("alice", "bob", "carol")
        return {(who, owner): await works(who, owner) for who in names for owner in names}

    assert [pair for pair, up in asyncio.run(main()).items() if up] == [
        ("alice", "alice"), ("alice", "carol"), ("bob", "alice"), ("bob", "carol")
    ]  # fmt: skip


def test_a_fault_ends_at_its_block() -> None:
    async def later(bench: Bench) -> None:
        bench.chain_behind.advance(1)

    get = CALLS["store.get"]
    answers, _ = play(Bench(Fault("error", until_block=6)), get, get, later, get)
    assert [isinstance(answer, StorageError) for answer in answers] == [True, True, False, False]
