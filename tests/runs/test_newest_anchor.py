"""A chain that shows only each hotkey's newest anchor, as Bittensor does: whoever is behind ends on the same bits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from run_builders import Ledger, MakeStage, Stage, play

from muster.audit import Auditor, AuditReport
from muster.lab import simulator
from muster.lab.simulator import SimulatedRun
from muster.node.context import Context
from muster.node.ledger.reader import Fetched
from muster.node.miner import Miner
from muster.node.miner.inner import LocalEngine
from muster.protocol.chain.base import AnchorSeen
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.errors import AuditError, RateLimited, StorageError
from muster.protocol.identity import Identity
from muster.protocol.ledger import Applied, Tip
from muster.protocol.types import Anchor

ROUNDS = 6
LATE, LAGGARD = "miner-3", "miner-2"
ARRIVES = 4
"""The round that is open when the late one joins; checkpoints are before rounds 2 and 4."""
STALLS, RESUMES = 1, 4
"""The laggard applies nothing of round 1 until a record of round 4 is anchored."""


class NewestOnly(VirtualChain):
    """The virtual chain without its memory of anchors."""

    async def anchors(self, round_: int) -> tuple[AnchorSeen, ...]:
        """Each hotkey's newest one, where it is for `round_` or later."""
        newest = {seen.hotkey: seen for seen in await super().anchors(0)}
        return tuple(seen for seen in await super().anchors(round_) if newest[seen.hotkey] is seen)


class Strict(VirtualChain):
    """The virtual chain that takes an anchor only when it is asked for the second time."""

    refused = 0

    async def commit(self, identity: Identity, location: str, anchor: Anchor | None = None) -> None:
        """Refuse every other anchor."""
        if anchor is not None and Strict.refused <= anchor.round:
            Strict.refused = anchor.round + 1
            raise RateLimited("too much was committed in this epoch")
        await super().commit(identity, location, anchor)


class Laggard(Miner):
    """A miner; the one of that name falls rounds behind."""

    async def judge(self, fetched: Fetched) -> Applied:
        """Nothing, for a while."""
        waits = self.context.location == f"mem:{LAGGARD}" and self.tip.round == STALLS
        if waits and not await self.context.chain.anchors(RESUMES):
            raise StorageError("its disk is slow")
        return await super().judge(fetched)


def laggard(context: Context, tip: Tip, *around: Any) -> Laggard:
    """Such a miner."""
    return Laggard(context, tip, *around, LocalEngine(tip.spec.model, tip.spec.inner))


def run(made: Stage) -> SimulatedRun:
    """The run with one who falls behind and one who comes late."""
    return play(made, ROUNDS, arrivals={LATE: ARRIVES}, makers=lambda _behaviour: laggard)


def audit(made: Stage, done: SimulatedRun) -> AuditReport:
    """Replay it from genesis."""
    return asyncio.run(Auditor(made.run, done.chain, done.buckets, lambda _line: None).audit(None))


@pytest.fixture
def both(stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> tuple[Stage, SimulatedRun, SimulatedRun]:
    """The same run on a chain with its history and on one without."""
    made = stage(miners=4)
    with_history = run(made)
    monkeypatch.setattr(simulator, "VirtualChain", NewestOnly)
    return made, with_history, run(made)


def test_who_is_behind_reads_back_from_the_newest_anchor(
    both: tuple[Stage, SimulatedRun, SimulatedRun],
) -> None:
    made, with_history, newest_only = both
    assert newest_only.state_roots == with_history.state_roots
    assert len(newest_only.state_roots) == ROUNDS
    assert set(newest_only.roots(LAGGARD)) == set(range(ROUNDS))
    assert min(newest_only.roots(LATE)) == ARRIVES - 2, "it starts at the newest checkpoint and replays from there"
    assert asyncio.run(newest_only.chain.anchors(0))[-1].anchor.round == ROUNDS
    assert len(asyncio.run(newest_only.chain.anchors(0))) == 1
    assert audit(made, newest_only) == audit(made, with_history)


def test_an_anchor_that_the_chain_does_not_take_yet_is_made_again(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stage()
    plain = play(made, 2)
    monkeypatch.setattr(simulator, "VirtualChain", Strict)
    assert play(made, 2).state_roots == plain.state_roots
    assert Strict.refused == 3, "the closing record's anchor was refused once too"


def test_the_audit_names_a_record_that_does_not_lead_to_the_anchor(
    both: tuple[Stage, SimulatedRun, SimulatedRun],
) -> None:
    made, _, newest_only = both
    bucket = newest_only.buckets.bucket("mem:operator-0")
    key, other = (Ledger(newest_only).key("records", round_) for round_ in (3, 2))
    asyncio.run(bucket.put(key, asyncio.run(bucket.get(other, max_bytes=2**24))))
    with pytest.raises(AuditError, match=f"round 3: {key}"):
        audit(made, newest_only).raise_fault()
