"""Windows of the run's text, read only from files that are exactly the ones the run pins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor

from muster.node.data.build import MANIFEST, MAX_MANIFEST_BYTES, SHARDS, Manifest, Shard
from muster.protocol.errors import DataError

_READ_BYTES = 1 << 20

Text = NDArray[np.uint8]


class TextReader:
    """Random access to a corpus. Reading blocks on the disk: call it in a thread."""

    __slots__ = ("_heldout", "_train", "manifest")

    def __init__(self, manifest: Manifest, train: Text, heldout: Text) -> None:
        """Read from bytes already known to be what `manifest` says; `open` gets them from disk."""
        self.manifest = manifest
        self._train = train
        self._heldout = heldout

    @classmethod
    def open(cls, directory: Path, expected_manifest_digest: str) -> Self:
        """Check the whole corpus in `directory` against the digest the run pins, then map it.

        Raises:
            DataError: a file is missing, unreadable, or not the one the run pins.
        """
        try:
            manifest = _read_manifest(directory / MANIFEST, expected_manifest_digest)
            train = _map(directory / SHARDS["train"], manifest.train)
            heldout = _map(directory / SHARDS["heldout"], manifest.heldout)
        except OSError as error:
            raise DataError(f"cannot read the corpus in {directory}: {error}") from error
        return cls(manifest, train, heldout)

    def windows(self, ids: Sequence[int]) -> Tensor:
        """Training windows, int64 (len(ids), window + 1), in the order of `ids`; each ends in a mere target.

        Raises:
            DataError: an id is not in 0 … manifest.windows − 1.
        """
        return self._gather(self._train, ids, self.manifest.windows)

    def heldout(self, ids: Sequence[int]) -> Tensor:
        """Held-out windows, as `windows` gives training ones.

        Raises:
            DataError: an id is not in 0 … manifest.heldout_windows − 1.
        """
        return self._gather(self._heldout, ids, self.manifest.heldout_windows)

    def _gather(self, text: Text, ids: Sequence[int], count: int) -> Tensor:
        for window in ids:
            if not 0 <= window < count:
                raise DataError(f"there is no window {window}; this text has windows 0 to {count - 1}")
        size = self.manifest.window
        starts = np.array(ids, dtype=np.int64)[:, None] * size
        return torch.from_numpy(text[starts + np.arange(size + 1)].astype(np.int64))


def _read_manifest(path: Path, expected_digest: str) -> Manifest:
    """The manifest in `path`, checked before it is parsed.

    Raises:
        OSError: it cannot be read.
        DataError: it is too large or not the one expected.
    """
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise DataError(f"{path} is larger than any manifest ({MAX_MANIFEST_BYTES} bytes)")
    digest = blake3(data).hexdigest()
    if digest != expected_digest:
        raise DataError(f"{path} has digest {digest}, the run pins {expected_digest}; get the run's own text")
    return Manifest.from_bytes(data)


def _map(path: Path, shard: Shard) -> Text:
    """The bytes of `path`, mapped after all of them were checked.

    Raises:
        OSError: it cannot be read.
        DataError: its size or digest is not the manifest's.
    """
    size = path.stat().st_size
    if size != shard.bytes:
        raise DataError(f"{path} has {size} bytes, the manifest says {shard.bytes}; get the run's own text")
    digest = blake3()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    if digest.hexdigest() != shard.blake3:
        raise DataError(f"{path} is damaged: its digest is not the manifest's; get the run's own text")
    return np.memmap(path, dtype=np.uint8, mode="r") if size else np.empty(0, dtype=np.uint8)
