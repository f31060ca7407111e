"""How one validator's row of a peer comes about, step by step, each with the numbers in it to the last digit.

Every number is made again here by the product's own functions, from what the files publish: a reader who types a line
into a calculator of double precision gets what stands behind its last sign of equality.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from muster.history.explain.facts import Sent
from muster.protocol.incentive.averages import gain
from muster.protocol.incentive.own_data import LIMIT
from muster.protocol.incentive.pay import chain_weights, incentives
from muster.protocol.incentive.row import EVALUATED, FAILED, NOT_EVALUATED, SCREENED, PeerState, ScoreRow
from muster.protocol.incentive.score import INACTIVE_MULTIPLIER, LEAST_WORK, MOST_WORK, Judgement, sight, worth
from muster.protocol.incentive.sheet import finding_of, judge_round
from muster.protocol.incentive.words import ranked
from muster.protocol.reasons import CLONE, sentence_of
from muster.protocol.spec import RunSpec
from muster.validator.gauntlet.evaluation import COMMON_CONTROL

SHORT = 8
"""Characters of a hotkey that stand for it."""

NANO = "nat/token"


@dataclass(frozen=True, slots=True)
class Line:
    """One step: what it is about in a word, and what it comes to."""

    word: str
    text: str


@dataclass(frozen=True, slots=True)
class Working:
    """One validator's judgement of one peer in one round.

    `rows` are the whole file's; `before` are the standings of the file before, None where they are not at hand.
    """

    row: ScoreRow
    rows: Sequence[ScoreRow]
    before: Mapping[str, PeerState] | None
    sent: Sent
    spec: RunSpec

    @property
    def full(self) -> int:
        """The windows of a round's whole work."""
        return self.spec.inner.steps * self.spec.inner.batch

    @property
    def state(self) -> PeerState | None:
        """The peer's standing before the round; None where it is not known."""
        if self.before is None:
            return None
        return self.before.get(self.row.hotkey, PeerState(self.row.hotkey))

    @property
    def gain(self) -> float | None:
        """s_r: its LossScore on windows that are nobody's."""
        return gain_of(self.row)

    @property
    def middle(self) -> float | None:
        """The lower median of the accepted ones' s_r above 0."""
        gains = (gain_of(row) for row in self.rows if row.accepted and row.rank is not None)
        positive = sorted(gain for gain in gains if gain is not None and gain > 0.0)
        return positive[(len(positive) - 1) // 2] if positive else None

    @property
    def shares(self) -> dict[str, float]:
        """Everybody's share by the file's own scores."""
        return incentives({row.hotkey: row.peer_score for row in self.rows}, self.spec.gauntlet.power)

    @property
    def weight(self) -> int:
        """What the validator sets for it on the chain."""
        uids = {row.hotkey: row.uid for row in self.rows}
        return chain_weights({row.hotkey: row.incentive for row in self.rows}, uids).get(self.row.uid, 0)


def gain_of(row: ScoreRow) -> float | None:
    """s_r of a row: measured exactly, or to first order; None where neither was."""
    if row.unassigned_before is not None and row.unassigned_after is not None:
        return row.unassigned_before - row.unassigned_after
    return row.screened


def lines(w: Working) -> list[Line]:
    """The whole way from what was measured to the weight on the chain."""
    return [*_measured(w), *_original(w), *_worth(w), *_tested(w), *_paid(w), *_checked(w)]


def _measured(w: Working) -> Iterator[Line]:
    row = w.row
    if row.assigned_before is not None and row.assigned_after is not None:
        yield Line("measured", f"exactly, by losses in {NANO} before and after a small step along its update")
        own = row.assigned_before - row.assigned_after
        yield Line("s_a", f"on windows assigned to it: {row.assigned_before!r} - {row.assigned_after!r} = {own!r}")
        other = f"{row.unassigned_before!r} - {row.unassigned_after!r} = {w.gain!r}"
        yield Line("s_r", f"on windows assigned to nobody: {other}")
    elif row.screened is not None:
        yield Line("measured", "to first order only: it was not drawn to be measured exactly in this round")
        yield Line("s_r", f"on windows assigned to nobody: {row.screened!r} {NANO}")
    if row.outcome == FAILED:
        yield Line("failed", sentence_of(row.reason))
    elif row.outcome == NOT_EVALUATED:
        yield Line("measured", "no: this validator could not, or did not need to; its standing stays as it was")
    elif row.outcome not in (EVALUATED, SCREENED):
        yield Line("measured", "no: it submitted nothing")


def _original(w: Working) -> Iterator[Line]:
    row, spec = w.row, w.spec.gauntlet
    for what, whose, ratio, limit in (
        ("this round", row.clone_of, row.clone, spec.clone_ratio),
        ("the round before", row.copy_of, row.copy, spec.copy_ratio),
    ):
        if whose is not None and ratio is not None:
            yield Line(
                "overlap", f"with {whose[:SHORT]} of {what}: {ratio!r} times what two honest ones share{_limit(limit)}"
            )
    if row.copy is not None:
        average = f"{row.mixture!r} times, over {row.compared} rounds{_limit(spec.mixer_ratio)}"
        yield Line("overlap", f"with the rounds before, on average: {average}")


def _limit(limit: float) -> str:
    return f" (above {limit!r} it is taken for others' work)" if limit else ""


def _worth(w: Working) -> Iterator[Line]:
    row, spec, middle = w.row, w.spec.gauntlet, w.middle
    if row.rank is None:
        return
    yield Line("rank", f"{row.rank} of {ranked(w.rows)} by s_r")
    if middle is None:
        yield Line(
            "ratio", "none: no accepted work lowers the loss in this round, so the mean of its work stands still"
        )
    else:
        assert w.gain is not None
        ratio = f"{w.gain!r} / {middle!r} = {w.gain / middle!r}"
        kept = (
            ""
            if row.ratio == w.gain / middle
            else f", counted as {row.ratio!r} (within {LEAST_WORK!r} and {MOST_WORK!r})"
        )
        yield Line("ratio", f"s_r beside the accepted ones' median: {ratio}{kept}")
        yield from _average(w, "work", "mean of its ratios", row.ratio, spec.work_decay, spec.work_cold)
    yield Line("rating", f"LossRating {row.rating_mu!r} ± {row.rating_sigma!r}{_shown(spec.rating)}")


def _shown(rating: str) -> str:
    return ", which is shown and not paid by" if rating == "mean" else ""


def _average(w: Working, name: str, what: str, value: float | None, decay: float, cold: int = 0) -> Iterator[Line]:
    """The recursion of one average, by the name of its column."""
    count = w.row.worked if name == "work" else w.row.tested
    now, state = getattr(w.row, name), w.state
    if value is None:
        return
    if state is None:
        yield Line(name, f"{what}, {count} so far: {now!r} (the file before this one is not at hand)")
        return
    was, step = getattr(state, name), gain(decay, count, cold)
    made = f"{was!r} + {step!r} * ({value!r} - {was!r}) = {was + step * (value - was)!r}"
    yield Line(name, f"{what}, {count} so far: {made}")


def _tested(w: Working) -> Iterator[Line]:
    row, spec = w.row, w.spec.gauntlet
    if row.own_data is None or row.assigned_before is None or row.assigned_after is None:
        return
    own, other, state = row.assigned_before - row.assigned_after, w.gain, w.state
    assert other is not None
    if spec.mu_rule == "sign":
        yield Line("x", f"the sign of s_a - s_r: {row.own_data!r}")
        if state is not None:
            mean = f"(1 - {spec.mu_decay!r}) * {state.mu!r} + {spec.mu_decay!r} * {row.own_data!r} = {row.mu!r}"
            yield Line("μ", mean)
        return
    yield from _statistic(w, own, other)
    yield from _average(w, "mu_slow", "slow mean of x", row.own_data, spec.mu_decay)
    yield from _average(w, "mu_fast", "fast mean of x", row.own_data, spec.mu_fast)
    yield Line("μ", f"the smaller one: {row.mu!r}")


def _statistic(w: Working, own: float, other: float) -> Iterator[Line]:
    """The control, b, t and x."""
    row = w.row
    c_a, c_r = row.control_assigned or 0.0, row.control_unassigned or 0.0
    e_a, e_r, b = row.assigned_error or 0.0, row.unassigned_error or 0.0, row.factor or 0.0
    if c_a == 0.0 == c_r:
        yield Line("control", "none: nobody else's work was accepted in this round")
    else:
        whose = (
            "the accepted ones'"
            if sum(one.accepted for one in w.rows) >= COMMON_CONTROL
            else "the other accepted ones'"
        )
        yield Line("control", f"{whose} mean update gains c_a = {c_a!r} and c_r = {c_r!r} on the same windows")
    kept = "" if c_r > 0.0 and b == other / c_r else f" (within 0 and {LIMIT!r}; 0 where the control gains nothing)"
    yield Line("b", f"how much of the control it is: s_r / c_r = {b!r}{kept}")
    error = math.sqrt(e_a * e_a + e_r * e_r)
    if error == 0.0:
        yield Line("t", "none: its windows all gain the same")
    else:
        difference = f"(({own!r} - {b!r} * {c_a!r}) - ({other!r} - {b!r} * {c_r!r}))"
        t = ((own - b * c_a) - (other - b * c_r)) / error
        yield Line("t", f"{difference} / sqrt({e_a!r}**2 + {e_r!r}**2) = {t!r}")
    yield Line("x", f"t, within {-LIMIT!r} and {LIMIT!r}, over {LIMIT!r}: {row.own_data!r}")


def _paid(w: Working) -> Iterator[Line]:
    row, spec = w.row, w.spec.gauntlet
    if spec.mu_rule == "t" and any(one.tested for one in w.rows):
        if spec.mu_settled:
            yield Line("sight", _sight(w))
        yield Line("full", _full(w))
    yield Line("gate", _gate(w))
    idle = f"failed {row.failures} and absent {row.inactive} times since it was measured"
    why = idle if row.failures or row.inactive else "nothing is held against it"
    how = f", {INACTIVE_MULTIPLIER} for each absence" if spec.idle == "gauntlet" and row.inactive else ""
    yield Line("multiplier", f"{row.multiplier!r}: {why}{how}")
    declared = f"{row.windows} / {w.full}" if spec.tokens else "1"
    named = {"mean": "work", "openskill": "rating", "ordinal": "ordinal"}[spec.rating]
    factors = f"{row.multiplier!r} * {row.gate!r} * {worth(row, spec)!r} * ({declared}) = {row.peer_score!r}"
    tokens = " * declared windows" if spec.tokens else ""
    yield Line("PeerScore", f"multiplier * gate * {named}{tokens}: {factors}")
    yield Line("share", _share(w))
    total = sum(chain_weights(w.shares, {one.hotkey: one.uid for one in w.rows}).values())
    yield Line("weight", f"{w.weight} on the chain, of {total} that this validator gives" if total else "none is set")


def _gate(w: Working) -> str:
    row, spec = w.row, w.spec.gauntlet
    if spec.mu_rule == "sign":
        return f"{row.gate!r}: μ, and 0 below {spec.mu_floor!r} after {spec.mu_warmup} tests"
    seen = sight({one.hotkey: one for one in w.rows}, accepted_in(w), spec)
    ramp = f"min(max(({row.mu!r} - {spec.mu_floor!r}) / ({seen.full!r} - {spec.mu_floor!r}), 0.0), 1.0)"
    warm = f" * min({row.tested} / {spec.mu_warmup}, 1.0)" if spec.mu_warmup else ""
    named = ", and the part of the warm-up that is over" if spec.mu_warmup else ""
    part = f"(1.0 - {seen.seen!r} * (1.0 - {ramp}))"
    closed = "" if seen.seen == 1.0 else ", as far as there is sight"
    return f"μ between floor and full{closed}{named}: {part}{warm} = {row.gate!r}"


def _sight(w: Working) -> str:
    """How far the own-data test sees anything in this round."""
    spec, middle = w.spec.gauntlet, _middle_mu(w)
    most = max(one.tested for one in w.rows)
    seen = sight({one.hotkey: one for one in w.rows}, accepted_in(w), spec).seen
    part = f"min(max({middle!r} / {spec.mu_full!r}, {most} / {spec.mu_settled}, 0.0), 1.0) = {seen!r}"
    return f"how far the test sees anything, by the accepted ones' median μ and the rounds so far: {part}"


def _full(w: Working) -> str:
    """The μ from which on all is paid in this round."""
    spec = w.spec.gauntlet
    seen = sight({one.hotkey: one for one in w.rows}, accepted_in(w), spec)
    made = f"max({spec.mu_full!r}, {spec.mu_part!r} * {_middle_mu(w)!r}) = {seen.full!r}"
    return f"μ from which on all is paid, by the accepted ones' median μ: {made}"


def _middle_mu(w: Working) -> float:
    """The lower median μ of the accepted that have been tested; where there are none, of all that have been."""
    tested = [one for one in w.rows if one.tested]
    means = sorted(one.mu for one in tested if one.accepted) or sorted(one.mu for one in tested)
    return means[(len(means) - 1) // 2]


def accepted_in(w: Working) -> frozenset[str]:
    """Whose work the round applied, as far as the file says."""
    return frozenset(one.hotkey for one in w.rows if one.accepted)


def _share(w: Working) -> str:
    """In the order in which the product computes it: parts of the best score first."""
    scores = [row.peer_score for row in w.rows]
    best, power = max(scores), w.spec.gauntlet.power
    if not best:
        return "0.0: no peer has a PeerScore above 0 in this round"
    total = math.fsum((score / best) ** power if score else 0.0 for score in scores)
    part = f"({w.row.peer_score!r} / {best!r})" + (f"**{power!r}" if power != 1.0 else "")
    return f"its part of the best score over everybody's parts: {part} / {total!r} = {w.shares[w.row.hotkey]!r}"


def _checked(w: Working) -> Iterator[Line]:
    """Whether the whole file's scores and shares follow from what it says was measured."""
    if w.before is None:
        yield Line("checked", "not: the standings before the round are not at hand")
        return
    judged, shares = rejudged(w), w.shares
    wrong = [row.uid for row in w.rows if not _follows(row, judged.get(row.hotkey), shares[row.hotkey])]
    if wrong:
        whose = ", ".join(map(str, wrong))
        yield Line(
            "checked", f"what the file says of uid {whose} does NOT follow from its measurements; see muster audit"
        )
    else:
        yield Line("checked", "every score and share of the file follows from what it says was measured")


def _follows(row: ScoreRow, judged: Judgement | None, share: float) -> bool:
    if judged is None or row.incentive != share:
        return False
    return (judged.score, judged.gate, judged.multiplier) == (row.peer_score, row.gate, row.multiplier)


def rejudged(w: Working) -> Mapping[str, Judgement]:
    """The round's judgement again; who of several clones takes precedence is taken at the file's word."""
    assert w.before is not None
    try:
        found = {row.hotkey: replace(finding_of(row, w.before, bytes(32)), first=row.reason != CLONE) for row in w.rows}
        return judge_round({hotkey: w.before[hotkey] for hotkey in found if hotkey in w.before}, found, w.spec)
    except (ValueError, ArithmeticError):
        return {}
