"""What a miner's bucket keeps: the submissions of the last rounds, since accepted ones are in the bundles."""

from __future__ import annotations

import logging

from muster.node.context import Context
from muster.protocol import paths
from muster.protocol.errors import StorageError
from muster.protocol.ledger import Tip

log = logging.getLogger(__name__)

KEPT_ROUNDS = 4
"""Closed rounds whose objects stay: for validators that look at who got no seat, and rounds that are closed again."""

MAX_LISTED = 1_000
DELETED_AT_ONCE = 64
"""Objects, in one round; a round has four."""


async def forget_submissions(context: Context, tip: Tip) -> None:
    """Delete the own objects of rounds that nobody asks for any more; what fails is tried again in the next round."""
    oldest = tip.round - max(KEPT_ROUNDS, tip.spec.clock.finality + 1)
    if oldest <= 0:
        return
    prefix, bucket = paths.submissions(tip.run_id), context.bucket
    try:
        listed = [info.key for info in await bucket.list(prefix, limit=MAX_LISTED)]
        old = [key for key in listed if _round_of(key.removeprefix(prefix)) < oldest]
        for key in old[:DELETED_AT_ONCE]:
            await bucket.delete(key)
    except StorageError as error:
        log.info("old submissions are not deleted now: %s", error)


def _round_of(name: str) -> int:
    number = name.partition(".")[0]
    return int(number) if number.isdecimal() else 2**64
