"""What a node knows of itself: a fold over its journal's events, so that nothing else has to count or to ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from muster.node.telemetry import events
from muster.node.telemetry.events import Event
from muster.node.telemetry.journal import Noted
from muster.protocol.incentive.row import ScoreRow

MAX_PEERS = 256
"""Peers that are shown one by one, as many as a Bittensor subnet has slots; of more, those with the best scores."""

CLOSE = "close"
KINDS = ("round", "null", CLOSE)
ACCEPTED, REJECTED = "accepted", "rejected"

Outcome = tuple[str, str]
"""Result and reason: "" where it was accepted, else one of `protocol/reasons.py`; no record with another is applied."""


@dataclass(slots=True)
class Facts:
    """What is known of this process so far; times are unix seconds, losses nat/token.

    Counts begin at 0 with the process, so they only ever grow while it lives. `lost_in_a_row` is how many rounds a
    miner has lost since its newest submission, `lost_problem` why the last of them; `unregistered` is the newest round
    that it sat out because its hotkey had no slot, None while it has one; `judged` is the newest that it has seen of
    its pay. `ailing` says of each thing that it cannot write now why not. Events may come from any thread.
    """

    role: str = ""
    hotkey: str = ""
    started: float = 0.0
    phase: str = "joining"
    round: int | None = None
    outer_step: int = 0
    root: str | None = None
    applied: float | None = None
    applied_block: int = 0
    block: int | None = None
    block_seen: float = 0.0
    inner_loss: float | None = None
    heldout_loss: float | None = None
    inner_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    refused: int = 0
    submitted: int = 0
    lost_in_a_row: int = 0
    lost_problem: str = ""
    unregistered: int | None = None
    weights_round: int | None = None
    store_errors: int = 0
    chain_errors: int = 0
    records: Counter[str] = field(default_factory=Counter)
    submissions: Counter[Outcome] = field(default_factory=Counter)
    own: Counter[Outcome] = field(default_factory=Counter)
    peers: tuple[ScoreRow, ...] = ()
    judged: events.Judged | None = None
    ailing: dict[str, str] = field(default_factory=dict)
    lines_lost: int = 0
    lock: Lock = field(default_factory=Lock, repr=False)

    def note(self, noted: Noted) -> None:
        """Take in one event of the journal."""
        with self.lock:
            self._fold(noted)

    def saw_block(self, number: int, now: float) -> None:
        """The chain has reached a height; an older one changes nothing."""
        with self.lock:
            if self.block is None or number > self.block:
                self.block, self.block_seen = number, now

    def store_failed(self) -> None:
        """A request to an object store failed."""
        with self.lock:
            self.store_errors += 1

    def chain_failed(self) -> None:
        """A request to the chain failed."""
        with self.lock:
            self.chain_errors += 1

    def _fold(self, noted: Noted) -> None:
        match noted.event:
            case events.Started(role=role):
                self.role, self.started = role, noted.time
            case events.Joined(round=round_, hotkey=hotkey):
                self.hotkey, self.round, self.phase = hotkey, round_, "submit"
            case events.Sealed() | events.Key():
                self.phase = "reveal"
            case events.Applied() as applied:
                self._applied(applied, noted.time)
            case events.Undone(round=round_, root=root, outer_step=outer_step):
                self.round, self.phase, self.root, self.outer_step = round_, "submit", root, outer_step
            case events.Refused():
                self.refused += 1
            case events.Scored(peers=peers):
                self.peers = _best(peers)
            case events.Weights(round=round_):
                self.weights_round = round_
            case events.Heldout(loss=loss):
                self.heldout_loss = loss
            case events.Finished():
                self.phase = "closed"
            case other:
                self._mined(other)
                self._ailed(other)

    def _mined(self, event: Event) -> None:
        match event:
            case events.Training():
                self.phase, self.unregistered = "train", None
            case events.Trained(loss=loss, seconds=seconds):
                self.inner_loss = loss
                self.inner_seconds += seconds
            case events.Submitted():
                self.phase, self.lost_in_a_row = "submit", 0
                self.submitted += 1
            case events.Unregistered(round=round_):
                self.unregistered = round_
            case events.Judged():
                self.judged = event
            case events.Lost(problem=problem):
                self.phase, self.lost_problem = "submit", problem
                self.lost_in_a_row += 1

    def _ailed(self, event: Event) -> None:
        match event:
            case events.Ailing(what=what, problem=problem):
                self.ailing[what] = problem
            case events.Recovered(what=what):
                self.ailing.pop(what, None)
            case events.LinesLost(lines=lines):
                self.lines_lost += lines

    def _applied(self, applied: events.Applied, time: float) -> None:
        if applied.kind != CLOSE:
            self.round, self.phase = applied.round + 1, "submit"
        self.outer_step, self.root = applied.outer_step, applied.root
        self.applied, self.applied_block = time, self.block or 0
        self.bytes_up, self.bytes_down = applied.bytes_up, applied.bytes_down
        self.records[applied.kind] += 1
        outcomes = dict.fromkeys(applied.accepted, (ACCEPTED, ""))
        outcomes |= {hotkey: (REJECTED, reason) for hotkey, reason in applied.rejected.items()}
        self.submissions.update(outcomes.values())
        if self.hotkey in outcomes:
            self.own[outcomes[self.hotkey]] += 1


def _best(rows: Iterable[ScoreRow]) -> tuple[ScoreRow, ...]:
    """The peers with the best scores, in uid order."""
    best = sorted(rows, key=lambda row: (-row.peer_score, row.uid))[:MAX_PEERS]
    return tuple(sorted(best, key=lambda row: row.uid))
