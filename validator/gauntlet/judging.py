"""One round's judgement: what is measured of each submission, and the score rows that follow from it.

Pure but for θ, which it is given on the round's own θ whenever it goes on, piece by piece.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from muster.kernels import SparseUpdate
from muster.node.data.dataset import TextReader
from muster.node.replica import Replica
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.incentive.row import MOST_LOSS, PeerState, ScoreRow
from muster.protocol.incentive.score import Finding, NotEvaluated, Outcome, Screened
from muster.protocol.incentive.sheet import comes_first, judge_round, rows_of
from muster.protocol.ledger import Applied, Tip
from muster.protocol.rules.assignment import assigned, share, unassigned
from muster.protocol.rules.sampling import sample
from muster.protocol.rules.weighing import as_applied, limits_of
from muster.protocol.wire import Signed
from muster.validator.gauntlet.evaluation import Candidate, Measured, RoundEvaluation, assigned_sample
from muster.validator.gauntlet.first_order import drawn_exact, first_order
from muster.validator.gauntlet.overlap import Earlier, Overlap, overlaps, proven


@dataclass(frozen=True, slots=True)
class Work:
    """A submission that can be measured: its signed head, and its update as it was sent."""

    signed: Signed
    update: SparseUpdate

    @property
    def hotkey(self) -> str:
        """Whose it is."""
        return self.signed.header.hotkey


@dataclass(frozen=True, slots=True)
class Case:
    """What a round is judged by.

    Attributes:
        tip: where the ledger stood before the round's record.
        applied: the record, judged.
        beacon: what this validator draws its samples by; None where it is too late to measure anything.
        states: the standings after the round before.
        works: what can be measured, accepted ones in record order first.
        outcomes: what is known of the others without measuring: by hotkey.
        declared: how many windows each valid head of the record declares, by hotkey.
        before: the updates of earlier rounds that could be copied, each with its hotkey: what the record before
            accepted, and what either record took in late.
    """

    tip: Tip
    applied: Applied
    beacon: bytes | None
    states: Mapping[str, PeerState]
    works: Sequence[Work]
    outcomes: Mapping[str, Outcome]
    declared: Mapping[str, int]
    before: Sequence[Earlier]


def sent(update: SparseUpdate) -> SparseUpdate:
    """An applied update as its peer sent it: without the round's caps."""
    return replace(update, scale_limit=None)


def accepted_updates(applied: Applied) -> tuple[Earlier, ...]:
    """What a record applied, as it was sent, with whose each is."""
    hotkeys = [hotkey_of(entry.public) for entry in applied.record.accepted]
    return tuple((hotkey, sent(update)) for hotkey, update in zip(hotkeys, applied.updates, strict=True))


def late_updates(applied: Applied) -> tuple[Earlier, ...]:
    """What of it is late: it was made before the round's own work, which may be a copy of it."""
    return accepted_updates(applied)[len(applied.record.seated) :]


def candidates_of(
    tip: Tip, works: Sequence[Work], accepted: Collection[bytes], beacon: bytes, text: TextReader
) -> list[Candidate]:
    """A round's submissions as it applies them, each with the windows that a validator's `beacon` draws of its data.

    `accepted` are the peers with a seat, whose works are among these.
    """
    seated = [work for work in works if work.signed.header.public in accepted]
    spec = tip.spec
    limits = limits_of([work.update for work in seated], [work.signed.header.windows for work in seated], spec.outer)
    found = []
    for work in works:
        header = work.signed.header
        update, weights = as_applied(work.update, header.windows, limits, spec.outer)
        declared = assigned(tip.opening.assign.value, header.uid, spec.data, header.windows)
        windows = assigned_sample(beacon, header.public, declared, spec.gauntlet.eval_windows)
        found.append(Candidate(work.hotkey, update, weights, text.windows(windows), header.public in accepted))
    return found


def common_windows(tip: Tip, beacon: bytes, text: TextReader) -> Tensor:
    """The windows that are nobody's which a validator's `beacon` draws, int64 (n, window + 1)."""
    data = tip.spec.data
    positions = sample(beacon, b"unassigned", share(data), tip.spec.gauntlet.eval_windows)
    return text.windows(unassigned(tip.opening.assign.value, data, positions))


def measuring_scale(tip: Tip, outer_step: int) -> float:
    """c·α of the open round, whose θ has taken so many outer steps."""
    return tip.spec.gauntlet.step_scale * tip.spec.outer.alpha_at(outer_step)


