"""A score file computed again: what it says that it measured, what the record says, and what follows from both.

Nothing in a file is its validator's word but what was measured; everything else, to the last bit, follows from that and
from the file of the round before. A problem is a sentence that names the peer and the column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from muster.protocol import wire
from muster.protocol.errors import WireError
from muster.protocol.identity import hotkey_of
from muster.protocol.incentive import score
from muster.protocol.incentive.pay import incentives
from muster.protocol.incentive.row import ABSENT, EVALUATED, FAILED, NOT_EVALUATED, SCREENED, PeerState, ScoreRow
from muster.protocol.incentive.sheet import finding_of, recomputed, state_of
from muster.protocol.reasons import (
    CLONE,
    DECISIONS,
    JUDGEMENTS,
    LEADERS_WORD,
    NO_ASSIGNED_WINDOWS,
    NOT_IN_TIME,
    PAYLOAD_REASONS,
    UNORIGINAL,
)
from muster.protocol.spec import RunSpec
from muster.protocol.wire import Entry, Kind, Record, ScoreFile
from muster.validator.gauntlet.first_order import precedence_of

FOLLOWING = (
    "outcome", "reason", "last_score", "positive", "factor", "own_data", "tested", "mu_slow", "mu_fast", "mu",
    "compared", "mixture", "ratio", "rank", "worked", "work", "rating_mu", "rating_sigma", "evaluated", "failures",
    "inactive", "copied", "gate", "multiplier", "peer_score", "incentive",
)  # fmt: skip
"""The columns that follow from others, none before what it follows from: the first that is wrong is the one to name."""

_OF_A_MEASUREMENT = (
    "control_assigned", "control_unassigned", "assigned_spread", "unassigned_spread", "assigned_error",
    "unassigned_error",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sheet:
    """A validator's file, and what it is held against.

    `beacon` is what the validator drew by; `applied` are the peers whose earlier work could be copied, which the record
    before applied or either of them took in late, None where that is not known; `slots` are the peers' slots as the
    file before and the chain now have them, by hotkey; `before` are the standings that it goes on from, None where they
    are not known.
    """

    file: ScoreFile
    record: Record
    beacon: bytes
    spec: RunSpec
    applied: frozenset[str] | None
    slots: Mapping[str, frozenset[int]]
    before: Mapping[str, PeerState] | None


def by_the_record(sheet: Sheet) -> list[str]:
    """What a file says otherwise than the record it judges, or than what it says itself that it measured."""
    entries = {hotkey_of(entry.public): entry for entry in sheet.record.sealed}
    problems = []
    for row in sheet.file.rows:
        entry = entries.get(row.hotkey)
        problem = next(_against(row, entry, sheet), "")
        if problem:
            problems.append(f"{row.hotkey}: {problem}")
    uids = [row.uid for row in sheet.file.rows]
    shared = next((row for row in sheet.file.rows if uids.count(row.uid) > 1), None)
    if shared is not None:
        problems.append(f"{shared.hotkey}: `uid` is {shared.uid}, and so is another's")
    return problems + _drawn_out_of_turn(sheet)


def follows(sheet: Sheet, before: Mapping[str, PeerState]) -> list[str]:
    """What of a file does not follow from what it measured and from the standings before, the cause of it first."""
    return _differences(sheet.file.rows, recomputed(before, sheet.file.rows, sheet.beacon, sheet.spec))


def pays(sheet: Sheet) -> list[str]:
    """What of a file's pay does not follow from its own standings: where those have to be taken at its word."""
    gauntlet, whole = sheet.spec.gauntlet, sheet.spec.inner.steps * sheet.spec.inner.batch
    rows, states = [], {row.hotkey: state_of(row) for row in sheet.file.rows}
    seen = score.sight(states, {row.hotkey for row in sheet.file.rows if row.accepted}, gauntlet)
    for row in sheet.file.rows:
        state = states[row.hotkey]
        gate, left = score.gate(state, gauntlet, seen), score.multiplier(state, gauntlet)
        tokens = row.windows / whole if gauntlet.tokens else 1.0
        earned = left * gate * score.worth(state, gauntlet) * tokens
        rows.append(replace(row, gate=gate, multiplier=left, peer_score=earned))
    shares = incentives({row.hotkey: row.peer_score for row in rows}, gauntlet.power)
    return _differences(sheet.file.rows, [replace(row, incentive=shares[row.hotkey]) for row in rows])


def _differences(published: Sequence[ScoreRow], computed: Sequence[ScoreRow]) -> list[str]:
    right = {row.hotkey: row for row in computed}
    found: list[tuple[int, str]] = []
    for row in published:
        other = right.get(row.hotkey)
        if other is None:
            found.append((0, f"{row.hotkey}: it has a row, and nothing was ever found of it"))
            continue
        wrong = next((name for name in FOLLOWING if _bits(row, name) != _bits(other, name)), None)
        if wrong is not None:
            said = f"`{wrong}` is {getattr(row, wrong)}, and {getattr(other, wrong)} is what follows"
            found.append((FOLLOWING.index(wrong), f"{row.hotkey}: {said}"))
    return [said for _, said in sorted(found, key=lambda one: one[0])]


def _bits(row: ScoreRow, name: str) -> str:
    """A value so that equal texts are equal bits: −0 is not 0."""
    return repr(getattr(row, name))


