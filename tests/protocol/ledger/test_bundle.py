"""A bundle is exactly its record's accepted submissions, or it is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import MINERS, identity, resigned, round_facts, submission, update

from muster.protocol.errors import LedgerError
from muster.protocol.ledger.bundle import Opened, bundle_size, bundle_sizes, read_bundle, write_bundle
from muster.protocol.rules.admission import MAX_KEY_BYTES
from muster.protocol.wire import decode_head
from muster.protocol.wire.tlv import OPTIONAL

FACTS = round_facts()


def opened(uid: int) -> Opened:
    miner = identity(MINERS[uid])
    sent = submission(FACTS, miner, uid, update(uid))
    return Opened(decode_head(sent.head, FACTS.run_id), sent.key(), sent.payload)


WORK = [opened(0), opened(1)]
HEADS = [work.signed for work in WORK]
BUNDLE = write_bundle(WORK)


def test_layout_and_size() -> None:
    assert b"".join(w.signed.head + w.key + w.ciphertext for w in WORK) == BUNDLE
    assert bundle_size(WORK) == len(BUNDLE)
    least, most = bundle_sizes(HEADS)
    assert least <= len(BUNDLE) <= most


def test_a_key_object_may_have_fields_of_a_later_version() -> None:
    """It is as long as it says, up to its cap; only who judges keys asks what is in it."""
    miner = identity(MINERS[0])
    longer = resigned(WORK[0].key, miner, FACTS.run_id, lambda fields: fields.update({OPTIONAL: bytes(700)}))
    work = [replace(WORK[0], key=longer), WORK[1]]
    assert len(longer) <= MAX_KEY_BYTES
    assert read_bundle(write_bundle(work), HEADS) == work


def test_a_key_object_is_no_longer_than_its_cap() -> None:
    miner = identity(MINERS[0])
    longer = resigned(WORK[0].key, miner, FACTS.run_id, lambda fields: fields.update({OPTIONAL: bytes(2000)}))
    with pytest.raises(LedgerError, match=rf"a key object of {len(longer)} bytes, {MAX_KEY_BYTES} are there"):
        read_bundle(write_bundle([replace(WORK[0], key=longer)]), HEADS[:1])


def test_no_key_object() -> None:
    with pytest.raises(LedgerError, match="no key object where one must be: key_magic"):
        read_bundle(write_bundle([replace(WORK[0], key=bytes(32))]), HEADS[:1])


def test_round_trip() -> None:
    assert read_bundle(BUNDLE, HEADS) == WORK
    assert read_bundle(write_bundle(WORK[:1]), HEADS[:1]) == WORK[:1]


def test_an_empty_bundle() -> None:
    assert write_bundle([]) == b""
    assert read_bundle(b"", []) == []
    assert bundle_size([]) == 0
    assert bundle_sizes([]) == (0, 0)


@pytest.mark.parametrize("end", [0, 1, len(HEADS[0].head), len(HEADS[0].head) + 40, len(BUNDLE) - 1])
def test_cut_off(end: int) -> None:
    with pytest.raises(LedgerError):
        read_bundle(BUNDLE[:end], HEADS)


def test_too_long() -> None:
    with pytest.raises(LedgerError, match=f"has {len(BUNDLE) + 1} bytes, what it holds accounts for {len(BUNDLE)}"):
        read_bundle(BUNDLE + b"\0", HEADS)


def test_another_order_or_another_submission() -> None:
    with pytest.raises(LedgerError, match="another submission than its record"):
        read_bundle(BUNDLE, HEADS[::-1])
    with pytest.raises(LedgerError, match="accounts for"):
        read_bundle(BUNDLE, HEADS[:1])
    with pytest.raises(LedgerError, match="another submission"):
        read_bundle(write_bundle(WORK[:1]), HEADS)
