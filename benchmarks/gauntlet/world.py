"""A scenario's run, round by round: everybody acts, everything is measured, and the accepted updates reach θ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from benchmarks.gauntlet.judge import Judge
from benchmarks.gauntlet.measure import listed, measure, overlaps
from benchmarks.gauntlet.peers import Last, Now, peer_of
from benchmarks.gauntlet.pieces import Piece
from benchmarks.gauntlet.raw import GAINS, Raw, blank
from benchmarks.gauntlet.scenarios import Scenario
from benchmarks.gauntlet.setting import beacon, roster_of, spec_of, text
from muster.kernels import SparseUpdate, aggregate_
from muster.node.ledger.reader import ASSIGN, EVALUATE
from muster.node.replica import Replica
from muster.node.replica.genesis import genesis_parameters
from muster.protocol.ledger import prepare
from muster.protocol.rules.assignment import share, unassigned
from muster.protocol.rules.sampling import sample
from muster.protocol.rules.weighing import as_applied, limits_of
from muster.validator.gauntlet.evaluation import Candidate, assigned_sample, own_beacon
from muster.validator.gauntlet.validator import HELDOUT_BEACON


class World:
    """θ and everybody around it."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario = scenario
        self._seed = seed
        self._spec = spec = spec_of(scenario, seed)
        roster = roster_of(scenario, seed)
        self._validators = [operator.identity.public for operator in roster.operators]
        places = {role.name: i for i, role in enumerate(scenario.roles)}
        own = {role.name: places[role.stands_for or role.name] for role in scenario.roles}
        self._publics = {name: roster.miners[place].identity.public for name, place in own.items()}
        self._slots = {name: scenario.validators + place for name, place in own.items()}
        self._peers = {role.name: peer_of(role, spec) for role in scenario.roles}
        # The benchmark steps θ itself, so it keeps the tensors that the replica computes with.
        self._theta = genesis_parameters(spec.model, spec.genesis.seed)
        self._replica = Replica(spec.model, spec.run_id(), self._theta, 0)
        self._last: Last | None = None
        self._listed: dict[str, npt.NDArray[np.float32]] = {}
        drawn = sample(HELDOUT_BEACON, b"heldout", spec.data.heldout, spec.gauntlet.heldout_windows)
        self._text = text(scenario.preset)
        self._heldout = self._text.heldout(drawn)
        self._copiers: list[frozenset[str]] = []

    def play(self) -> Raw:
        """The whole run."""
        scenario, rule = self._scenario, self._spec.gauntlet
        raw = blank(scenario, rule.eval_windows)
        names = {role.name for role in scenario.roles}
        judge = Judge(Piece.of(scenario, self._seed, raw), names, rule) if scenario.steered else None
        for round_ in range(scenario.rounds):
            self._round(round_, raw)
            if judge is not None:
                found = judge.states_after(round_)
                self._copiers.append(frozenset(name for name, state in found.items() if state.copier))
        return raw

    @property
    def replica(self) -> Replica:
        """θ as it is now."""
        return self._replica

    @property
    def scale(self) -> float:
        """c·α of the open round."""
        return self._spec.gauntlet.step_scale * self._spec.outer.alpha_at(self._replica.outer_step)

    def act(self, round_: int) -> Now:
        """Everybody makes a submission."""
        now = Now(
            round_,
            self._seed,
            self._spec,
            self._text,
            self._replica,
            self._replica.outer_step,
            beacon(self._seed, ASSIGN, round_),
            self._slots,
            self._last,
        )
        for role in self._scenario.roles:
            sent = self._peers[role.name](now) if round_ >= role.arrives else None
            if sent is not None:
                now.sent[role.name] = sent
        return now

    def accepted(self, now: Now) -> list[str]:
        """The names of those with a seat: a record lists submissions by key, and sums are in its order."""
        steering = now.round - self._spec.gauntlet.lag
        without = self._copiers[steering] if 0 <= steering < len(self._copiers) else frozenset[str]()
        applied = {role.name for role in self._scenario.roles if role.applied} - without
        return sorted(applied & now.sent.keys(), key=self._publics.__getitem__)

    def candidates(self, now: Now, v: int = 0) -> tuple[list[Candidate], Tensor]:
        """What a validator measures of a round, in the order of the roles, and the windows that are nobody's."""
        spec = self._spec
        own = own_beacon(beacon(self._seed, EVALUATE, now.round), self._validators[v])
        count = spec.gauntlet.eval_windows
        common = unassigned(now.assign, spec.data, sample(own, b"unassigned", share(spec.data), count))
        accepted = self.accepted(now)
        seated = [now.sent[name] for name in accepted]
        limits = limits_of([sent.update for sent in seated], [len(sent.declared) for sent in seated], spec.outer)
        found = []
        for role in self._scenario.roles:
            if (sent := now.sent.get(role.name)) is not None:
                update, weights = as_applied(sent.update, len(sent.declared), limits, spec.outer)
                windows = assigned_sample(own, self._publics[role.name], sent.declared, count)
                found.append(Candidate(role.name, update, weights, self._text.windows(windows), role.name in accepted))
        return found, self._text.windows(common)

    def _round(self, round_: int, raw: Raw) -> None:
        now = self.act(round_)
        accepted = self.accepted(now)
        scores = [self._measure(now, v, raw) for v in range(len(self._validators))]
        for i, role in enumerate(self._scenario.roles):
            if role.name in now.sent:
                raw.present[round_, i] = True
                raw.accepted[round_, i] = role.name in accepted
                raw.declared[round_, i] = len(now.sent[role.name].declared)
        self._overlap(now, raw)
        best = max(accepted, key=scores[0].__getitem__, default="")
        seated = [now.sent[name] for name in accepted]
        step = self._step([sent.update for sent in seated], [len(sent.declared) for sent in seated])
        self._last = Last(now.sent, accepted, best, step)
        raw.heldout[round_] = self._replica.loss(self._heldout)

    def _measure(self, now: Now, v: int, raw: Raw) -> dict[str, float]:
        """One validator's measurements into `raw`; s_r by role."""
        candidates, common = self.candidates(now, v)
        rows = [i for i, role in enumerate(self._scenario.roles) if role.name in now.sent]
        found = measure(self._replica, candidates, common, self.scale)
        for name in GAINS:
            raw.gains[name][now.round, v, rows] = getattr(found, name)
        raw.before[now.round, v] = found.before.mean()
        raw.screened[now.round, v, rows] = found.screened
        return {one.hotkey: float(score) for one, score in zip(candidates, found.unassigned.mean(1), strict=True)}

    def _overlap(self, now: Now, raw: Raw) -> None:
        drawn = beacon(self._seed, EVALUATE, now.round)
        ours = {name: listed(sent.update, drawn) for name, sent in now.sent.items()}
        place = {role.name: i for i, role in enumerate(self._scenario.roles)}
        rows = [place[name] for name in ours]
        before = [place[name] for name in self._listed]
        raw.same[now.round][np.ix_(rows, rows)] = overlaps(list(ours.values()), list(ours.values()))
        raw.last[now.round][np.ix_(rows, before)] = overlaps(list(ours.values()), list(self._listed.values()))
        self._listed = ours

    def _step(self, updates: Sequence[SparseUpdate], declared: Sequence[int]) -> list[Tensor]:
        """The outer step; θ before minus θ after it."""
        outer = self._spec.outer
        before = [tensor.clone() for tensor in self._theta]
        if updates:
            weighed = prepare(updates, declared, self._spec)
            alpha = outer.alpha_at(self._replica.outer_step)
            aggregate_(self._theta, weighed.updates, weighed.weights, alpha, outer.rule)
            self._replica.outer_step += 1
        return [a - b for a, b in zip(before, self._theta, strict=True)]
