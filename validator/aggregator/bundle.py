"""The bundle a leader publishes, written piece by piece: in memory where it is small, to disk where it is not."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from blake3 import blake3

from muster.node.ledger.objects import BULK_DEADLINE
from muster.node.scratch import made_again
from muster.node.submission import SPOOL_BYTES
from muster.node.telemetry.ailments import Ailments
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


def make_bundle(opened: Sequence[Opened], spool: Path | None, ailments: Ailments | None = None) -> Bundle:
    """The bundle of these submissions, in record order; waits for the disk where it is large, and tells if it ails.

    Raises:
        DiskFailed: the disk did not take it.
    """
    size = bundle_size(opened)
    if size < SPOOL_BYTES:
        data = b"".join(bundle_parts(opened))
        return Bundle(blake3(data).digest(), size, data)
    digest = blake3()
    with (ailments or Ailments()).writing("a bundle"):
        file = tempfile.NamedTemporaryFile(prefix="bundle-", dir=made_again(spool))  # noqa: SIM115  # as long as it
        for part in bundle_parts(opened):
            digest.update(part)
            file.write(part)
        file.flush()
    return Bundle(digest.digest(), size, b"", file)
