"""The round record: everything one round decided on, signed, chained to the record before it.

A record that is valid and anchored *is* the round: every participant applies exactly what it names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from muster.protocol.errors import WireError
from muster.protocol.identity import PUBLIC_BYTES, Identity
from muster.protocol.types import Beacon, Block
from muster.protocol.wire.envelope import MAX_SIGNED_BYTES, Type, read_object, write_object
from muster.protocol.wire.seal import MAX_SEALED, chunks
from muster.protocol.wire.tlv import Cursor, Fields, ascii_text, counted, f64, u8, u32, u64, whole

MAX_REASON = 64
MAX_AMENDMENTS = 16
MAX_PROOFS = 16


class Kind(IntEnum):
    """What a record does: step θ, close a round in which too little came in, or end the run."""

    ROUND = 0
    NULL = 1
    CLOSE = 2


@dataclass(frozen=True, slots=True)
class Opening:
    """What a record fixes for the next round. Blocks are heights; `expected` is A in key order.

    By `anchor_by` the leader's record must be anchored; after it the turn passes on.
    """

    round: int
    open: Block
    min_block: int
    deadline: int
    anchor_by: int
    expected: tuple[bytes, ...]
    base_round: int
    spec_digest: bytes
    assign: Beacon
    possess: Beacon


@dataclass(frozen=True, slots=True)
class Entry:
    """One sealed submission: its head as signed, and why it was rejected ("" = accepted).

    `round` is the one it was sealed in: an earlier one than the record's where it is late work that is taken in.
    """

    public: bytes
    round: int
    head: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class UsedScore:
    """One peer's PeerScore by one validator; `positive` says it ever had a positive LossScore, `copier` that it has
    sent others' work too often of late."""

    public: bytes
    score: float
    positive: bool
    copier: bool = False


