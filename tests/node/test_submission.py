"""From a signed head to the work behind it: the very bytes it commits to, or a fault with the right name; no traces."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from blake3 import blake3
from builders import genesis_facts, hash32, header, identity, payload_key, run_spec, update
from closed_rounds import open_tip
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st
from small_files import file_size

from muster.lab import clock
from muster.lab.faults import Fault, Kind, Script
from muster.lab.faulty import FaultyStore
from muster.node import submission
from muster.node.context import Offload, in_place
from muster.node.ledger.objects import BULK_DEADLINE
from muster.node.submission import Payload, Submissions
from muster.protocol import paths, wire
from muster.protocol.errors import DiskFailed, ObjectDamaged, ObjectMissing, ObjectTooLarge, StorageError, WireError
from muster.protocol.ledger.bundle import write_bundle
from muster.protocol.reasons import PAYLOAD_REASONS
from muster.protocol.storage import Store
from muster.protocol.storage.directory import DirectoryStore
from muster.protocol.storage.memory import MemoryStore
from muster.protocol.storage.thread import in_thread
from muster.protocol.wire import Key, Signed

T = TypeVar("T")
ALICE, BOB = identity("alice"), identity("bob")
TIP = open_tip()
KEY = payload_key()
PAYLOAD, KEY_OBJECT = paths.payload(TIP.run_id, 0), paths.key(TIP.run_id, 0)
SEAL = hash32("seal")
SHOWN = wire.encode_key(ALICE, TIP.run_id, 0, KEY, SEAL)

SIZES = pytest.mark.parametrize("spool_bytes", [2**20, 0], ids=["small", "spooled"])
"""The same payload is a small one, or one that waits on disk."""


def made(ciphertext: bytes | None = None, **changes: Any) -> tuple[Signed, bytes]:
    """alice's submission of round 0: its signed head and its payload; `changes` to the header."""
    sealed = wire.encrypt_payload(update(), KEY, TIP.run_id, 0, ALICE.public) if ciphertext is None else ciphertext
    facts = genesis_facts(run_spec())
    head = wire.encode_head(replace(header(facts, ALICE, 0, sealed, KEY), **changes), ALICE)
    return wire.decode_head(head, TIP.run_id), sealed


@dataclass
class Bench:
    """A bucket with alice's submission in it, and who fetches it."""

    store: Store
    submissions: Submissions
    signed: Signed
    data: bytes
    spool: Path

    async def payload(self) -> Payload:
        """Fetch and open."""
        return await self.submissions.payload(self.store, self.signed, Key(KEY, SEAL, SHOWN))

    @property
    def left(self) -> list[Path]:
        """What lies on the disk."""
        return list(self.spool.iterdir())

    @property
    def mapped(self) -> int:
        """Maps of files that have no name any more."""
        maps = Path("/proc/self/maps").read_text().splitlines()
        return sum(str(self.spool) in line and line.endswith("(deleted)") for line in maps)


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Awaitable[Bench]]]:
    """Makes one; threads are this process's own."""
    patch = pytest.MonkeyPatch()

    async def make(*faults: Fault, spool_bytes: int = 0, offload: Offload = in_place, ciphertext: Any = None) -> Bench:
        patch.setattr(submission, "SPOOL_BYTES", spool_bytes)
        behind, (signed, data) = MemoryStore(), made(ciphertext)
        await behind.put(PAYLOAD, data)
        await behind.put(KEY_OBJECT, SHOWN)
        spool = tmp_path / "spool"
        spool.mkdir(exist_ok=True)
        store = FaultyStore(behind, Script(faults), lambda: 0, "me", "alice")
        return Bench(store, Submissions(TIP, offload, spool), signed, data, spool)

    yield make
    patch.undo()


Make = Callable[..., Awaitable[Bench]]


class TestPayload:
    """Fetched, decrypted, decoded: what the head commits to and nothing else."""

    @SIZES
    @pytest.mark.parametrize("offload", [in_place, in_thread])
    async def test_it_is_the_update_bit_for_bit(self, bench: Make, spool_bytes: int, offload: Offload) -> None:
        b = await bench(spool_bytes=spool_bytes, offload=offload)
        payload = await b.payload()
        assert payload.update.identical(update())
        assert (payload.opened.signed, payload.opened.key) == (b.signed, SHOWN)
        assert bytes(payload.opened.ciphertext) == b.data
        assert write_bundle([payload.opened]) == b.signed.head + SHOWN + b.data

    async def test_a_large_one_waits_in_files_without_a_name(self, bench: Make) -> None:
        """Ciphertext and tensors are maps: the kernel may take the memory back, and the disk is free when they go."""
        b = await bench()
        payloads = [await b.payload() for _ in range(3)]
        assert (b.left, b.mapped) == ([], 4 * 3)
        assert all(payload.update.identical(update()) for payload in payloads)
        del payloads
        gc.collect()
        assert (b.left, b.mapped) == ([], 0)

    async def test_a_small_one_is_not_worth_a_file(self, bench: Make) -> None:
        b = await bench(spool_bytes=2**20)
        kept = await b.payload()
        assert (b.left, b.mapped) == ([], 0)
        assert kept.update.identical(update())

    async def test_of_several_one_is_opened_at_a_time(self, bench: Make) -> None:
        """Only then does a payload take several times its size. (A small one is handed over for nothing else.)"""
        opening, most = 0, 0

        async def offload(work: Callable[[], T]) -> T:
            nonlocal opening, most
            opening, most = opening + 1, max(most, opening + 1)
            for _ in range(5):
                await asyncio.sleep(0)
            opening -= 1
            return work()

        b = await bench(spool_bytes=2**20, offload=offload)
        payloads = await asyncio.gather(*(b.payload() for _ in range(6)))
        assert all(payload.update.identical(update()) for payload in payloads)
        assert most == 1


