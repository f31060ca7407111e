"""The one way to a submission's work, for whoever takes it in and for whoever measures it: key, ciphertext, opened.

What is fetched is either the very thing a signed head commits to, or a fault of the transport (`ObjectDamaged`, with
the reason it would be if the bucket really held that), to be looked at again; only what is surely the peer's own
doing is a `WireError`. Large payloads wait on disk, and are opened one at a time.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from muster.kernels import SparseUpdate
from muster.node.context import Offload
from muster.node.ledger.objects import BULK_DEADLINE
from muster.node.scratch import made_again
from muster.node.telemetry.ailments import Ailments
from muster.protocol import paths, wire
from muster.protocol.errors import DiskFailed, ObjectDamaged, ObjectTooLarge, StorageError, WireError
from muster.protocol.ledger import Tip
from muster.protocol.ledger.bundle import Opened
from muster.protocol.reasons import KEY_SEAL
from muster.protocol.rules.admission import MAX_KEY_BYTES
from muster.protocol.storage import Store
from muster.protocol.wire import Key, Signed

PAYLOADS = "a payload on its way"
"""What of the disk's refusals is said to ail."""

SPOOL_BYTES = 2**20
"""Payloads from this size on wait on disk until they are needed; smaller ones are not worth a file."""

PLACE_SECONDS = 2.0
PLACE_BYTES = 1_250_000
"""A transfer holds its place in line for so many seconds, and one for so many bytes: 10 Mbit/s."""

_OWN_DOING = frozenset({"key_round", "key_hotkey"})
"""What is wrong with a key object although its owner signed it."""

_WRONG_BYTES = frozenset({"ciphertext_size", "ciphertext_digest"})


@dataclass(frozen=True, slots=True)
class Payload:
    """An opened submission: what its bundle entry is made of, and the update it holds."""

    opened: Opened
    update: SparseUpdate


@dataclass(slots=True)
class Place:
    """One of the places of payloads under way at one time: `held` until its payload ends, unless it is `lost` first."""

    held: bool = True
    lost: bool = False


