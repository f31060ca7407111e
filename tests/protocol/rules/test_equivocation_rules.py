"""Whom a record's proofs of two signatures strike: one of the list, one a record, and never the last."""

from __future__ import annotations

import pytest
from builders import block, hash32, identity
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import LedgerError
from muster.protocol.rules.equivocation import Strike, parted, strikeable, struck_by
from muster.protocol.wire import (
    Seal,
    decode_equivocation,
    digest_of,
    encode_dispute,
    encode_equivocation,
    encode_proof,
    encode_seal,
)

RUN, ROUND = hash32("run"), 9
LEADERS = {one.public: one for one in (identity(f"leader-{i}") for i in range(4))}
KEYS = list(LEADERS)


def proof(liar: bytes, round_: int = ROUND, signer: bytes = KEYS[3]) -> bytes:
    """Two seals of a round, found by somebody."""
    one, other = (
        encode_seal(Seal(RUN, liar, round_, hash32("parent"), 0, block(number), ()), LEADERS[liar]) for number in (1, 2)
    )
    return encode_equivocation(LEADERS[signer], RUN, one, other)


PROOFS = {liar: proof(liar) for liar in KEYS}
DISPUTE = encode_dispute(LEADERS[KEYS[0]], RUN, 1, KEYS[1], bytes(32), bytes(32), "")


@given(st.sampled_from(KEYS), st.sets(st.sampled_from(KEYS)), st.integers(ROUND, ROUND + 3))
def test_it_strikes_one_of_the_list_unless_nobody_is_left(liar: bytes, listed: set[bytes], round_: int) -> None:
    leaders = [public for public in KEYS if public in listed]
    if liar in listed and len(listed) > 1:
        strikes = struck_by([PROOFS[liar]], RUN, round_, leaders)
        assert strikes == (Strike(liar, round_, digest_of(PROOFS[liar])),)
    else:
        with pytest.raises(LedgerError, match="cannot be struck"):
            struck_by([PROOFS[liar]], RUN, round_, leaders)
    assert strikeable(liar, leaders) == (liar in listed and len(listed) > 1)


def test_anybody_may_have_found_it() -> None:
    for finder in KEYS:
        data = proof(KEYS[0], signer=finder)
        assert decode_equivocation(data, RUN)[0].signer == finder
        assert struck_by([data], RUN, ROUND, KEYS) == (Strike(KEYS[0], ROUND, digest_of(data)),)


@pytest.mark.parametrize(
    ("proofs", "sentence"),
    [
        ([PROOFS[KEYS[0]], PROOFS[KEYS[1]]], "more than one"),
        ([PROOFS[KEYS[0]]] * 2, "more than one"),
        ([proof(KEYS[0], ROUND + 1)], "of a later round"),
        ([b"x"], "shows nothing: truncated"),
        ([encode_proof(LEADERS[KEYS[0]], RUN, 1, 1, (b"one seal", b"another"), "")], "shows nothing: signed_type"),
        ([DISPUTE], "shows nothing: proof_kind"),
    ],
)
def test_what_a_record_may_not_carry(proofs: list[bytes], sentence: str) -> None:
    with pytest.raises(LedgerError, match=sentence):
        struck_by(proofs, RUN, ROUND, KEYS)


def test_nothing_strikes_nobody() -> None:
    assert struck_by([], RUN, ROUND, KEYS) == ()


def test_they_stand_before_the_disputes() -> None:
    """One behind a dispute is taken for a dispute, which it is none."""
    twice = PROOFS[KEYS[0]]
    assert parted([twice, DISPUTE]) == ([twice], [DISPUTE])
    assert parted([DISPUTE, twice]) == ([], [DISPUTE, twice])
    with pytest.raises(LedgerError, match="not one that this release takes: truncated"):
        parted([twice, b"x"])
