"""A judgement is its validator's word for word, or it is nobody's; and a later release can say more in it."""

from __future__ import annotations

import math
import struct
from dataclasses import astuple, dataclass, replace
from typing import Annotated, Any

import pytest
from blake3 import blake3
from builders import body_of, framed, hash32, identity, reason_of, resigned, score_file, score_row
from hypothesis import given
from hypothesis import strategies as st
from score_rows import KEYS, rows_of

from muster.protocol import wire
from muster.protocol.columns import About, Row, columns_of
from muster.protocol.errors import WireError
from muster.protocol.identity import public_of, verify
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.wire import (
    ScoreFile,
    ScoresUsed,
    Type,
    UsedScore,
    decode_scores,
    encode_scores,
    max_scores_bytes,
)
from muster.protocol.wire.scores import read_columns, write_columns
from muster.protocol.wire.tlv import OPTIONAL, Fields, write_fields

RUN = hash32("run")
VALIDATOR = identity("validator")
UNMEASURED: dict[str, Any] = {
    "assigned_before": None, "assigned_after": None, "unassigned_before": None, "unassigned_after": None,
    "control_assigned": None, "control_unassigned": None, "assigned_spread": None, "unassigned_spread": None,
    "assigned_error": None, "unassigned_error": None, "outcome": "not_evaluated",
}  # fmt: skip
FILE = score_file(VALIDATOR, RUN, 5, score_row("alice"), score_row("bob", positive=False, **UNMEASURED))
DATA = encode_scores(FILE, VALIDATOR)
TAGS = {c.name: c.about.tag | (OPTIONAL if c.about.later else 0) for c in columns_of(ScoreRow)}
TODAYS = [c.name for c in columns_of(ScoreRow) if not c.about.later]


def decode(data: bytes) -> tuple[ScoreFile, bytes]:
    return decode_scores(data, RUN, VALIDATOR.hotkey, 5)


@st.composite
def files(draw: st.DrawFn) -> ScoreFile:
    """Any file an honest validator may write."""
    rows = draw(st.lists(rows_of(ScoreRow).map(whole), max_size=5, unique_by=lambda row: row.hotkey))
    file = score_file(VALIDATOR, draw(st.binary(min_size=32, max_size=32)), draw(st.integers(0, 2**64 - 1)), *rows)
    return replace(file, heldout=draw(st.floats(allow_nan=False, allow_infinity=False)))


def whole(row: ScoreRow) -> ScoreRow:
    """The row with all of its measurements or none, and an outcome that they give."""
    if row.measured:
        return replace(row, outcome="evaluated")
    return replace(row, **UNMEASURED) if row.screened is None else replace(row, **UNMEASURED | {"outcome": "screened"})


@given(files())
def test_any_file_round_trips(file: ScoreFile) -> None:
    data = encode_scores(file, VALIDATOR)
    read, digest = decode_scores(data, file.run_id, VALIDATOR.hotkey, file.round)
    assert (read, digest) == (file, wire.digest_of(data))
    assert body_of(encode_scores(read, VALIDATOR)) == body_of(data)


def test_signature_and_digest_are_those_of_every_object() -> None:
    body = body_of(DATA)
    assert decode(DATA) == (FILE, blake3(b"muster/scores/v2" + body).digest())
    assert verify(VALIDATOR.public, b"muster/scores/v2" + RUN + body, DATA[-64:])


def test_no_bit_can_be_changed_and_no_byte_be_missing() -> None:
    for at in range(len(DATA)):
        with pytest.raises(WireError):
            decode(DATA[:at] + bytes([DATA[at] ^ 1 << at % 8]) + DATA[at + 1 :])
    for end in range(len(DATA)):
        assert reason_of(lambda: decode(DATA[:end])) == "truncated"  # noqa: B023
    assert reason_of(lambda: decode(DATA + b"\0")) == "trailing"


def test_whose_and_for_what() -> None:
    assert reason_of(lambda: decode_scores(DATA, RUN, identity("somebody").hotkey, 5)) == "scores_signer"
    assert reason_of(lambda: decode_scores(DATA, RUN, VALIDATOR.hotkey, 4)) == "scores_round"
    assert reason_of(lambda: decode_scores(DATA, hash32("another run"), VALIDATOR.hotkey, 5)) == "wrong_run"
    forged = framed(Type.SCORES, identity("somebody"), RUN, body_of(DATA))
    assert reason_of(lambda: decode(forged)) == "signature"
    assert reason_of(lambda: decode(framed(Type.SEAL, VALIDATOR, RUN, body_of(DATA)))) == "type"
    assert reason_of(lambda: decode(framed(Type.SCORES, VALIDATOR, RUN, body_of(DATA)) + b"tail")) == "trailing"


