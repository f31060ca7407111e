"""The bundle a leader publishes, written piece by piece: in memory where it is small, to disk where it is not."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from blake3 import blake3

from muster.node.ledger.objects import BULK_DEADLINE
from muster.node.submission import SPOOL_BYTES
from muster.protocol.errors import StorageError
from muster.protocol.ledger.bundle import Opened, bundle_parts, bundle_size
from muster.protocol.storage import Store


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle's digest and size, and its bytes, in memory or in a file that goes with this object."""

    digest: bytes
    size: int
    data: bytes
    file: IO[bytes] | None = None

    async def put(self, store: Store, key: str) -> None:
        """Publish it; can be done again.

        Raises:
            StorageError: the store did not take it.
        """
        if self.file is None:
            await store.put(key, self.data, deadline=BULK_DEADLINE)
        else:
            await store.upload(key, Path(self.file.name), deadline=BULK_DEADLINE)


def make_bundle(opened: Sequence[Opened], spool: Path | None) -> Bundle:
    """The bundle of these submissions, in record order; waits for the disk where it is large.

    Raises:
        StorageError: the disk did not take it.
    """
    size = bundle_size(opened)
    if size < SPOOL_BYTES:
        data = b"".join(bundle_parts(opened))
        return Bundle(blake3(data).digest(), size, data)
    digest = blake3()
    try:
        file = tempfile.NamedTemporaryFile(prefix="bundle-", dir=spool)  # noqa: SIM115  # it lives as long as the bundle
        for part in bundle_parts(opened):
            digest.update(part)
            file.write(part)
        file.flush()
    except OSError as error:
        raise StorageError(f"a bundle of {size} bytes cannot be kept on disk: {error.strerror or error}") from error
    return Bundle(digest.digest(), size, b"", file)
