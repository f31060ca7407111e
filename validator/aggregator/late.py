"""Taking in what came too late for its own round: in the background, and never in the way of the round's own work.

Each earlier round's late work has an intake of its own, of the same kind and bounds as the open round's: a peer that
hangs or lies keeps nobody else's work waiting. Nothing waits for it, so what is in when the record is made is in. While
payloads of the open round are under way none of these is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from muster.node.context import Offload
from muster.node.ledger.participant import Errands
from muster.node.submission import Payload, Submissions
from muster.protocol import paths, wire
from muster.protocol.errors import ChainError, StorageError
from muster.protocol.ledger import Tip
from muster.protocol.rules.admission import MAX_HEAD_BYTES, RoundFacts
from muster.protocol.rules.late import Late
from muster.protocol.storage import Store
from muster.protocol.types import Block
from muster.protocol.wire import ScoresUsed
from muster.validator.aggregator.intake import Head, Intake, Taken

log = logging.getLogger(__name__)


def in_order(tip: Tip, scores: Sequence[ScoresUsed]) -> list[Late]:
    """What the open round's record may take in by these scores, whoever has the first claim first: the youngest work,
    of equal age by the order of seats."""
    late = tip.admissible(scores)
    places = {public: place for place, public in enumerate(tip.order({one.public for one in late}, scores))}
    return sorted(late, key=lambda one: (-one.round, places[one.public]))


class LateIntake:
    """Late work, as the leader of one round sees it."""

    def __init__(
        self, tip: Tip, facts: RoundFacts, submissions: Submissions, errands: Errands, offload: Offload
    ) -> None:
        self._tip = tip
        self._facts = facts
        self._submissions = submissions
        self._errands = errands.apart()
        self._offload = offload
        self._rounds: dict[int, Intake] = {}
        self._reading: set[Late] = set()
        self._looking: set[int] = set()

    def look(self, stores: Mapping[bytes, Store], order: Sequence[Late], wanted: int, head: Block) -> None:
        """Go on fetching this, each round's in this order, until so many are in; returns at once."""
        left = wanted - len(self.opened(order))
        for round_ in sorted({one.round for one in order}, reverse=True) if left > 0 else ():
            those = [one for one in order if one.round == round_]
            intake = self._intake(those[0])
            for one in those:
                if one.public in stores and one.public not in intake.peers and one not in self._reading:
                    self._reading.add(one)
                    self._errands.start(self._find(intake, one, stores[one.public]))
            ranked = [one.public for one in those if one.public in intake.peers]
            if ranked and round_ not in self._looking:
                self._looking.add(round_)
                seats = left + sum(taken.payload is not None for taken in intake.peers.values())
                self._errands.start(self._reveal(round_, stores, ranked, seats, head))

    def pause(self) -> None:
        """Let go of what is under way; the next look begins it again."""
        self._errands.cancel()
        self._reading.clear()  # who is cancelled before it has begun clears up nothing
        self._looking.clear()

    def opened(self, order: Sequence[Late]) -> list[tuple[Late, Payload]]:
        """What of this is in, in this order; of two for one slot's work of one round the first."""
        found: dict[tuple[int, int], tuple[Late, Payload]] = {}
        for one in order:
            payload = self.payload(one.place)
            if payload is not None:
                found.setdefault(one.slot, (one, payload))
        return list(found.values())

    def payload(self, place: tuple[int, bytes]) -> Payload | None:
        """The late work of this round and peer, None where it is not in."""
        round_, public = place
        taken = self._rounds[round_].peers.get(public) if round_ in self._rounds else None
        return None if taken is None else taken.payload

    def _intake(self, one: Late) -> Intake:
        if one.round not in self._rounds:
            facts, submissions = self._facts, self._submissions
            self._rounds[one.round] = Intake(facts, submissions, self._errands, self._offload, seal=one.seal)
        return self._rounds[one.round]

    async def _find(self, intake: Intake, one: Late, store: Store) -> None:
        """Read a head that was judged in its own round: the very bytes, or none."""
        run_id = self._tip.run_id
        try:
            data = await store.get_range(paths.head(run_id, one.round), 0, MAX_HEAD_BYTES + 1)
            if wire.head_digest(data) == one.head:
                signed = await self._offload(lambda: wire.decode_head(data, run_id))
                intake.peers[one.public] = Taken(Head(one.public, data, "", signed))
        except StorageError as error:
            log.info("the head of late work cannot be read: %s", error)
        finally:
            self._reading.discard(one)

    async def _reveal(
        self, round_: int, stores: Mapping[bytes, Store], order: Sequence[bytes], seats: int, head: Block
    ) -> None:
        """One look for keys and payloads; whatever is in its way is in that of nobody but late work."""
        try:
            await self._rounds[round_].reveal(stores, order, seats, head)
        except (ChainError, StorageError) as error:
            log.info("late work cannot be looked for: %s", error)
        finally:
            self._looking.discard(round_)
