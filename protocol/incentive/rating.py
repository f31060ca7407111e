"""LossScores of different rounds cannot be compared, but who beat whom can: the LossRating keeps that.

Plackett-Luce ratings (Weng and Lin, JMLR 12, 2011, algorithm 4) as OpenSkill computes them, over the ranking
of the peers evaluated in one round (Gauntlet, arXiv 2505.21684).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from openskill.models import PlackettLuce

START_MU = 25.0
START_SIGMA = 25.0 / 3.0
"""OpenSkill's prior: a newcomer's ordinal is exactly 0."""

_UNITS = 2.0**30
"""Ratings are multiples of 2⁻³⁰, halves to even."""

_ORDINAL_SIGMAS = 3.0
"""How many σ below μ the ordinal lies (OpenSkill's z): with 99.7 % confidence the skill is no lower."""


@dataclass(frozen=True, slots=True)
class Rating:
    """A belief about a peer's skill: normal, mean `mu`, standard deviation `sigma`, in OpenSkill's unit."""

    mu: float = START_MU
    sigma: float = START_SIGMA

    @property
    def ordinal(self) -> float:
        """μ − 3σ: the skill a peer has very probably at least, which only repeated good work can raise."""
        return self.mu - _ORDINAL_SIGMAS * self.sigma


def rate(ratings: Mapping[str, Rating], scores: Mapping[str, float], beta: float, tau: float) -> dict[str, Rating]:
    """The new ratings of the peers in `scores` (hotkey → score, higher is better), in ascending hotkey order.

    Only the ranking of the scores matters; equal scores tie. A hotkey without a rating starts as a newcomer.
    Sums run in hotkey order, so the mappings' own order changes no bit (addresses of one ss58 prefix sort as
    their public bytes do). A peer that met nobody has proved nothing and keeps its rating. `beta` is how far
    apart skills must lie to show in one round, `tau` the σ that every round adds so that a rating can still
    move later; both in the rating's unit.

    Raises:
        ValueError: a score is NaN or infinite (OpenSkill would rank it first).
    """
    for hotkey, score in scores.items():
        if not math.isfinite(score):
            raise ValueError(f"the score of {hotkey} is {score}, and only finite scores can be ranked")
    hotkeys = sorted(scores)
    old = {hotkey: ratings.get(hotkey, Rating()) for hotkey in hotkeys}
    if len(hotkeys) < 2:
        return old
    model = PlackettLuce(beta=beta, tau=tau)
    teams = [[model.create_rating([old[hotkey].mu, old[hotkey].sigma])] for hotkey in hotkeys]
    rated = model.rate(teams, scores=[scores[hotkey] for hotkey in hotkeys])
    return {hotkey: _rounded(player.mu, player.sigma) for hotkey, (player,) in zip(hotkeys, rated, strict=True)}


def _rounded(mu: float, sigma: float) -> Rating:
    """OpenSkill uses powers of e, whose last bits differ between systems: what goes on from here is rounded."""
    return Rating(round(mu * _UNITS) / _UNITS, round(sigma * _UNITS) / _UNITS)
