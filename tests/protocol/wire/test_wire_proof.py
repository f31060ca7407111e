"""Proofs: kind, objects and sentence come back, and nothing else goes by their name."""

from __future__ import annotations

import pytest
from builders import framed, hash32, identity, reason_of, resigned
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol import wire
from muster.protocol.wire import Type
from muster.protocol.wire.proof import MAX_OBJECTS, MAX_SENTENCE
from muster.protocol.wire.tlv import counted, u32

ALICE = identity("alice")
RUN = hash32("run")
DATA = wire.encode_proof(ALICE, RUN, 3, 1, (b"one seal", b"another"), "two seals of one round")

sentences = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=MAX_SENTENCE)
objects = st.lists(st.binary(max_size=20), max_size=MAX_OBJECTS).map(tuple)


@given(st.integers(0, 2**64 - 1), st.integers(0, 255), objects, sentences)
def test_any_proof_round_trips(round_: int, kind: int, shown: tuple[bytes, ...], sentence: str) -> None:
    proof = wire.decode_proof(wire.encode_proof(ALICE, RUN, round_, kind, shown, sentence), RUN)
    assert (proof.round, proof.kind, proof.objects, proof.sentence) == (round_, kind, shown, sentence)
    assert proof.signer == ALICE.public


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DATA[:-1], "truncated"),
        (DATA + b"\0", "trailing"),
        (resigned(DATA, ALICE, RUN, lambda f: f.pop(6)), "missing_field"),
        (resigned(DATA, ALICE, RUN, lambda f: f.update({4: b"\0\0"})), "field_size"),
        (resigned(DATA, ALICE, RUN, lambda f: f.update({5: u32(MAX_OBJECTS + 1)})), "too_many"),
        (resigned(DATA, ALICE, RUN, lambda f: f.update({5: counted([b"one"]) + b"\0"})), "trailing"),
        (resigned(DATA, ALICE, RUN, lambda f: f.update({6: b"x" * (MAX_SENTENCE + 1)})), "text"),
        (resigned(DATA, ALICE, RUN, lambda f: f.update({7: b""})), "unknown_field"),
        (resigned(DATA, identity("mallory"), RUN, lambda _: None), "signature"),
        (framed(Type.SEAL, ALICE, RUN, b""), "type"),
    ],
    ids=["short", "long", "missing", "kind", "objects", "after", "sentence", "unknown", "signature", "type"],
)
def test_an_object_that_is_not_a_proof(data: bytes, reason: str) -> None:
    assert reason_of(lambda: wire.decode_proof(data, RUN)) == reason
