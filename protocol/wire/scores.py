"""The score file: a validator's signed judgement of one round, all that the Gauntlet and the aggregator exchange.

Its rows are written column by column, each column a field of its own, so that a later release can add one as an
optional field: whoever does not know it skips it, and the signature covers it all the same.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from muster.protocol.columns import SLUG_BYTES, Column, Kind, Row, columns_of, misfit
from muster.protocol.errors import WireError
from muster.protocol.identity import PUBLIC_BYTES, Identity, hotkey_of, public_of
from muster.protocol.incentive.row import EVALUATED, OUTCOMES, SCREENED, ScoreRow
from muster.protocol.wire.envelope import Type, read_object, write_object
from muster.protocol.wire.record import ScoresUsed, UsedScore
from muster.protocol.wire.seal import chunks, strictly_ascending
from muster.protocol.wire.tlv import OPTIONAL, Cursor, Fields, f64, whole

_RECORD, _HELDOUT = 4, 5
"""The fields before the columns, whose tags `ScoreRow` gives."""

_ROW_BYTES = 1024
"""A row of today's columns takes at most 447 bytes; the rest is room for later ones."""

_FRAME_BYTES = 1024
"""Room for the rest of the file."""

_ITEM = {
    Kind.KEY: struct.Struct(f"<{PUBLIC_BYTES}s"),
    Kind.SLUG: struct.Struct(f"<{SLUG_BYTES}s"),
    Kind.COUNT: struct.Struct("<I"),
    Kind.NUMBER: struct.Struct("<d"),
    Kind.FLAG: struct.Struct("<B"),
}
"""How a value of each kind is written."""

R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class ScoreFile:
    """Everything one validator (`public`) says of one round.

    `record` is the digest of the round's record, `heldout` the loss of θ before it in nat/token; the rows, one for each
    peer that has a slot, are in key order.
    """

    run_id: bytes
    public: bytes
    round: int
    record: bytes
    heldout: float
    rows: tuple[ScoreRow, ...]

    @property
    def hotkey(self) -> str:
        """The validator's ss58 address."""
        return hotkey_of(self.public)


def encode_scores(file: ScoreFile, identity: Identity) -> bytes:
    """The signed object.

    Raises:
        ValueError: nobody would read the file, because of a number in it or the order of its rows.
    """
    if fault := _fault(file):
        raise ValueError(f"a score file cannot say this: {fault[1]}")
    fields = {_RECORD: file.record, _HELDOUT: f64(file.heldout), **write_columns(file.rows, ScoreRow)}
    return write_object(Type.SCORES, identity, file.run_id, file.round, fields)


def decode_scores(data: bytes, run_id: bytes, hotkey: str, round_: int) -> tuple[ScoreFile, bytes]:
    """The file and its digest.

    Raises:
        WireError: `scores_signer`, `scores_round`, `scores_empty`, `scores_flag`, `scores_range`, `scores_losses`,
            `scores_order`, or what the envelope raises.
    """
    envelope = read_object(data, Type.SCORES, run_id)
    if envelope.hotkey != hotkey:
        raise WireError("scores_signer", envelope.hotkey)
    if envelope.round != round_:
        raise WireError("scores_round", f"round {envelope.round}")
    fields = envelope.fields
    record, heldout = fields.digest(_RECORD), whole(fields.raw(_HELDOUT), Cursor.f64)
    file = ScoreFile(run_id, envelope.signer, round_, record, heldout, read_columns(fields, ScoreRow))
    fields.end()
    if fault := _fault(file):
        raise WireError(*fault)
    return file, envelope.digest


