"""A file that appears whole or not at all, with the digest of what went into it."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from blake3 import blake3

from muster.protocol.errors import DiskFailed

_MODE = 0o666


class IncomingFile:
    """Bytes on their way to `target`: a temporary file beside it, renamed by `place`, removed by anything else.

    Every method may wait for the disk. A context manager; leaving it without `place` leaves nothing behind.
    """

    def __init__(self, target: Path) -> None:
        """Prepare; the disk is first touched by `write` or `place`."""
        self._target = target
        self._temp = target.with_name(f".{uuid.uuid4().hex}.part")
        self._hash = blake3()
        self._file: int | None = None

    def write(self, data: bytes) -> None:
        """Append and hash.

        Raises:
            DiskFailed: the folder is missing, full or not writable.
        """
        self._hash.update(data)
        rest = memoryview(data)
        try:
            file = self._opened()
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError as error:
            raise self._failed(error) from error

    def place(self) -> bytes:
        """Give the file its name and return the BLAKE3 digest of its bytes; raises as `write` does."""
        try:
            self._opened()
            self._temp.rename(self._target)
        except OSError as error:
            raise self._failed(error) from error
        return self._hash.digest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        os.close(self._file)
        # After `place` the name is gone; where removing fails otherwise, the error under way says more.
        with suppress(OSError):
            self._temp.unlink()

    def _opened(self) -> int:
        if self._file is None:
            self._file = os.open(self._temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        return self._file

    def _failed(self, error: OSError) -> DiskFailed:
        return DiskFailed(f"cannot write {self._target}: {error.strerror or error}")
