"""The events of a miner's rounds, from training to what is made of its work.

They are used by way of `events`, as all others are.
"""

from __future__ import annotations

from muster.node.telemetry.event import RoundEvent, event
from muster.node.telemetry.words import SHORT, size
from muster.protocol.incentive.words import in_short

MINER = "miner"


@event
class Training(RoundEvent):
    """Began to train."""

    by = MINER


@event
class Trained(RoundEvent):
    """Has trained: `steps`, `seconds` of inner steps, mean `loss` (nat/token)."""

    by = MINER
    steps: int
    seconds: float
    loss: float

    def said(self) -> str:
        """How much, how fast, how well."""
        return f"trained {self.steps} steps in {self.seconds:.1f} s, mean loss {self.loss:.3f} nat/token"


@event
class Submitted(RoundEvent):
    """Sent its submission: `bytes` of the object, `values` kept."""

    by = MINER
    bytes: int
    values: int

    def said(self) -> str:
        """How large it is."""
        return f"sent its submission, {size(self.bytes)}"


@event
class SentLate(RoundEvent):
    """Sent the payload of this round after it was over: a later record may take the work in."""

    by = MINER


@event
class Unregistered(RoundEvent):
    """Sits the round out, because its hotkey has no slot on the subnet."""

    by, failed = MINER, True


@event
class Forgot(RoundEvent):
    """Begins again, with error feedback and moments from before its last `rounds` of work."""

    by, failed = MINER, True
    rounds: int

    def said(self) -> str:
        """Of how much work nothing is left but what was sent."""
        return f"goes on with error feedback and moments from before its last {self.rounds} rounds of work"


@event
class Lost(RoundEvent):
    """Has nothing to submit in this round: `problem` says why; it goes on with the next."""

    by, failed = MINER, True
    problem: str

    def said(self) -> str:
        """Why."""
        return f"has nothing to submit in this round: {self.problem}"


@event
class Key(RoundEvent):
    """Showed its key. It had seen the seal."""

    by = MINER


@event
class SealRefused(RoundEvent):
    """Keeps its key from a seal: `seal`, its digest, and `problem`, why it must not be answered."""

    by, failed = MINER, True
    seal: str
    problem: str

    def said(self) -> str:
        """Which, and why."""
        return f"keeps its key from the seal {self.seal[:SHORT]}: {self.problem}"


@event
class Judged(RoundEvent):
    """Saw what a validator makes of its work: the `validator`, its `rank` among the `peers` measured (none where it was
    not), its `share` of the pay, and the `reason` for that, a sentence."""

    by = MINER
    validator: str
    peers: int
    share: float
    reason: str
    rank: int | None = None

    @property
    def pay(self) -> str:
        """All of it in one line."""
        return in_short(self.rank, self.peers, self.share, self.reason)

    def said(self) -> str:
        """What it comes to."""
        return f"has {self.pay}"


@event
class PassedOver(RoundEvent):
    """Was passed over, by what it knows itself: `leader`, who closed the round, and `problem`, what stands against its
    own bucket."""

    by, failed = MINER, True
    leader: str
    problem: str

    def said(self) -> str:
        """By whom, and what speaks against it."""
        return f"was passed over in the round that {self.leader} closed: {self.problem}"
