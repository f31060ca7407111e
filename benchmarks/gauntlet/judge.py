"""Replays a rule over measured runs: who of a population would have been paid what, and why not more.

The rule is the product's own (`muster.protocol.incentive`), with any spec; nothing is trained or evaluated again. Who
was judged without being applied moved nothing, so a population is the applied ones and whomever of the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from benchmarks.gauntlet.pieces import Piece
from benchmarks.gauntlet.raw import Raw
from benchmarks.gauntlet.setting import beacon
from muster.node.ledger.reader import EVALUATE
from muster.protocol.incentive.own_data import Control, Errors, control_factor
from muster.protocol.incentive.pay import incentives
from muster.protocol.incentive.row import PeerState
from muster.protocol.incentive.score import UNORIGINAL, Absent, Evaluated, Failed, Finding, Judgement, Screened, judge
from muster.protocol.incentive.sheet import comes_first
from muster.protocol.spec.gauntlet import GauntletSpec
from muster.validator.gauntlet.evaluation import own_beacon
from muster.validator.gauntlet.first_order import drawn_exact
from muster.validator.gauntlet.overlap import Overlap, Shares, compared, proven

Table = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """What a rule makes of a run.

    Attributes:
        names: the population, in the order of the columns below.
        shares: pay, float64 (R, names); a row sums to 1, or is 0 where nobody is paid.
        own_data: x of the own-data test, NaN where there was none, float64 (R, names).
        gates: g, float64 (R, names).
        ratios: s_r beside the accepted ones' median, NaN where there is none, float64 (R, names).
        means: μ, float64 (R, names).
        clones, copies: what a name has in common with its nearest of the round, and of the one before, in units of what
            two honest ones have; NaN where nothing was compared, float64 (R, names).
        mixtures: mean of the copies so far, float64 (R, names).
        refused: whether a name's work was taken for others', bool (R, names).
        failed: how often each name's work was refused, by reason.
    """

    names: tuple[str, ...]
    shares: Table
    own_data: Table
    gates: Table
    ratios: Table
    means: Table
    clones: Table
    copies: Table
    mixtures: Table
    refused: npt.NDArray[np.bool_]
    failed: Counter[tuple[str, str]]

    def pay(self, names: Collection[str], first: int = 0) -> float:
        """What these names got together from a round on, in rounds' whole pay."""
        columns = [i for i, name in enumerate(self.names) if name in names]
        return float(self.shares[first:, columns].sum())


@lru_cache(4)
def _hotkeys(seed: int, validators: int, roles: int) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    """The roles' hotkeys and the validators' public keys, as the runs had them."""
    from muster.testnet.roster import Roster

    roster = Roster.of(seed, roles, validators, {})
    return tuple(m.hotkey for m in roster.miners), tuple(o.identity.public for o in roster.operators)


def replay(piece: Piece, names: Collection[str], spec: GauntletSpec, validator: int = 0) -> Replay:
    """Judge every round of a run for a population, as one validator would."""
    return Judge(piece, names, spec, validator).run()


