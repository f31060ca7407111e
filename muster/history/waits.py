"""What a run waits for (`protocol/ledger/waiting`) as sentences for a person, the same in every command."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from muster.node.telemetry.words import some
from muster.protocol.ledger import Tip
from muster.protocol.ledger.waiting import Awaited, Lack, Waiting

LEADER, VALIDATOR = "aggregator", "validator"
"""An operator's two processes, where the name says which is meant."""


@dataclass(frozen=True, slots=True)
class Named:
    """What peers are called: by public key and, of an operator, the role that is meant; `silent` ones do not answer."""

    name: Callable[[bytes, str], str]
    silent: frozenset[bytes] = frozenset()

    def whose(self, peers: Iterable[bytes], role: str = "") -> str:
        """Several, in order."""
        return ", ".join(sorted(self._one(peer, role) for peer in peers))

    def _one(self, peer: bytes, role: str) -> str:
        return self.name(peer, role) + (" (whose bucket does not answer)" if peer in self.silent else "")


def sentences(waiting: Waiting, tip: Tip, named: Named) -> list[str]:
    """One for each thing that is awaited."""
    return [_sentence(one, waiting, tip, named) for one in waiting.awaited]


def _sentence(one: Awaited, waiting: Waiting, tip: Tip, named: Named) -> str:
    now, until, in_ = f"now {waiting.block}", f"until block {one.until}", "everybody expected is in"
    due = f", due since block {one.until}" if one.until is not None and one.until <= waiting.block else ""
    leader, judged = named.whose(one.whom, LEADER), waiting.unfinal.round if waiting.unfinal else waiting.round
    match one.what:
        case Lack.SUBMISSIONS:
            text = f"the submission of {named.whose(one.whom)}, {until} ({now})"
        case Lack.MORE_SUBMISSIONS:
            text = f"{some(tip.spec.clock.min_submissions, 'submission')} in all, {until} ({now}): {in_}"
        case Lack.DEADLINE:
            text = f"the deadline, block {one.until} ({now}): nobody is expected"
        case Lack.MIN_BLOCK:
            text = f"block {one.until} ({now}): {in_}"
        case Lack.KEYS:
            text = f"the key of {named.whose(one.whom)}, {until} ({now})"
        case Lack.SCORES:
            whose = named.whose(one.whom, VALIDATOR)
            text = f"the scores of {whose} for round {tip.score_rounds[0]}, {until} at most ({now})"
        case Lack.SEAL:
            text = f"{leader} to publish the seal{due or ('' if waiting.turn else f': {in_}')} ({now})"
        case Lack.RECORD:
            text = f"{leader} to publish the record{due} ({now})"
        case Lack.ANCHOR:
            text = f"{leader} to anchor the record, which lies in its bucket{due} ({now})"
        case Lack.VOTES:
            text = f"the anchor of {leader}, without which round {judged} is not final ({now})"
        case Lack.FINAL_BLOCK:
            text = f"the chain to make the anchors of round {judged} final ({now})"
    return text
