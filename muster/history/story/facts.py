"""What a story is told from, as plain data: what the ledger says of a round, and what journals say of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from muster.node.telemetry.events import Event, Joined, RoundEvent
from muster.node.telemetry.words import SHORT
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Tip
from muster.protocol.ledger.waiting import Seen, Unfinal
from muster.protocol.wire import Kind, Record, Seal


@dataclass(frozen=True, slots=True)
class Told:
    """One line of a participant's journal: when (unix seconds), whose, and the event."""

    time: float
    label: str
    event: Event

    @property
    def round(self) -> int | None:
        """The round it is of, None for an event of none."""
        return self.event.round if isinstance(self.event, RoundEvent) else None


@dataclass(frozen=True, slots=True)
class LedgerRound:
    """One round by chain and aggregators' buckets, as seen at block `block`. Peers are public keys.

    `tip` stands before the round's record. `anchored` says that the chain proves the record, `anchored_at` is the
    block of its anchor where the chain still shows it. Of an open round, `there` are those whose next object is in
    their bucket (the submission before the seal, the key after it), `scored` the validators whose scores that may steer
    it are in theirs, and `silent` those whose bucket did not answer. `unfinal` is the oldest record up to this round's
    that is not final. `problems` say what could not be read.
    """

    tip: Tip
    block: int
    seal: Seal | None = None
    record: Record | None = None
    digest: bytes = b""
    anchored: bool = False
    anchored_at: int | None = None
    there: frozenset[bytes] = frozenset()
    scored: frozenset[bytes] = frozenset()
    silent: frozenset[bytes] = frozenset()
    unfinal: Unfinal | None = None
    problems: tuple[str, ...] = ()

    @property
    def turn(self) -> int:
        """In which turn the round was closed, or is to be closed now."""
        if self.record is not None:
            return self.record.turn
        return max(self.tip.turn_at(self.block), self.seal.turn if self.seal else 0)

    @property
    def leader(self) -> bytes:
        """Who closed the round, or has to close it now."""
        return self.record.leader if self.record else self.tip.leader(self.turn)

    @property
    def sealed(self) -> frozenset[bytes]:
        """The peers that the seal lists."""
        return frozenset(peer for peer, _ in self.seal.headers) if self.seal else frozenset()

    def open_round(self, revealing: int = 0) -> Seen:
        """What decides what an open round waits for; `revealing` is from when the time for keys counts, where known."""
        recorded = self.record is not None
        return Seen(self.block, self.seal, revealing, self.there, self.scored, recorded)

    @property
    def decided_at(self) -> int | None:
        """The block at which the leader decided, which is where the next round opens; None where a record does not say.

        A closing record opens nothing, and so does not say.
        """
        opening = self.record.opening if self.record else None
        return opening.open.number if opening else None

    @property
    def closing(self) -> bool:
        """Whether the run ends with this round's record."""
        return self.record is not None and self.record.kind is Kind.CLOSE


@dataclass(frozen=True, slots=True)
class Names:
    """What hotkeys are called: by the labels of the journals that joined with them, else by their first characters."""

    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, told: Iterable[Told]) -> Names:
        """The names that journals give away."""
        labels: dict[str, tuple[str, ...]] = {}
        for entry in told:
            match entry.event:
                case Joined(hotkey=hotkey) if entry.label not in labels.get(hotkey, ()):
                    labels[hotkey] = (*labels.get(hotkey, ()), entry.label)
        return cls(labels)

    def hotkey(self, hotkey: str, role: str = "") -> str:
        """The name of a hotkey; of an operator's two labels the one of this role ("aggregator", "validator")."""
        known = self.labels.get(hotkey, ())
        return next((label for label in known if label.startswith(role)), next(iter(known), hotkey[:SHORT]))

    def peer(self, public: bytes, role: str = "") -> str:
        """The name of a public key."""
        return self.hotkey(hotkey_of(public), role)

    def peers(self, publics: Iterable[bytes]) -> str:
        """Several names, in order, or "nobody"."""
        return ", ".join(sorted(self.peer(public) for public in publics)) or "nobody"

    def hotkey_of(self, label: str) -> str:
        """Whose journal it is; "" where it does not say."""
        return next((hotkey for hotkey, labels in self.labels.items() if label in labels), "")
