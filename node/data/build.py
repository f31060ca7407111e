"""Training text without a network, so that a run can start on a machine that has only Python.

The default text is Python's own standard-library sources; any files can be named instead. A corpus is a
directory: `train.bin` and `heldout.bin` (each file's bytes followed by one zero byte, in manifest order; a
token is a byte) and `manifest.json`, whose digest the run spec pins.
"""

from __future__ import annotations

import math
import os
import sysconfig
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple

import numpy as np
import rfc8785
from blake3 import blake3
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from muster.protocol.errors import DataError
from muster.protocol.spec import HEX32, Natural, Positive, first_problem

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 << 20
"""Room for some 400,000 files; a larger manifest is refused before it is read."""

_HELDOUT_BELOW = 13
"""A file is held out when the first byte of BLAKE3(its name) is below this: 13/256, about 5 %."""
_SEPARATOR = b"\0"
_READ_BYTES = 1 << 20
_SKIPPED_FOLDERS = ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__")
_BUILD_SPECIFIC = ("config-", "_sysconfigdata_")
"""Names that begin so differ between two builds of one Python version and are left out."""
_ENTROPY_DIGITS = 6
"""Decimals kept of `unigram`, so that two C libraries' logarithms give the same manifest."""

Split = Literal["train", "heldout"]
Digest = Annotated[str, Field(pattern=f"^{HEX32}$")]

SHARDS: dict[Split, str] = {"train": "train.bin", "heldout": "heldout.bin"}
"""The text file of each split."""


class Source(NamedTuple):
    """One file of text: the name it goes by in the manifest, and where it is."""

    name: str
    path: Path


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Shard(_Section):
    """One of the two text files: its size and the BLAKE3 of its bytes."""

    bytes: Natural
    blake3: Digest


class Manifest(_Section):
    """What a corpus holds. `files` lists (name, size, BLAKE3, split) in the order they were concatenated.

    `unigram` is the entropy of the held-out bytes' own histogram, in nat/byte: no model that ignores context
    can reach a lower held-out loss.
    """

    version: Literal[1] = 1
    tokenizer: Literal["bytes"] = "bytes"
    window: Positive
    train: Shard
    heldout: Shard
    files: tuple[tuple[str, Natural, Digest, Split], ...]
    unigram: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    def canonical(self) -> bytes:
        """The bytes of `manifest.json`: RFC 8785 JSON."""
        return rfc8785.dumps(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """BLAKE3 of the canonical bytes, hexadecimal: what the run spec pins."""
        return blake3(self.canonical()).hexdigest()

    @property
    def windows(self) -> int:
        """Training windows: sequences of `window` tokens of which each also needs the token after it."""
        return self._windows_of(self.train)

    @property
    def heldout_windows(self) -> int:
        """Held-out windows, counted the same way."""
        return self._windows_of(self.heldout)

    def _windows_of(self, shard: Shard) -> int:
        return max(0, shard.bytes - 1) // self.window

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse the bytes of a `manifest.json`.

        Raises:
            DataError: not JSON, or not a manifest.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise DataError(f"the data manifest is not valid: {first_problem(error)}") from error


def build_corpus(files: Sequence[Path] | None, out: Path, window: int) -> Manifest:
    """Write a corpus of `files` (None: the standard library's sources) into the directory `out`.

    Named files are called by their path below the deepest directory that holds them all, so the same files
    elsewhere make the same corpus. Each part is replaced whole and the manifest last, so a reader that
    checks digests never takes a half-written corpus for a good one.

    Raises:
        DataError: a file cannot be read, one is named twice, or there is no whole window of either split.
    """
    sources = _standard_library() if files is None else _named(files)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".corpus-", dir=out) as work:
            manifest = _write(sources, Path(work), window)
            for part in (*SHARDS.values(), MANIFEST):
                (Path(work) / part).replace(out / part)
    except OSError as error:
        raise DataError(f"cannot build the corpus in {out}: {error}") from error
    return manifest


