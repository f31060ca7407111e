"""A scenario's run, round by round: everybody acts, everything is measured, and the accepted updates reach θ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.gauntlet.measure import Bench, listed, measure, overlaps
from benchmarks.gauntlet.peers import Last, Now, Sent, peer_of
from benchmarks.gauntlet.scenarios import Scenario
from benchmarks.gauntlet.setting import beacon, roster_of, spec_of, text
from muster.kernels import aggregate_
from muster.node.ledger.reader import ASSIGN, EVALUATE
from muster.node.replica import Replica
from muster.node.replica.genesis import genesis_parameters
from muster.protocol.ledger import prepare
from muster.protocol.rules.assignment import share, unassigned
from muster.protocol.rules.sampling import sample
from muster.validator.gauntlet.evaluation import assigned_sample, own_beacon
from muster.validator.gauntlet.validator import HELDOUT_BEACON

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """Raw inputs of all judgements of a run. R rounds, V validators, P roles, W windows; NaN where there is nothing.

    Attributes:
        gains: by name of `Measured` (but `before`), fp32 (R, V, P, W).
        before: mean loss on the unassigned windows before the step, fp32 (R, V).
        present, accepted: bool (R, P).
        declared: windows it says it trained on, int16 (R, P).
        same: overlap of i with j in the round, fp32 (R, P, P).
        last: overlap of i with what j sent the round before, fp32 (R, P, P).
        heldout: loss after each round, nat/token, fp32 (R,).
    """

    gains: Mapping[str, Array]
    before: Array
    present: npt.NDArray[np.bool_]
    accepted: npt.NDArray[np.bool_]
    declared: npt.NDArray[np.int16]
    same: Array
    last: Array
    heldout: Array


GAINS = (
    "assigned",
    "unassigned",
    "control_assigned",
    "control_unassigned",
    "mean_assigned",
    "mean_unassigned",
)


def _blank(scenario: Scenario, windows: int) -> Raw:
    r, v, p = scenario.rounds, scenario.validators, len(scenario.roles)

    def nan(*shape: int) -> Array:
        return np.full(shape, np.nan, np.float32)

    return Raw(
        {name: nan(r, v, p, windows) for name in GAINS},
        nan(r, v),
        np.zeros((r, p), np.bool_),
        np.zeros((r, p), np.bool_),
        np.zeros((r, p), np.int16),
        nan(r, p, p),
        nan(r, p, p),
        nan(r),
    )


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
        self._bench = Bench(spec.model, self._theta)
        self._outer_step = 0
        self._last: Last | None = None
        self._listed: dict[str, npt.NDArray[np.float32]] = {}
        drawn = sample(HELDOUT_BEACON, b"heldout", spec.data.heldout, spec.gauntlet.heldout_windows)
        self._heldout = text().heldout(drawn)

    def play(self) -> Raw:
        """The whole run."""
        raw = _blank(self._scenario, self._spec.gauntlet.eval_windows)
        for round_ in range(self._scenario.rounds):
            self._round(round_, raw)
        return raw

    def _round(self, round_: int, raw: Raw) -> None:
        spec, roles = self._spec, self._scenario.roles
        now = Now(
            round_,
            self._seed,
            spec,
            text(),
            self._replica,
            self._outer_step,
            beacon(self._seed, ASSIGN, round_),
            self._slots,
            self._last,
        )
        for role in roles:
            sent = self._peers[role.name](now) if round_ >= role.arrives else None
            if sent is not None:
                now.sent[role.name] = sent
        accepted = sorted((r.name for r in roles if r.applied and r.name in now.sent), key=self._publics.__getitem__)
        scores = [self._measure(now, accepted, v, raw) for v in range(len(self._validators))]
        for i, role in enumerate(roles):
            if role.name in now.sent:
                raw.present[round_, i] = True
                raw.accepted[round_, i] = role.applied
                raw.declared[round_, i] = len(now.sent[role.name].declared)
        self._overlap(now, raw)
        best = max(accepted, key=scores[0].__getitem__, default="")
        step = self._step([now.sent[name] for name in accepted])
        self._last = Last(now.sent, accepted, best, step)
        raw.heldout[round_] = self._replica.loss(self._heldout)

    def _measure(self, now: Now, accepted: Sequence[str], v: int, raw: Raw) -> dict[str, float]:
        """One validator's measurements into `raw`; s_r by role."""
        spec = self._spec
        own = own_beacon(beacon(self._seed, EVALUATE, now.round), self._validators[v])
        count = spec.gauntlet.eval_windows
        common = unassigned(now.assign, spec.data, sample(own, b"unassigned", share(spec.data), count))
        windows: dict[str, Tensor] = {
            name: text().windows(assigned_sample(own, self._publics[name], sent.declared, count))
            for name, sent in now.sent.items()
        }
        scale = spec.gauntlet.step_scale * spec.outer.alpha_at(self._outer_step)
        updates = {name: sent.update for name, sent in now.sent.items()}
        found = measure(self._bench, updates, accepted, windows, text().windows(common), spec.outer, scale)
        rows = [i for i, role in enumerate(self._scenario.roles) if role.name in now.sent]
        for name in GAINS:
            raw.gains[name][now.round, v, rows] = getattr(found, name)
        raw.before[now.round, v] = found.before.mean()
        return dict(zip(updates, found.unassigned.mean(1).tolist(), strict=True))

    def _overlap(self, now: Now, raw: Raw) -> None:
        drawn = beacon(self._seed, EVALUATE, now.round)
        ours = {name: listed(sent.update, drawn) for name, sent in now.sent.items()}
        place = {role.name: i for i, role in enumerate(self._scenario.roles)}
        rows = [place[name] for name in ours]
        before = [place[name] for name in self._listed]
        raw.same[now.round][np.ix_(rows, rows)] = overlaps(list(ours.values()), list(ours.values()))
        raw.last[now.round][np.ix_(rows, before)] = overlaps(list(ours.values()), list(self._listed.values()))
        self._listed = ours

    def _step(self, accepted: Sequence[Sent]) -> list[Tensor]:
        """The outer step; θ before minus θ after it."""
        outer = self._spec.outer
        before = [tensor.clone() for tensor in self._theta]
        if accepted:
            capped, weights = prepare([sent.update for sent in accepted], self._spec)
            aggregate_(self._theta, capped, weights, outer.alpha_at(self._outer_step), outer.rule)
            self._outer_step += 1
        with torch.no_grad():
            return [a - b for a, b in zip(before, self._theta, strict=True)]
