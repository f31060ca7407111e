"""Whether a node makes progress, judged from its facts alone: what /healthz answers and an orchestrator acts on."""

from __future__ import annotations

from muster.node.telemetry.facts import Facts
from muster.protocol.ledger import Tip
from muster.protocol.spec import RunSpec

BLOCK_SILENCE = 120.0
"""Seconds without a new block after which the chain counts as lost: ten of Bittensor's blocks of 12 s."""

ROUNDS_OVERDUE = 2
"""A round is stuck once it is this many times as old as it may become: the leader's own work is not counted in
the clock's blocks, nor is a slow download here."""

LOST_IN_A_ROW = 2
"""Rounds a miner may not lose one after another: one may be chance, the second has a cause."""


def longest_round(spec: RunSpec) -> int:
    """Blocks from a round's opening to the last one in which its record may be anchored."""
    clock = spec.clock
    return clock.deadline + clock.reveal + spec.gauntlet.score_wait + clock.anchor


def problems(facts: Facts, tip: Tip | None, now: float) -> list[str]:
    """Why the node does not make progress, or will not for long, each in a sentence; empty where it does.

    Args:
        facts: what the node knows of itself.
        tip: where its replica stands; None until it has joined.
        now: unix seconds.
    """
    found = list(facts.ailing.values())
    if facts.block is None:
        found.append("the chain has not answered yet")
    elif now - facts.block_seen > BLOCK_SILENCE:
        found.append(f"the chain has shown no block after {facts.block} for {now - facts.block_seen:.0f} s")
    if tip is None:
        found.append("the run is not joined yet")
    elif facts.block is not None and not tip.closed:
        since = max(tip.opening.open.number, facts.applied_block)
        limit = ROUNDS_OVERDUE * longest_round(tip.spec)
        if facts.block - since > limit:
            found.append(
                f"round {tip.round} has brought no record for {facts.block - since} blocks; "
                f"look for its leader, or why this node refuses its record"
            )
    return found + _idle_miner(facts)


def _idle_miner(facts: Facts) -> list[str]:
    """Why a miner follows the run and adds nothing to it."""
    found = []
    if facts.unregistered is not None:
        found.append(
            f"round {facts.unregistered} is sat out: hotkey {facts.hotkey} has no slot on the subnet; register it "
            "again (on a local chain a restart does), the next round is trained then"
        )
    if facts.lost_in_a_row >= LOST_IN_A_ROW:
        found.append(f"{facts.lost_in_a_row} rounds in a row were lost, the last one because: {facts.lost_problem}")
    return found
