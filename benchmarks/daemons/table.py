"""Every figure that is measured here: of which section, in what unit, and what it is to be at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


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


class Line(NamedTuple):
    """A line of the file of figures: the median of one figure, by build and size of the model."""

    section: str
    millions: float
    build: str
    figure: str
    median: float


ROWS: tuple[Row, ...] = (
    Row("follower", "round", "a follower's round with 20 updates", "memcpys of θ", 18),
    Row("follower", "weighing", "caps, norms and weights", "of the aggregate", 0.5),
    Row("follower", "decode_ms", "decode", "ms", 1 / 3.3, of_before=True),
    Row("heads", "judging_s", "judging 256 heads of the 72b preset", "s", 1 / 20, of_before=True),
    Row("small", "apply", "apply of tiny's round", "memcpys of θ", 40),
    Row("small", "round_ms", "a missed round of tiny", "ms", 10),
    Row("catch_up", "s3_overlap", "catch-up from an S3 server, of its slowest part alone", "×", 1.2),
    Row("catch_up", "folder_overlap", "catch-up from a folder, of its slowest part alone", "×", 1.2),
    Row("catch_up", "tiny_round", "catch-up from a folder, `tiny`: a missed round", "ms", 10),
    Row("network", "start", "default run: first record less the slowest miner's inner steps", "s", 4.0),
    Row("network", "idle", "default run: miners' time outside inner steps", "%", 10.0),
    Row("crowd", "leader_exponent", "128 to 512 peers, leader: fitted exponent", "", 1.05),
    Row("crowd", "validator_exponent", "128 to 512 peers, validator: fitted exponent", "", 1.05),
    Row("crowd", "miner_exponent", "128 to 512 peers, a miner: fitted exponent", "", 1.05),
    Row("roles_memory", "aggregator_peak", "aggregator's memory, checkpoints included", "θ", 1.1),
    Row("roles_memory", "aggregator_resident", "aggregator's memory, resident", "θ", 1.1),
    Row("roles_memory", "validator_peak", "validator's memory at its peak, less a forward pass", "θ", 1.3),
    Row("roles_memory", "validator_resident", "validator's memory, resident", "θ", 1.3),
    Row("miner_round", "miner_round", "a miner's round outside training", "memcpys of θ", 20),
    Row("miner_memory", "miner_resident", "a miner's memory between rounds", "θ", 7),
    Row("miner_memory", "miner_peak", "a miner's memory at its peak", "θ", 8),
    Row("start", "start", "a miner's start beyond `import torch`", "CPU-s", 0.6),
    Row("payload", "payload_stall", "256 MiB encrypted: nobody is answered for", "CPU-ms", 20),
    Row("payload", "payload_seconds", "256 MiB encrypted", "CPU-s", 1.1, of_before=True),
)

ALONE = frozenset({"crowd", "roles_memory"})
"""Sections whose work commit 5c6907b has no parts or no template for."""

SIZED = frozenset({"follower", "miner_round"})
"""Sections whose work is of a model of the size that is asked for, and whose figures are drawn over it."""