def _write(sources: Sequence[Source], work: Path, window: int) -> Manifest:
    """Write all three files of a corpus into `work`.

    Raises:
        OSError: a file cannot be read or written.
        DataError: there is no whole window of either split.
    """
    held_out = _held_out(sources)
    rows: list[tuple[str, int, str, Split]] = []
    with (work / SHARDS["train"]).open("wb") as train, (work / SHARDS["heldout"]).open("wb") as heldout:
        writers: dict[Split, _ShardWriter] = {"train": _ShardWriter(train), "heldout": _ShardWriter(heldout)}
        for source in sources:
            split: Split = "heldout" if source in held_out else "train"
            size, digest = writers[split].append(source.path)
            rows.append((source.name, size, digest, split))
    manifest = Manifest(
        window=window,
        train=writers["train"].shard(),
        heldout=writers["heldout"].shard(),
        files=tuple(rows),
        unigram=entropy(writers["heldout"].histogram),
    )
    if manifest.windows == 0 or manifest.heldout_windows == 0:
        raise DataError(
            f"{len(rows)} files leave {manifest.windows} training and {manifest.heldout_windows} held-out "
            f"windows of {window} tokens; name more files (whole files are held out) or longer ones"
        )
    (work / MANIFEST).write_bytes(manifest.canonical())
    return manifest


def entropy(histogram: NDArray[np.int64]) -> float:
    """Entropy in nat per symbol of a histogram of counts, to six decimals; 0 where nothing was counted."""
    total = int(histogram.sum())
    shares = (int(count) / total for count in histogram if count)
    return round(math.fsum(-share * math.log(share) for share in shares), _ENTROPY_DIGITS)


def _standard_library() -> list[Source]:
    """Python's own sources by name, without tests, installed packages and what differs between builds."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[Source] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f not in _SKIPPED_FOLDERS and not f.startswith(_BUILD_SPECIFIC)]
        for name in names:
            if name.endswith(".py") and not name.startswith(_BUILD_SPECIFIC):
                path = Path(folder, name)
                found.append(Source(path.relative_to(root).as_posix(), path))
    if not found:
        raise DataError(f"this Python has no standard-library sources in {root}; name text files instead")
    return sorted(found)


def _named(files: Sequence[Path]) -> list[Source]:
    """The files a person named, sorted by their names below the directory they share."""
    if not files:
        raise DataError("no text files were named")
    paths = [file.resolve() for file in files]
    root = os.path.commonpath([path.parent for path in paths])
    sources = sorted(Source(path.relative_to(root).as_posix(), path) for path in paths)
    for before, after in pairwise(sources):
        if before == after:
            raise DataError(f"{after.path} is named twice")
    for source in sources:
        if not source.name.isprintable():
            raise DataError(f"the file name {source.name!r} is not printable text; rename the file")
    return sources


def _held_out(sources: Sequence[Source]) -> frozenset[Source]:
    """The sources that are held out; where chance picks none, the one whose name's digest is lowest."""
    digests = {source: blake3(source.name.encode()).digest() for source in sources}
    picked = frozenset(source for source, digest in digests.items() if digest[0] < _HELDOUT_BELOW)
    return picked or frozenset([min(sources, key=digests.__getitem__)])


class _ShardWriter:
    """Appends files to a shard, and counts and digests what it wrote."""

    def __init__(self, file: BinaryIO) -> None:
        self.histogram: NDArray[np.int64] = np.zeros(256, dtype=np.int64)
        self._file = file
        self._digest = blake3()

    def append(self, path: Path) -> tuple[int, str]:
        """Append the bytes of `path` and the separator; returns the file's own size and BLAKE3."""
        digest, size = blake3(), 0
        with path.open("rb") as source:
            while piece := source.read(_READ_BYTES):
                digest.update(piece)
                size += len(piece)
                self._write(piece)
        self._write(_SEPARATOR)
        return size, digest.hexdigest()

    def shard(self) -> Shard:
        """What has been written."""
        return Shard(bytes=int(self.histogram.sum()), blake3=self._digest.hexdigest())

    def _write(self, piece: bytes) -> None:
        self._file.write(piece)
        self._digest.update(piece)
        self.histogram += np.bincount(np.frombuffer(piece, dtype=np.uint8), minlength=256)
