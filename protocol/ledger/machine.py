"""A round as its shell drives it: the state behind one door, every event checked, everything worth telling told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from muster.protocol.ledger.round import Done, Event, Failed, Instruction, Phase, RoundState, ScoresIn, step


def check_invariants(before: RoundState, after: RoundState) -> None:
    """What no event may ever break.

    Raises:
        AssertionError: the machine is wrong.
    """
    order = list(Phase)
    assert order.index(after.phase) >= order.index(before.phase), "a round never goes back"
    assert after.block >= before.block, "time never goes back"
    assert (after.phase is not Phase.REVEAL) or after.sealed is not None, "nothing is revealed before the seal"
    records = after.phase not in (Phase.SUBMIT, Phase.REVEAL)
    assert after.phase is Phase.UNDONE or (after.record is not None) == records, "a record, and only it, applies"
    assert before.done <= after.done, "what is done stays done"
    given = (after.running, after.failed, after.done)
    assert len(frozenset().union(*given)) == sum(map(len, given)), "an instruction runs, failed, or is done"
    assert Instruction.PUBLISH_RECORD not in after.running or after.sealed is not None, "no record without a seal"
    assert after.phase is not Phase.CLOSED or Instruction.APPLY in after.done, "a round closes by applying its record"
    assert after.phase is not Phase.CLOSED or before.phase in (Phase.FINAL, Phase.CLOSED), "only what is final closes"
    assert after.phase is not Phase.FINAL or before.phase in (Phase.APPLIED, Phase.FINAL), "only what stands is final"


@dataclass(frozen=True, slots=True)
class Transition:
    """One line of a round's story: an event that changed the phase, called for something, or reported on it."""

    block: int
    event: Event
    phase: Phase
    given: tuple[Instruction, ...]


@dataclass(slots=True)
class RoundMachine:
    """A round's state, fed event by event; `told` is called with every transition worth telling."""

    state: RoundState
    told: Callable[[Transition], None] = lambda _transition: None
    log: list[Transition] = field(default_factory=list)

    def feed(self, event: Event) -> tuple[Instruction, ...]:
        """Take one event in; returns what to do now."""
        before = self.state
        self.state, given = step(before, event)
        check_invariants(before, self.state)
        if given or self.state.phase is not before.phase or isinstance(event, Done | Failed | ScoresIn):
            transition = Transition(self.state.block, event, self.state.phase, given)
            self.log.append(transition)
            self.told(transition)
        return given