class TestTransport:
    """Bytes that are not what the head commits to are looked for again; the peer is not to blame yet."""

    @SIZES
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda data: bytes((data[0] ^ 1,)) + data[1:], "ciphertext_digest"),
            (lambda data: data[:-1] + bytes((data[-1] ^ 1,)), "ciphertext_digest"),
            (lambda data: data[:-1], "ciphertext_size"),
            (lambda data: data + b"x", "ciphertext_size"),
            (lambda data: b"", "ciphertext_size"),
        ],
        ids=["first byte", "last byte", "short", "long", "empty"],
    )
    async def test_other_bytes(
        self, bench: Make, spool_bytes: int, change: Callable[[bytes], bytes], reason: str
    ) -> None:
        b = await bench(spool_bytes=spool_bytes)
        await b.store.put(PAYLOAD, change(b.data))
        assert await refused(b, ObjectDamaged) == reason
        assert reason in PAYLOAD_REASONS, "time alone may make it the peer's"
        await b.store.put(PAYLOAD, b.data)
        assert (await b.payload()).update.identical(update())

    @SIZES
    @pytest.mark.parametrize("kind", ["truncated", "missing", "error", "hang"])
    def test_a_read_that_fails_once(self, bench: Make, spool_bytes: int, kind: Kind) -> None:
        """A hanging one is given up after as long as a large payload may take on a slow line."""

        async def read() -> None:
            operation = "store.get" if spool_bytes else "store.download"
            b = await bench(Fault(kind, operation, count=1), spool_bytes=spool_bytes, offload=in_thread)
            with pytest.raises(StorageError) as caught:
                await b.payload()
            assert isinstance(caught.value, ObjectMissing) == (kind == "missing")
            assert isinstance(caught.value, ObjectDamaged) == (kind == "truncated")
            assert asyncio.get_running_loop().time() == (BULK_DEADLINE if kind == "hang" else 0)
            assert b.left == []
            assert (await b.payload()).update.identical(update())

        clock.run(read())

    async def test_more_than_the_head_announces_is_not_kept(self, bench: Make) -> None:
        b = await bench()
        await b.store.put(PAYLOAD, b.data + bytes(2**20))
        assert await refused(b, ObjectDamaged) == "ciphertext_size"

    @pytest.mark.parametrize("offload", [in_place, in_thread])
    def test_who_is_cancelled_leaves_nothing(self, bench: Make, offload: Offload) -> None:
        async def read() -> None:
            b = await bench(Fault("hang", "store.download"), offload=offload)
            reading = asyncio.create_task(b.payload())
            await asyncio.sleep(10.0)
            assert len(b.left) == 1, "it is under way"
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert b.left == []

        clock.run(read())

    async def test_a_folder_of_a_store_will_do_too(self, bench: Make, tmp_path: Path) -> None:
        """The store that other processes write to, whose thread goes on by itself."""
        b = await bench(offload=in_thread)
        folder = DirectoryStore(tmp_path / "bucket", fsync=False)
        await folder.put(PAYLOAD, b.data)
        payload = await b.submissions.payload(folder, b.signed, Key(KEY, SEAL, SHOWN))
        assert payload.update.identical(update())
        assert b.left == []


class TestOwnDoing:
    """What the very bytes that a head commits to show is surely the peer's own doing."""

    @SIZES
    async def test_a_payload_for_somebody_else(self, bench: Make, spool_bytes: int) -> None:
        b = await bench(
            spool_bytes=spool_bytes, ciphertext=wire.encrypt_payload(update(), KEY, TIP.run_id, 0, BOB.public)
        )
        assert await refused(b, WireError) == "payload_auth"

    @SIZES
    async def test_a_payload_of_another_codec(self, bench: Make, spool_bytes: int) -> None:
        named = wire.submission.associated_data(TIP.run_id, 0, ALICE.public)
        other = ChaCha20Poly1305(KEY).encrypt(bytes(12), b"\x02rest", named)
        assert await refused(await bench(spool_bytes=spool_bytes, ciphertext=other), WireError) == "codec_version"

    @SIZES
    async def test_frames_that_end_too_soon(self, bench: Make, spool_bytes: int) -> None:
        short = wire.encrypt_frames(b"", KEY, TIP.run_id, 0, ALICE.public)
        assert await refused(await bench(spool_bytes=spool_bytes, ciphertext=short), WireError) == "frame_truncated"


