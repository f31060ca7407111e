"""Every event of a journal as a class, so that whoever notes one and whoever reads it are checked against each other.

An event's name in the journal is its class's in small letters (`SealRefused` → "seal_refused"), its facts are its
fields. The docstring is all that is ever said of it: what happened (up to the first colon or stop; `said` is that, or
better words) and its facts. docs/operations.md is written from it. A new event is a class here, and where it is noted.
"""

from __future__ import annotations

from muster.node.telemetry.event import EVENTS, Event, RoundEvent, event
from muster.node.telemetry.miner_events import (
    Forgot,
    Judged,
    Key,
    Lost,
    PassedOver,
    SealRefused,
    SentLate,
    Submitted,
    Trained,
    Training,
    Unregistered,
)
from muster.node.telemetry.process_events import (
    Ailing,
    BadMirror,
    Computes,
    Finished,
    LinesLost,
    Recovered,
    Service,
    Started,
    Stopped,
)
from muster.node.telemetry.words import SHORT, size, some
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.ledger.round import Instruction, Phase

__all__ = [
    "EVENTS",
    "Ailing",
    "BadMirror",
    "Computes",
    "Event",
    "Finished",
    "Forgot",
    "Judged",
    "Key",
    "LinesLost",
    "Lost",
    "PassedOver",
    "Recovered",
    "RoundEvent",
    "SealRefused",
    "SentLate",
    "Service",
    "Started",
    "Stopped",
    "Submitted",
    "Trained",
    "Training",
    "Unregistered",
]
"""What stands in `event`, `miner_events` and `process_events` and is used from here."""

LEADER, VALIDATOR = "leader", "validator"


@event
class Joined(RoundEvent):
    """Joined the run: `hotkey`; the round is the first that it takes part in."""

    hotkey: str


@event
class Sealed(RoundEvent):
    """Sealed the round: as of `block`, with so many `submissions`."""

    by = LEADER
    block: int
    submissions: int

    def said(self) -> str:
        """How many, and when."""
        return f"sealed {some(self.submissions, 'submission')} as of block {self.block}"


@event
class Checkpoint(RoundEvent):
    """Stored a checkpoint: `bytes` in all."""

    by = LEADER
    bytes: int

    def said(self) -> str:
        """How large it is."""
        return f"stored a checkpoint, {size(self.bytes)}"


@event
class Recorded(RoundEvent):
    """Published the record: `record`, its digest; `accepted`, how many (not where an earlier life of it decided)."""

    by = LEADER
    record: str
    accepted: int | None = None

    def said(self) -> str:
        """Which, and how many are in it."""
        accepted = "" if self.accepted is None else f", {self.accepted} accepted"
        return f"published the record {self.record[:SHORT]}{accepted}"


@event
class Applied(RoundEvent):
    """Applied a record: its `kind`, `root` and `outer_step` after it, `accepted` hotkeys, `rejected` hotkey → reason,
    `bytes_up` and `bytes_down` so far, `late` the hotkeys whose work of earlier rounds it took in."""

    kind: str
    root: str
    outer_step: int
    accepted: tuple[str, ...]
    rejected: dict[str, str]
    bytes_up: int
    bytes_down: int
    late: tuple[str, ...] = ()

    def said(self) -> str:
        """What it did, and the state after it."""
        done = {"round": "applied the record", "null": "passed the null record, θ stays", "close": "closed its ledger"}
        return f"{done.get(self.kind, self.kind)}; state root {self.root[:SHORT]}"


@event
class Undone(RoundEvent):
    """Took a record back, because another one goes before it: `record`, its digest; `root` and `outer_step` again."""

    record: str
    root: str
    outer_step: int

    def said(self) -> str:
        """Which, and the state it came back to."""
        return f"took the record {self.record[:SHORT]} back; state root {self.root[:SHORT]} again"


