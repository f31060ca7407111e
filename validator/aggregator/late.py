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
        those: dict[int, list[Late]] = {}
        for one in order if left > 0 else ():
            if one.public in stores and one.round not in self._looking:
                those.setdefault(one.round, []).append(one)
        for round_, its in those.items():
            self._looking.add(round_)
            self._errands.start(self._look_at(round_, its, stores, left, head))

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

    async def _look_at(
        self, round_: int, order: Sequence[Late], stores: Mapping[bytes, Store], left: int, head: Block
    ) -> None:
        """One look at a round's late work: heads, then keys and payloads, until so many more are in.

        Whatever is in its way is in that of nobody but late work.
        """
        try:
            intake = self._intake(order)
            todo = [one for one in order if one.public not in intake.peers and one not in self._reading]
            self._reading |= set(todo)
            started = {self._errands.start(self._find(intake, one, stores[one.public])) for one in todo}
            await self._errands.wait(started, head)
            ranked = [one.public for one in order if one.public in intake.peers]
            in_ = sum(taken.payload is not None for taken in intake.peers.values())
            await intake.reveal(stores, ranked, in_ + left, head)
        except (ChainError, StorageError) as error:
            log.info("late work cannot be looked for: %s", error)
        finally:
            self._looking.discard(round_)

    def _intake(self, order: Sequence[Late]) -> Intake:
        """That of the round of these, of which there is one at least."""
        round_, seal = order[0].round, order[0].seal
        if round_ not in self._rounds:
            facts, submissions = self._facts, self._submissions
            self._rounds[round_] = Intake(facts, submissions, self._errands, self._offload, seal=seal)
        return self._rounds[round_]

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
