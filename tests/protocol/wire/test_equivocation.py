"""Two signatures where there may be one: what shows it, in whatever order, and what shows nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import block, body_of, framed, hash32, identity, opening, reason_of, resigned
from hypothesis import given
from hypothesis import strategies as st
from test_wire_record import RECORD
from test_wire_seal import SEAL, seals

from muster.protocol import wire
from muster.protocol.identity import Identity
from muster.protocol.wire import MAX_SIGNED_BYTES, TWO_SIGNATURES, Once, Seal, Type
from muster.protocol.wire.tlv import OPTIONAL

LEADER, FINDER, RUN = identity("leader"), identity("finder"), hash32("run")
ONE, OTHER = (wire.encode_seal(replace(SEAL, block=block(number)), LEADER) for number in (105, 106))
PROOF = wire.encode_equivocation(FINDER, RUN, ONE, OTHER)
RECORDS = tuple(wire.encode_record(replace(RECORD, bundle=hash32(name)), LEADER) for name in "ab")
"""Of the same round, turn and parent as the seals."""


def shown(*objects: bytes, round_: int = SEAL.round, kind: int = TWO_SIGNATURES) -> bytes:
    """A proof made by hand."""
    return wire.encode_proof(FINDER, RUN, round_, kind, objects, "")


def reason(data: bytes, run_id: bytes = RUN) -> str:
    return reason_of(lambda: wire.decode_equivocation(data, run_id))


@given(seals(), seals(), st.booleans())
def test_any_two_of_one_round_turn_and_parent_are_shown_in_either_order(a: Seal, b: Seal, swapped: bool) -> None:
    b = replace(b, round=a.round, turn=a.turn, parent=a.parent)
    first, second = (wire.encode_seal(one, LEADER) for one in (a, b))
    if body_of(first) == body_of(second):
        assert reason(shown(first, second, round_=a.round)) == "equivocation_same"
        return
    data = wire.encode_equivocation(FINDER, RUN, *((second, first) if swapped else (first, second)))
    found, digest = wire.decode_equivocation(data, RUN)
    assert found.once == Once(Type.SEAL, LEADER.public, a.round, a.turn, a.parent)
    assert found.digests == tuple(sorted((wire.digest_of(first), wire.digest_of(second))))
    assert (found.signer, digest) == (FINDER.public, wire.digest_of(data))


CHANGES = {"round": SEAL.round + 1, "turn": SEAL.turn + 1, "parent": hash32("another parent")}


@given(seals(), seals())
def test_honest_signatures_never_show_anything(a: Seal, b: Seal) -> None:
    """One that signs once for a round, turn and parent can be quoted with any two of its objects."""
    if (a.round, a.turn, a.parent) == (b.round, b.turn, b.parent):
        b = a
    data = shown(*(wire.encode_seal(one, LEADER) for one in (a, b)), round_=a.round)
    assert reason(data) == ("equivocation_same" if a == b else "equivocation_objects")


@pytest.mark.parametrize("what", CHANGES)
def test_two_of_another_round_turn_or_parent_show_nothing(what: str) -> None:
    for made, encode in ((SEAL, wire.encode_seal), (RECORD, wire.encode_record)):
        one, other = encode(made, LEADER), encode(replace(made, **{what: CHANGES[what]}), LEADER)  # type: ignore[operator]
        assert reason(shown(one, other)) == "equivocation_objects"
        assert reason_of(lambda one=one, other=other: wire.encode_equivocation(FINDER, RUN, one, other)) == (  # type: ignore[misc]
            "equivocation_objects"
        )


def test_two_records_are_shown_as_two_seals_are() -> None:
    found, _ = wire.decode_equivocation(wire.encode_equivocation(FINDER, RUN, *RECORDS), RUN)
    assert found.once == Once(Type.RECORD, LEADER.public, RECORD.round, RECORD.turn, RECORD.parent)


def test_signatures_are_random_and_two_of_one_body_are_one() -> None:
    again = wire.encode_seal(SEAL, LEADER)
    assert again != ONE
    assert reason(shown(ONE, again)) == "equivocation_same"


def by(signer: Identity, data: bytes) -> bytes:
    """The same, signed by somebody else."""
    return resigned(data, signer, RUN, lambda fields: fields.update({2: signer.public}))


BROKEN = framed(Type.SEAL, LEADER, RUN, body_of(ONE)[:-64])
PADDED = resigned(ONE, LEADER, RUN, lambda f: f.update({OPTIONAL | 1: bytes(MAX_SIGNED_BYTES)}))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (shown(ONE, by(FINDER, OTHER)), "equivocation_objects"),
        (shown(ONE, RECORDS[0]), "equivocation_objects"),
        (shown(ONE), "equivocation_objects"),
        (shown(ONE, OTHER, ONE), "equivocation_objects"),
        (shown(ONE, OTHER, round_=4), "equivocation_round"),
        (shown(ONE, OTHER, kind=2), "proof_kind"),
        (shown(ONE, OTHER[:-1] + bytes([OTHER[-1] ^ 1])), "signature"),
        (shown(ONE, OTHER[:-1]), "truncated"),
        (shown(ONE, b""), "signed_type"),
        (shown(ONE, PROOF), "signed_type"),
        (shown(ONE, wire.encode_key(LEADER, RUN, 3, bytes(32), bytes(32))), "signed_type"),
        (shown(ONE, PADDED), "signed_size"),
        (shown(*(bytes(MAX_SIGNED_BYTES + 1024),) * 2), "equivocation_size"),
        (PROOF[:-1] + bytes([PROOF[-1] ^ 1]), "signature"),
    ],
    ids=["another's", "a seal and a record", "one", "three", "round", "kind", "signature", "cut", "nothing", "a proof",
         "a key", "large", "larger", "unsigned"],
)  # fmt: skip
def test_what_shows_nothing(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def test_two_of_another_run_show_nothing() -> None:
    elsewhere = hash32("another run")
    one, other = (wire.encode_seal(replace(SEAL, run_id=elsewhere, block=block(i)), LEADER) for i in (1, 2))
    assert reason(shown(one, other)) == "wrong_run"
    assert reason(PROOF, elsewhere) == "wrong_run"


def test_what_else_is_wrong_with_them_excuses_nobody() -> None:
    """A seal that no reader takes is signed all the same."""
    assert reason_of(lambda: wire.decode_seal(BROKEN, RUN)) != "signature"
    unordered = resigned(ONE, LEADER, RUN, lambda f: f.update({8: b"x"}))
    assert reason_of(lambda: wire.decode_seal(unordered, RUN)) == "field_size"
    assert wire.decode_equivocation(shown(ONE, unordered), RUN)[0].once.signer == LEADER.public


def test_the_largest_that_are_shown_are_the_largest_records_that_are_read() -> None:
    """Its proofs left out; so nobody signs one that counts and cannot be shown."""
    record = wire.encode_record(replace(RECORD, opening=opening()), LEADER)
    room = MAX_SIGNED_BYTES - len(record) - 6  # tag and length of a field

    def padded(size: int) -> bytes:
        return resigned(record, LEADER, RUN, lambda f: f.update({OPTIONAL | 1: bytes(size)}))

    assert len(padded(room)) == MAX_SIGNED_BYTES
    wire.decode_record(padded(room), RUN, 3)
    assert wire.signed_once(padded(room), RUN)[0].type is Type.RECORD
    proofs = len(RECORD.proofs[0]) + 8
    wire.decode_record(padded(room + proofs), RUN, 3)
    assert reason_of(lambda: wire.decode_record(padded(room + proofs + 1), RUN, 3)) == "record_size"


def test_what_a_proof_is_can_be_told_without_reading_it() -> None:
    assert wire.proof_kind(PROOF) == TWO_SIGNATURES
    assert wire.proof_kind(shown(kind=2)) == 2
    assert reason_of(lambda: wire.proof_kind(ONE)) == "type"
    assert reason_of(lambda: wire.proof_kind(PROOF[:20])) == "truncated"