@dataclass(frozen=True, slots=True)
class ScoresUsed:
    """The part of one validator's score file that selection uses, with the digest of the file."""

    validator: bytes
    stake: int
    round: int
    digest: bytes
    rows: tuple[UsedScore, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One round. `root` is the state root of θ before it is applied; weights are (accepted, tensors) float32.

    `unmoved` are the tensors, by their numbers and ascending, that it leaves alone because too few of the accepted
    bring anything for them.

    `checkpoint` is the digest of the manifest of θ before this record, or 32 zero bytes where there is none.
    `amendments` and `proofs` are whole objects.
    """

    run_id: bytes
    leader: bytes
    round: int
    kind: Kind
    parent: bytes
    turn: int
    seal: bytes
    outer_step: int
    root: bytes
    spec_digest: bytes
    entries: tuple[Entry, ...]
    scores: tuple[ScoresUsed, ...]
    weights: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    unmoved: tuple[int, ...]
    bundle: bytes
    bundle_bytes: int
    checkpoint: bytes
    amendments: tuple[bytes, ...]
    proofs: tuple[bytes, ...]
    opening: Opening | None

    @property
    def sealed(self) -> tuple[Entry, ...]:
        """The entries of the round's own work, in the order of its seal, which lists them."""
        return tuple(entry for entry in self.entries if entry.round == self.round)

    @property
    def late(self) -> tuple[Entry, ...]:
        """The entries of earlier rounds' work, which come after the round's own."""
        return tuple(entry for entry in self.entries if entry.round != self.round)

    @property
    def seated(self) -> tuple[Entry, ...]:
        """The round's own work that is applied, in record order."""
        return tuple(entry for entry in self.sealed if not entry.reason)

    @property
    def accepted(self) -> tuple[Entry, ...]:
        """All that is applied, in record order: what is seated, and late work after it."""
        return tuple(entry for entry in self.entries if not entry.reason)


_KIND = 4
PARENT = 5
TURN = 6
_SEAL = 7
_STEP = 8
_ROOT = 9
_SPEC = 10
_ENTRIES = 11
_SCORES = 12
_WEIGHTS = 13
_BUNDLE = 14
_BUNDLE_BYTES = 15
_CHECKPOINT = 16
_AMENDMENTS = 17
_PROOFS = 18
_OPENING = 19
_UNMOVED = 20


def encode_record(record: Record, identity: Identity) -> bytes:
    """The signed object."""
    fields = {
        _KIND: u8(record.kind),
        PARENT: record.parent,
        TURN: u32(record.turn),
        _SEAL: record.seal,
        _STEP: u64(record.outer_step),
        _ROOT: record.root,
        _SPEC: record.spec_digest,
        _ENTRIES: counted(_write_entry(entry) for entry in record.entries),
        _SCORES: counted(_write_scores(scores) for scores in record.scores),
        _WEIGHTS: record.weights.astype("<f4").tobytes(),
        _BUNDLE: record.bundle,
        _BUNDLE_BYTES: u64(record.bundle_bytes),
        _CHECKPOINT: record.checkpoint,
        _AMENDMENTS: counted(record.amendments),
        _PROOFS: counted(record.proofs),
    }
    if record.opening:
        fields[_OPENING] = _write_opening(record.opening)
    fields[_UNMOVED] = b"".join(map(u32, record.unmoved))
    return write_object(Type.RECORD, identity, record.run_id, record.round, fields)


def decode_record(data: bytes, run_id: bytes, tensors: int) -> tuple[Record, bytes]:
    """The record and its digest; `tensors` is how many weights an accepted submission has.

    Raises:
        WireError: `record_size` where it is larger, its proofs left out, than what two signatures are shown by; or with
            the reason.
    """
    envelope = read_object(data, Type.RECORD, run_id)
    fields = envelope.fields
    if len(data) - len(fields.raw(_PROOFS)) > MAX_SIGNED_BYTES:
        raise WireError("record_size", f"{len(data)} bytes")
    kind = fields.u8(_KIND)
    if kind not in (Kind.ROUND, Kind.NULL, Kind.CLOSE):
        raise WireError("record_kind", f"kind {kind}")
    entries = tuple(whole(item, _read_entry) for item in whole(fields.raw(_ENTRIES), lambda c: c.items(MAX_SEALED)))
    opening = fields.get(_OPENING)
    record = Record(
        run_id=run_id,
        leader=envelope.signer,
        round=envelope.round,
        kind=Kind(kind),
        parent=fields.digest(PARENT),
        turn=fields.u32(TURN),
        seal=fields.digest(_SEAL),
        outer_step=fields.u64(_STEP),
        root=fields.digest(_ROOT),
        spec_digest=fields.digest(_SPEC),
        entries=entries,
        scores=tuple(whole(item, _read_scores) for item in whole(fields.raw(_SCORES), lambda c: c.items(MAX_SEALED))),
        weights=_read_weights(fields, sum(not entry.reason for entry in entries), tensors),
        unmoved=whole(fields.raw(_UNMOVED), lambda cursor: _read_unmoved(cursor, tensors)),
        bundle=fields.digest(_BUNDLE),
        bundle_bytes=fields.u64(_BUNDLE_BYTES),
        checkpoint=fields.digest(_CHECKPOINT),
        amendments=tuple(whole(fields.raw(_AMENDMENTS), lambda c: c.items(MAX_AMENDMENTS))),
        proofs=tuple(whole(fields.raw(_PROOFS), lambda c: c.items(MAX_PROOFS))),
        opening=None if opening is None else whole(opening, _read_opening),
    )
    fields.end()
    if (record.opening is None) != (record.kind is Kind.CLOSE):
        raise WireError("record_opening", "every record but the closing one opens the next round")
    return record, envelope.digest


def _write_entry(entry: Entry) -> bytes:
    return entry.public + u64(entry.round) + u8(len(entry.reason)) + entry.reason.encode("ascii") + entry.head


def _read_entry(cursor: Cursor) -> Entry:
    public, round_ = cursor.take(PUBLIC_BYTES), cursor.u64()
    reason = ascii_text(cursor.take(cursor.u8()), MAX_REASON)
    return Entry(public, round_, cursor.rest(), reason)


def _write_scores(scores: ScoresUsed) -> bytes:
    rows = b"".join(row.public + f64(row.score) + u8(row.positive + 2 * row.copier) for row in scores.rows)
    return scores.validator + u64(scores.stake) + u64(scores.round) + scores.digest + u32(len(scores.rows)) + rows


def _read_scores(cursor: Cursor) -> ScoresUsed:
    validator, stake, round_, digest = cursor.take(PUBLIC_BYTES), cursor.u64(), cursor.u64(), cursor.take(32)
    count = cursor.u32()
    if count > MAX_SEALED:
        raise WireError("too_many", f"{count} score rows")
    rows = tuple(UsedScore(cursor.take(PUBLIC_BYTES), cursor.f64(), *_read_flags(cursor)) for _ in range(count))
    return ScoresUsed(validator, stake, round_, digest, rows)


def _read_flags(cursor: Cursor) -> tuple[bool, bool]:
    value = cursor.u8()
    if value > 3:
        raise WireError("flag", f"{value} where 0 to 3 is expected")
    return bool(value & 1), bool(value & 2)


def _read_weights(fields: Fields, accepted: int, tensors: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    value = fields.sized(_WEIGHTS, 4 * accepted * tensors)
    return np.frombuffer(value, dtype="<f4").astype(np.float32).reshape(accepted, tensors)


def _read_unmoved(cursor: Cursor, tensors: int) -> tuple[int, ...]:
    found: list[int] = []
    while cursor.left:
        tensor = cursor.u32()
        if tensor >= tensors or (found and tensor <= found[-1]):
            raise WireError("unmoved", f"tensor {tensor} of {tensors} after {found[-1:]}")
        found.append(tensor)
    return tuple(found)


def _write_beacon(beacon: Beacon) -> bytes:
    return u64(beacon.block.number) + beacon.block.hash + beacon.value


def _read_beacon(cursor: Cursor) -> Beacon:
    return Beacon(Block(cursor.u64(), cursor.take(32)), cursor.take(32))


def _write_opening(opening: Opening) -> bytes:
    return b"".join(
        (
            u64(opening.round),
            u64(opening.open.number),
            opening.open.hash,
            u64(opening.min_block),
            u64(opening.deadline),
            u64(opening.anchor_by),
            u64(opening.base_round),
            opening.spec_digest,
            _write_beacon(opening.assign),
            _write_beacon(opening.possess),
            b"".join(opening.expected),
        )
    )


def _read_opening(cursor: Cursor) -> Opening:
    return Opening(
        round=cursor.u64(),
        open=Block(cursor.u64(), cursor.take(32)),
        min_block=cursor.u64(),
        deadline=cursor.u64(),
        anchor_by=cursor.u64(),
        base_round=cursor.u64(),
        spec_digest=cursor.take(32),
        assign=_read_beacon(cursor),
        possess=_read_beacon(cursor),
        expected=tuple(chunks(cursor.rest(), PUBLIC_BYTES)),
    )
