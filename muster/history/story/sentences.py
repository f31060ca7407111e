"""What a journal's event is called in plain English; whether it says that something went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from muster.history.story.facts import SHORT

Sentence = tuple[str, bool]
"""What happened, and whether it is a failure."""

_APPLIED = {"round": "applied the record", "null": "passed the null record, θ stays", "close": "closed its ledger"}
_FAILURES = {
    "trouble": "{problem}",
    "refused": "refused the record {record}: {problem}",
    "lost": "has nothing to submit in this round: {problem}",
    "unregistered": "sits the round out: its hotkey has no slot",
    "unpublished": "could not store its scores: {problem}",
    "unmirrored": "could not copy the record into its own bucket: {problem}",
    "seal_refused": "keeps its key from the seal {seal}: {problem}",
}
"""Events that say what went wrong."""


def sentence(facts: Mapping[str, Any]) -> Sentence:
    """One event that is no transition; one that is not known, or lacks its facts, is told by its name."""
    event = str(facts.get("event", ""))
    failure = _FAILURES.get(event)
    if failure is not None:
        record = str(facts.get("record", ""))[:SHORT]
        seal = str(facts.get("seal", ""))[:SHORT]
        return failure.format(problem=facts.get("problem", ""), record=record, seal=seal), True
    return _work(facts) or _decision(facts) or event, False


def _work(facts: Mapping[str, Any]) -> str:
    """What miners and validators do; "" for what else there is."""
    said = ""
    match facts:
        case {"event": "training"}:
            said = "began to train"
        case {"event": "trained", "steps": steps, "seconds": int() | float() as spent, "loss": int() | float() as loss}:
            said = f"trained {steps} steps in {spent:.1f} s, mean loss {loss:.3f} nat/token"
        case {"event": "submitted", "bytes": int(count)}:
            said = f"sent its submission, {size(count)}"
        case {"event": "key"}:
            said = "showed its key"
        case {"event": "scored", "peers": list(peers)}:
            said = f"published its scores of {some(len(peers), 'peer')}"
        case {"event": "weights", "weights": dict(weights)}:
            said = f"set the weights of {some(len(weights), 'slot')}"
        case {"event": "heldout", "loss": int() | float() as loss}:
            said = f"measured a held-out loss of {loss:.3f} nat/token"
    return said


def _decision(facts: Mapping[str, Any]) -> str:
    """What a leader decides, and what everybody does with it; "" for what else there is."""
    said = ""
    match facts:
        case {"event": "sealed", "submissions": int(count), "block": int(block)}:
            said = f"sealed {some(count, 'submission')} as of block {block}"
        case {"event": "checkpoint", "bytes": int(count)}:
            said = f"stored a checkpoint, {size(count)}"
        case {"event": "recorded", "record": str(digest)}:
            accepted = facts.get("accepted")
            said = f"published the record {digest[:SHORT]}" + ("" if accepted is None else f", {accepted} accepted")
        case {"event": "applied", "kind": str(kind), "root": str(root)}:
            said = f"{_APPLIED.get(kind, kind)}; state root {root[:SHORT]}"
    return said


def size(count: int) -> str:
    """Bytes, short."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def some(count: int, thing: str) -> str:
    """A count with its noun."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def blocks(numbers: Sequence[int]) -> str:
    """Blocks at which something happened, in order."""
    first, last = numbers[0], numbers[-1]
    if len(numbers) == 1:
        return f"block {first}"
    if last - first == len(numbers) - 1:
        return f"blocks {first} to {last}"
    return f"{len(numbers)} blocks from {first} to {last}"
