"""What a leader has signed, on its own disk before anybody can see it: so that no later life of it signs another.

The bucket keeps the same under names that the first life takes, and that is enough for as long as it is there. A leader
that has lost its bucket goes on from its disk; one that has lost both may sign two, and is struck for it.
"""

from __future__ import annotations

import os
from pathlib import Path

from muster.node.context import Offload
from muster.protocol.errors import StorageError

KEPT_ROUNDS = 16
"""Rounds that are kept: what is open is never so far behind what was open last, or an operator has seen to it."""

SEAL, RECORD = "seal", "record"
"""What is signed once."""


class Signed:
    """A folder of what has been signed (None: nothing is kept, and the bucket alone has to do)."""

    def __init__(self, folder: Path | None, offload: Offload) -> None:
        self._folder = folder
        self._offload = offload

    async def kept(self, what: str, round_: int, parent: bytes) -> bytes | None:
        """What was signed as the seal, or as the record, of a round after this parent; None where nothing was.

        Raises:
            StorageError: the disk does not say.
        """
        folder = self._folder
        if folder is None:
            return None
        return await self._offload(lambda: _read(folder / _name(what, round_, parent)))

    async def keep(self, what: str, round_: int, parent: bytes, data: bytes) -> None:
        """Write down what is about to be shown; what was written before stays, and is to be read before.

        Raises:
            StorageError: the disk does not take it: it must not be shown.
        """
        folder = self._folder
        if folder is not None:
            await self._offload(lambda: _write(folder, _name(what, round_, parent), data, round_))


def _name(what: str, round_: int, parent: bytes) -> str:
    return f"{round_:08d}.{parent.hex()}.{what}"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"what was signed cannot be read from {path}: {error.strerror or error}") from error


def _write(folder: Path, name: str, data: bytes, round_: int) -> None:
    """In one step, and on the disk when this returns; one process writes here, by the lock of its hotkey and role."""
    new = folder / f"{name}.new"
    try:
        if (folder / name).exists():
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(folder / name)
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        for path in folder.iterdir():
            number, _, _ = path.name.partition(".")
            if number.isdecimal() and int(number) < round_ - KEPT_ROUNDS:
                path.unlink()
    except OSError as error:
        raise StorageError(f"what is to be signed cannot be kept in {folder}: {error.strerror or error}") from error
