"""Disputes: what they name comes back, and no other proof goes for one."""

from __future__ import annotations

import pytest
from builders import hash32, identity, reason_of
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol import wire
from muster.protocol.wire.dispute import LYING_VALIDATOR
from muster.protocol.wire.proof import MAX_SENTENCE

ALICE, RUN = identity("alice"), hash32("run")
KEYS = st.binary(min_size=32, max_size=32)
SENTENCES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=2 * MAX_SENTENCE)


@given(st.integers(0, 2**64 - 1), KEYS, KEYS, KEYS, SENTENCES)
def test_any_dispute_round_trips(round_: int, validator: bytes, file: bytes, peer: bytes, sentence: str) -> None:
    data = wire.encode_dispute(ALICE, RUN, round_, validator, file, peer, sentence)
    dispute, digest = wire.decode_dispute(data, RUN)
    assert len(data) <= wire.MAX_DISPUTE_BYTES
    assert (dispute.round, dispute.validator, dispute.file, dispute.peer) == (round_, validator, file, peer)
    assert (dispute.sentence, dispute.signer) == (sentence[:MAX_SENTENCE], ALICE.public)
    assert (dispute.claim, digest) == ((validator, round_, file), wire.digest_of(data))


@pytest.mark.parametrize(
    ("kind", "objects", "reason"),
    [
        (1, (bytes(96),), "proof_kind"),
        (LYING_VALIDATOR, (bytes(95),), "dispute_objects"),
        (LYING_VALIDATOR, (bytes(97),), "dispute_objects"),
        (LYING_VALIDATOR, (bytes(96), b""), "dispute_objects"),
        (LYING_VALIDATOR, (), "dispute_objects"),
        (LYING_VALIDATOR, (bytes(1000),), "dispute_size"),
    ],
)
def test_a_proof_that_is_no_dispute(kind: int, objects: tuple[bytes, ...], reason: str) -> None:
    data = wire.encode_proof(ALICE, RUN, 0, kind, objects, "")
    assert reason_of(lambda: wire.decode_dispute(data, RUN)) == reason