class Judging:
    """Measures a case's submissions, and judges."""

    def __init__(self, case: Case, text: TextReader) -> None:
        self._case = case
        self._text = text
        self._candidates: list[Candidate] = []
        self._common: Tensor | None = None
        self._pieces: Iterator[None] | None = None
        self._accepted = {entry.public for entry in case.applied.record.seated}
        self._overlaps: Mapping[str, Overlap] = {}
        self._screened: Mapping[str, float] = {}
        self._drawn: frozenset[str] = frozenset()
        self._evaluation: RoundEvaluation | None = None

    def prepare(self) -> None:
        """Do what needs no θ: compare the updates with each other, cap and clip them, and read their windows."""
        case = self._case
        if case.beacon is None or not case.works:
            return
        spec = case.tip.spec.gauntlet
        updates = {work.hotkey: work.update for work in case.works}
        seated = {
            work.hotkey: work.signed.header.windows
            for work in case.works
            if work.signed.header.public in self._accepted
        }
        honest = proven(seated, case.states, spec)
        self._overlaps = overlaps(case.beacon, updates, case.before, honest, case.states, spec)
        self._candidates = candidates_of(case.tip, case.works, self._accepted, case.beacon, self._text)
        self._common = common_windows(case.tip, case.beacon, self._text)

    def go_on(self, replica: Replica) -> bool:
        """Measure a piece more, with the replica on the round's θ; False where there is nothing left to measure."""
        if self._pieces is None:
            self._pieces = self._measure(replica)
        return next(self._pieces, self) is None

    def _measure(self, replica: Replica) -> Iterator[None]:
        case, candidates, common = self._case, self._candidates, self._common
        if case.beacon is None or common is None:
            return
        spec = case.tip.spec.gauntlet
        scale = measuring_scale(case.tip, replica.outer_step)
        if len(candidates) > spec.exact_peers:
            scores = first_order(replica, candidates, common, scale)
            self._screened = {hotkey: score for hotkey, score in scores.items() if abs(score) <= MOST_LOSS}
            yield
        self._drawn = drawn_exact(case.beacon, case.states, [one.hotkey for one in candidates], spec)
        exact = [one for one in candidates if one.hotkey in self._drawn]
        self._evaluation = RoundEvaluation(replica, exact, [c for c in candidates if c.accepted], common, scale)
        yield from self._evaluation.pieces()

    def cost(self) -> str:
        """What was measured, and what that took, in words."""
        found = self._evaluation.found if self._evaluation else {}
        said = f"{len(found)} measured exactly, by {self._evaluation.forwards if self._evaluation else 0} forwards"
        return f"{said}; {len(self._screened)} to first order, by one gradient" if self._screened else said

    def measured_works(self) -> list[Work]:
        """The works that were applied or measured exactly, accepted ones in record order first."""
        found = self._evaluation.found if self._evaluation else {}
        seated = self._accepted
        return [work for work in self._case.works if work.hotkey in found or work.signed.header.public in seated]

    def judge(self, uids: Mapping[str, int]) -> tuple[ScoreRow, ...]:
        """The score rows of the round, of peers that have a slot, by what has been measured until now."""
        case = self._case
        # Nothing is found of who has no slot: without a row of it, what others get would not follow from the rows.
        known = {*case.outcomes, *case.declared, *case.states} & uids.keys()
        findings = {hotkey: self._finding(hotkey) for hotkey in known}
        states = {hotkey: state for hotkey, state in case.states.items() if hotkey in uids}
        judged = judge_round(states, findings, case.tip.spec)
        measured = {hotkey: self._columns(hotkey) for hotkey in findings}
        return rows_of(judged, findings, measured, uids, case.tip.spec.gauntlet.power)

    def _finding(self, hotkey: str) -> Finding:
        overlap, beacon = self._overlap(hotkey), self._case.beacon
        first = True
        if overlap.clone_of is not None:
            assert beacon is not None, "nothing is compared without it"
            first = comes_first(beacon, hotkey, overlap.clone_of, self._case.states)
        return Finding(
            outcome=self._outcome(hotkey),
            windows=self._case.declared.get(hotkey, 0),
            accepted=public_of(hotkey) in self._accepted,
            clone=overlap.clone,
            copy=overlap.copy,
            first=first,
        )

    def _overlap(self, hotkey: str) -> Overlap:
        return self._overlaps.get(hotkey, Overlap())

    def _outcome(self, hotkey: str) -> Outcome:
        known = self._case.outcomes.get(hotkey)
        if known is not None:
            return known
        found = self._evaluation.found.get(hotkey) if self._evaluation else None
        if found is not None:
            return found.outcome() if isinstance(found, Measured) else found
        score = self._screened.get(hotkey)
        return Screened(score) if score is not None else NotEvaluated()

    def _columns(self, hotkey: str) -> dict[str, Any]:
        found = self._evaluation.found.get(hotkey) if self._evaluation else None
        return {
            **self._overlap(hotkey).columns(),
            **(found.columns() if isinstance(found, Measured) else {}),
            "drawn": hotkey in self._drawn,
            "screened": self._screened.get(hotkey),
        }