def values(code: str, *items: Any) -> bytes:
    return struct.pack("<" + code * len(items), *items)


ALICE, BOB = sorted((identity("alice").public, identity("bob").public))


@dataclass(frozen=True)
class Never:
    """The bytes of a field (None: it is gone), which the validator signs, and the reason to refuse the file for."""

    reason: str
    tag: int
    value: bytes | None


def never(reason: str, name: str, value: bytes | None) -> Never:
    return Never(reason, TAGS[name], value)


NEVER = [
    *(never("missing_field", name, None) for name in TODAYS),
    *(never("field_size", name, b"\1" * 17) for name in TAGS),
    *(never("field_size", name, b"") for name in TAGS),
    Never("missing_field", 4, None),
    Never("missing_field", 5, None),
    Never("field_size", 4, bytes(31)),
    Never("truncated", 5, bytes(7)),
    Never("trailing", 5, bytes(9)),
    *(Never("scores_range", 5, values("d", loss)) for loss in (math.nan, math.inf, -math.inf)),
    never("scores_order", "hotkey", BOB + ALICE),
    never("scores_order", "hotkey", ALICE + ALICE),
    *(never("scores_range", "mu", values("d", 0.5, mu)) for mu in (1.5, -1.5, math.nan)),
    never("scores_range", "rating_mu", values("d", math.inf, 25.0)),
    never("scores_range", "rating_mu", values("d", 1001.0, 25.0)),
    never("scores_range", "rating_sigma", values("d", 8.0, 1001.0)),
    never("scores_range", "assigned_before", b"\1\0" + values("d", 1.1e6)),
    never("scores_range", "unassigned_error", b"\1\0" + values("d", 1.1e6)),
    never("scores_range", "rating_sigma", values("d", 8.0, -8.0)),
    *(never("scores_range", "peer_score", values("d", score, 1.0)) for score in (-0.5, math.inf, math.nan)),
    *(never("scores_range", "incentive", values("d", share, 0.0)) for share in (-0.5, 1.5, math.nan)),
    never("scores_range", "outcome", values("32s", b"evaluated", b"promoted")),
    never("scores_range", "outcome", values("32s", b"evaluated", b"not_\0evaluated")),
    never("scores_range", "reason", values("32s", b"Clone", b"")),
    never("scores_losses", "outcome", values("32s", b"evaluated", b"evaluated")),
    never("scores_losses", "outcome", values("32s", b"screened", b"not_evaluated")),
    never("scores_range", "last_score", b"\1\0" + values("d", math.nan)),
    never("scores_flag", "positive", b"\1\2"),
    never("scores_flag", "assigned_before", values("B", 2, 0)),
    never("scores_losses", "unassigned_after", b"\0\0"),
    never("scores_losses", "assigned_before", b"\1\1" + values("d", 2.5, 2.5)),
    never("field_size", "assigned_before", b"\1\1" + values("d", 2.5)),
    never("field_size", "assigned_before", b"\0\0" + values("d", 2.5)),
    never("field_size", "assigned_before", b"\1"),
    Never("unknown_field", 0x4000, b""),
    Never("unknown_field", OPTIONAL - 1, b""),
]


@pytest.mark.parametrize("case", NEVER, ids=lambda case: f"{case.reason}-{case.tag}")
def test_a_signed_file_that_breaks_a_rule(case: Never) -> None:
    def change(fields: dict[int, bytes]) -> None:
        fields.pop(case.tag, None)
        if case.value is not None:
            fields[case.tag] = case.value

    spoilt = resigned(DATA, VALIDATOR, RUN, change)
    assert body_of(spoilt) != body_of(DATA)
    assert reason_of(lambda: decode(spoilt)) == case.reason


def test_a_column_that_came_later_is_signed_and_skipped() -> None:
    said = resigned(DATA, VALIDATOR, RUN, lambda fields: fields.update({OPTIONAL | 0x4000: b"\0\0"}))
    file, digest = decode(said)
    assert file == FILE
    assert digest != decode(DATA)[1]
    spoilt = body_of(said)[:-1] + b"\1"
    unsigned = said[: wire.PREFIX_BYTES] + spoilt + said[-64:]
    assert reason_of(lambda: decode(unsigned)) == "signature"


@pytest.mark.parametrize(
    "file",
    [
        replace(FILE, heldout=math.nan),
        replace(FILE, rows=FILE.rows[::-1]),
        replace(FILE, rows=(FILE.rows[0], FILE.rows[0])),
        replace(FILE, rows=(replace(FILE.rows[0], mu=1.5),)),
        replace(FILE, rows=(replace(FILE.rows[0], uid=2**32),)),
        replace(FILE, rows=(score_row("alice", assigned_before=None),)),
    ],
)
def test_a_file_that_nobody_would_read_is_not_written(file: ScoreFile) -> None:
    with pytest.raises(ValueError, match="a score file cannot say this"):
        encode_scores(file, VALIDATOR)


