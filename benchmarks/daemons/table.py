"""Every figure that is measured here: of which section, in what unit, and what it is to be at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `section` is the module here that measures it, `name` its key in what that module returns.

    `target` is the most it may be, in `unit`; `of_before`: in shares of what commit 5c6907b takes in the same run.
    """

    section: str
    name: str
    title: str
    unit: str
    target: float
    of_before: bool = False


ROWS: tuple[Row, ...] = (
    Row("miner_round", "miner_round", "a miner's round outside training", "memcpys of θ", 20),
    Row("miner_memory", "miner_resident", "a miner's memory between rounds", "θ", 7),
    Row("miner_memory", "miner_peak", "a miner's memory at its peak", "θ", 8),
    Row("start", "start", "a miner's start beyond `import torch`", "CPU-s", 0.6),
    Row("payload", "payload_stall", "256 MiB encrypted: nobody is answered for", "CPU-ms", 20),
    Row("payload", "payload_seconds", "256 MiB encrypted", "CPU-s", 1.1, of_before=True),
)
