"""The judgement of a round as docs/protocol.md §11 tells it, written from that page and with nothing of the library.

Peers are strings here, in the order of their keys; findings and rows are the objects of `tests/vectors/incentive/`.
"""

from __future__ import annotations

import math
from typing import Any

FRESH = {
    "mu": 0.0, "rating_mu": 25.0, "rating_sigma": 25.0 / 3.0, "evaluated": 0, "failures": 0, "inactive": 0,
    "last_score": None, "positive": False, "mu_slow": 0.0, "mu_fast": 0.0, "tested": 0, "work": 0.0, "worked": 0,
    "mixture": 0.0, "compared": 0, "copied": 0,
}  # fmt: skip

Row = dict[str, Any]


def step(decay: float, count: int, cold: int) -> float:
    rate = 1.0
    for n in range(1, count):
        v = n**3 / (n + 1) ** 3 if n < cold else 1.0
        rate = rate / (rate + (1.0 - decay) * v)
    return rate


def averaged(average: float, value: float, decay: float, count: int, cold: int = 0) -> float:
    return average + step(decay, count, cold) * (value - average)


def within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def judge(states: dict[str, Row], findings: dict[str, Row], spec: Row, full: int) -> dict[str, Row]:
    """Rows of a round: the standing after it and what it came to, by peer."""
    rows, gains = {}, {}
    for peer in sorted(states.keys() | findings.keys()):
        found = findings.get(peer, {"outcome": "not_evaluated"})
        row = {**states.get(peer, FRESH), "outcome": found["outcome"], "reason": found.get("reason", "")}
        if found.get("copy") is not None:
            row["compared"] += 1
            row["mixture"] = averaged(row["mixture"], found["copy"], spec["work_decay"], row["compared"])
        if row["outcome"] in ("evaluated", "screened"):
            reason = unoriginal(found, row["mixture"], spec)
            if reason:
                row |= {"outcome": "failed", "reason": reason}
            else:
                gains[peer] = found["unassigned"]
        rows[peer] = row
    positive = sorted(gain for peer, gain in gains.items() if gain > 0 and findings[peer].get("accepted"))
    median = positive[(len(positive) - 1) // 2] if positive else None
    ratings = rated({peer: states.get(peer, FRESH) for peer in gains}, gains, median, spec)
    judged = {}
    for peer, row in rows.items():
        found = findings.get(peer, {})
        row |= {"factor": None, "own_data": None, "ratio": None, "rank": None}
        if peer in gains:
            measure(row, found, gains[peer], median, spec)
            row["rating_mu"], row["rating_sigma"] = ratings[peer]
            row["rank"] = 1 + sum(gain > gains[peer] for gain in gains.values())
        elif row["outcome"] == "failed":
            if row["reason"] == "clone" and found["outcome"] == "evaluated":
                test(row, found, spec)
            row["failures"] += 1
            row["copied"] = (
                min(row["copied"] + 2, 8) if row["reason"] in ("clone", "copy", "mixture") else row["copied"]
            )
        elif peer not in states:
            continue
        elif row["outcome"] == "absent":
            row["inactive"] += 1
        judged[peer] = row
    seen = sight(judged, findings, spec)
    for peer, row in judged.items():
        pay(row, findings.get(peer, {}).get("windows", 0), seen, spec, full)
    share(judged, spec["power"])
    return judged


def unoriginal(found: Row, mixture: float, spec: Row) -> str:
    def beyond(ratio: float | None, limit: float) -> bool:
        return ratio is not None and limit > 0 and ratio > limit

    if not found.get("first", True) and beyond(found.get("clone"), spec["clone_ratio"]):
        return "clone"
    if beyond(found.get("copy"), spec["copy_ratio"]):
        return "copy"
    return "mixture" if found.get("copy") is not None and beyond(mixture, spec["mixer_ratio"]) else ""


def measure(row: Row, found: Row, gain: float, median: float | None, spec: Row) -> None:
    if found["outcome"] == "evaluated":
        test(row, found, spec)
    if median is not None:
        row["ratio"] = within(gain / median, -3.0, 2.0)
        row["worked"] += 1
        row["work"] = averaged(row["work"], row["ratio"], spec["work_decay"], row["worked"], spec["work_cold"])
    row["evaluated"] += 1
    row |= {
        "failures": 0,
        "inactive": 0,
        "copied": max(row["copied"] - 1, 0),
        "last_score": gain,
        "positive": row["positive"] or gain > 0,
    }


def test(row: Row, found: Row, spec: Row) -> None:
    s_a, s_r, (c_a, c_r), (e_a, e_r) = found["assigned"], found["unassigned"], found["control"], found["errors"]
    b = row["factor"] = within(s_r / c_r, 0.0, 3.0) if c_r > 0 else 0.0
    row["tested"] += 1
    if spec["mu_rule"] == "sign":
        x = float((s_a > s_r) - (s_a < s_r))
        row |= {"own_data": x, "mu": (1.0 - spec["mu_decay"]) * row["mu"] + spec["mu_decay"] * x}
        return
    error = math.sqrt(e_a * e_a + e_r * e_r)
    x = within(((s_a - b * c_a) - (s_r - b * c_r)) / error, -3.0, 3.0) / 3.0 if error else 0.0
    slow = averaged(row["mu_slow"], x, spec["mu_decay"], row["tested"])
    fast = averaged(row["mu_fast"], x, spec["mu_fast"], row["tested"])
    row |= {"own_data": x, "mu_slow": slow, "mu_fast": fast, "mu": min(slow, fast)}


def sight(rows: dict[str, Row], findings: dict[str, Row], spec: Row) -> tuple[float, float]:
    tested = {peer for peer, row in rows.items() if row["tested"]}
    if not tested:
        return 1.0, spec["mu_full"]
    accepted = {peer for peer in tested if findings.get(peer, {}).get("accepted")} or tested
    means = sorted(rows[peer]["mu"] for peer in accepted)
    middle, most = means[(len(means) - 1) // 2], max(rows[peer]["tested"] for peer in tested)
    full = max(spec["mu_full"], spec["mu_part"] * middle)
    if not spec["mu_settled"]:
        return 1.0, full
    return within(max(middle / spec["mu_full"], most / spec["mu_settled"]), 0.0, 1.0), full


def pay(row: Row, windows: int, sees: tuple[float, float], spec: Row, full: int) -> None:
    if spec["mu_rule"] == "sign":
        open_ = row["tested"] < spec["mu_warmup"] or row["mu"] >= spec["mu_floor"]
        gate = max(row["mu"], 0.0) if open_ else 0.0
    else:
        seen, whole = sees
        ramp = within((row["mu"] - spec["mu_floor"]) / (whole - spec["mu_floor"]), 0.0, 1.0)
        gate = (1.0 - seen * (1.0 - ramp)) * (min(row["tested"] / spec["mu_warmup"], 1.0) if spec["mu_warmup"] else 1.0)
    if spec["idle"] == "nothing":
        multiplier = 0.0 if row["failures"] or row["inactive"] else 1.0
    else:
        multiplier = (1.0, 0.75, 0.5, 0.0)[min(row["failures"], 3)] * 0.75 ** row["inactive"]
    ordinal = row["rating_mu"] - 3.0 * row["rating_sigma"]
    value = {"mean": row["work"], "openskill": row["rating_mu"], "ordinal": ordinal}[spec["rating"]]
    tokens = windows / full if spec["tokens"] else 1.0
    score = multiplier * gate * max(value, 0.0) * tokens
    row |= {"gate": gate, "multiplier": multiplier, "peer_score": score}


def share(rows: dict[str, Row], power: float) -> None:
    best = max((row["peer_score"] for row in rows.values()), default=0.0)
    parts = {p: (r["peer_score"] / best) ** power if r["peer_score"] else 0.0 for p, r in rows.items()} if best else {}
    total = math.fsum(parts.values())
    for peer, row in rows.items():
        row["incentive"] = parts[peer] / total if best else 0.0


def rated(
    states: dict[str, Row], gains: dict[str, float], median: float | None, spec: Row
) -> dict[str, tuple[float, float]]:
    if len(gains) < 2:
        return {peer: (states[peer]["rating_mu"], states[peer]["rating_sigma"]) for peer in gains}
    halves = median is not None and spec["rating"] != "ordinal"
    assert median is not None or not halves
    score = {
        peer: round(within(gain / median * 2.0, -(2.0**30), 2.0**30)) if halves and median else gain
        for peer, gain in gains.items()
    }
    rank = {peer: sum(other > score[peer] for other in score.values()) for peer in score}
    order = sorted(score, key=lambda peer: (rank[peer], peer))
    tau, beta = spec["rating_tau"], spec["rating_beta"]
    mu = {peer: states[peer]["rating_mu"] for peer in order}
    sigma = {peer: math.sqrt(states[peer]["rating_sigma"] * states[peer]["rating_sigma"] + tau * tau) for peer in order}
    c = 0.0
    for peer in order:
        c += sigma[peer] ** 2 + beta**2
    c = math.sqrt(c)
    e = {peer: math.exp(mu[peer] / c) for peer in order}
    total = {q: sum((e[i] for i in order if rank[i] >= rank[q]), 0.0) for q in order}
    ties = {q: sum(rank[i] == rank[q] for i in order) for q in order}
    found = {}
    for i in order:
        omega = delta = 0.0
        for q in order:
            if rank[q] <= rank[i]:
                p = e[i] / total[q]
                delta += p * (1 - p) / ties[q]
                omega += (1 - p) / ties[q] if q == i else -(p / ties[q])
        variance = sigma[i] ** 2
        mu_after = mu[i] + omega * (variance / c)
        sigma_after = sigma[i] * math.sqrt(max(1 - delta * (variance / c**2) * (sigma[i] / c), 0.0001))
        found[i] = (round(mu_after * 2**30) / 2**30, round(sigma_after * 2**30) / 2**30)
    return found
