"""The round machine: the only thing that decides what happens next in a round, without I/O, clock or sleep.

    SUBMIT ──seal──▶ REVEAL ──record──▶ APPLY ──done──▶ APPLIED ──final──▶ FINAL ──done──▶ CLOSED
                                                           └──overtaken──▶ UNDO ──done──▶ UNDONE

A record ends SUBMIT and REVEAL alike. A round that is APPLIED is over, but not for good: the next one goes on beside
it until its record is final, or until another record of the round, or of one before it, goes before it.

Facts go in as events, instructions come out, and nothing is done that was not instructed. What is to be done follows
from the facts alone (`wanted`); an instruction that failed is given again by name at every following block until it
is done, or until the facts make it pointless. The session carries instructions out; the simulator, the daemons and
the tests all drive this one machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from muster.protocol.ledger.tip import RESCUE
from muster.protocol.spec import ClockSpec
from muster.protocol.wire import Opening


class Duty(Enum):
    """What a participant has to do in this round, whatever runs here: an aggregator leads in its turn only."""

    MINE = "mine"
    LEAD = "lead"
    FOLLOW = "follow"


class Phase(Enum):
    """How far a round is."""

    SUBMIT = "submit"
    REVEAL = "reveal"
    APPLY = "apply"
    APPLIED = "applied"
    UNDO = "undo"
    UNDONE = "undone"
    FINAL = "final"
    CLOSED = "closed"


ENDED = frozenset((Phase.UNDONE, Phase.CLOSED))
"""Nothing happens in such a round any more."""


class Instruction(Enum):
    """What the participant has to do now; given in this order."""

    UNDO = "undo"
    FINAL = "final"
    APPLY = "apply"
    PUBLISH_SEAL = "publish_seal"
    PUBLISH_KEY = "publish_key"
    PUBLISH_RECORD = "publish_record"
    TRAIN = "train"


_NONE: frozenset[Instruction] = frozenset()


@dataclass(frozen=True, slots=True)
class RoundState:
    """A round as one participant sees it. Peers are public keys.

    `me` is the participant's own key. `closing` says that its leader ends the run with this round, `turn` in which turn
    it leads; `unsure` is how many rounds before this one are not final. `submitted` is what
    the leader has seen; `sealed` is None until the seal; `settled` the sealed peers that nothing more is awaited from;
    `scored` whether every score this round's selection may wait for is in. `since`, `revealing_since` and `looked` are
    the blocks of the leader's first look, of its first one after the seal, and of its newest one; `looks` is how often
    it has looked since the seal. `record` is the digest of the round's valid record. `running`, `failed` and `done` are
    the instructions that have been given.
    """

    duty: Duty
    me: bytes
    opening: Opening
    clock: ClockSpec
    score_wait: int
    closing: bool = False
    turn: int = 0
    unsure: int = 0
    phase: Phase = Phase.SUBMIT
    opened: bool = False
    block: int = 0
    since: int | None = None
    looked: int | None = None
    submitted: frozenset[bytes] = frozenset()
    sealed: frozenset[bytes] | None = None
    sealed_block: int = 0
    revealing_since: int | None = None
    settled: frozenset[bytes] = frozenset()
    scored: bool = False
    looks: int = 0
    record: bytes | None = None
    running: frozenset[Instruction] = _NONE
    failed: frozenset[Instruction] = _NONE
    done: frozenset[Instruction] = _NONE

    @property
    def deadline(self) -> int:
        """The block at which the leader seals whatever is in.

        The round has its full length from the leader's first look on: where the record before it came late, or the
        leader or the whole run was down, nobody has failed to deliver while nobody could.
        """
        opening = self.opening
        return max(opening.deadline, (self.since or 0) + opening.deadline - opening.open.number)


@dataclass(frozen=True, slots=True)
class Opened:
    """The round has begun."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The chain has reached a height."""

    block: int


@dataclass(frozen=True, slots=True)
class TurnCame:
    """The round is late, and it is this aggregator's turn to close it."""

    turn: int


@dataclass(frozen=True, slots=True)
class Unsure:
    """So many rounds before this one are not final."""

    rounds: int


