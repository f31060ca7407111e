"""What would change a peer's pay: each thing that takes from it now, and what it takes to be rid of it."""

from __future__ import annotations

from collections.abc import Iterator

from muster.history.explain.working import Working, accepted_in
from muster.node.telemetry.words import some
from muster.protocol.incentive.row import ABSENT, COPIER, FAILED
from muster.protocol.incentive.score import sight, worth
from muster.protocol.incentive.words import last_reason


def changes(w: Working) -> list[str]:
    """Sentences, what weighs most first; there is always one."""
    found = [*_round(w), *_seat(w), *_measuring(w), *_gate(w), *_worth(w), *_windows(w)]
    return found or [
        "Nothing is held back. Its share grows only with its work beside the others': more text trained on in a round, "
        "or a larger gain from the same text."
    ]


def _round(w: Working) -> Iterator[str]:
    """What this very round did to it."""
    row, round_ = w.row, w.sent.round
    if row.outcome == FAILED:
        until = "" if row.peer_score else " Nothing is paid for it until its work is measured again."
        yield f"Its work of round {round_} counts for nothing: {last_reason(row)}{until}"
    elif row.outcome == ABSENT:
        paid = "part of its pay is taken off" if row.peer_score else "nothing is paid for it"
        yield f"Absent in round {round_}: {paid}. A valid submission is measured and paid again at once."
    elif not row.windows and w.spec.gauntlet.tokens:
        yield f"Round {round_} has no valid submission of it: nothing is paid for such a round."


def _seat(w: Working) -> Iterator[str]:
    """Whether it has a claim to a seat at all."""
    if w.row.copier:
        rounds = some(w.row.copied - COPIER + 1, "round")
        yield f"It has sent others' work too often to have a seat: {rounds} of its own work give it a claim again."


def _measuring(w: Working) -> Iterator[str]:
    row = w.row
    if not row.evaluated:
        yield "It has not been measured yet: one measured round gives it a rating."
    elif not row.multiplier and row.outcome not in (FAILED, ABSENT):
        yield "It failed or was absent since it was last measured: one measured round makes that good."


def _gate(w: Working) -> Iterator[str]:
    row, spec = w.row, w.spec.gauntlet
    if not row.evaluated:
        return
    missing = spec.mu_warmup - row.tested
    if spec.mu_rule == "t" and missing > 0:
        yield f"{some(missing, 'more tested round').capitalize()} open the gate as far as its μ says."
    full = sight({one.hotkey: one for one in w.rows}, accepted_in(w), spec).full
    if spec.mu_rule == "t" and row.mu < full:
        how = "it is paid in part from"
        if row.mu <= spec.mu_floor:
            how = "only while the run is young is anything paid up to" if row.gate else "nothing is paid up to"
        yield (
            f"Its μ is {row.mu:.3f}: {how} {spec.mu_floor}, all of it from {full:.3g} on. μ rises with updates "
            "that gain more on the text assigned to it than the round's others do: train on that text, from the "
            "round's own θ."
        )
    if spec.mu_rule == "sign" and row.gate == 0.0:
        yield f"Its μ is {row.mu:.3f}: nothing is paid below {spec.mu_floor}."


def _worth(w: Working) -> Iterator[str]:
    row, spec = w.row, w.spec.gauntlet
    if not row.evaluated or spec.rating != "mean":
        return
    if worth(row, spec) == 0.0:
        yield "On average its updates do not lower the loss, so they are worth nothing."
    elif row.work < 1.0:
        yield f"Its work averages {row.work:.3f} of the accepted ones' median; a larger gain a round raises it."


def _windows(w: Working) -> Iterator[str]:
    row, full = w.row, w.full
    if w.spec.gauntlet.tokens and 0 < row.windows < full:
        yield (
            f"It declared {row.windows} of {full} windows: pay is in proportion, so the same rating with all of them "
            f"pays {full / row.windows:.2f} times as much."
        )
