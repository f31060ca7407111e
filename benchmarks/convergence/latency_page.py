"""The page's sections on time: work that comes late, and peers that do not wait for the last round's outer step."""

from __future__ import annotations

import math
from collections.abc import Iterator

from benchmarks.convergence.findings import SURE, Answers, Finding, Stat, all_below, expect_below, over
from benchmarks.convergence.latency import (
    AGE_WEIGHTS,
    DELAYS,
    MERGES,
    OVERDUE,
    OVERDUE_ROUNDS,
    delay_candidates_of,
    delay_label,
    delays,
    overdue_label,
)
from benchmarks.convergence.markdown import difference_table, table
from benchmarks.convergence.plan import LENGTHS, open_latency
from benchmarks.convergence.variant import Merge, Variant
from benchmarks.convergence.ways import HOPELESS
from muster.protocol.spec import load_template
from muster.protocol.spec.layout import codec_of, max_payload_bytes

STREAMING = 0.002
"""What Streaming DiLoCo says that an outer step costs that comes a few inner steps late (arXiv 2501.18512)."""
TRAINING_SECONDS = 1200
"""A round's inner training at 72 billion parameters, on eight B200 (arXiv 2603.08163)."""
LINKS = (10e9, 1e9, 0.5e9, 0.25e9)
"""Bits a second, up and down."""
WAYS: dict[Merge, str] = {
    "take": "they become the new θ",
    "add": "they become the new θ, with what was trained since the last submission on top",
    "mix": "they become the mean of the new θ and of what they were",
    "fresh": "as `add`, but a round begins from the newest θ at hand and not from where the last one ended",
}


def latency_findings(answers: Answers) -> list[Finding]:
    """What was expected of late work and of training on, as far as it has been played."""
    return [*_late_findings(answers), *_delay_findings(answers)]


def _late_findings(answers: Answers) -> Iterator[Finding]:
    for weight in reversed(AGE_WEIGHTS):
        gains = _gains(answers, weight)
        if gains:
            claim = f"late work that counts {weight:g} in the round after is better than lost"
            yield Finding(claim, over(gains, list(gains.values())), all_below(list(gains.values())))


def _gains(answers: Answers, weight: float) -> dict[str, Stat]:
    """What late work of a weight does to the loss against its being lost, by the share that is late, as far as played."""
    pairs = ((share, _against_lost(answers, share, weight)) for share in OVERDUE)
    return {f"{share:.0%} late": gain for share, gain in pairs if gain is not None}


def _against_lost(answers: Answers, share: float, weight: float) -> Stat | None:
    known = answers.tables["overdue"]
    label, lost = overdue_label(share, weight), overdue_label(share, 0)
    return answers["overdue", label].minus(answers["overdue", lost]) if {label, lost} <= known.keys() else None


def _delay_findings(answers: Answers) -> Iterator[Finding]:
    waiting, whole = answers["delayed", "waiting"], Variant().steps
    for delay in DELAYS:
        label = delay_label("mix", delay)
        if label in answers.tables["delayed"]:
            cost = answers["delayed", label].minus(waiting)
            beyond = Stat(tuple(c - STREAMING * w for c, w in zip(cost.values, waiting.values, strict=True)))
            claim = f"an outer step that comes {delay} of {whole} inner steps late, mixed in, costs less than {STREAMING:.1%}"
            yield Finding(claim, cost.signed(), expect_below(beyond))


def latency(answers: Answers) -> str:
    """4b and 4c."""
    return f"{_late(answers)}\n\n{_delayed(answers)}"


def _late(answers: Answers) -> str:
    return f"""### Work that comes late

A share of the submissions, drawn by seed, comes too late for its round's step, and is applied in the next one beside that round's
own, its weight times an age weight; lost is weight 0. It is one of the submissions that the rule divides by and that medians are over.
Error feedback gives up what was sent when it was sent, in every row. Runs of {OVERDUE_ROUNDS} rounds: θ moves fastest early, so age matters
most there.{_missing(open_latency(answers.rows)[0])}

{difference_table(answers, "overdue", "all in time")}

![What late work still brings, by its weight](img/results-late.svg)

{_late_verdict(answers)}"""


def _missing(count: int) -> str:
    return f" {count} of its runs have not been played yet; `make results` does." if count else ""


def _late_verdict(answers: Answers) -> str:
    played = {weight: list(_gains(answers, weight).values()) for weight in AGE_WEIGHTS}
    gains = {weight: stats for weight, stats in played.items() if len(stats) == len(OVERDUE)}
    if len(gains) < 2:
        return "Until all of it has been played nothing is decided, and no preset takes late work."
    best = min(gains, key=lambda weight: sum(stat.mean for stat in gains[weight]))
    told = over([f"{share:.0%} late" for share in OVERDUE], gains[best])
    if all_below(gains[best]) == "as expected":
        return f"""Against losing it, late work is best at weight {best:g} ({told}), beyond {SURE:g} standard errors for each share: taking
work that is one round late, with that weight, helps. The table shows it of honest work alone, which is late by chance."""
    return f"""Against losing it, late work is best at weight {best:g} ({told}), which is not beyond {SURE:g} standard errors for each share:
no reason to take it, so no preset does."""