@event
class Refused(RoundEvent):
    """Refused an anchored record: `record`, its digest, and `problem`, why it is not valid."""

    failed = True
    record: str
    problem: str

    def said(self) -> str:
        """Which, and why."""
        return f"refused the record {self.record[:SHORT]}: {self.problem}"


@event
class Transition(RoundEvent):
    """Saw something of its round: at `block`, the event `what`, the `phase` after it, instructions `given`; where it is
    about one, `instruction`, `problem`, `record`, `peers` (hotkeys), `sealed_block`."""

    block: int
    what: str
    phase: Phase
    given: tuple[Instruction, ...]
    instruction: Instruction | None = None
    problem: str | None = None
    record: str | None = None
    peers: tuple[str, ...] = ()
    sealed_block: int | None = None


@event
class Trouble(RoundEvent):
    """Could not look at chain or store: `problem`, once for as long as it is the same; the look is made again at the
    next block."""

    failed = True
    problem: str

    def said(self) -> str:
        """What does not work."""
        return self.problem


@event
class Scored(RoundEvent):
    """Published its scores: `peers`, the rows of its score file, by the names of protocol.md §4.5."""

    by = VALIDATOR
    peers: tuple[ScoreRow, ...]

    def said(self) -> str:
        """Of how many."""
        return f"published its scores of {some(len(self.peers), 'peer')}"


@event
class Disputed(RoundEvent):
    """Found that another validator did not measure what it published of the round: `validator` and `peer`, by hotkey,
    and `problem`, with both figures; whoever agrees signs the same."""

    by = VALIDATOR
    validator: str
    peer: str
    problem: str

    def said(self) -> str:
        """Whose, and what."""
        return f"disputes the scores of {self.validator} for {self.peer}: {self.problem}"


@event
class Silenced(RoundEvent):
    """Stopped counting a validator's scores, because the record carries disputes of enough others: `validator`."""

    validator: str

    def said(self) -> str:
        """Whose."""
        return f"does not count the scores of {self.validator} any more: enough others dispute them"


@event
class SignedTwice(RoundEvent):
    """Found two signatures of a leader where there may be one: `leader`, and `what` it signed, seals or records; the
    proof is in this aggregator's bucket, and in the next record that it or another one makes."""

    by = LEADER
    leader: str
    what: str


@event
class Struck(RoundEvent):
    """Took a leader off the list, because the record carries the proof that it signed two: `leader`."""

    leader: str

    def said(self) -> str:
        """Whom."""
        return f"takes {self.leader} off the list: it signed two where there may be one"


@event
class Weights(RoundEvent):
    """Set weights on the chain: `weights` uid → 1…65535."""

    by = VALIDATOR
    weights: dict[int, int]

    def said(self) -> str:
        """Of how many."""
        return f"set the weights of {some(len(self.weights), 'slot')}"


@event
class NoWeights(RoundEvent):
    """Set no weights on the chain: `problem`, why nobody is paid, or why the chain did not take them."""

    by, failed = VALIDATOR, True
    problem: str

    def said(self) -> str:
        """Why."""
        return f"set no weights: {self.problem}"


@event
class Unpublished(RoundEvent):
    """Could not publish its scores: `problem`; they could not be stored while they could steer a round (nor for as long
    as one may take), or the loss of θ is no number."""

    by, failed = VALIDATOR, True
    problem: str

    def said(self) -> str:
        """Why."""
        return f"could not store its scores: {self.problem}"


@event
class Unmirrored(RoundEvent):
    """Could not copy another leader's record into its own bucket for as long as a round may take: `problem`."""

    by, failed = LEADER, True
    problem: str

    def said(self) -> str:
        """Why."""
        return f"could not copy the record into its own bucket: {self.problem}"


@event
class Heldout(RoundEvent):
    """Measured the new θ: `loss` on held-out text (nat/token)."""

    by = VALIDATOR
    loss: float

    def said(self) -> str:
        """What it came to."""
        return f"measured a held-out loss of {self.loss:.3f} nat/token"