async def refused(b: Bench, kind: type[ObjectDamaged] | type[WireError]) -> str:
    """The reason for which it is not opened; once it is told, nothing of the payload stays."""

    async def reason() -> str:
        with pytest.raises(kind) as caught:
            await b.payload()
        return caught.value.reason

    found = await reason()
    gc.collect()
    assert (b.left, b.mapped) == ([], 0)
    return found


class TestDisk:
    """This machine's disk is nobody's fault, and no end of the process."""

    async def test_a_folder_that_went_with_its_disk_is_made_again_once_that_is_back(self, bench: Make) -> None:
        b = await bench()
        b.spool.rmdir()
        b.spool.touch()
        with pytest.raises(DiskFailed, match="cannot be kept on disk"):
            await b.payload()
        b.spool.unlink()
        assert (await b.payload()).update.identical(update())

    async def test_a_full_disk(self, bench: Make) -> None:
        """While the ciphertext comes, or when the tensors are put beside it, which is the last work handed over."""
        calls, full = 0, 4

        async def offload(work: Callable[[], T]) -> T:
            nonlocal calls
            calls += 1
            with file_size(10) if calls == full else nullcontext():
                return work()

        b = await bench(offload=offload)
        with pytest.raises(StorageError, match="cannot be kept on disk"):
            await b.payload()
        assert (b.left, calls) == ([], full)
        with file_size(100), pytest.raises(StorageError, match="cannot write"):
            await b.payload()
        assert b.left == []
        assert (await b.payload()).update.identical(update())


class TestKey:
    """The key of a submission: by its peer, of its round, and the one that was committed to."""

    async def test_it_is_read(self, bench: Make) -> None:
        b = await bench()
        assert await b.submissions.key(b.store, b.signed, SEAL) == Key(KEY, SEAL, SHOWN)

    async def test_one_that_is_not_public_is_missing(self, bench: Make) -> None:
        b = await bench()
        await b.store.delete(KEY_OBJECT)
        with pytest.raises(ObjectMissing):
            await b.submissions.key(b.store, b.signed, SEAL)

    async def test_one_that_is_too_large_is_not_read(self, bench: Make) -> None:
        b = await bench()
        await b.store.put(KEY_OBJECT, bytes(2**20))
        with pytest.raises(ObjectTooLarge):
            await b.submissions.key(b.store, b.signed, SEAL)

    @pytest.mark.parametrize(
        ("signer", "round_", "key", "seal", "reason"),
        [
            (ALICE, 1, KEY, SEAL, "key_round"),
            (BOB, 0, KEY, SEAL, "key_hotkey"),
            (ALICE, 0, KEY, hash32("another seal"), "key_seal"),
            (ALICE, 0, payload_key(2), SEAL, "key_mismatch"),
        ],
        ids=["another round's", "another peer's", "for another seal", "another key"],
    )
    async def test_what_somebody_signed_is_the_peers_own_doing(
        self, bench: Make, signer: Any, round_: int, key: bytes, seal: bytes, reason: str
    ) -> None:
        b = await bench()
        await b.store.put(KEY_OBJECT, wire.encode_key(signer, TIP.run_id, round_, key, seal))
        with pytest.raises(WireError) as caught:
            await b.submissions.key(b.store, b.signed, SEAL)
        assert caught.value.reason == reason
        assert reason in PAYLOAD_REASONS

    @given(data=st.data())
    def test_what_nobody_signed_is_a_fault_of_the_way_here(self, data: st.DataObject) -> None:
        """Any change of any byte, any cut, any extension: it is read again, and bears the name it would have."""
        whole = SHOWN
        at = data.draw(st.integers(0, len(whole) - 1))
        bit = data.draw(st.integers(0, 7))
        changed = whole[:at] + bytes((whole[at] ^ 1 << bit,)) + whole[at + 1 :]
        read = data.draw(st.sampled_from([changed, whole[:at], whole + b"x", b""]))

        async def fetch() -> None:
            store, (signed, _) = MemoryStore(), made()
            await store.put(KEY_OBJECT, read)
            with pytest.raises(ObjectDamaged) as caught:
                await Submissions(TIP, in_place).key(store, signed, SEAL)
            assert caught.value.reason.startswith("key_")
            assert caught.value.reason in PAYLOAD_REASONS

        asyncio.run(fetch())


def test_a_heads_digest_is_of_all_its_ciphertext() -> None:
    """What these tests stand on."""
    signed, data = made()
    assert signed.header.ciphertext_digest == blake3(data).digest()
