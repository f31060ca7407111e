"""Ways of cheating as a leader: an honest aggregator with the one deed replaced that it cheats at."""

from __future__ import annotations

from muster.protocol import paths
from muster.protocol.reasons import KEY_MISSING
from muster.protocol.types import Anchor, Block
from muster.validator.aggregator.aggregator import Aggregator

TWICE = 1
"""The round that it decides twice."""


class Equivocator(Aggregator):
    """Signs and anchors two valid records for one round: the second as if the last miner's key had never come."""

    async def publish_record(self, head: Block) -> None:
        """Decide the round, and once more."""
        await super().publish_record(head)
        tip, recording, intake = self._tip, self._open.recording, self._open.leading.intake
        if tip.round != TWICE or recording.made is None:
            return
        intake.peers[recording.made.applied.record.accepted[-1].public].fail(KEY_MISSING)
        other = await recording.make(head)
        bucket, digest = self.context.bucket, other.applied.digest
        await other.bundle.put(bucket, paths.bundle(tip.run_id, tip.round, digest))
        await bucket.put(paths.record(tip.run_id, tip.round, digest), other.data)
        await self.context.chain.commit(self.context.identity, self.context.location, Anchor(tip.round, digest))