@dataclass(frozen=True, slots=True)
class SubmissionSeen:
    """The leader has seen a peer's header (valid or not)."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Looked:
    """The leader has looked at all peers once more, and everything it saw has been told."""


@dataclass(frozen=True, slots=True)
class SealSeen:
    """A valid seal is public."""

    peers: frozenset[bytes]
    block: int


@dataclass(frozen=True, slots=True)
class KeySettled:
    """Nothing more is awaited from a sealed peer: its payload is in, or failed, or cannot get a seat."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class ScoresIn:
    """Every validator that selection may wait for has published."""


@dataclass(frozen=True, slots=True)
class RecordSeen:
    """A record of this round is anchored, available and valid."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class RecordFinal:
    """The round's record can never be taken back."""


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A record of another branch, of this round or of an earlier one, goes before the one that this replica has."""


@dataclass(frozen=True, slots=True)
class Done:
    """An instruction has been carried out."""

    instruction: Instruction


@dataclass(frozen=True, slots=True)
class Failed:
    """An instruction could not be carried out, for a reason that may pass."""

    instruction: Instruction
    problem: str


Event = (
    Opened
    | Tick
    | TurnCame
    | Unsure
    | SubmissionSeen
    | Looked
    | SealSeen
    | KeySettled
    | ScoresIn
    | RecordSeen
    | RecordFinal
    | Overtaken
    | Done
    | Failed
)
Step = tuple[RoundState, tuple[Instruction, ...]]


def step(state: RoundState, event: Event) -> Step:
    """The state after an event, and what to do. Events that no longer matter change nothing."""
    if state.phase in ENDED:
        return state, ()
    state = _take(state, event)
    called_for = wanted(state) - (state.running | state.failed | state.done)
    if not called_for:
        return state, ()
    given = tuple(instruction for instruction in Instruction if instruction in called_for)
    return replace(state, running=state.running | frozenset(given)), given


def comes(state: RoundState, turn: int) -> bool:
    """Whether a turn that has begun makes a leader of this participant now: who leads goes on, unless it rescues."""
    waits = state.duty is Duty.FOLLOW or (state.duty is Duty.LEAD and state.turn != turn == RESCUE)
    return state.phase is Phase.SUBMIT and waits


def _sure(state: RoundState) -> bool:
    """Whether enough of the rounds before are final; who rescues a run cannot wait for the votes that never come."""
    return state.unsure < state.clock.finality or state.turn == RESCUE


_WHOEVER = {
    Phase.APPLY: Instruction.APPLY,
    Phase.UNDO: Instruction.UNDO,
    Phase.FINAL: Instruction.FINAL,
}
"""What everybody does in a phase, whatever the duty."""


def wanted(state: RoundState) -> frozenset[Instruction]:
    """What the facts call for, whether or not it has been given; everything else would be pointless now."""
    if state.phase in _WHOEVER:
        return frozenset((_WHOEVER[state.phase],))
    match state.phase, state.duty:
        case Phase.SUBMIT, Duty.MINE if state.opened:
            return frozenset((Instruction.TRAIN,))
        case Phase.SUBMIT, Duty.LEAD if _sure(state) and ready_to_seal(state):
            return frozenset((Instruction.PUBLISH_SEAL,))
        case Phase.REVEAL, Duty.MINE if state.sealed is not None and state.me in state.sealed:
            return frozenset((Instruction.PUBLISH_KEY,))
        case Phase.REVEAL, Duty.LEAD if ready_to_record(state):
            return frozenset((Instruction.PUBLISH_RECORD,))
    return _NONE


def _take(state: RoundState, event: Event) -> RoundState:
    """The facts after an event."""
    match event:
        case Done() | Failed():
            state = _reported(state, event)
        case Opened():
            state = replace(state, opened=True)
        case Tick(block):
            failed = _NONE if block > state.block else state.failed
            state = replace(state, block=max(state.block, block), failed=failed)
        case TurnCame(turn) if comes(state, turn):
            state = replace(state, duty=Duty.LEAD, turn=turn, since=None, looked=None)  # it has not looked as a leader
        case Unsure(rounds):
            state = replace(state, unsure=rounds)
        case SubmissionSeen(peer) if peer not in state.submitted:
            state = replace(state, submitted=state.submitted | {peer})
        case Looked():
            state = _looked(state)
        case SealSeen(peers, block) if state.phase is Phase.SUBMIT:
            latest = max(state.block, block)
            state = replace(state, phase=Phase.REVEAL, sealed=peers, sealed_block=block, block=latest)
        case KeySettled(peer) if peer not in state.settled:
            state = replace(state, settled=state.settled | {peer})
        case ScoresIn():
            state = replace(state, scored=True)
        case RecordSeen() | RecordFinal() | Overtaken():
            state = _recorded(state, event)
    return state


def _recorded(state: RoundState, event: RecordSeen | RecordFinal | Overtaken) -> RoundState:
    """The facts after news of a record."""
    match event:
        case RecordSeen(digest) if state.phase in (Phase.SUBMIT, Phase.REVEAL):
            return replace(state, phase=Phase.APPLY, record=digest)
        case RecordFinal() if state.phase is Phase.APPLIED:
            return replace(state, phase=Phase.FINAL)
        case Overtaken() if state.phase is not Phase.FINAL:
            undo = state.phase in (Phase.APPLY, Phase.APPLIED, Phase.UNDO)  # θ moves before APPLY is done
            return replace(state, phase=Phase.UNDO if undo else Phase.UNDONE)
    return state


def _looked(state: RoundState) -> RoundState:
    """The facts after a look."""
    since = state.block if state.since is None else state.since
    if state.phase is not Phase.REVEAL:
        return replace(state, since=since, looked=state.block)
    revealing = state.block if state.revealing_since is None else state.revealing_since
    return replace(state, since=since, looked=state.block, revealing_since=revealing, looks=state.looks + 1)


_AFTER = {Instruction.APPLY: Phase.APPLIED, Instruction.UNDO: Phase.UNDONE, Instruction.FINAL: Phase.CLOSED}
"""The phase that an instruction leads to once it is done; the others lead to none."""


def _reported(state: RoundState, event: Done | Failed) -> RoundState:
    """What came of an instruction."""
    instruction = event.instruction
    running = state.running - {instruction}
    if isinstance(event, Failed):
        return replace(state, running=running, failed=state.failed | {instruction})
    phase = _AFTER.get(instruction, state.phase)
    return replace(state, phase=phase, running=running, done=state.done | {instruction})


def ready_to_seal(state: RoundState) -> bool:
    """All expected peers are in (there are some, enough heads in all, the round is old enough), or it is the deadline.

    Without enough heads the round would be null, and if the few are always faster than the rest, null for ever. The
    deadline comes with a look at its block or later: what came in time is seen before the round is closed, and a
    leader that was away, or cannot look, closes nothing. A closing round waits for nobody. Who takes over comes after
    the deadline, and waits only where next to nobody is in: then the whole run was down, and the round has its full
    length again. A rescue takes nothing in.
    """
    if state.looked is None:
        return state.closing and not state.turn
    if state.turn == RESCUE:
        return True
    if state.turn and len(state.submitted) >= state.clock.min_submissions:
        return True
    expected = frozenset(state.opening.expected)
    enough = len(state.submitted) >= state.clock.min_submissions
    early = bool(expected) and enough and expected <= state.submitted and state.block >= state.opening.min_block
    return state.closing or early or state.looked >= state.deadline


def ready_to_record(state: RoundState) -> bool:
    """Every sealed peer is settled or out of time, and the scores are in or out of time.

    Time goes on to the block after the newest look, and no further: a leader that cannot look has seen nobody fail.
    That for keys counts from the first look after the seal: a seal may be public long after its block (its put failed,
    its leader was away), and until then nobody can show a key. Peers that nobody expects have only the grace period,
    and at least two looks in it. Never in the seal's own block (the next round opens at a later one), and never before
    the first look.
    """
    assert state.sealed is not None
    if state.looked is None or state.revealing_since is None or state.block <= state.sealed_block:
        return False
    now = min(state.block, state.looked + 1)
    reveal_ends = state.revealing_since + state.clock.reveal
    owing = state.sealed - state.settled
    if now >= state.revealing_since + state.clock.grace and state.looks >= 2:
        owing &= frozenset(state.opening.expected)
    revealed = not owing or now >= reveal_ends
    scored = state.scored or now >= reveal_ends + state.score_wait
    return revealed and scored