class Submissions:
    """Fetches and opens submissions of one codec, each from where its own round's lie.

    `spool` is the folder that large ones are kept in (None: the system's folder for temporary files); a file has no
    name any more once it is open, so nothing is left behind. `ailments` is told when that disk takes none.
    """

    def __init__(self, tip: Tip, offload: Offload, spool: Path | None = None, ailments: Ailments | None = None) -> None:
        self._run_id = tip.run_id
        self._codec = tip.codec
        self._offload = offload
        self._spool = spool
        self._ailments = ailments or Ailments()
        self._opening = asyncio.Lock()
        self._arrived: set[bytes] = set()

    async def key(self, store: Store, signed: Signed, seal: bytes) -> Key:
        """The key that a head commits to, out of its peer's bucket; it must answer the seal with this digest.

        Raises:
            ObjectMissing: it is not public.
            ObjectDamaged: what was read is not by the peer (`key_…`).
            StorageError: the bucket cannot be read.
            WireError: `key_round`, `key_hotkey`, `key_seal`, `key_mismatch`.
        """
        round_ = signed.header.round
        data = await store.get(paths.key(self._run_id, round_), max_bytes=MAX_KEY_BYTES)
        try:
            key = wire.decode_key(data, self._run_id, round_, signed.header.public)
        except WireError as error:
            if error.reason in _OWN_DOING:
                raise
            raise ObjectDamaged(f"a key cannot be read: {error}", error.reason) from error
        if key.seal != seal:
            raise WireError(KEY_SEAL, "the key answers another seal")
        if wire.key_commitment(key.payload_key) != signed.header.key_commitment:
            raise WireError("key_mismatch", "the key is not the one the header commits to")
        return key

    async def payload(self, store: Store, signed: Signed, key: Key) -> Payload:
        """Fetch, decrypt and decode the payload of a head whose key is known.

        Memory: the plain payload and its decoded form, 3.6 payloads for as long as it is opened; then nothing that
        the kernel could not take back, where the payload is large.

        Raises:
            StorageError: it is missing (`ObjectMissing`), not the bytes the head commits to (`ObjectDamaged`), or
                cannot be read.
            WireError: `payload_auth`, `codec_version`, or a reason of the codec.
        """
        small = signed.ciphertext_bytes < SPOOL_BYTES
        self._arrived.discard(signed.digest)
        try:
            ciphertext = await (self._read(store, signed) if small else self._download(store, signed))
        except ObjectTooLarge as error:
            raise ObjectDamaged(f"a payload is larger than its head says: {error}", "ciphertext_size") from error
        self._arrived.add(signed.digest)
        async with self._opening:
            try:
                update = await self._offload(lambda: self._open(signed, ciphertext, key.payload_key, small))
            except WireError as error:
                if error.reason in _WRONG_BYTES:
                    raise ObjectDamaged(f"a payload is not what its head commits to: {error}", error.reason) from error
                raise
        return Payload(Opened(signed, key.data, ciphertext), update)

    @contextmanager
    def place(self, signed: Signed, lost: Callable[[], object]) -> Iterator[Place]:
        """Within, a payload takes one of the places of those under way at one time.

        It loses it, and `lost` is called, when its transfer takes longer than a slow line's would: who hangs or drips
        goes on beside the others, and keeps nobody else's payload waiting.
        """
        place = Place()

        def late() -> None:
            if signed.digest not in self._arrived:  # else it is here, and waits its turn to be opened
                place.held, place.lost = False, True
                lost()

        seconds = PLACE_SECONDS + signed.ciphertext_bytes / PLACE_BYTES
        timer = asyncio.get_running_loop().call_later(seconds, late)
        try:
            yield place
        finally:
            timer.cancel()
            place.held = False

    async def _read(self, store: Store, signed: Signed) -> bytes:
        key = paths.payload(self._run_id, signed.header.round)
        return await store.get(key, max_bytes=signed.ciphertext_bytes, deadline=BULK_DEADLINE)

    async def _download(self, store: Store, signed: Signed) -> memoryview:
        """The ciphertext as a map of a nameless file."""
        key = paths.payload(self._run_id, signed.header.round)
        folder = await self._offload(self._folder)
        try:
            target = Path(folder.name) / "object"
            try:
                await store.download(key, target, max_bytes=signed.ciphertext_bytes, deadline=BULK_DEADLINE)
            except DiskFailed as error:
                self._ailments.fail(
                    PAYLOADS, f"{PAYLOADS} cannot be kept on disk: {_why(error)}; free space or mend the disk"
                )
                raise
            return await self._offload(lambda: _mapped(target))
        finally:
            await self._offload(folder.cleanup)

    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        # A store's thread that outlives its deadline may yet write here; what cannot be removed for that is no fault.
        with self._ailments.writing(PAYLOADS):
            return tempfile.TemporaryDirectory(
                prefix="submission-", dir=made_again(self._spool), ignore_cleanup_errors=True
            )

    def _open(self, signed: Signed, ciphertext: bytes | memoryview, key: bytes, small: bool) -> SparseUpdate:
        update = wire.open_payload(signed.header, ciphertext, key, self._codec)
        return update if small else self._on_disk(update)

    def _on_disk(self, update: SparseUpdate) -> SparseUpdate:
        """The same update, its tensors maps of a nameless file."""
        return replace(
            update,
            indices=self._kept(update.indices),
            codes=self._kept(update.codes),
            scales=self._kept(update.scales),
        )

    def _kept(self, tensor: Tensor) -> Tensor:
        values = tensor.numpy()
        if not values.size:
            return tensor
        with self._ailments.writing(PAYLOADS), tempfile.TemporaryFile(dir=made_again(self._spool)) as file:
            file.write(np.ascontiguousarray(values).data)  # `tofile` would not say that the disk is full
            file.flush()
            mapped = np.memmap(file, dtype=values.dtype, mode="c", shape=values.shape)
        return torch.from_numpy(mapped)


def _why(error: DiskFailed) -> str:
    """What the system said, without the name of a file that is another one each time."""
    cause = error.__cause__
    return (cause.strerror if isinstance(cause, OSError) else None) or str(error)


def _mapped(path: Path) -> memoryview:
    """A file's bytes, readable for as long as somebody holds them, whatever becomes of its name."""
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:  # of nothing there is no map
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise StorageError(f"a payload cannot be read back from {path}: {error}") from error
