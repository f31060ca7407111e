"""What an aggregator's bucket keeps: bundles and checkpoints as far back as there is room, two checkpoints at least.

Whoever joins begins at the newest final checkpoint and needs every bundle from its round on; the one before it is for
who has begun there already, and for audits. What is older is for audits alone, and goes, the oldest first, when all of
it takes more than the operator gives. Records, seals, heads and score files are small, and stay for ever.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

from muster.node.context import Context
from muster.protocol import ledger, paths
from muster.protocol.errors import StorageError
from muster.protocol.wire import Record

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
"""The newest ones, with all bundles from the older one's round on, whatever they take."""

REMEMBERED = 2 * KEPT_CHECKPOINTS
"""Final checkpoints that are remembered, the newest: some of them may have failed to come into the bucket."""

MAX_LISTED = 100_000
"""Objects of a kind that are looked at in one go, the oldest; there are more only where most of them are to go."""

DELETED_AT_ONCE = 64
"""Objects, in one round: the line is for others, too."""

WHAT = "what must be kept"
GB = 10**9


@dataclass(frozen=True, slots=True, order=True)
class _Kept:
    """An object; in the order in which they go: a checkpoint's manifest first, so that nobody begins at a half one."""

    round: int
    rank: int
    key: str
    size: int


class Retention:
    """Of one life of an aggregator. `limit` is how many bytes bundles and checkpoints may take (None: any number).

    `began` is the round at whose θ it began: that of genesis, or of a checkpoint that was final.
    """

    def __init__(self, context: Context, run_id: bytes, began: int, limit: int | None) -> None:
        self._context = context
        self._run_id = run_id
        self._limit = limit
        self._pinned = deque([began], maxlen=REMEMBERED)
        self._total: int | None = None

    def final(self, record: Record) -> None:
        """A record is final: it is never taken back, nor what it pins."""
        if record.checkpoint != ledger.NO_CHECKPOINT:
            self._pinned.append(record.round)
            self._total = None
        elif self._total is not None:
            self._total += record.bundle_bytes

    async def tidy(self) -> None:
        """Delete what there is no room for; what fails is tried again in the next round."""
        if self._limit is None or (self._total is not None and self._total <= self._limit):
            return
        try:
            await self._tidy(self._limit)
        except StorageError as error:
            self._total = None
            log.warning("old bundles and checkpoints are not deleted now: %s", error)

    async def _tidy(self, limit: int) -> None:
        bundles, checkpoints = paths.bundles(self._run_id), paths.checkpoints(self._run_id)
        kept = sorted([*await self._listed(bundles, 2), *await self._listed(checkpoints, 1)])
        whole = {one.round for one in kept if one.key == paths.checkpoint(self._run_id, one.round, paths.MANIFEST)}
        first = self._first_kept(whole)
        total = sum(one.size for one in kept)
        old = [one for one in kept if one.round < first]
        for one in old[:DELETED_AT_ONCE]:
            if total <= limit:
                break
            await self._context.bucket.delete(one.key)
            total -= one.size
        self._total = total
        if total > limit and len(old) <= DELETED_AT_ONCE:
            self._context.ailments.fail(
                WHAT,
                f"the bundles and checkpoints from round {first} on take more than keep_gb = {limit / GB:g} and are "
                "kept all the same until a later checkpoint is final; raise keep_gb, and see that there is room",
            )
        else:
            self._context.ailments.recover(WHAT)

    def _first_kept(self, whole: set[int]) -> int:
        """The round of the oldest checkpoint that stays; 0 where there are not as many yet, for genesis is one, too."""
        here = [round_ for round_ in self._pinned if round_ == 0 or round_ in whole]
        return here[-KEPT_CHECKPOINTS] if len(here) >= KEPT_CHECKPOINTS else 0

    async def _listed(self, prefix: str, rank: int) -> list[_Kept]:
        found = []
        for info in await self._context.bucket.list(prefix, limit=MAX_LISTED):
            number = info.key.removeprefix(prefix).replace("/", "-").partition("-")[0]
            if number.isdecimal():
                first = info.key.endswith(f"/{paths.MANIFEST}")
                found.append(_Kept(int(number), 0 if first else rank, info.key, info.size))
        return found
