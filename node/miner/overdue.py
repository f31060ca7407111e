"""Going on with a payload that was not up when its round was over: a later record may yet take the work in."""

from __future__ import annotations

import logging

from muster.node.context import Context
from muster.node.miner.stages import UPLOAD_DEADLINE
from muster.node.miner.state import Made
from muster.node.telemetry import events
from muster.protocol import paths, wire
from muster.protocol.errors import ChainError, StorageError
from muster.protocol.ledger import Tip

log = logging.getLogger(__name__)


def is_open(tip: Tip, made: Made) -> bool:
    """Whether records of the open round or later may take in what was made in an earlier one: its very head is open."""
    rounds = {one.round for one in tip.late}
    head = wire.submitted_head(made.submission, tip.run_id).digest if made.round in rounds else None
    return any(one.head == head for one in tip.late)


async def send(context: Context, tip: Tip, made: Made) -> bool:
    """Put the payload, again at every block, until the bucket has it; False where the chain does not say when that is.

    The head, which was sealed, and the key are there. Cancelled when the open round is over.
    """
    _, ciphertext = await context.offload(lambda: wire.decode_submission(made.submission, tip.run_id))
    while True:
        try:
            key = paths.payload(tip.run_id, made.round)
            await context.bucket.put(key, ciphertext, deadline=UPLOAD_DEADLINE)
            context.journal.note(events.SentLate(made.round))
            return True
        except StorageError as error:
            log.info("the payload of round %d is not up yet: %s", made.round, error)
        try:
            await context.chain.next_block((await context.chain.head()).number)
        except ChainError as error:
            log.info("the payload of round %d waits for the next round: %s", made.round, error)
            return False
