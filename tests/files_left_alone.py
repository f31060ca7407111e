"""What a folder is told by: whoever only reads leaves every path, byte and time in it as it was."""

from __future__ import annotations

import stat
from pathlib import Path

from blake3 import blake3

Picture = dict[str, tuple[int, int, str]]


def picture(folder: Path) -> Picture:
    """Each path below a folder, and the folder itself: mode, time of change (ns), and what a file holds."""
    return {str(path.relative_to(folder)): _look(path) for path in (folder, *sorted(folder.rglob("*")))}


def _look(path: Path) -> tuple[int, int, str]:
    status = path.lstat()
    held = ""
    if stat.S_ISREG(status.st_mode):
        held = blake3(path.read_bytes()).hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        held = str(path.readlink())
    return status.st_mode, status.st_mtime_ns, held