def _against(row: ScoreRow, entry: Entry | None, sheet: Sheet) -> Iterator[str]:
    """What is wrong with a row, beside the entry of its peer in the record (None: it has none)."""
    accepted = entry is not None and not entry.reason
    head = _head(entry, sheet.record)
    if row.accepted != accepted:
        yield f"`accepted` is {row.accepted}, and the record says {accepted}"
    if row.windows not in _windows(entry, head):
        yield f"`windows` is {row.windows}, and its head declares {0 if head is None else head.windows}"
    if (row.outcome, row.reason) not in _outcomes(entry, sheet.record):
        said = f"{row.outcome} ({row.reason})" if row.reason else row.outcome
        yield f"`outcome` is {said}, which is nothing that the record allows"
    slots = sheet.slots.get(row.hotkey, frozenset()) | ({head.uid} if head is not None else set())
    if row.uid not in slots:
        yield f"`uid` is {row.uid}, a slot that it has not had"
    yield from _of_its_measurement(row)
    yield from _compared(row, sheet)


def _head(entry: Entry | None, record: Record) -> wire.Header | None:
    """What the head of an entry says, where nothing but somebody's word is against it."""
    if entry is None or (entry.reason and entry.reason not in DECISIONS and not _doubtful(entry)):
        return None
    try:
        return wire.decode_head(entry.head, record.run_id).header
    except WireError:
        return None  # that is the record's fault


def _doubtful(entry: Entry) -> bool:
    """Whether an entry is rejected for what its validator may see otherwise: whose slot it claims."""
    return entry.reason in LEADERS_WORD - PAYLOAD_REASONS


def _windows(entry: Entry | None, head: wire.Header | None) -> set[int]:
    if entry is None or head is None:
        return {0}
    return {0, head.windows} if _doubtful(entry) else {head.windows}


def _outcomes(entry: Entry | None, record: Record) -> set[tuple[str, str]]:
    """What a round can be for a peer, and why, by its entry in the record."""
    nothing = (str(NOT_EVALUATED), "")
    judged = {nothing, (str(EVALUATED), ""), (str(SCREENED), ""), *((str(FAILED), slug) for slug in JUDGEMENTS)}
    if record.kind is not Kind.ROUND:
        return {nothing}
    if entry is None:
        return {nothing, (str(ABSENT), "")}
    failed = (str(FAILED), entry.reason)
    if entry.reason in NOT_IN_TIME:
        return {nothing, failed}
    if not entry.reason or entry.reason in DECISIONS:
        return judged
    return {*judged, failed} if _doubtful(entry) else {failed}


def _of_its_measurement(row: ScoreRow) -> Iterator[str]:
    """Who is measured has all that a measurement has, and nobody else has any of it."""
    unoriginal = row.outcome == FAILED and row.reason in UNORIGINAL
    if row.outcome == EVALUATED and not row.measured:
        yield "`assigned_before` and the other losses are not there, and its outcome is made of them"
    if row.measured and row.outcome != EVALUATED and not unoriginal:
        yield f"`outcome` is {row.outcome}, and it was measured"
    if unoriginal and not row.measured and row.screened is None:
        yield f"`reason` is {row.reason}, and its work was not looked at"
    if row.outcome == SCREENED and row.screened is None:
        yield "`screened` is not there, and its outcome is made of it"
    for name in _OF_A_MEASUREMENT:
        if (getattr(row, name) is None) == row.measured:
            yield f"`{name}` is {getattr(row, name)}, and it was {'' if row.measured else 'not '}measured"
    if row.measured and not row.drawn:
        yield "`drawn` is False, and it was measured exactly"
    if row.drawn and not row.windows:
        yield "`drawn` is True, and there is nothing to measure"
    if row.reason == NO_ASSIGNED_WINDOWS and row.windows:
        yield f"`reason` is {row.reason}, and it declares {row.windows}"


def _compared(row: ScoreRow, sheet: Sheet) -> Iterator[str]:
    """What a row says of others' work: whose it was beside, and that it failed by just these figures."""
    sealed = {hotkey_of(entry.public) for entry in sheet.record.sealed} - {row.hotkey}
    for name, ratio, those in (("clone", row.clone, sealed), ("copy", row.copy, sheet.applied)):
        other = getattr(row, f"{name}_of")
        if (other is None) != (ratio is None):
            yield f"`{name}_of` is {other}, and `{name}` is {ratio}"
        if other is not None and (other == row.hotkey or (those is not None and other not in those)):
            yield f"`{name}_of` is {other}, whose work it could not be compared with"
    if row.outcome == FAILED and row.reason in UNORIGINAL and (sheet.before is not None or row.reason != CLONE):
        found = finding_of(row, sheet.before or {}, sheet.beacon)
        reason = score.unoriginal(found, row.mixture, sheet.spec.gauntlet)
        if reason != row.reason:
            yield f"`reason` is {row.reason}, and its ratios make it {reason or 'nobody’s but its own'}"


def _drawn_out_of_turn(sheet: Sheet) -> list[str]:
    """Who is measured exactly: newcomers, then by lot; of those that only a gradient measured, nobody comes before one
    that was drawn. Who is new the standings before say."""
    many = [row for row in sheet.file.rows if row.screened is not None]
    drawn = [row for row in sheet.file.rows if row.drawn]
    if len(drawn) > sheet.spec.gauntlet.exact_peers:
        return [f"{drawn[0].hotkey}: `drawn` is True, as of {len(drawn)} peers, one too many"]

    states, spec = sheet.before, sheet.spec.gauntlet
    if states is None:
        return []

    def place(row: ScoreRow) -> tuple[bool, bytes]:
        return precedence_of(sheet.beacon, row.hotkey, states.get(row.hotkey), spec)

    last = max((place(row) for row in many if row.drawn), default=None)
    for row in many:
        if last is not None and not row.drawn and place(row) < last:
            return [f"{row.hotkey}: `drawn` is False, and others were drawn that come after it"]
    return []
