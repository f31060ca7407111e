"""How long a daemon answers nobody while it encrypts a payload of 256 MiB, and at what speed it does.

A stall is the processor time this process takes between two turns of another thread that asks for one all the time: so
what else the machine does makes it no longer. Both figures are of one call, as a miner's thread makes it.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

from two_builds import of

PAYLOAD_BYTES = 256 << 20
TAG_BYTES = 16
PAUSE_SECONDS = 0.0005


class Answering(threading.Thread):
    """Wants a turn twice a millisecond, as an event loop does; `longest` is the most it waited, in processor time."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0.0
        self._over = threading.Event()

    def run(self) -> None:
        """Until `end`."""
        last = time.process_time()
        while not self._over.wait(PAUSE_SECONDS):
            now = time.process_time()
            self.longest, last = max(self.longest, now - last), now

    def end(self) -> None:
        """Stop wanting."""
        self._over.set()
        self.join()


def prepare(_millions: float, _folder: Path) -> Callable[[], dict[str, float]]:
    """A payload of that size; each call encrypts it under a key of its own."""
    encrypt = of("muster.protocol.wire.submission:encrypt_frames")
    frames, keys = bytes(PAYLOAD_BYTES - 1), iter(range(1, 1 << 16))

    def work() -> dict[str, float]:
        key, other = next(keys).to_bytes(32, "little"), Answering()
        gc.collect()  # which would be a stall of its own
        other.start()
        began = time.process_time()
        try:
            encrypted = encrypt(frames, key, bytes(32), 0, bytes(32))
            seconds = time.process_time() - began
        finally:
            other.end()
        assert len(encrypted) == PAYLOAD_BYTES + TAG_BYTES
        return {"payload_stall": 1e3 * other.longest, "payload_seconds": seconds}

    return work
