"""The round machine, transition by transition, and the laws no order of events may break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from builders import block, opening, run_spec
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.round import (
    Event,
    Instruction,
    KeySettled,
    Opened,
    Phase,
    RecordSeen,
    Role,
    RoundState,
    ScoresIn,
    SealSeen,
    SubmissionSeen,
    Tick,
    Undone,
    step,
)

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
OPEN, MIN_BLOCK, DEADLINE = 100, 102, 110
REVEAL, SCORE_WAIT = 3, 2
SEALED_AT = 105
CLOCK = run_spec(clock={"reveal": REVEAL, "grace": REVEAL}).clock

TRAIN, SEAL, KEY, RECORD, APPLY = (
    Instruction.TRAIN,
    Instruction.PUBLISH_SEAL,
    Instruction.PUBLISH_KEY,
    Instruction.PUBLISH_RECORD,
    Instruction.APPLY_RECORD,
)


def begin(role: Role, expected: tuple[bytes, ...] = (A, B), me: bytes = A) -> RoundState:
    """A round as it is opened."""
    opened = opening(open=block(OPEN), min_block=MIN_BLOCK, deadline=DEADLINE, expected=expected)
    return RoundState(role, me, opened, CLOCK, SCORE_WAIT)


def play(state: RoundState, *events: Event) -> tuple[RoundState, list[Instruction]]:
    """The state after the events and everything it said on the way."""
    said: list[Instruction] = []
    for event in events:
        state, instructions = step(state, event)
        said += instructions
    return state, said


def submitting(role: Role, *events: Event) -> RoundState:
    """A round in its first phase."""
    return play(begin(role), Tick(OPEN), *events)[0]


def revealing(role: Role, *events: Event) -> RoundState:
    """A round whose seal holds A and C and was seen in its own block."""
    return play(begin(role), Tick(OPEN), SealSeen(frozenset({A, C}), SEALED_AT), *events)[0]


def closed(role: Role) -> RoundState:
    """A round that is over."""
    return play(begin(role), RecordSeen())[0]


IN_SEAL, NOT_IN_SEAL = SealSeen(frozenset({A, C}), SEALED_AT), SealSeen(frozenset({B}), SEALED_AT)
EVENTS: tuple[Event, ...] = (
    Opened(), Tick(OPEN + 1), SubmissionSeen(A), IN_SEAL, KeySettled(A), ScoresIn(), RecordSeen(), Undone(),
)  # fmt: skip
SUBMIT, REVEALED, CLOSED = Phase.SUBMIT, Phase.REVEAL, Phase.CLOSED

# Followers and validators only ever wait for the record; a miner trains and shows its key, a leader closes.
WATCHER = {
    SUBMIT: {Opened: (SUBMIT, ()), SealSeen: (REVEALED, ()), RecordSeen: (CLOSED, (APPLY,))},
    REVEALED: {Opened: (REVEALED, ()), SealSeen: (REVEALED, ()), RecordSeen: (CLOSED, (APPLY,))},
}
TABLE = {
    Role.FOLLOWER: WATCHER,
    Role.VALIDATOR: WATCHER,
    Role.LEADER: WATCHER,
    Role.MINER: {
        SUBMIT: WATCHER[SUBMIT] | {Opened: (SUBMIT, (TRAIN,)), SealSeen: (REVEALED, (KEY,))},
        REVEALED: WATCHER[REVEALED],
    },
}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("phase", Phase)
def test_every_role_phase_and_event(role: Role, event: Event, phase: Phase) -> None:
    """What each event does where nothing else is due; what is not in the table leaves the phase alone."""
    state = {SUBMIT: submitting, REVEALED: revealing, CLOSED: closed}[phase](role)
    assert state.phase is phase
    after, said = step(state, event)
    if phase is CLOSED:
        assert (after, said) == (state, ())
    else:
        assert (after.phase, said) == TABLE[role][phase].get(type(event), (phase, ()))


@pytest.mark.parametrize(
    ("event", "change"),
    [
        (Tick(103), {"block": 103}),
        (Tick(99), {"block": OPEN}),
        (SubmissionSeen(C), {"submitted": frozenset({C})}),
        (KeySettled(C), {"settled": frozenset({C})}),
        (ScoresIn(), {"scored": True}),
        (
            SealSeen(frozenset({C}), 104),
            {"phase": REVEALED, "sealed": frozenset({C}), "sealed_block": 104, "block": 104},
        ),
        (RecordSeen(), {"phase": CLOSED}),
        (Opened(), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_event_leaves_behind(event: Event, change: dict[str, object]) -> None:
    state = submitting(Role.FOLLOWER)
    assert step(state, event)[0] == replace(state, **change)  # type: ignore[arg-type]


def test_a_seal_of_an_older_block_does_not_turn_the_clock_back() -> None:
    state, _ = play(submitting(Role.FOLLOWER), Tick(108), SealSeen(frozenset(), 104))
    assert (state.block, state.sealed_block) == (108, 104)


def test_a_second_seal_changes_nothing() -> None:
    state = revealing(Role.MINER)
    assert step(state, SealSeen(frozenset({A, B, C}), 106)) == (state, ())


def test_a_miner_that_is_not_in_the_seal_keeps_its_key() -> None:
    assert play(submitting(Role.MINER), NOT_IN_SEAL)[1] == []


@pytest.mark.parametrize("role", [Role.VALIDATOR, Role.FOLLOWER, Role.LEADER])
def test_only_a_miner_shows_a_key(role: Role) -> None:
    assert KEY not in play(submitting(role), IN_SEAL)[1]


def test_a_late_joiner_that_first_sees_the_seal_does_not_train() -> None:
    assert play(begin(Role.MINER, me=B), Tick(106), IN_SEAL, Opened())[1] == []


def test_a_miner_back_from_a_restart_shows_its_sealed_key_and_does_not_train() -> None:
    assert play(begin(Role.MINER), Tick(106), IN_SEAL, Opened())[1] == [KEY]


@pytest.mark.parametrize(
    ("expected", "events", "sealed"),
    [
        # Genesis lists A_0 as expected; when all of it is in, the round need not wait for its deadline.
        ((A, B), (Tick(MIN_BLOCK), SubmissionSeen(A), SubmissionSeen(B)), True),
        ((A, B), (SubmissionSeen(A), SubmissionSeen(B), Tick(MIN_BLOCK)), True),
        ((A, B), (SubmissionSeen(A), SubmissionSeen(B), SubmissionSeen(C), Tick(MIN_BLOCK)), True),
        # Not before the round is old enough.
        ((A, B), (SubmissionSeen(A), SubmissionSeen(B), Tick(MIN_BLOCK - 1)), False),
        # Not while one is missing, however many others came.
        ((A, B), (SubmissionSeen(A), SubmissionSeen(C), Tick(DEADLINE - 1)), False),
        # A silent expected peer costs the deadline and no more.
        ((A, B), (SubmissionSeen(A), Tick(DEADLINE)), True),
        ((A, B), (SubmissionSeen(A), Tick(DEADLINE + 40)), True),
        ((A, B), (Tick(DEADLINE),), True),
        # With nobody expected everybody has come at once, so only the deadline seals.
        ((), (Tick(DEADLINE - 1),), False),
        ((), (SubmissionSeen(A), SubmissionSeen(B), Tick(DEADLINE - 1)), False),
        ((), (SubmissionSeen(A), Tick(DEADLINE)), True),
    ],
)
def test_when_the_leader_seals(expected: tuple[bytes, ...], events: Sequence[Event], sealed: bool) -> None:
    state, said = play(begin(Role.LEADER, expected), Tick(OPEN), Opened(), *events)
    assert said == ([SEAL] if sealed else [])
    assert state.sealing is sealed
    assert state.phase is SUBMIT


@pytest.mark.parametrize("role", [Role.MINER, Role.VALIDATOR, Role.FOLLOWER])
def test_nobody_else_seals_or_records(role: Role) -> None:
    events = (SubmissionSeen(A), SubmissionSeen(B), Tick(DEADLINE), IN_SEAL, KeySettled(A), KeySettled(C))
    _, said = play(submitting(role), *events, ScoresIn(), Tick(200))
    assert not {SEAL, RECORD} & set(said)


ALL_IN = (KeySettled(A), KeySettled(C), ScoresIn())


@pytest.mark.parametrize(
    ("events", "recorded"),
    [
        ((*ALL_IN, Tick(SEALED_AT + 1)), True),
        ((Tick(SEALED_AT + 1), *ALL_IN), True),
        # The evaluation beacon must be of a later block than the seal.
        (ALL_IN, False),
        ((*ALL_IN, Tick(SEALED_AT)), False),
        # A key that is not shown costs the reveal time.
        ((KeySettled(A), ScoresIn(), Tick(SEALED_AT + REVEAL - 1)), False),
        ((KeySettled(A), ScoresIn(), Tick(SEALED_AT + REVEAL)), True),
        # A key of somebody the seal does not list is not one of those waited for.
        ((KeySettled(A), KeySettled(B), ScoresIn(), Tick(SEALED_AT + 1)), False),
        # Scores are waited for after the reveal, and not for ever.
        ((KeySettled(A), KeySettled(C), Tick(SEALED_AT + REVEAL)), False),
        ((KeySettled(A), KeySettled(C), Tick(SEALED_AT + REVEAL + SCORE_WAIT - 1)), False),
        ((KeySettled(A), KeySettled(C), Tick(SEALED_AT + REVEAL + SCORE_WAIT)), True),
        ((Tick(SEALED_AT + REVEAL + SCORE_WAIT),), True),
    ],
)
def test_when_the_leader_records(events: Sequence[Event], recorded: bool) -> None:
    state, said = play(revealing(Role.LEADER), *events)
    assert said == ([RECORD] if recorded else [])
    assert state.recording is recorded
    assert state.phase is REVEALED


def test_a_stranger_who_owes_his_key_is_waited_for_only_the_grace_period() -> None:
    clock = CLOCK.model_copy(update={"grace": 1})
    for expected, recorded in (((A,), True), ((A, C), False)):
        opened = opening(open=block(OPEN), min_block=MIN_BLOCK, deadline=DEADLINE, expected=expected)
        state = replace(revealing(Role.LEADER), opening=opened, clock=clock)
        _, said = play(state, KeySettled(A), ScoresIn(), Tick(SEALED_AT + 1))
        assert said == ([RECORD] if recorded else [])


def test_keys_and_scores_that_came_before_the_seal_count() -> None:
    _, said = play(submitting(Role.LEADER), *ALL_IN, IN_SEAL, Tick(SEALED_AT + 1))
    assert said == [RECORD]


def test_a_leader_that_finds_an_old_seal_after_a_restart_records_at_once() -> None:
    late = SEALED_AT + REVEAL + SCORE_WAIT
    assert play(begin(Role.LEADER), Tick(late), IN_SEAL)[1] == [SEAL, RECORD]


def test_an_empty_seal_needs_no_keys() -> None:
    state, _ = play(begin(Role.LEADER, ()), Tick(DEADLINE), SealSeen(frozenset(), DEADLINE))
    assert play(state, ScoresIn(), Tick(DEADLINE + 1))[1] == [RECORD]


@pytest.mark.parametrize("again", [Tick(DEADLINE), SubmissionSeen(C), ScoresIn(), KeySettled(A)])
def test_a_seal_in_the_making_is_not_asked_for_again(again: Event) -> None:
    state = submitting(Role.LEADER, Tick(DEADLINE))
    assert step(state, again)[1] == ()


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (submitting(Role.LEADER, Tick(DEADLINE)), SEAL),
        (revealing(Role.LEADER, *ALL_IN, Tick(SEALED_AT + 1)), RECORD),
    ],
)
def test_what_could_not_be_published_is_tried_again_at_the_next_event(state: RoundState, wanted: Instruction) -> None:
    undone, said = step(state, Undone())
    assert said == ()
    assert play(undone, Tick(state.block + 1), Tick(state.block + 2))[1] == [wanted]


def test_undone_does_not_send_a_miner_to_train_again() -> None:
    state, said = play(begin(Role.MINER), Opened(), Undone(), Tick(OPEN + 1))
    assert said == [TRAIN]
    assert state.phase is SUBMIT


@pytest.mark.parametrize("role", Role)
def test_a_record_ends_the_round_from_any_phase(role: Role) -> None:
    for state in (begin(role), submitting(role), revealing(role)):
        after, said = step(state, RecordSeen())
        assert (after, said) == (replace(state, phase=CLOSED), (APPLY,))


peers = st.sampled_from([A, B, C])
events_in_any_order = st.lists(
    st.one_of(
        st.just(Opened()),
        st.integers(OPEN - 2, DEADLINE + 10).map(Tick),
        peers.map(SubmissionSeen),
        st.builds(SealSeen, st.frozensets(peers), st.integers(OPEN, DEADLINE + 2)),
        peers.map(KeySettled),
        st.just(ScoresIn()),
        st.just(RecordSeen()),
        st.just(Undone()),
    ),
    max_size=25,
)
expected_sets = st.sets(peers).map(lambda some: tuple(sorted(some)))


@given(st.sampled_from(Role), expected_sets, events_in_any_order)
def test_no_order_of_events_breaks_the_laws(role: Role, expected: tuple[bytes, ...], events: list[Event]) -> None:
    state = begin(role, expected)
    order = [Phase.SUBMIT, Phase.REVEAL, Phase.CLOSED]
    sealing = recording = False
    said: list[Instruction] = []
    for event in events:
        before = state
        state, instructions = step(state, event)
        said += instructions
        assert order.index(state.phase) >= order.index(before.phase), "a round does not go back"
        assert state.block >= before.block, "time does not go back"
        assert state.sealed in (before.sealed, None) or before.phase is SUBMIT, "the first seal stands"
        if before.phase is CLOSED:
            assert (state, instructions) == (before, ()), "a closed round absorbs everything"
        if isinstance(event, Undone):
            sealing = recording = False
        if SEAL in instructions:
            assert role is Role.LEADER and state.phase is SUBMIT and not sealing, "never two seals at a time"
            assert state.block >= min(MIN_BLOCK, DEADLINE)
            sealing = True
        if RECORD in instructions:
            assert role is Role.LEADER and state.phase is REVEALED and not recording
            assert state.block > state.sealed_block, "a record only after its seal's block"
            recording = True
        if TRAIN in instructions:
            assert role is Role.MINER and state.phase is SUBMIT
        if KEY in instructions:
            assert role is Role.MINER and before.phase is SUBMIT and state.sealed and state.me in state.sealed
        assert (APPLY in instructions) == (state.phase is CLOSED and before.phase is not CLOSED)
    assert said.count(KEY) <= 1
    assert said.count(APPLY) <= 1


@given(expected_sets, events_in_any_order)
def test_a_leader_that_is_told_the_time_always_finishes(expected: tuple[bytes, ...], events: list[Event]) -> None:
    """Whatever did or did not come before: blocks alone bring the seal, and after it the record."""
    state, _ = play(begin(Role.LEADER, expected), *(e for e in events if not isinstance(e, RecordSeen)), Undone())
    if state.phase is SUBMIT:
        state, said = play(state, Tick(DEADLINE + 20))
        assert said == [SEAL]
        state, _ = play(state, SealSeen(frozenset({A}), DEADLINE + 20), Undone())
    assert RECORD in play(state, Tick(DEADLINE + 100))[1]