def _delayed(answers: Answers) -> str:
    whole = Variant().steps
    rules = "\n".join(f"- `{merge}`: {WAYS[merge]};" for merge in MERGES).rstrip(";")
    return f"""### Training on while a round closes

In a run with a delay (`clock.delay` = 1) a peer goes on training when its submission is made, and the outer step reaches it some inner steps
later: {DELAYS[0]} of the next round's {whole}, or all of them. Every inner step counts, before and after, so tokens are equal. How its weights
go on when θ comes:

{rules}.

Each at the better of two α on the tuning seed; what lost there by more than {HOPELESS:.0%} to the best of its row was not played on
(a whole round late `fresh` is `take`).{_missing(open_latency(answers.rows)[1])}

{_delay_tuning(answers)}

{difference_table(answers, "delayed", "waiting")}

![The cost of training on, by how late the outer step comes](img/results-delay.svg)

What it buys is time. At 72 billion parameters a round trains for {TRAINING_SECONDS / 60:.0f} minutes; a peer sends {_gigabytes(1):.2f} GB and reads
{_gigabytes(_seats()):.1f} GB, at most, of {_seats()} accepted updates:

{_links()}

{_delay_verdict(answers)}"""


def _delay_tuning(answers: Answers) -> str:
    def cell(merge: Merge, delay: int) -> str:
        if (merge, delay) not in set(delays()):
            return "–"
        return "; ".join(
            f"α {c.alpha:g}: {answers.rows[c].final:.3f}" for c in delay_candidates_of(answers.rows, merge, delay)
        )

    header = ("tuning seed", *(f"`{merge}`" for merge in MERGES))
    return table(header, ((f"{delay} steps late", *(cell(merge, delay) for merge in MERGES)) for delay in DELAYS))


def _seats() -> int:
    return load_template("72b").gauntlet.seats


def _gigabytes(updates: int) -> float:
    return updates * max_payload_bytes(codec_of(load_template("72b"))) / 1e9


def _links() -> str:
    def row(bits: float) -> tuple[object, ...]:
        closing = 8e9 * _gigabytes(1 + _seats()) / bits
        synchronous = TRAINING_SECONDS / (TRAINING_SECONDS + closing)
        ahead = TRAINING_SECONDS / max(TRAINING_SECONDS, closing)
        late = min(1.0, closing / TRAINING_SECONDS)
        return f"{bits / 1e9:g} Gb/s", f"{closing:.0f} s", f"{synchronous:.1%}", f"{ahead:.1%}", f"{late:.0%}"

    header = ("link", "up and down", "utilisation, waiting", "with a delay", "inner steps before θ comes")
    return table(header, (row(bits) for bits in LINKS))


def _delay_verdict(answers: Answers) -> str:
    labels = {delay: delay_label("mix", delay) for delay in DELAYS}
    played = {delay: label for delay, label in labels.items() if label in answers.tables["delayed"]}
    if len(played) < len(DELAYS):
        return "Until all of it has been played nothing is decided: `clock.delay` is 0 in every preset."
    costs = {delay: answers["delayed", label].minus(answers["delayed", "waiting"]) for delay, label in played.items()}
    told = "; ".join(
        f"{delay} steps late {cost.signed()}, {_beside_chance(cost)}, which pays {_break_even(answers, cost)}"
        for delay, cost in costs.items()
    )
    return f"""What `mix` costs, and where the time it saves is worth more, by what runs of {LENGTHS[1]} and {LENGTHS[-1]} rounds differ in (section 6):
{told}. So a delay is for runs whose rounds close in a small part of the time they train, or have no choice. It is 0 in every preset: what one
small model shows is for a run's owner to weigh. With 1, this implementation's miners do as `mix`, whenever θ comes."""


def _beside_chance(cost: Stat) -> str:
    return {"against expectation": "beyond chance", "as expected": "better than waiting"}.get(
        expect_below(cost), "not told apart from waiting"
    )


def _break_even(answers: Answers, cost: Stat) -> str:
    """The utilisation below which waiting is worse, by loss that falls with the logarithm of rounds."""
    if cost.mean <= 0:
        return "at any utilisation"
    short, long = (answers["lengths", f"sparse {rounds} rounds"].mean for rounds in (LENGTHS[1], LENGTHS[-1]))
    a_fold = (short - long) / math.log(LENGTHS[-1] / LENGTHS[1])
    return f"where waiting leaves less than {math.exp(-cost.mean / a_fold):.0%} of the time for training"
