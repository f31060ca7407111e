"""A bundle is exactly its record's accepted submissions, or it is refused."""

from __future__ import annotations

import pytest
from blake3 import blake3
from builders import MINERS, identity, round_facts, submission, update

from muster.protocol.errors import LedgerError
from muster.protocol.ledger.bundle import EMPTY_DIGEST, Opened, bundle_size, read_bundle, write_bundle
from muster.protocol.wire import decode, decode_key

FACTS = round_facts()


def opened(uid: int) -> Opened:
    miner = identity(MINERS[uid])
    data, key_object = submission(FACTS, miner, uid, update(uid))
    signed, ciphertext = decode(data, FACTS.run_id)
    return Opened(signed, decode_key(key_object, FACTS.run_id, FACTS.opening.round, miner.public), ciphertext)


WORK = [opened(0), opened(1)]
HEADS = [work.signed for work in WORK]
BUNDLE = write_bundle(WORK)


def test_layout_and_size() -> None:
    assert b"".join(w.signed.head + w.key + w.ciphertext for w in WORK) == BUNDLE
    assert bundle_size(HEADS) == len(BUNDLE)


def test_round_trip() -> None:
    assert read_bundle(BUNDLE, HEADS) == WORK
    assert read_bundle(write_bundle(WORK[:1]), HEADS[:1]) == WORK[:1]


def test_an_empty_bundle() -> None:
    assert write_bundle([]) == b""
    assert read_bundle(b"", []) == []
    assert blake3(b"").digest() == EMPTY_DIGEST
    assert bundle_size([]) == 0


@pytest.mark.parametrize("end", [0, 1, len(HEADS[0].head), len(HEADS[0].head) + 40, len(BUNDLE) - 1])
def test_cut_off(end: int) -> None:
    with pytest.raises(LedgerError):
        read_bundle(BUNDLE[:end], HEADS)


def test_too_long() -> None:
    with pytest.raises(LedgerError, match=f"has {len(BUNDLE) + 1} bytes, its record accounts for {len(BUNDLE)}"):
        read_bundle(BUNDLE + b"\0", HEADS)


def test_another_order_or_another_submission() -> None:
    with pytest.raises(LedgerError, match="another submission than its record"):
        read_bundle(BUNDLE, HEADS[::-1])
    with pytest.raises(LedgerError, match="accounts for"):
        read_bundle(BUNDLE, HEADS[:1])
    with pytest.raises(LedgerError, match="another submission"):
        read_bundle(write_bundle(WORK[:1]), HEADS)
