"""The proofs that a leader signed two where there may be one: found, published, and carried by the record one leads.

All of it is read beside the round, and never waited for: what is found too late for a record is there for the next one.
"""

from __future__ import annotations

import asyncio
import logging

from muster.node.context import Context
from muster.node.ledger.participant import Errands
from muster.node.ledger.witness import Witness
from muster.node.telemetry import events
from muster.protocol import paths
from muster.protocol.errors import ChainError, StorageError, WireError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Tip
from muster.protocol.reasons import KEY_MISSING, KEY_SEAL, LATE
from muster.protocol.rules.equivocation import strikeable
from muster.protocol.storage import Store
from muster.protocol.wire import MAX_EQUIVOCATION_BYTES, Record, decode_equivocation, encode_equivocation

log = logging.getLogger(__name__)

ASKED = 4
"""Miners of a round that are asked which seal they answered."""


class Twice:
    """What one aggregator knows of leaders that signed two, from round to round.

    Where it is alone on the list there is nobody to look at.
    """

    def __init__(self, context: Context, run_id: bytes) -> None:
        self._context = context
        self._witness = Witness(run_id)
        self._run_id = run_id
        self._signers: frozenset[bytes] = frozenset()
        self._proofs: dict[bytes, tuple[int, bytes]] = {}
        self._published: set[bytes] = set()
        self._false: set[tuple[bytes, str]] = set()
        self._left_out: tuple[int, tuple[bytes, ...]] = (0, ())

    def saw(self, data: bytes) -> None:
        """A seal or record has been read, for whatever reason."""
        if len(self._signers) > 1:
            self._witness.take(data, self._signers)

    def recorded(self, tip: Tip, record: Record) -> None:
        """The record of a round has been applied; `tip` is the one before it.

        Whose work it does not count although it was there or expected may have answered another seal.
        """
        refused = [entry.public for entry in record.sealed if entry.reason in (KEY_SEAL, KEY_MISSING, LATE)]
        absent = set(tip.opening.expected) - {entry.public for entry in record.sealed}
        self._left_out = record.round, (*refused, *sorted(absent))[:ASKED]

    def look(self, tip: Tip, errands: Errands) -> None:
        """Look into the others' buckets in the background."""
        self._signers = frozenset(tip.leaders)
        if len(self._signers) > 1:
            errands.start(self._look(tip))

    async def _look(self, tip: Tip) -> None:
        round_, peers = self._left_out
        try:
            stores = await self._context.directory.stores_of(tip.leaders)
            asked = await self._context.directory.stores_of(peers)
        except ChainError as error:
            log.info("what leaders signed cannot be looked for: %s", error)
            return
        await self._witness.look(stores, tip.round)
        answered = paths.answered(self._run_id, round_)
        await asyncio.gather(*(self._witness.read([store], answered, self._signers) for store in asked.values()))
        await asyncio.gather(*(self._others(owner, store) for owner, store in stores.items()))
        await self._publish()

    async def _others(self, owner: bytes, store: Store) -> None:
        """Proofs that another aggregator has published; what is none is not read there again."""
        names = {paths.proof_of_two(self._run_id, signer): signer for signer in self._signers}
        try:
            listed = await store.list(paths.proofs_of_two(self._run_id), limit=len(names))
            for info in listed:
                signer = names.get(info.key)
                if signer is None or signer in self._proofs or (owner, info.key) in self._false:
                    continue
                data = await store.get(info.key, max_bytes=MAX_EQUIVOCATION_BYTES)
                try:
                    once = decode_equivocation(data, self._run_id)[0].once
                except WireError as error:
                    log.info("%s has published a proof that is none: %s", hotkey_of(owner), error)
                    once = None
                if once is not None and once.signer == signer:
                    self._proofs[signer] = once.round, data
                else:
                    self._false.add((owner, info.key))
        except StorageError as error:
            log.info("the proofs of %s cannot be read: %s", hotkey_of(owner), error)

    async def _publish(self) -> None:
        """Put what was found into the own bucket, each once; what fails is tried in the next round."""
        identity, bucket, journal = self._context.identity, self._context.bucket, self._context.journal
        for signer, (once, first, second) in self._witness.caught.items():
            if signer not in self._proofs:
                self._proofs[signer] = once.round, encode_equivocation(identity, self._run_id, first, second)
                what = f"{once.type.name.lower()}s"
                journal.note(events.SignedTwice(once.round, leader=hotkey_of(signer), what=what))
        for signer, (_, data) in self._proofs.items():
            if signer in self._published:
                continue
            try:
                await bucket.put(paths.proof_of_two(self._run_id, signer), data)
                self._published.add(signer)
            except StorageError as error:
                log.info("the proof against %s cannot be stored yet: %s", hotkey_of(signer), error)

    def carried(self, tip: Tip) -> tuple[bytes, ...]:
        """The proof that the open round's record carries, of those that are known: one a record."""
        listed = [signer for signer in tip.leaders if signer not in tip.struck]
        known = sorted(self._proofs.items())
        due = (data for signer, (round_, data) in known if strikeable(signer, listed) and round_ <= tip.round)
        return tuple(due)[:1]
