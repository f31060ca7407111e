"""What a bucket lets go of, so that a run of any length fits on its disk: what nobody needs to go on or to join.

A miner's submission is of no use once its round is decided for good: whoever comes late reads the bundle. A bundle or a
checkpoint is of no use behind the checkpoints that a newcomer may begin at. Records and seals are the ledger, and are
kept for ever. All of it is done beside the rounds, from what the bucket lists: so it goes on where an earlier life of
the process stopped, and what fails is tried again in the next round.
"""

from __future__ import annotations

import logging

from muster.protocol import paths
from muster.protocol.errors import StorageError
from muster.protocol.ledger import SCORES_AGE, Tip
from muster.protocol.storage import Store

log = logging.getLogger(__name__)

KEPT_ROUNDS = 4
"""Rounds for which a miner keeps its submissions at least: takeovers and validators at work are not later."""

DELETED_AT_ONCE = 256
"""Objects of a kind that are deleted in one round; what is left is there in the next."""

LISTED = 4096
"""Names that are looked at, the oldest first: more than the files of the checkpoints that are kept of a large model."""


async def forget_submissions(bucket: Store, tip: Tip) -> None:
    """Delete what a miner has sent in rounds that are decided for good, where a tip is the newest."""
    kept = max(KEPT_ROUNDS, tip.spec.clock.finality + 1)
    try:
        await _sweep(bucket, tip.run_id, "submissions", tip.round - kept)
    except StorageError as error:
        log.info("submissions of earlier rounds cannot be deleted now: %s", error)


async def forget_rounds(bucket: Store, tip: Tip, final: int, keep: int) -> None:
    """Delete what an operator has of rounds before the last `keep` ≥ 1 checkpoints that a newcomer may begin at.

    `final` is the newest round that is final, −1 before the first. Scores and disputes are kept for as long as a replay
    from the oldest of these checkpoints needs them, whose records may use scores of some rounds before.
    """
    run_id, spec = tip.run_id, tip.spec
    if final < spec.clock.finality:
        return
    try:
        listed = await bucket.list(paths.folder(run_id, "checkpoints"), limit=LISTED)
        whole = [paths.round_of(info.key) for info in listed if info.key.endswith(paths.MANIFEST)]
        # Who joins a list of several begins `finality` rounds before what the list stands on.
        usable = sorted(round_ for round_ in whole if round_ <= final - spec.clock.finality)
        if len(usable) < keep:
            return
        oldest = usable[-keep]
        for what in ("checkpoints", "bundles"):
            await _sweep(bucket, run_id, what, oldest)
        for what in ("scores", "disputes"):
            await _sweep(bucket, run_id, what, oldest - spec.gauntlet.lag - SCORES_AGE)
    except StorageError as error:
        log.info("what lies before the last %d checkpoints cannot be deleted now: %s", keep, error)


async def _sweep(bucket: Store, run_id: bytes, what: str, oldest: int) -> None:
    """Delete what there is of rounds before one; a manifest goes before the files that it names.

    Raises:
        StorageError: not now.
    """
    if oldest <= 0:
        return
    listed = await bucket.list(paths.folder(run_id, what), limit=LISTED)
    gone = [info.key for info in listed if 0 <= paths.round_of(info.key) < oldest]
    for key in sorted(gone, key=lambda key: not key.endswith(paths.MANIFEST))[:DELETED_AT_ONCE]:
        await bucket.delete(key)
