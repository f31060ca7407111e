"""Vectors of the judgement of rounds: findings in, standings and shares out, by the default rule and Gauntlet's.

Peers are called by letters here, whose order is that of their keys.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from muster.protocol.incentive.own_data import Control, Errors
from muster.protocol.incentive.pay import incentives
from muster.protocol.incentive.row import PeerState
from muster.protocol.incentive.score import (
    Absent,
    Evaluated,
    Failed,
    Finding,
    Judgement,
    NotEvaluated,
    Outcome,
    Screened,
    judge,
)
from muster.protocol.reasons import KEY_MISSING
from muster.protocol.spec import GauntletSpec, load_template

FULL = 8
"""Windows of a round's whole work."""

GAUNTLETS = {"mu_rule": "sign", "rating": "ordinal", "tokens": False, "power": 2.0, "idle": "gauntlet",
             "clone_ratio": 0.0, "copy_ratio": 0.0, "mixer_ratio": 0.0, "mu_floor": 0.1, "mu_warmup": 2,
             "work_cold": 0}  # fmt: skip
"""What makes the rule Gauntlet's; the warm-up is shortened so that it ends within the vector."""

SHORT = {"mu_warmup": 3, "work_cold": 3, "mixer_ratio": 2.0}
"""The default rule, so changed that the end of both starts and a mixture can be seen in four rounds."""


def _exact(s_a: float, s_r: float, c_a: float, c_r: float, **more: Any) -> dict[str, Any]:
    """A peer that was measured exactly."""
    return {"outcome": "evaluated", "assigned": s_a, "unassigned": s_r, "control": [c_a, c_r], "windows": FULL,
            "errors": [0.003, 0.004], "accepted": True, **more}  # fmt: skip


ROUNDS: list[dict[str, dict[str, Any]]] = [
    {
        "a": _exact(0.031, 0.024, 0.02, 0.021, clone=1.0),
        "b": _exact(0.062, 0.055, 0.021, 0.022, clone=1.25),
        "c": {"outcome": "failed", "reason": KEY_MISSING},
        "d": {"outcome": "absent"},
    },
    {
        "a": _exact(0.036, 0.02, 0.016, 0.019, clone=5.5, copy=1.0, first=False),
        "b": _exact(0.033, 0.0201, 0.016, 0.019, clone=5.5, copy=1.5),
        "c": _exact(0.025, 0.011, 0.017, 0.018, windows=4, accepted=False, clone=0.5, copy=0.75),
        "d": {"outcome": "screened", "unassigned": 0.0201, "windows": FULL},
    },
    {
        "a": _exact(0.028, 0.015, 0.01, 0.014, clone=1.0, copy=1.0),
        "b": {"outcome": "not_evaluated", "windows": FULL},
        "c": _exact(-0.002, -0.004, 0.011, 0.014, clone=0.75, copy=1.0),
        "d": _exact(0.012, 0.017, 0.0, 0.0, copy=2.5),
    },
    {
        "a": _exact(0.03, 0.0145, 0.011, 0.013, clone=1.0, copy=1.25),
        "b": {"outcome": "absent"},
        "c": _exact(0.03, 0.1, 0.012, 0.013, clone=1.0, copy=9.5),
        "d": _exact(0.021, 0.0125, 0.012, 0.0, errors=[0.0, 0.0], clone=1.0, copy=0.5, windows=6),
    },
]
"""What was found in four rounds, by peer; what is left out is 0, false or None, and `first` true."""


def finding_of(given: dict[str, Any]) -> Finding:
    """A finding as a vector gives it."""
    rest = {name: given[name] for name in ("windows", "accepted", "clone", "copy", "first") if name in given}
    return Finding(_outcome(given), **rest)


def _outcome(given: dict[str, Any]) -> Outcome:
    match given["outcome"]:
        case "evaluated":
            control, errors = Control(*given["control"]), Errors(*given["errors"])
            return Evaluated(given["assigned"], given["unassigned"], control, errors)
        case "screened":
            return Screened(given["unassigned"])
        case "failed":
            return Failed(given["reason"])
        case "absent":
            return Absent()
    return NotEvaluated()


def judged(gauntlet: dict[str, Any], full: int, rounds: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """What comes of each round, by peer."""
    spec, states, found = GauntletSpec.model_validate(gauntlet), dict[str, PeerState](), []
    for given in rounds:
        judgements = judge(states, {peer: finding_of(one) for peer, one in given.items()}, spec, full)
        shares = incentives({peer: one.score for peer, one in judgements.items()}, spec.power)
        found.append({peer: _shown(one, shares[peer]) for peer, one in judgements.items()})
        states = {peer: one.state for peer, one in judgements.items()}
    return found


def _shown(judgement: Judgement, share: float) -> dict[str, Any]:
    state = asdict(judgement.state)
    del state["hotkey"]
    return {
        "outcome": re.sub("(?<!^)(?=[A-Z])", "_", type(judgement.outcome).__name__).lower(),
        "reason": judgement.outcome.reason if isinstance(judgement.outcome, Failed) else "",
        **state,
        "factor": judgement.factor,
        "own_data": judgement.own_data,
        "ratio": judgement.ratio,
        "rank": judgement.rank,
        "gate": judgement.gate,
        "multiplier": judgement.multiplier,
        "peer_score": judgement.score,
        "incentive": share,
    }


def section(changes: dict[str, Any]) -> dict[str, Any]:
    """The vector of a rule: the `gauntlet` section of the preset `tiny` with some fields changed."""
    gauntlet = load_template("tiny").gauntlet.model_dump(mode="json") | changes
    found = judged(gauntlet, FULL, ROUNDS)
    return {
        "gauntlet": gauntlet,
        "full": FULL,
        **{f"round_{i}": findings for i, findings in enumerate(ROUNDS)},
        **{f"after_{i}": rows for i, rows in enumerate(found)},
    }