def _fault(file: ScoreFile) -> tuple[str, str] | None:
    """The reason why a file is not valid, and what is wrong with it; None where nothing is."""
    if not math.isfinite(file.heldout):
        return "scores_range", f"heldout is {file.heldout}"
    for row in file.rows:
        if wrong := misfit(row):
            return "scores_range", f"{row.hotkey}: {wrong}"
        if row.outcome not in OUTCOMES:
            return "scores_range", f"{row.hotkey}: {row.outcome!r} is no outcome"
        lacking = row.screened is None if row.outcome == SCREENED else row.outcome == EVALUATED and not row.measured
        if lacking or len({number is None for number in row.measurements}) > 1:
            return "scores_losses", f"{row.hotkey}: not all is there that its outcome is made of"
    if not strictly_ascending([public_of(row.hotkey) for row in file.rows]):
        return "scores_order", "the rows are not in key order, each peer once"
    return None


def max_scores_bytes(slots: int) -> int:
    """Cap of a score file in a run of so many slots (`data.slots`): a row for each, and the frame."""
    return _FRAME_BYTES + _ROW_BYTES * slots


def scores_used(file: ScoreFile, digest: bytes, stake: int, known: Collection[bytes]) -> ScoresUsed:
    """The part of a score file that a record carries.

    `known` are the peers that may have rows: those registered now, and those with an entry in the records remembered.
    Others are dropped, so that a validator who invents peers adds nothing to a record.
    """
    rows = (UsedScore(public_of(row.hotkey), row.peer_score, row.positive, row.copier) for row in file.rows)
    kept = tuple(row for row in rows if row.public in known)
    return ScoresUsed(file.public, stake, file.round, digest, kept)


def write_columns(rows: Sequence[R], kind: type[R]) -> dict[int, bytes]:
    """The fields of a list of rows, by tag: a later column in which no row has a value is left out."""
    written = {}
    for column in columns_of(kind):
        values = [getattr(row, column.name) for row in rows]
        given = [_bytes(column, value) for value in values if value is not None]
        if given or not column.about.later:
            presence = bytes(value is not None for value in values) if column.nullable else b""
            written[_tag(column)] = presence + b"".join(given)
    return written


def read_columns(fields: Fields, kind: type[R]) -> tuple[R, ...]:
    """What `write_columns` wrote, of any numbers: whether they are ones that the columns may have is not looked at.

    Raises:
        WireError: `missing_field`, `field_size`, `scores_flag`, `scores_empty`.
    """
    key, *_ = columns = columns_of(kind)
    count = len(chunks(fields.raw(_tag(key)), PUBLIC_BYTES))
    values = {column.name: _read(fields, column, count) for column in columns}
    return tuple(kind(**{name: column[i] for name, column in values.items()}) for i in range(count))


def _tag(column: Column) -> int:
    return column.about.tag | OPTIONAL if column.about.later else column.about.tag


def _bytes(column: Column, value: Any) -> bytes:
    if column.kind is Kind.KEY:
        return public_of(value)
    return _ITEM[column.kind].pack(value.encode("ascii") if column.kind is Kind.SLUG else value)


def _read(fields: Fields, column: Column, count: int) -> list[Any]:
    """The values of a column, None where a row has none."""
    tag, item = _tag(column), _ITEM[column.kind]
    if column.about.later and fields.get(tag) is None:
        return [None] * count
    value = fields.raw(tag)
    presence, value = (value[:count], value[count:]) if column.nullable else (b"\1" * count, value)
    given = sum(_flag(flag) for flag in presence)
    if len(presence) != count or len(value) != given * item.size:
        raise WireError("field_size", f"field {tag} is not {column.name} of {count} rows")
    if column.about.later and not given:
        raise WireError("scores_empty", f"field {tag} has a value for no row, and should not be there")
    items = (part for (part,) in item.iter_unpack(value))
    return [_value(column, next(items)) if flag else None for flag in presence]


def _value(column: Column, part: Any) -> Any:
    if column.kind is Kind.KEY:
        return hotkey_of(part)
    if column.kind is Kind.SLUG:
        return part.rstrip(b"\0").decode("latin-1")
    return _flag(part) if column.kind is Kind.FLAG else part


def _flag(value: int) -> bool:
    if value > 1:
        raise WireError("scores_flag", f"{value} where 0 or 1 is expected")
    return bool(value)
