"""The round machine: what a round waits for and what each participant does next, without I/O, clock or sleep.

    SUBMIT ──seal──▶ REVEAL ──record──▶ CLOSED        (a record ends the round from any phase)

`step(state, event)` is the whole of it: facts in, instructions out. The session feeds it and carries out what it
says; the simulator, the daemons and the tests all drive this one function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from muster.protocol.spec import ClockSpec
from muster.protocol.wire import Opening


class Role(Enum):
    """What a participant does in this round."""

    MINER = auto()
    VALIDATOR = auto()
    LEADER = auto()
    FOLLOWER = auto()


class Phase(Enum):
    """How far a round is."""

    SUBMIT = "submit"
    REVEAL = "reveal"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class RoundState:
    """A round as one participant sees it. Peers are public keys.

    `me` is the participant's own key; `submitted` what the leader has seen; `sealed` is None until the seal;
    `settled` the sealed peers that nothing more can come from (their key is in, or they are already out);
    `scored` whether every score this round's selection may wait for is in.
    """

    role: Role
    me: bytes
    opening: Opening
    clock: ClockSpec
    score_wait: int
    phase: Phase = Phase.SUBMIT
    block: int = 0
    submitted: frozenset[bytes] = frozenset()
    sealed: frozenset[bytes] | None = None
    sealed_block: int = 0
    settled: frozenset[bytes] = frozenset()
    scored: bool = False
    sealing: bool = False
    recording: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """The round has begun."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The chain has reached a height."""

    block: int


@dataclass(frozen=True, slots=True)
class SubmissionSeen:
    """The leader has seen a peer's header (valid or not)."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class SealSeen:
    """A valid seal is public."""

    peers: frozenset[bytes]
    block: int


@dataclass(frozen=True, slots=True)
class KeySettled:
    """A sealed peer's key is in, or its submission is already rejected."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class ScoresIn:
    """Every validator that selection may wait for has published."""


@dataclass(frozen=True, slots=True)
class RecordSeen:
    """A record of this round is anchored and available."""


@dataclass(frozen=True, slots=True)
class Undone:
    """A seal or record could not be published; it is tried again at the next event."""


Event = Opened | Tick | SubmissionSeen | SealSeen | KeySettled | ScoresIn | RecordSeen | Undone


class Instruction(Enum):
    """What the participant has to do now."""

    TRAIN = auto()
    PUBLISH_SEAL = auto()
    PUBLISH_KEY = auto()
    PUBLISH_RECORD = auto()
    APPLY_RECORD = auto()


Step = tuple[RoundState, tuple[Instruction, ...]]


def step(state: RoundState, event: Event) -> Step:
    """The state after an event, and what to do. Events that no longer matter change nothing."""
    if state.phase is Phase.CLOSED:
        return state, ()
    match event:
        case Opened():
            trains = state.role is Role.MINER and state.phase is Phase.SUBMIT
            return state, (Instruction.TRAIN,) if trains else ()
        case RecordSeen():
            return replace(state, phase=Phase.CLOSED), (Instruction.APPLY_RECORD,)
        case SealSeen(peers, block):
            return _sealed(state, peers, block)
        case Tick(block):
            state = replace(state, block=max(state.block, block))
        case SubmissionSeen(peer):
            state = replace(state, submitted=state.submitted | {peer})
        case KeySettled(peer):
            state = replace(state, settled=state.settled | {peer})
        case ScoresIn():
            state = replace(state, scored=True)
        case Undone():
            return replace(state, sealing=False, recording=False), ()
    return _lead(state) if state.role is Role.LEADER else (state, ())


def _sealed(state: RoundState, peers: frozenset[bytes], block: int) -> Step:
    if state.phase is not Phase.SUBMIT:
        return state, ()
    state = replace(state, phase=Phase.REVEAL, sealed=peers, sealed_block=block, block=max(state.block, block))
    if state.role is Role.LEADER:
        return _lead(state)
    return state, (Instruction.PUBLISH_KEY,) if state.role is Role.MINER and state.me in peers else ()


def _lead(state: RoundState) -> Step:
    """The leader seals and records when there is nothing left to wait for."""
    if state.phase is Phase.SUBMIT and not state.sealing and ready_to_seal(state):
        return replace(state, sealing=True), (Instruction.PUBLISH_SEAL,)
    if state.phase is Phase.REVEAL and not state.recording and ready_to_record(state):
        return replace(state, recording=True), (Instruction.PUBLISH_RECORD,)
    return state, ()


def ready_to_seal(state: RoundState) -> bool:
    """All expected peers are in (there are some, and the round is old enough), or the deadline has come."""
    expected = frozenset(state.opening.expected)
    early = bool(expected) and expected <= state.submitted and state.block >= state.opening.min_block
    return early or state.block >= state.opening.deadline


def ready_to_record(state: RoundState) -> bool:
    """Every sealed peer is settled or out of time, and the scores are in or out of time.

    Peers that nobody expects have only the grace period.

    Never in the seal's own block: the evaluation beacon must come from a later one.
    """
    assert state.sealed is not None
    if state.block <= state.sealed_block:
        return False
    reveal_ends = state.sealed_block + state.clock.reveal
    owing = state.sealed - state.settled
    if state.block >= state.sealed_block + state.clock.grace:
        owing &= frozenset(state.opening.expected)
    revealed = not owing or state.block >= reveal_ends
    scored = state.scored or state.block >= reveal_ends + state.score_wait
    return revealed and scored
