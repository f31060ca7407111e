"""Where a run stands and what it waits for, by ledger and chain alone: what `muster status` tells."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from muster.history.status import printable
from muster.history.story.facts import LedgerRound
from muster.history.story.gather import read_round
from muster.history.waits import Named, sentences
from muster.node.directory import Directory
from muster.node.telemetry.words import SHORT
from muster.protocol import ledger
from muster.protocol.chain.base import Chain
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.ledger import Tip
from muster.protocol.ledger.waiting import Awaited, Lack, Seen, Stage, Waiting, waiting
from muster.protocol.spec.history import SpecHistory
from muster.run.fetch import open_run

WORD = 12
"""Columns of the words on the left."""

MIN_TEXT = 30
"""Columns that a sentence has on the narrowest terminal."""

_THEN = {
    Lack.SUBMISSIONS: "seals without them",
    Lack.MORE_SUBMISSIONS: "seals what is in",
    Lack.DEADLINE: "seals what is in",
    Lack.MIN_BLOCK: "seals what is in",
    Lack.KEYS: "goes on without them",
    Lack.SCORES: "goes on without them",
}
"""What the leader does when its block has come."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One look at a run: what was seen, the ledger's tip, what is waited for, and slots by public key."""

    seen: LedgerRound
    tip: Tip
    waiting: Waiting
    uids: Mapping[bytes, int]

    def name(self, public: bytes, _role: str = "") -> str:
        """Slot and hotkey, short."""
        uid = self.uids.get(public)
        return f"{'no slot' if uid is None else f'uid {uid}'} {hotkey_of(public)[:SHORT]}"

    @property
    def sentences(self) -> list[str]:
        """What is waited for, a sentence each."""
        return sentences(self.waiting, self.tip, Named(self.name, self.seen.silent))

    def to_json_object(self) -> dict[str, object]:
        """What `muster status --json` prints; hotkeys are addresses."""
        found, tip = self.waiting, self.tip
        return {
            "run_id": tip.run_id.hex(),
            "round": found.round,
            "phase": found.phase.value,
            "block": found.block,
            "outer_step": tip.outer_step,
            "leader": hotkey_of(found.leader),
            "turn": found.turn,
            "next_turn_block": found.next_turn,
            "rescue_block": found.rescue,
            "waits_for": [
                self._awaited(one, sentence) for one, sentence in zip(found.awaited, self.sentences, strict=True)
            ],
            "can_move_it": [hotkey_of(public) for public in found.movers],
            "late": [hotkey_of(public) for public in found.late],
            "not_final": found.unfinal
            and {
                "round": found.unfinal.round,
                "anchors_missing": [hotkey_of(public) for public in found.unfinal.missing],
            },
            "silent": sorted(hotkey_of(public) for public in self.seen.silent),
            "problems": list(self.seen.problems),
        }

    def _awaited(self, one: Awaited, sentence: str) -> dict[str, object]:
        whom = [hotkey_of(public) for public in one.whom]
        return {"what": one.what.value, "whom": whom, "until_block": one.until, "sentence": sentence}


async def read_standing(run: str, chain: str | None = None, allow: str = "") -> Standing:
    """Where a run stands, by its folder or URL; `chain` and `allow` are the settings. Nothing is written.

    Raises:
        ConfigError: no such run.
        ChainError: the chain does not answer.
        StorageError, LedgerError: the ledger cannot be read; the sentence says what the chain shows all the same.
    """
    directory = await open_run(run, allow=allow)
    client, buckets = directory.chain(chain, read_only=True), directory.buckets(allow=allow)
    try:
        return await look(directory.history, client, Directory(client, buckets, directory.history.run_id))
    finally:
        await client.close()
        await buckets.close()


async def look(history: SpecHistory, chain: Chain, directory: Directory) -> Standing:
    """One look; raises as `read_standing`."""
    try:
        seen = await read_round(history, chain, directory, None)
    except (StorageError, LedgerError) as error:
        raise type(error)(f"{error} ({await _by_the_chain(chain)})") from error
    uids = {public_of(peer.hotkey): peer.uid for peer in (await chain.snapshot()).peers}
    tip, open_ = seen.tip, seen.open_round()
    if seen.closing and seen.anchored and seen.record is not None:
        tip, open_ = ledger.advance(tip, seen.record, seen.digest), Seen(seen.block)
    return Standing(seen, tip, waiting(tip, open_, seen.unfinal), uids)


async def _by_the_chain(chain: Chain) -> str:
    """What is known without the ledger: time, and who has anchored last."""
    block, anchors = (await chain.head()).number, await chain.anchors(0)
    if not anchors:
        return f"the chain is at block {block} and shows no anchor"
    newest = max(anchors, key=lambda seen: (seen.anchor.round, -seen.block))
    return (
        f"the chain is at block {block}; the newest anchor is of round {newest.anchor.round}, made in block "
        f"{newest.block} by {newest.hotkey}, whose bucket has to serve it"
    )


def page(standing: Standing, width: int) -> str:
    """All of it for a person, in lines of `width` columns where that leaves sentences `MIN_TEXT`."""
    found, tip, run = standing.waiting, standing.tip, standing.tip.run_id.hex()
    lines = [f"Round {found.round} of {printable(tip.spec.name)} (run {run[: 2 * SHORT]}), block {found.block}"]
    for word, text in _lines(standing):
        head = f"  {word:<{WORD}}"
        columns = max(width, len(head) + MIN_TEXT)
        shown = printable(text).replace(run, run[:SHORT])
        lines.append(
            textwrap.fill(
                shown, columns, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
            )
        )
    return "\n".join(lines)


def _lines(standing: Standing) -> Iterator[tuple[str, str]]:
    """A word and a sentence each."""
    found, named = standing.waiting, Named(standing.name)
    yield "phase", _PHASES[found.phase]
    for sentence in standing.sentences:
        yield "waits for", sentence
    if found.movers:
        yield "can move it", named.whose(found.movers)
    for one in found.awaited:
        if one.what in _THEN:
            yield "then", f"at block {one.until} {standing.name(found.leader)}, the leader, {_THEN[one.what]}"
    if found.late:
        yield "late", named.whose(found.late)
    if found.next_turn is not None:
        following = standing.name(standing.tip.leader(found.turn + 1))
        yield "next turn", f"from block {found.next_turn} on {following} may close the round, too"
    if not standing.tip.closed and found.block >= standing.tip.opening.anchor_by:
        yield "rescue", f"from block {found.rescue} on whom the owner names may close the round (spec amend --rescue)"
    if found.unfinal is not None and found.phase is not Stage.NOT_FINAL:
        missing = f": no anchor of {named.whose(found.unfinal.missing)}" if found.unfinal.missing else ""
        yield "not final", f"the records from round {found.unfinal.round} on{missing}"
    for problem in standing.seen.problems:
        yield "problem", problem


_PHASES = {
    Stage.SUBMIT: "submit: miners train and send",
    Stage.REVEAL: "reveal: the round is sealed, keys are shown",
    Stage.RECORD: "record: the round is being decided",
    Stage.NOT_FINAL: "not final: what is decided may still be taken back",
    Stage.CLOSED: "closed: the run is over",
}