@dataclass(frozen=True)
class Toy:
    """A row with every kind of column."""

    key: Annotated[str, About(1, "whose it is")]
    count: Annotated[int, About(2, "how many")]
    part: Annotated[float | None, About(3, "how much")] = None


@dataclass(frozen=True)
class LaterToy(Toy):
    """The same, as a later release has it."""

    flag: Annotated[bool | None, About(4, "said only of late", later=True)] = None
    number: Annotated[float | None, About(5, "likewise", later=True)] = None


def fields_of(rows: list[Any], kind: type[Row]) -> dict[int, bytes]:
    return write_columns(rows, kind)


def read(written: dict[int, bytes], kind: type[Any]) -> list[Any]:
    fields = Fields(write_fields(written))
    rows = list(read_columns(fields, kind))
    fields.end()
    return rows


@given(st.lists(rows_of(LaterToy), max_size=5))
def test_an_older_release_reads_what_a_later_one_says_and_the_other_way_round(rows: list[LaterToy]) -> None:
    written = fields_of(rows, LaterToy)
    assert read(written, LaterToy) == rows
    older = [Toy(row.key, row.count, row.part) for row in rows]
    assert read(written, Toy) == older
    assert read(fields_of(older, Toy), LaterToy) == [LaterToy(row.key, row.count, row.part) for row in rows]
    said = {OPTIONAL | 4: [row.flag for row in rows], OPTIONAL | 5: [row.number for row in rows]}
    assert {tag for tag in written if tag & OPTIONAL} == {
        tag for tag, column in said.items() if any(value is not None for value in column)
    }


def test_the_bytes_of_columns() -> None:
    keys = [identity(name).hotkey for name in ("alice", "bob")]
    assert fields_of([LaterToy(keys[0], 1, 0.5), LaterToy(keys[1], 258, None, False)], LaterToy) == {
        1: public_of(keys[0]) + public_of(keys[1]),
        2: bytes((1, 0, 0, 0, 2, 1, 0, 0)),
        3: b"\1\0" + struct.pack("<d", 0.5),
        OPTIONAL | 4: b"\0\1\0",
    }


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_says_nothing_has_one_spelling(count: int) -> None:
    rows = [Toy(hotkey, 0) for hotkey in [identity(str(i)).hotkey for i in range(count)]]
    written = fields_of(rows, Toy) | {OPTIONAL | 4: bytes(count)}
    assert reason_of(lambda: read(written, LaterToy)) == "scores_empty"


@given(st.lists(KEYS, max_size=4), st.integers(1, 31))
def test_a_part_of_a_key_is_no_key(keys: list[str], size: int) -> None:
    data = b"".join(public_of(key) for key in keys) + bytes(size)
    assert reason_of(lambda: read({1: data, 2: b"", 3: b""}, Toy)) == "field_size"


MOST_ROW_BYTES = 447


@pytest.mark.parametrize("slots", [1, 4, 256])
def test_the_cap_leaves_as_much_room_again_for_later_columns(slots: int) -> None:
    whole: dict[str, Any] = {
        "screened": 0.1, "factor": 1.0, "own_data": 0.5, "ratio": 1.0, "rank": 1,
        "clone_of": VALIDATOR.hotkey, "clone": 1.0, "copy_of": VALIDATOR.hotkey, "copy": 1.0,
    }  # fmt: skip
    rows = [score_row(f"peer {i}", uid=i, **whole) for i in range(slots)]
    assert None not in astuple(rows[0]), "a row with a value in every column"
    data = encode_scores(score_file(VALIDATOR, RUN, 5, *rows), VALIDATOR)
    assert len(data) - len(encode_scores(replace(FILE, rows=()), VALIDATOR)) == MOST_ROW_BYTES * slots
    assert 2 * len(data) < max_scores_bytes(slots)


def test_what_a_record_carries() -> None:
    known = {identity("alice").public, identity("bob").public, hash32("somebody")}
    rows = tuple(UsedScore(public, 0.08125, public == identity("alice").public) for public in (ALICE, BOB))
    assert wire.scores_used(FILE, b"d" * 32, 9, known) == ScoresUsed(VALIDATOR.public, 9, 5, b"d" * 32, rows)


def test_peers_that_a_validator_invents_add_nothing_to_a_record() -> None:
    invented = (score_row(f"invented {i}") for i in range(200))
    file = score_file(VALIDATOR, RUN, 5, *FILE.rows, *invented)
    (row,) = wire.scores_used(file, b"d" * 32, 9, {identity("alice").public}).rows
    assert row.public == identity("alice").public
