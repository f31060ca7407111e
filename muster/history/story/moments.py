"""From journal lines to what a person reads: one moment for each thing that happened, failures marked.

A journal says many things twice (an instruction, and the event it led to); here each is said once, and an instruction
is spoken of only where it explains something: why now, or that it failed, was given again, and got done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from muster.history.story.facts import LedgerRound, Names, Told
from muster.node.telemetry import events
from muster.node.telemetry.events import Event, Transition
from muster.node.telemetry.words import blocks
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger.round import Done, Failed, Instruction, RecordSeen, ScoresIn, SealSeen
from muster.protocol.reasons import NOT_IN_TIME

DOING = {
    Instruction.TRAIN: "do its work",
    Instruction.PUBLISH_SEAL: "publish the seal",
    Instruction.PUBLISH_KEY: "show its key",
    Instruction.PUBLISH_RECORD: "publish the record",
    Instruction.APPLY: "apply the record",
    Instruction.UNDO: "take the record back",
    Instruction.FINAL: "let the record be final",
}
"""What each instruction says to do."""

_WORK_ENDED = (events.Submitted, events.Lost, events.Unregistered)
"""Events by which a miner says itself that its work is done."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened. `who` are labels; `time` is in seconds since the round opened, None where the ledger
    alone tells of it; `block` is the newest that whoever tells of it had seen, None where that is not known; `failed`
    marks what went wrong."""

    what: str
    who: tuple[str, ...]
    time: float | None = None
    block: int | None = None
    failed: bool = False

    def to_json_object(self) -> dict[str, object]:
        """One of `happened` in what `muster story --json` prints."""
        return {
            "time_s": None if self.time is None else round(self.time, 3),
            "block": self.block,
            "who": list(self.who),
            "what": self.what,
            "failed": self.failed,
        }


@dataclass(slots=True)
class Tries:
    """An instruction that has failed and is not done: how often, why the last time, at which blocks it was given again.

    `place` is where among the moments it stands that it failed again for the same reason.
    """

    failed: int = 0
    problem: str = ""
    again: list[int] = field(default_factory=list)
    place: int | None = None


class Moments:
    """Folds one round's journal lines, in order of time, into moments.

    `found` are the moments; `tries` the instructions that have failed and are not done yet, by label and name.
    """

    def __init__(self, seen: LedgerRound, told: Sequence[Told], names: Names, opened: float) -> None:
        self._round, self._opening = seen.tip.round, seen.tip.opening
        self._seen = seen
        self._names = names
        self._opened = opened
        self._happened = {(entry.label, type(entry.event)) for entry in told if entry.round == self._round}
        self._joined: set[str] = set()
        self._sealed_at: dict[str, int] = {}
        self.tries: dict[tuple[str, Instruction], Tries] = {}
        self.found: list[Moment] = []
        for entry in told:
            self._take(entry)
        self.found = _together(_with_blocks(self.found, told, opened))

    def _take(self, entry: Told) -> None:
        event = entry.event
        if isinstance(event, events.Joined):
            again = entry.label in self._joined
            self._joined.add(entry.label)
            self._forget(entry.label)
            if event.round == self._round:
                self._add(entry, "came back after a restart" if again else "joined", failed=again)
        elif entry.round != self._round:
            return
        elif isinstance(event, Transition):
            self._transition(entry, event)
        elif not (isinstance(event, events.Training) and self._has(entry, events.Trained)):
            self._add(entry, event.said(), event.failed)

    def _has(self, entry: Told, *kinds: type[Event]) -> bool:
        """Whether one of these events is among what the same participant tells of the round."""
        return any((entry.label, kind) in self._happened for kind in kinds)

    def _add(self, entry: Told, what: str, failed: bool = False) -> None:
        block = entry.event.block if isinstance(entry.event, Transition) else None
        self.found.append(Moment(what, (entry.label,), entry.time - self._opened, block, failed))

    def _transition(self, entry: Told, seen: Transition) -> None:
        label, instruction = entry.label, seen.instruction
        match seen.what:
            case Failed.__name__ if instruction in DOING:
                self._failed(entry, instruction, seen.problem or "")
            case Done.__name__ if instruction in DOING:
                self._done(entry, instruction)
            case ScoresIn.__name__ if seen.block != self._sealed_at.get(label):
                self._add(entry, "waits for no more scores")
            case SealSeen.__name__:
                self._sealed_at[label] = seen.block
                self._seal_seen(entry, seen)
            case RecordSeen.__name__:
                self._forget(label)  # the rest is pointless now
                if not self._has(entry, events.Applied):
                    self._add(entry, "has seen the record, and not applied it yet")
        for given in seen.given:
            self._given(entry, seen, given)

    def _forget(self, label: str) -> None:
        """Whatever this participant could not do is not given again: to another life of it all is given anew."""
        self.tries = {key: tries for key, tries in self.tries.items() if key[0] != label}

    def _given(self, entry: Told, seen: Transition, instruction: Instruction) -> None:
        tries = self.tries.get((entry.label, instruction))
        if tries is not None:
            tries.again.append(seen.block)
        elif instruction is Instruction.PUBLISH_SEAL:
            self._add(entry, f"seals the round now: {self._why_sealed(seen)}")
        elif instruction is Instruction.PUBLISH_RECORD:
            self._add(entry, f"decides the round now: {self._why_decided(entry.label, seen.block)}")

    def _why_sealed(self, seen: Transition) -> str:
        if self._seen.closing:
            return "the run ends"
        if seen.block >= self._opening.deadline:
            return f"the deadline has come, block {seen.block}"
        last = ", ".join(self._names.hotkey(hotkey) for hotkey in seen.peers)
        return "everybody expected is in" + (f", {last} last" if last else "")

    def _why_decided(self, label: str, block: int) -> str:
        record, seal = self._seen.record, self._seen.seal
        if record is not None and any(entry.reason in NOT_IN_TIME for entry in record.sealed):
            return "the time for keys and payloads is over"
        if record is None and seal is not None:
            since = max(seal.block.number, self._sealed_at.get(label, 0))
            ended = block >= since + self._seen.tip.spec.clock.reveal
            return "the time for keys and payloads is over" if ended else "it waits for nothing more"
        return "every submission is in, or has failed"

    def _failed(self, entry: Told, instruction: Instruction, problem: str) -> None:
        tries = self.tries.setdefault((entry.label, instruction), Tries())
        alike = tries.failed > 0 and problem == tries.problem
        tries.failed, tries.problem = tries.failed + 1, problem
        if not (alike and tries.again):
            again = f", given again at block {tries.again[-1]}" if tries.again else ""
            tries.place = None
            self._add(entry, f"could not {DOING[instruction]}{again}: {problem}", failed=True)
            return
        said = f"could not {DOING[instruction]}, given again at {blocks(tries.again)}, for the same reason"
        if tries.place is None:
            tries.place = len(self.found)
            self._add(entry, said, failed=True)
        else:
            self.found[tries.place] = replace(self.found[tries.place], what=said)

    def _done(self, entry: Told, instruction: Instruction) -> None:
        tries = self.tries.pop((entry.label, instruction), None)
        if tries is not None:
            again = f", given again at block {tries.again[-1]}" if tries.again else ""
            self._add(entry, f"that was try {tries.failed + 1}{again}")
        elif instruction is Instruction.TRAIN and not self._has(entry, *_WORK_ENDED):
            self._add(entry, "has nothing to submit")

    def _seal_seen(self, entry: Told, seen: Transition) -> None:
        hotkey = self._names.hotkey_of(entry.label)
        if self._has(entry, events.Sealed):
            return
        if hotkey == hotkey_of(self._seen.leader):
            self._add(entry, f"goes on from the seal of an earlier life, block {seen.sealed_block}")
        elif hotkey not in seen.peers and self._has(entry, events.Submitted):
            self._add(entry, "sees the seal, and is not in it", failed=True)


def _with_blocks(found: Iterable[Moment], told: Sequence[Told], opened: float) -> list[Moment]:
    """Fill in blocks where the same participant was at one and the same block before and after."""
    known: dict[str, list[tuple[float, int]]] = {}
    for entry in told:
        if isinstance(entry.event, Transition):
            known.setdefault(entry.label, []).append((entry.time - opened, entry.event.block))
    return [m if m.block is not None else replace(m, block=_block_at(m, known)) for m in found]


def _block_at(moment: Moment, known: Mapping[str, list[tuple[float, int]]]) -> int | None:
    assert moment.time is not None
    own = known.get(moment.who[0], [])
    before = max((block for time, block in own if time <= moment.time), default=None)
    after = min((block for time, block in own if time >= moment.time), default=None)
    return before if before == after else None


def _together(found: Iterable[Moment]) -> list[Moment]:
    """What several did alike, one directly after the other and in the same block, as one moment of all of them."""
    together: list[Moment] = []
    for moment in found:
        last = together[-1] if together else None
        if last is not None and (last.what, last.block, last.failed) == (moment.what, moment.block, moment.failed):
            together[-1] = replace(last, who=tuple(sorted({*last.who, *moment.who})))
        else:
            together.append(moment)
    return together