class Judge:
    """Judges a run for a population, round by round, as one validator would: also one that is still being measured."""

    def __init__(self, piece: Piece, names: Collection[str], spec: GauntletSpec, validator: int = 0) -> None:
        self._piece, self._spec, self._v = piece, spec, validator
        self._places = [i for i, role in enumerate(piece.roles) if role.name in names]
        index = {role.name: i for i, role in enumerate(piece.roles)}
        hotkeys, validators = _hotkeys(piece.seed, piece.raw.before.shape[1], len(piece.roles))
        self._hotkeys = {i: hotkeys[index[piece.roles[i].stands_for or piece.roles[i].name]] for i in self._places}
        if len(set(self._hotkeys.values())) != len(self._places):
            raise ValueError("two of these roles are one key's alternatives: they are never there together")
        self._validator = validators[validator]
        self._states: dict[str, PeerState] = {}

    def states_after(self, round_: int) -> dict[str, PeerState]:
        """The standings after the next round, by name."""
        self._judged(round_)
        names = {self._hotkeys[place]: self._piece.roles[place].name for place in self._places}
        return {names[hotkey]: state for hotkey, state in self._states.items()}

    def run(self) -> Replay:
        """The whole run."""
        piece, places = self._piece, self._places
        rounds = len(piece.raw.heldout)
        tables = {name: np.full((rounds, len(places)), np.nan) for name in _TABLES}
        shares, gates = np.zeros((rounds, len(places))), np.zeros((rounds, len(places)))
        refused = np.zeros((rounds, len(places)), np.bool_)
        failed: Counter[tuple[str, str]] = Counter()
        for round_ in range(rounds):
            findings, judged = self._judged(round_)
            paid = incentives({hotkey: judgement.score for hotkey, judgement in judged.items()}, self._spec.power)
            for column, place in enumerate(places):
                hotkey = self._hotkeys[place]
                judgement = judged.get(hotkey)
                if judgement is None:
                    continue
                shares[round_, column] = paid[hotkey]
                gates[round_, column] = judgement.gate
                for name, value in _row(judgement, findings[hotkey]).items():
                    tables[name][round_, column] = math.nan if value is None else value
                if isinstance(judgement.outcome, Failed):
                    refused[round_, column] = judgement.outcome.reason in UNORIGINAL
                    failed[piece.roles[place].name, judgement.outcome.reason] += 1
        names = tuple(piece.roles[place].name for place in places)
        return Replay(names, shares, gates=gates, refused=refused, failed=failed, **tables)

    def _judged(self, round_: int) -> tuple[dict[str, Finding], dict[str, Judgement]]:
        findings = self._findings(round_, self._states)
        judged = judge(self._states, findings, self._spec, self._piece.full)
        self._states = {hotkey: judgement.state for hotkey, judgement in judged.items()}
        return findings, judged

    def _findings(self, round_: int, states: Mapping[str, PeerState]) -> dict[str, Finding]:
        raw = self._piece.raw
        here = [i for i in self._places if raw.present[round_, i]]
        drawn = own_beacon(beacon(self._piece.seed, EVALUATE, round_), self._validator)
        found: dict[str, Finding] = {self._hotkeys[i]: Finding(Absent()) for i in self._places if i not in here}
        seated = {self._hotkeys[i]: int(raw.declared[round_, i]) for i in here if raw.accepted[round_, i]}
        honest = proven(seated, states, self._spec)
        overlaps = self._overlaps(round_, here, drawn, honest, states)
        exact = drawn_exact(drawn, states, [self._hotkeys[i] for i in here], self._spec)
        for i in here:
            overlap = overlaps[self._hotkeys[i]]
            nearest = overlap.clone_of
            found[self._hotkeys[i]] = Finding(
                outcome=self._outcome(round_, i, self._hotkeys[i] in exact),
                windows=int(raw.declared[round_, i]),
                accepted=bool(raw.accepted[round_, i]),
                clone=overlap.clone,
                copy=overlap.copy,
                first=nearest is None or comes_first(drawn, self._hotkeys[i], nearest, states),
            )
        return found

    def _outcome(self, round_: int, i: int, exact: bool) -> Evaluated | Screened:
        raw = self._piece.raw
        if exact:
            return outcome_of(raw, round_, self._v, i)
        return Screened(float(raw.screened[round_, self._v, i]))

    def _overlaps(
        self,
        round_: int,
        here: Collection[int],
        drawn: bytes,
        honest: Collection[str],
        states: Mapping[str, PeerState],
    ) -> dict[str, Overlap]:
        raw, keys = self._piece.raw, self._hotkeys
        before = [] if round_ == 0 else [i for i in self._places if raw.accepted[round_ - 1, i]]

        def shares(table: npt.NDArray[np.float32], others: Collection[int]) -> Shares:
            parts = table[np.ix_(list(here), list(others))].astype(np.float64)
            parts[np.equal.outer(list(here), list(others))] = np.nan
            return Shares(tuple(keys[i] for i in here), tuple(keys[j] for j in others), parts)

        same, past = shares(raw.same[round_], here), shares(raw.last[round_], before)
        return compared(drawn, same, past, honest, states, self._spec, self._piece.entries)


_TABLES = ("own_data", "ratios", "means", "clones", "copies", "mixtures")


def _row(judgement: Judgement, finding: Finding) -> dict[str, float | None]:
    """A peer's round for the tables, by name; None where there is nothing."""
    state = judgement.state
    return {
        "own_data": judgement.own_data,
        "ratios": judgement.ratio,
        "means": state.mu if state.tested else None,
        "clones": finding.clone,
        "copies": finding.copy,
        "mixtures": state.mixture if state.compared else None,
    }


def outcome_of(raw: Raw, round_: int, validator: int, place: int) -> Evaluated:
    """The means and errors of a role's windows, as its validator would publish them."""
    gains = {name: table[round_, validator, place].astype(np.float64) for name, table in raw.gains.items()}
    own, other = _there(gains["assigned"]), _there(gains["unassigned"])
    own_control, control = _there(gains["control_assigned"]), _there(gains["control_unassigned"])
    scores = float(own.mean()), float(other.mean())
    if not len(control):
        return Evaluated(*scores, Control(), Errors(_error(own), _error(other)))
    means = Control(float(own_control.mean()), float(control.mean()))
    factor = control_factor(scores[1], means)
    return Evaluated(*scores, means, Errors(_error(own - factor * own_control), _error(other - factor * control)))


def _there(values: Table) -> Table:
    return values[~np.isnan(values)]


def _error(values: Table) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
