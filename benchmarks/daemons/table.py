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
    Row("network", "start", "default run: first record less the slowest miner's inner steps", "s", 4.0),
    Row("network", "idle", "default run: miners' time outside inner steps", "%", 10.0),
    Row("crowd", "leader_exponent", "128 to 512 peers, leader: fitted exponent", "", 1.05),
    Row("crowd", "validator_exponent", "128 to 512 peers, validator: fitted exponent", "", 1.05),
    Row("crowd", "miner_exponent", "128 to 512 peers, a miner: fitted exponent", "", 1.05),
    Row("roles_memory", "aggregator_peak", "aggregator's memory, checkpoints included", "θ", 1.1),
    Row("roles_memory", "aggregator_resident", "aggregator's memory, resident", "θ", 1.1),
    Row("roles_memory", "validator_peak", "validator's memory at its peak, less a forward pass", "θ", 1.3),
    Row("roles_memory", "validator_resident", "validator's memory, resident", "θ", 1.3),
)

ALONE = frozenset({"crowd", "roles_memory"})
"""Sections whose work commit 5c6907b has no parts or no template for."""
