"""Processes that play pieces of a study: deaf to Ctrl-C, and gone when their parent is."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process


def pool_of(processes: int) -> ProcessPoolExecutor:
    """A pool whose processes end when this one does, however that ends."""
    return ProcessPoolExecutor(processes, get_context("spawn"), _settle_in)


def start(pool: ProcessPoolExecutor) -> None:
    """Start the processes, unless they run, deaf to the Ctrl-C a terminal sends to all: their parent decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        pool.submit(os.getpid).result()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _settle_in() -> None:
    """End this process when its parent does, however that ended."""
    parent = parent_process()
    assert parent is not None, "only processes of the pool begin so"

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
