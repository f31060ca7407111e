"""What a peer's pay is explained from, as plain data: records, and what validators published of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muster.history.walk import Passed
from muster.protocol import wire
from muster.protocol.errors import WireError
from muster.protocol.identity import public_of
from muster.protocol.incentive.row import PeerState, ScoreRow
from muster.protocol.incentive.sheet import state_of
from muster.protocol.spec import RunSpec
from muster.protocol.wire import Kind, ScoreFile


@dataclass(frozen=True, slots=True)
class Sent:
    """What a record says of one peer. `reason` is "" where its work was applied, None where the record has no entry of
    it; `windows` are those its head declares, None where it has no head that can be read; `taken` is the round whose
    record took it in late, None where none that is known did."""

    round: int
    kind: Kind
    reason: str | None
    windows: int | None
    taken: int | None = None

    @property
    def accepted(self) -> bool:
        """Whether its work was applied."""
        return self.reason == ""


def sent(passed: Passed, hotkey: str, later: Sequence[Passed] = ()) -> Sent:
    """What a peer sent in a round; records after it, if they are among `later`, may say what became of it."""
    record, public = passed.record, public_of(hotkey)
    entry = next((entry for entry in record.sealed if entry.public == public), None)
    if entry is None:
        return Sent(passed.round, record.kind, None, None)
    try:
        windows = wire.decode_head(entry.head, record.run_id).header.windows
    except WireError:
        windows = None
    place = entry.round, entry.public
    taken = (one.round for one in later if any((e.round, e.public) == place for e in one.record.late))
    return Sent(passed.round, record.kind, entry.reason, windows, next(taken, None))


@dataclass(frozen=True, slots=True)
class Judged:
    """What one validator published, by round, of the records looked at. `stake` is what it has on chain now."""

    validator: str
    stake: int
    files: Mapping[int, ScoreFile]

    def row(self, round_: int, hotkey: str) -> ScoreRow | None:
        """What it says of a peer after a round."""
        file = self.files.get(round_)
        return next((row for row in file.rows if row.hotkey == hotkey), None) if file else None

    def before(self, round_: int) -> Mapping[str, PeerState] | None:
        """The standings that a round's file goes on from; None where they are not at hand."""
        earlier = max((known for known in self.files if known < round_), default=None)
        if earlier is None:
            return None if round_ else {}
        return {row.hotkey: state_of(row) for row in self.files[earlier].rows}


@dataclass(frozen=True, slots=True)
class Case:
    """One peer in one round, and the records and files around it.

    `passed` are the newest records up to some later round, oldest first; `judged` are the validators with a file among
    those read, in the order of the spec.
    """

    round: int
    hotkey: str
    uid: int | None
    passed: Sequence[Passed]
    judged: Sequence[Judged]

    @property
    def shown(self) -> Passed:
        """The record of the round."""
        return next(passed for passed in self.passed if passed.round == self.round)

    @property
    def spec(self) -> RunSpec:
        """The spec in force in the round."""
        return self.shown.before.spec
