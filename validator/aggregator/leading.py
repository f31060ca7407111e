"""What a leader has of the round it leads: who is in, whose scores steer it, and in which order seats are given."""

from __future__ import annotations

from pathlib import Path

from muster.node.context import Context
from muster.node.ledger.participant import Errands, possession
from muster.node.replica import Replica
from muster.node.submission import Payload, Submissions
from muster.protocol.chain.base import Snapshot
from muster.protocol.identity import public_of
from muster.protocol.ledger import RESCUE, Tip, kept_under
from muster.protocol.rules.late import Late
from muster.protocol.rules.selection import Choice
from muster.protocol.types import Block
from muster.protocol.wire import MAX_PROOFS, MAX_SEALED, Kind, ScoresUsed
from muster.validator.aggregator.disputes import Disputes
from muster.validator.aggregator.intake import Intake
from muster.validator.aggregator.late import LateIntake, in_order
from muster.validator.aggregator.signed import Signed
from muster.validator.aggregator.steering import Steering
from muster.validator.aggregator.twice import Twice


class Leading:
    """One round, as the one process that leads it sees it; `closing` says that the run ends with it, `turn` in which
    turn it is led, `rescue` is the owner's amendment by which it is where that is the turn `RESCUE`.

    Large payloads wait in the folder `spool` (None: where the system keeps temporary files).
    """

    def __init__(
        self,
        context: Context,
        tip: Tip,
        replica: Replica,
        errands: Errands,
        steering: Steering,
        disputes: Disputes,
        twice: Twice,
        signed: Signed,
        closing: bool,
        spool: Path | None,
    ) -> None:
        self.context = context
        self.tip = tip
        self.turn = 0
        self.rescue: bytes | None = None
        self.replica = replica
        self.signed = signed
        self.closing = closing
        self.spool = spool
        offload = context.offload
        facts = tip.facts(possession(tip, replica))
        submissions = Submissions(tip, offload, spool, context.ailments)
        self.intake = Intake(facts, submissions, errands, offload)
        self.late = LateIntake(tip, facts, submissions, errands, offload)
        self.errands = errands
        self._steering = steering
        self._disputes = disputes
        self._twice = twice

    @property
    def rescuing(self) -> bool:
        """Whether it closes the round because the owner says so: then nothing is taken in."""
        return self.turn == RESCUE

    @property
    def under(self) -> bytes:
        """The digest under which this leader keeps what it signs once."""
        return kept_under(self.tip.parent, self.turn)

    async def look(self, snapshot: Snapshot, head: Block) -> list[bytes]:
        """Before the seal: the peers whose head is known since the last look.

        Raises:
            ChainError: the chain does not say when the look is over.
        """
        self.intake.facts = self.tip.facts(self.intake.facts.possession, slots(snapshot))
        self._look_late(snapshot, head)
        return await self.intake.look(self.context.directory.stores(snapshot), head)

    def _look_late(self, snapshot: Snapshot, head: Block) -> None:
        """Go on fetching earlier rounds' work in the background, as much as there are seats that nobody is expected to
        take; not while payloads of this round are under way."""
        if self.intake.fetching:
            self.late.pause()
        elif self.tip.late and not self.closing:
            free = self.tip.spec.gauntlet.seats - len(self.tip.opening.expected)
            order = in_order(self.tip, self.scores(snapshot))
            self.late.look(self.context.directory.stores(snapshot), order, free, head)

    def late_work(self, scores: tuple[ScoresUsed, ...], choice: Choice) -> list[tuple[Late, Payload]]:
        """The late work that a record with this choice takes in, in record order: what is in, where seats are free."""
        if choice.kind is not Kind.ROUND:
            return []
        free = min(self.tip.spec.gauntlet.seats - len(choice.accepted), MAX_SEALED - len(choice.reasons))
        taken = self.late.opened(in_order(self.tip, scores))[:free]
        return sorted(taken, key=lambda found: found[0].place)

    @property
    def score_rounds(self) -> range:
        """The rounds whose scores are waited for, newest first.

        Of a closing round nothing is steered, but the last round's scores shall be in before the run ends.
        """
        last = self.tip.round - 1
        return range(last, max(last - 1, -1), -1) if self.closing else self.tip.score_rounds

    async def scored(self, snapshot: Snapshot, head: Block) -> bool:
        """Look for scores; whether there are none left to wait for.

        Raises:
            ChainError: the chain does not say when the look is over.
        """
        self._disputes.look(self.tip, self.errands)
        return await self._steering.look(self.tip, self.score_rounds, snapshot, self.errands, head)

    def scores(self, snapshot: Snapshot) -> tuple[ScoresUsed, ...]:
        """The scores that steer the round, as far as they are in."""
        return () if self.closing or self.rescuing else self._steering.used(self.tip, snapshot)

    def proofs(self, scores: tuple[ScoresUsed, ...]) -> tuple[bytes, ...]:
        """The proofs that a record with these scores carries, as far as they are in."""
        if self.closing or self.rescuing:
            return ()
        twice = self._twice.carried(self.tip)
        return (*twice, *self._disputes.carried(self.tip, scores, MAX_PROOFS - len(twice)))

    def order(self, snapshot: Snapshot) -> tuple[bytes, ...]:
        """Who has the first claim to a seat, by who holds its slot and what is known of the scores now."""
        self.intake.recheck(slots(snapshot))
        return self.tip.order(self.intake.candidates(), self.scores(snapshot))

    async def reveal(self, snapshot: Snapshot, head: Block) -> frozenset[bytes]:
        """After the seal: go on fetching what may get a seat; returns the peers that nothing more is awaited from.

        Raises:
            ChainError: the chain does not say when the look is over.
        """
        stores, seats = self.context.directory.stores(snapshot), self.tip.spec.gauntlet.seats
        settled = await self.intake.reveal(stores, self.order(snapshot), seats, head)
        self._look_late(snapshot, head)
        return settled


def slots(snapshot: Snapshot) -> dict[bytes, int]:
    """Who is registered where, by public key."""
    return {public_of(peer.hotkey): peer.uid for peer in snapshot.peers}
