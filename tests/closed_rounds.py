"""A round as its leader closed it, so that tests can break one rule of its record at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from blake3 import blake3
from builders import (
    LEADER,
    MINERS,
    beacon,
    block,
    header,
    identity,
    layout,
    payload_key,
    possession_of,
    run_spec,
    theta,
    update,
)

from muster.kernels import SparseUpdate
from muster.protocol import wire
from muster.protocol.identity import Identity
from muster.protocol.ledger import Applied, Tip, genesis_tip, open_bundle, prepare, verify
from muster.protocol.ledger.bundle import Opened, write_bundle
from muster.protocol.ledger.roots import held_digest, state_root
from muster.protocol.rules.admission import admit
from muster.protocol.spec.history import SpecHistory
from muster.protocol.wire import Entry, Record, Seal
from muster.validator.aggregator.compose import Decision, Work, compose
from muster.validator.aggregator.intake import Head

LEAD = identity(LEADER)
ALICE, BOB = (identity(name).public for name in MINERS)


@dataclass(frozen=True)
class Closed:
    """A round as its leader closed it: the record, and all that `verify` judges it by."""

    tip: Tip
    record: Record
    seal: Seal
    bundle: bytes

    def verify(self, **changes: Any) -> Applied:
        """Judge the record, with `changes` to what the judge holds."""
        run_id, root = self.tip.run_id, state_root(theta(), layout(), self.tip.run_id, self.tip.outer_step)
        seal, seal_digest = wire.decode_seal(wire.encode_seal(self.seal, LEAD), run_id)
        record, digest = wire.decode_record(wire.encode_record(self.record, LEAD), run_id, len(layout().shapes))
        # A record and a seal by somebody else than the leader are made by `replace`, not by signing.
        record, seal = replace(record, leader=self.record.leader), replace(seal, leader=self.seal.leader)
        proof = changes.pop("possession", possession_of(self.tip.opening))
        judged: dict[str, Any] = {
            "seal": (seal, seal_digest),
            "root": root,
            "admit": partial(admit, self.tip.facts(proof)),
            "open_accepted": open_bundle(self.tip, record, self.bundle),
            "held": lambda beacon: held_digest(theta(), layout(), beacon),
        }
        return verify(self.tip, record, digest, **(judged | changes))


def open_tip(**sections: Any) -> Tip:
    """Round 0 of the small run, opened at block 0."""
    return genesis_tip(SpecHistory.of(run_spec(**sections)), beacon("assign"), beacon("possess"))


@dataclass(frozen=True)
class Taken:
    """One miner's submission as a leader holds it: its head, and what its key opens once there is a seal to answer."""

    miner: Identity
    head: Head
    key: bytes
    ciphertext: bytes
    work: SparseUpdate

    def opened(self, seal: bytes) -> Opened:
        """With a key that answers the seal with this digest."""
        signed = self.head.signed
        assert signed is not None
        key = wire.encode_key(self.miner, signed.header.run_id, signed.header.round, self.key, seal)
        return Opened(signed, key, self.ciphertext)


def taken_in(tip: Tip, name: str, uid: int, work: SparseUpdate | None = None, **changes: Any) -> Taken:
    """One miner's submission of the open round, its own work where none is given; `changes` to the header."""
    miner, facts, key = identity(name), tip.facts(possession_of(tip.opening)), payload_key(uid)
    work = work or update(uid + 1)
    ciphertext = wire.encrypt_payload(work, key, tip.run_id, tip.round, miner.public)
    head = wire.encode_head(replace(header(facts, miner, uid, ciphertext, key), **changes), miner)
    return Taken(miner, Head(miner.public, head, "", wire.decode_head(head, tip.run_id)), key, ciphertext, work)


def close(
    tip: Tip,
    taken: Sequence[Taken],
    failures: dict[bytes, str] | None = None,
    answering: bytes | None = None,
    late: Sequence[tuple[Taken, bytes]] = (),
    **decision: Any,
) -> Closed:
    """Seal at block 5, or as soon after it as may be, or at the deadline where an expected peer is missing, and record
    two blocks later.

    The keys answer that seal, or the one with the digest `answering`. `late` is work of earlier rounds that is taken
    in, each with the digest of the seal that its key answers.
    """
    heads = {one.head.public: one.head for one in taken}
    failed = failures or {}
    listed = tuple((public, wire.head_digest(heads[public].data)) for public in sorted(heads))
    in_time = heads.keys() >= set(tip.opening.expected) and len(heads) >= tip.spec.clock.min_submissions
    sealed = max(5, tip.opening.min_block) if in_time else tip.opening.deadline
    seal = Seal(tip.run_id, LEAD.public, tip.round, tip.parent, 0, block(sealed), listed)
    _, seal_digest = wire.decode_seal(wire.encode_seal(seal, LEAD), tip.run_id)
    decided: dict[str, Any] = {
        "seal": seal,
        "seal_digest": seal_digest,
        "root": state_root(theta(), layout(), tip.run_id, tip.outer_step),
        "scores": (),
        "assign": beacon("assign", tip.round + 1, tip.opening.open.number),
        "possess": beacon("possess", tip.round + 1, sealed + 2),
    }
    made = Decision(**(decided | decision))
    choice = tip.choose({peer: head.reason or failed.get(peer, "") for peer, head in heads.items()}, made.scores)
    accepted = [one for peer in choice.accepted for one in taken if one.head.public == peer]
    opened = [one.opened(answering or seal_digest) for one in accepted] + [one.opened(seal) for one, seal in late]
    headers, works = [one.signed.header for one in opened], [*accepted, *(one for one, _ in late)]
    ages = [tip.round - header.round for header in headers[len(accepted) :]]
    weighed = prepare([one.work for one in works], [each.windows for each in headers], tip.spec, ages)
    bundle = write_bundle(opened)
    entries = tuple(
        Entry(one.head.public, each.round, one.head.data, "") for one, each in zip(works, headers, strict=True)
    )
    work = Work(choice, weighed, blake3(bundle).digest(), len(bundle), entries[len(accepted) :])
    return Closed(tip, compose(tip, made, {peer: head.data for peer, head in heads.items()}, work), seal, bundle)


@cache
def good() -> Closed:
    """Round 0 with both miners accepted."""
    tip = open_tip()
    return close(tip, [taken_in(tip, name, uid) for name, uid in zip(MINERS, range(2), strict=True)])


def changed(closed: Closed, **fields: Any) -> Closed:
    """The record with other fields, the rest as it was."""
    return replace(closed, record=replace(closed.record, **fields))


def with_seal(closed: Closed, **fields: Any) -> Closed:
    """The seal changed, and the record naming the changed one, which its keys do not answer."""
    seal = replace(closed.seal, **fields)
    _, digest = wire.decode_seal(wire.encode_seal(seal, LEAD), closed.tip.run_id)
    return replace(changed(closed, seal=digest), seal=seal)


def with_entry(closed: Closed, at: int, **fields: Any) -> Closed:
    """An entry changed, with the weights' shape following the number of accepted ones."""
    entries = list(closed.record.entries)
    entries[at] = replace(entries[at], **fields)
    count = sum(not entry.reason for entry in entries)
    weights = np.ones((count, len(layout().shapes)), np.float32)
    return changed(closed, entries=tuple(entries), weights=weights)


def with_opening(closed: Closed, **fields: Any) -> Closed:
    """The opening of the next round changed."""
    assert closed.record.opening is not None
    return changed(closed, opening=replace(closed.record.opening, **fields))
