"""What has been applied and may still be taken back: each record is final at some look, or is overtaken at one.

Where the chain shows only what is final nothing ever stands here. A sibling is judged by the θ that it was made from,
so the record that it goes before is taken back first; one that turns out not to be valid is refused, and costs that
once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from muster.node.ledger.reader import Fetched, Pointer, Reader
from muster.protocol.errors import ChainError, LedgerError, StorageError
from muster.protocol.ledger import Tip
from muster.protocol.ledger.forkchoice import before, is_final
from muster.protocol.ledger.round import ENDED, Event, Phase, RecordFinal, Tick
from muster.protocol.types import Block

log = logging.getLogger(__name__)


class AppliedRound(Protocol):
    """A round whose record has been applied."""

    @property
    def tip(self) -> Tip:
        """Where the ledger stood before it."""

    @property
    def phase(self) -> Phase:
        """How far it is."""

    @property
    def record(self) -> bytes:
        """The digest of the record that was applied."""

    async def feed(self, events: Iterable[Event]) -> bool:
        """Tell it what is known now, and do what follows."""

    async def take_back(self) -> None:
        """Take its record back; returns once that is done."""


class Tentative:
    """Rounds that are applied and not final, oldest first."""

    def __init__(self, reader: Reader, complain: Callable[[str], None]) -> None:
        self._reader = reader
        self._complain = complain
        self._rounds: list[AppliedRound] = []
        self._overtaken: AppliedRound | None = None
        self._at_hand: Fetched | None = None

    def __len__(self) -> int:
        """How many there are."""
        return len(self._rounds)

    def add(self, round_: AppliedRound) -> None:
        """A round has been applied."""
        self._rounds.append(round_)

    def take(self, digest: bytes) -> Fetched | None:
        """The record that has overtaken one, and all it names, if it has this digest; it is kept no longer."""
        found = self._at_hand
        if found is None or found.digest != digest:
            return None
        self._at_hand = None
        return found

    async def look(self, head: Block) -> bool:
        """Tell the rounds that are final at block `head` so; whether one of the others has been overtaken."""
        for round_ in self._rounds:
            try:
                self._at_hand = await self._overtaking(round_, head)
            except (StorageError, ChainError, LedgerError) as error:
                self._complain(f"whether the record of round {round_.tip.round} stands cannot be seen: {error}")
                break
            if self._at_hand is not None:
                self._overtaken = round_
                break
        self._rounds = [round_ for round_ in self._rounds if round_.phase not in ENDED]
        return self._overtaken is not None

    async def _overtaking(self, round_: AppliedRound, head: Block) -> Fetched | None:
        """A record at hand that goes before this round's; None where there is none, or this one is final."""
        pointers = await self._reader.anchored(round_.tip)
        found = [pointer.claim for pointer in pointers]
        if is_final(found, round_.record):
            await round_.feed([Tick(head.number), RecordFinal()])
            return None
        ahead = {claim.digest for claim in before(found, round_.record)}
        for pointer in pointers:
            if pointer.digest in ahead and (fetched := await self._fetched(pointer, round_.tip)) is not None:
                return fetched
        return None

    async def _fetched(self, pointer: Pointer, tip: Tip) -> Fetched | None:
        """A record and all it names; None where it is not to be had, and does not count until it is."""
        try:
            return await self._reader.fetch(pointer, tip)
        except (StorageError, ChainError) as error:
            self._complain(f"another record of round {tip.round} is not to be had yet: {error}")
        except LedgerError as error:
            self._reader.refuse(tip, pointer.digest)
            log.error("another record of round %d is not valid: %s", tip.round, error)
        return None

    async def go_back(self) -> None:
        """Take back the record that has been overtaken, and before it, newest first, those that came after it."""
        while self._overtaken is not None:
            newest = self._rounds[-1]
            await newest.take_back()
            self._rounds.pop()
            if newest is self._overtaken:
                self._overtaken = None
