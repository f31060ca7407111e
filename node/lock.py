"""One process a hotkey and role: two would answer for the same peer with different work, and it would be rejected.

The lock is the kernel's (flock on a file that no child inherits): it ends with its process, however that ends, and
nothing has to be cleaned up. The file says whose it is. It lies in the user's own state folder, not in the run's, so
that neither another working directory nor another `state` or `name` gets around it. Another machine does: it cannot
be seen from here.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from muster.protocol.errors import ConfigError, HotkeyInUse

STATE_VARIABLE = "XDG_STATE_HOME"

TRIES, PAUSE_SECONDS = 5, 0.1
"""Looks at a lock that is taken, and seconds between: an old life may be about to end, a doctor may be looking."""

MAX_HOLDER_BYTES = 4096

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, for a person to read. `since` is unix seconds, `path` the run's folder."""

    pid: int
    host: str
    name: str
    since: float
    path: str

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.pid} on {self.host}, called {self.name}, since {since}, for the run in {self.path}"


def hotkey_folder(environment: Mapping[str, str], hotkey: str) -> Path:
    """Where this user's processes keep what is one hotkey's; not made here.

    Raises:
        ConfigError: there is neither `XDG_STATE_HOME` nor a home.
    """
    base = Path(environment.get(STATE_VARIABLE, ""))
    if not base.is_absolute():  # the specification of these variables has relative ones ignored
        try:
            base = Path.home() / ".local" / "state"
        except RuntimeError as error:
            raise ConfigError(f"this user has no home folder; set {STATE_VARIABLE} to a folder for locks") from error
    return base / "muster" / "hotkeys" / hotkey


def role_lock(folder: Path, ledger: str, run_id: bytes, role: str) -> Path:
    """The lock of a role in a run, in its hotkey's folder. `ledger` is the chain: copies of a local run have one id."""
    return folder / f"{ledger}-{run_id.hex()[:16]}-{role}.lock"


@asynccontextmanager
async def held(
    path: Path, holder: Holder, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator[None]:
    """Hold the lock `path` within.

    Raises:
        HotkeyInUse: another process holds it; the text says which.
        ConfigError: the folder cannot be used for locks.
    """
    tries = 1
    while (handle := await asyncio.to_thread(_take, path, holder)) is None:
        if tries == TRIES:
            other = await asyncio.to_thread(read_holder, path)
            raise HotkeyInUse(
                f"this hotkey has that role in this run already: {other or 'another process'}; stop that one, or "
                f"start this one with a hotkey of its own"
            )
        tries += 1
        await sleep(PAUSE_SECONDS)
    try:
        yield
    finally:
        await asyncio.to_thread(os.close, handle)


def find_holder(path: Path) -> str:
    """Who holds a lock now ("": nobody); makes and changes nothing.

    Raises:
        ConfigError: the folder cannot be used for locks.
    """
    try:
        handle = try_lock(path, make=False)
    except FileNotFoundError:
        return ""  # it was never taken
    except OSError as error:
        raise _unusable(path, error) from error
    if handle is None:
        return read_holder(path) or "another process"
    os.close(handle)
    return ""


def read_holder(path: Path) -> str:
    """What the file of a lock says; old words if nobody holds it."""
    try:
        with path.open("rb") as file:
            words = file.read(MAX_HOLDER_BYTES).decode(errors="replace")
    except OSError:
        return ""
    return "".join(filter(str.isprintable, words))


def try_lock(path: Path, *, make: bool) -> int | None:
    """A descriptor of the file, which stays locked until it is closed; None if another one has the lock.

    Raises:
        OSError: there is no such file (and `make` is false), or it cannot be opened or locked.
    """
    handle = os.open(path, os.O_RDWR | (os.O_CREAT if make else 0), _FILE_MODE)
    locked = False
    try:
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
    finally:
        if not locked:
            os.close(handle)
    return handle if locked else None


def make_private(folder: Path) -> None:
    """Make a hotkey's folder, and those of ours above it, for this user alone."""
    ours = (folder.parent.parent, folder.parent, folder)
    ours[0].parent.mkdir(parents=True, exist_ok=True)
    for each in ours:
        each.mkdir(mode=_FOLDER_MODE, exist_ok=True)


def overwrite(handle: int, words: str) -> None:
    """Replace what a file holds."""
    os.ftruncate(handle, 0)
    os.pwrite(handle, words.encode(), 0)


def _take(path: Path, holder: Holder) -> int | None:
    try:
        make_private(path.parent)
        handle = try_lock(path, make=True)
        if handle is not None:
            overwrite(handle, f"{holder}\n")
    except OSError as error:
        raise _unusable(path, error) from error
    return handle


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot lock {path}: {error.strerror}; set {STATE_VARIABLE} to a folder of a local disk that is this user's"
    )
