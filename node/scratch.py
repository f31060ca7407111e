"""Folders for what waits on disk for a while: a disk that was gone comes back without them."""

from __future__ import annotations

from pathlib import Path


def made_again(folder: Path | None) -> Path | None:
    """A folder of one's own, there from now on; None: where the system keeps temporary files.

    Raises:
        OSError: it cannot be made.
    """
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
