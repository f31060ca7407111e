"""The bundle a leader publishes: the same bytes from memory as from disk, put as often as it takes, and no traces."""

from __future__ import annotations

import gc
import resource
from collections.abc import Sequence
from pathlib import Path

import pytest
from blake3 import blake3
from builders import NO_SEAL, genesis_facts, header, identity, payload_key, run_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.lab.faults import Fault, Script
from muster.lab.faulty import FaultyStore
from muster.node.submission import SPOOL_BYTES
from muster.protocol import wire
from muster.protocol.errors import StorageError
from muster.protocol.ledger.bundle import Opened, read_bundle, write_bundle
from muster.protocol.storage.memory import MemoryStore
from muster.validator.aggregator.bundle import make_bundle

NAME = "run/bundles/00000000.bin"
FACTS = genesis_facts(run_spec())


def opened(uid: int, size: int) -> Opened:
    """A submission whose ciphertext has so many bytes; as a map where it is large, as submissions are."""
    ciphertext = blake3(bytes((uid,))).digest(length=size)
    miner = identity(f"miner {uid}")
    head = wire.encode_head(header(FACTS, miner, uid % 4, ciphertext, payload_key(uid)), miner)
    key = wire.encode_key(miner, FACTS.run_id, 0, payload_key(uid), NO_SEAL)
    return Opened(wire.decode_head(head, FACTS.run_id), key, memoryview(ciphertext) if size > 1000 else ciphertext)


def of_bytes(total: int) -> list[Opened]:
    """Three submissions whose bundle has exactly so many bytes."""
    frames = len(write_bundle([opened(uid, 100) for uid in range(3)])) - 300
    return [opened(0, 100), opened(1, 2000), opened(2, total - frames - 2100)]


def kept(folder: Path) -> list[Path]:
    """What lies on the disk."""
    gc.collect()
    return list(folder.iterdir())


class TestBytes:
    """Where it waits changes nothing about it."""

    @pytest.mark.parametrize("beyond", [-1, 0, 1, 5000])
    async def test_from_memory_or_from_disk(self, tmp_path: Path, beyond: int) -> None:
        submissions = of_bytes(SPOOL_BYTES + beyond)
        whole = write_bundle(submissions)
        bundle, store = make_bundle(submissions, tmp_path), MemoryStore()
        assert len(kept(tmp_path)) == (beyond >= 0)
        assert (bundle.size, bundle.digest) == (SPOOL_BYTES + beyond, blake3(whole).digest())
        await bundle.put(store, NAME)
        assert await store.get(NAME, max_bytes=2**22) == whole
        read = read_bundle(whole, [submission.signed for submission in submissions])
        assert [bytes(submission.ciphertext) for submission in read] == [bytes(s.ciphertext) for s in submissions]

    @settings(max_examples=30)
    @given(sizes=st.lists(st.integers(20, 3000), max_size=5))
    def test_it_is_what_its_readers_split(self, sizes: Sequence[int]) -> None:
        submissions = [opened(uid, size) for uid, size in enumerate(sizes)]
        bundle = make_bundle(submissions, None)
        assert bundle.data == write_bundle(submissions)
        assert (bundle.size, bundle.digest) == (len(bundle.data), blake3(bundle.data).digest())

    def test_of_nothing_it_is_empty(self, tmp_path: Path) -> None:
        bundle = make_bundle([], tmp_path)
        assert (bundle.size, bundle.digest, kept(tmp_path)) == (0, blake3(b"").digest(), [])


class TestDisk:
    """A large one takes disk for as long as somebody may have to put it, and no longer."""

    async def test_it_can_be_put_again_and_goes_when_it_is_let_go(self, tmp_path: Path) -> None:
        submissions = of_bytes(SPOOL_BYTES)
        bundle = make_bundle(submissions, tmp_path)
        script = Script([Fault("error", "store.upload", count=2), Fault("lost", "store.upload", count=1)])
        behind = MemoryStore()
        store = FaultyStore(behind, script, lambda: 0, "leader", "leader")
        for _ in range(3):
            with pytest.raises(StorageError):
                await bundle.put(store, NAME)
        await bundle.put(store, NAME)
        assert script.unfired() == []
        assert await behind.get(NAME, max_bytes=2**22) == write_bundle(submissions)
        assert len(kept(tmp_path)) == 1
        del bundle
        assert kept(tmp_path) == []

    def test_a_disk_that_does_not_take_it_is_a_storage_fault(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="cannot be kept on disk"):
            make_bundle(of_bytes(SPOOL_BYTES), Path(__file__))

    def test_a_folder_that_has_gone_is_made_again(self, tmp_path: Path) -> None:
        bundle = make_bundle(of_bytes(SPOOL_BYTES), tmp_path / "gone" / "spool")
        assert len(kept(tmp_path / "gone" / "spool")) == 1
        del bundle

    def test_a_full_one_keeps_nothing_of_it(self, tmp_path: Path) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (SPOOL_BYTES // 2, before[1]))
        try:
            with pytest.raises(StorageError, match="cannot be kept on disk"):
                make_bundle(of_bytes(SPOOL_BYTES), tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert kept(tmp_path) == []

    async def test_a_file_that_somebody_removed_is_one_too(self, tmp_path: Path) -> None:
        """The process goes on, and says which file."""
        bundle = make_bundle(of_bytes(SPOOL_BYTES), tmp_path)
        (file,) = kept(tmp_path)
        aside = file.rename(tmp_path / "aside")
        with pytest.raises(StorageError, match=file.name):
            await bundle.put(MemoryStore(), NAME)
        aside.rename(file)
        await bundle.put(MemoryStore(), NAME)
