"""A round's story, put together from ledger and journals: a value, without I/O; `page` shows it, JSON carries it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from muster.history.story.facts import LedgerRound, Names, Told
from muster.history.story.moments import DOING, Moment, Moments
from muster.history.story.outcome import Missed, Submission, missed, submissions, waiting
from muster.node.telemetry.events import Applied, Recorded, Sealed, Transition
from muster.node.telemetry.words import some
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import RESCUE
from muster.protocol.ledger.round import SealSeen
from muster.protocol.wire import Kind


@dataclass(frozen=True, slots=True)
class Story:
    """Everything a person is told of one round, in order; text from peers is as it came."""

    seen: LedgerRound
    names: Names
    happened: tuple[Moment, ...]
    submissions: tuple[Submission, ...]
    missed: tuple[Missed, ...]
    waiting: tuple[str, ...]

    @property
    def leader(self) -> str:
        """Who closed the round, or has to close it now; and in which turn, where that was not whose turn came first."""
        name, turn = self.names.peer(self.seen.leader, "aggregator"), self.seen.turn
        if not turn:
            return name
        if turn == RESCUE:
            return f"{name}, whom the owner named to rescue the run"
        first = self.names.peer(self.seen.tip.leader_in_turn, "aggregator")
        return f"{name}, in turn {turn}, instead of {first}" if first != name else f"{name}, in turn {turn}"

    @property
    def state(self) -> str:
        """How the round stands, in a sentence."""
        record, step = self.seen.record, self.seen.tip.outer_step
        if record is None or not self.seen.anchored:
            return "open, and not sealed yet" if self.seen.seal is None else "open: sealed, and not decided yet"
        if record.kind is Kind.CLOSE:
            return "closed: the run ends with its record"
        count = f"{len(record.seated)} of {some(len(record.sealed), 'submission')} accepted"
        if record.late:
            count += f", and {len(record.late)} of earlier rounds"
        if record.kind is Kind.NULL:
            return f"closed by a null record ({count}): too few were valid, θ stays at outer step {step}"
        return f"closed: {count}, θ goes from outer step {step} to {step + 1}"

    def to_json_object(self) -> dict[str, object]:
        """What `muster story --json` prints; hotkeys are addresses, digests hexadecimal."""
        seen, opening, record = self.seen, self.seen.tip.opening, self.seen.record
        return {
            "run_id": seen.tip.run_id.hex(),
            "round": opening.round,
            "block": seen.block,
            "open": not seen.anchored,
            "state": self.state,
            "leader": hotkey_of(seen.leader),
            "turn": seen.turn,
            "opening": {
                "block": opening.open.number,
                "min_block": opening.min_block,
                "deadline": opening.deadline,
                "expected": [hotkey_of(peer) for peer in opening.expected],
            },
            "sealed_block": seen.seal.block.number if seen.seal else None,
            "record": record
            and {
                "digest": seen.digest.hex(),
                "kind": record.kind.name.lower(),
                "block": seen.decided_at,
                "anchored": seen.anchored,
                "anchored_block": seen.anchored_at,
                "expected_next": [hotkey_of(peer) for peer in record.opening.expected] if record.opening else None,
            },
            "scores": [
                {
                    "validator": hotkey_of(used.validator),
                    "round": used.round,
                    "stake": used.stake,
                    "rows": len(used.rows),
                }
                for used in (record.scores if record else ())
            ],
            "submissions": [submission.to_json_object() for submission in self.submissions],
            "missed": [{"name": one.name, "what": one.what, "block": one.block} for one in self.missed],
            "waiting": list(self.waiting),
            "happened": [moment.to_json_object() for moment in self.happened],
            "problems": list(seen.problems),
        }


def tell(seen: LedgerRound, told: Sequence[Told]) -> Story:
    """The story of a round from what the ledger says and from journals, in order of time; there may be none."""
    names = Names.of(told)
    moments = Moments(seen, told, names, _opened(seen, told))
    return Story(
        seen=seen,
        names=names,
        happened=tuple(_merged(moments.found, _by_ledger(seen, told, names))),
        submissions=tuple(submissions(seen, names)),
        missed=tuple(missed(seen, names)),
        waiting=(*waiting(seen, names, _revealing(seen, told, names)), *_unfinished(moments), *_behind(seen, told)),
    )


def _opened(seen: LedgerRound, told: Sequence[Told]) -> float:
    """When the round opened, unix seconds: when the record before it was there, else the first thing told of it."""
    before = [t.time for t in told if isinstance(t.event, Recorded) and t.round == seen.tip.round - 1]
    own = [entry.time for entry in told if entry.round == seen.tip.round]
    return max(before, default=min(own, default=0.0))


def _revealing(seen: LedgerRound, told: Sequence[Told], names: Names) -> int:
    """The block at which the leader says that its seal was public; 0 where it does not say."""
    leader, found = hotkey_of(seen.seal.leader if seen.seal else seen.leader), []
    for entry in told:
        match entry.event:
            case Transition(round=seen.tip.round, what=SealSeen.__name__, block=block):
                found += [block] if names.hotkey_of(entry.label) == leader else []
    return min(found, default=0)


def _by_ledger(seen: LedgerRound, told: Sequence[Told], names: Names) -> list[Moment]:
    """What the ledger shows and no journal tells."""
    events = {type(entry.event) for entry in told if entry.round == seen.tip.round}
    leader, found = (names.peer(seen.leader, "aggregator"),), []
    if seen.seal is not None and Sealed not in events:
        count, sealer = some(len(seen.seal.headers), "submission"), names.peer(seen.seal.leader, "aggregator")
        found.append(Moment(f"sealed {count}", (sealer,), block=seen.seal.block.number))
    if seen.record is not None and Recorded not in events:
        found.append(Moment("decided the round", leader, block=seen.decided_at))
        if seen.anchored_at is not None:
            found.append(Moment("anchored the record", leader, block=seen.anchored_at))
    return found


def _merged(journals: Sequence[Moment], by_ledger: Sequence[Moment]) -> list[Moment]:
    """Moments of the ledger stand before the first told one of a later block."""
    merged = list(journals)
    for moment in by_ledger:
        later = (i for i, one in enumerate(merged) if one.block is not None and one.block > (moment.block or 0))
        merged.insert(next(later, len(merged)), moment)
    return merged


def _unfinished(moments: Moments) -> list[str]:
    """Instructions that have failed and were never done."""
    return [
        f"{label} to {DOING[instruction]}, which has failed {some(tries.failed, 'time')}: {tries.problem}"
        for (label, instruction), tries in moments.tries.items()
    ]


def _behind(seen: LedgerRound, told: Sequence[Told]) -> list[str]:
    """Who took part in a closed round and does not say that it has applied the record."""
    if not seen.anchored:
        return []
    own = [entry for entry in told if entry.round == seen.tip.round]
    behind = sorted({entry.label for entry in own} - {entry.label for entry in own if isinstance(entry.event, Applied)})
    return [f"{label} to apply the record" for label in behind]
