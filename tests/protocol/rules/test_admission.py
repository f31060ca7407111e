"""The judge of a submission's form: each reason by name, and the same one whoever judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from builders import (
    field,
    framed,
    hash32,
    header,
    identity,
    payload_key,
    peers,
    reason_of,
    resigned,
    round_facts,
    submission,
    update,
)
from malformed import malformed_submissions

from muster.protocol import wire
from muster.protocol.errors import WireError
from muster.protocol.reasons import HEAD_REASONS
from muster.protocol.rules.admission import MAX_HEAD_BYTES, MAX_KEY_BYTES, RoundFacts, admit
from muster.protocol.rules.assignment import assigned, data_digest
from muster.protocol.spec.layout import AEAD_TAG_BYTES, codec_of, max_payload_bytes
from muster.protocol.wire import Signed, Type
from muster.protocol.wire.tlv import OPTIONAL

ALICE, BOB = identity("alice"), identity("bob")
FACTS = round_facts()
AUDITOR = replace(FACTS, peers=None)
MOST = max_payload_bytes(codec_of(FACTS.spec))
WINDOWS = FACTS.spec.inner.steps * FACTS.spec.inner.batch


def head(tail: int | None = None, facts: RoundFacts = FACTS, **changes: Any) -> bytes:
    """Alice's head with changed header fields; `tail` is the length of its ciphertext."""
    made = replace(header(facts, ALICE, 0, bytes(100 if tail is None else tail), payload_key()), **changes)
    return wire.encode_head(made, ALICE)


def windows(uid: int, count: int) -> dict[str, Any]:
    """Header fields of a trained prefix of a slot's windows."""
    digest = data_digest(assigned(FACTS.opening.assign.value, uid, FACTS.spec.data, count))
    return {"uid": uid, "windows": count, "tokens": count * FACTS.spec.data.window, "data_digest": digest}


def test_an_honest_head_is_admitted_as_it_was_signed() -> None:
    signed = wire.decode_head(submission(FACTS, ALICE, 0).head, FACTS.run_id)
    assert admit(FACTS, ALICE.public, signed.head) == signed
    assert admit(AUDITOR, ALICE.public, signed.head) == signed


@pytest.mark.parametrize("count", range(1, WINDOWS + 1))
def test_any_prefix_of_the_assigned_windows_is_admitted(count: int) -> None:
    assert isinstance(admit(FACTS, ALICE.public, head(**windows(0, count))), Signed)


def test_the_largest_payload_is_admitted_and_one_byte_more_is_not() -> None:
    assert admit(FACTS, ALICE.public, head(MOST)).ciphertext_bytes == MOST
    assert reason_of(lambda: admit(FACTS, ALICE.public, head(MOST + 1))) == "payload_size"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run_id": hash32("another run")}, "wrong_run"),
        ({"round": 4}, "wrong_round"),
        ({"round": 2}, "wrong_round"),
        ({"base_round": 2}, "wrong_base"),
        ({"layout": hash32("another layout")}, "wrong_layout"),
        ({"windows": 0}, "windows_range"),
        ({"windows": WINDOWS + 1}, "windows_range"),
        ({"windows": 2**64 - 1}, "windows_range"),
        ({"tokens": 0}, "tokens"),
        ({"tokens": WINDOWS * FACTS.spec.data.window + 1}, "tokens"),
        ({"uid": FACTS.spec.data.slots}, "uid_range"),
        ({"uid": 2**32 - 1}, "uid_range"),
        ({"data_digest": hash32("other data")}, "data_digest"),
        ({"uid": 1}, "data_digest"),
        (windows(0, WINDOWS) | {"data_digest": windows(0, 1)["data_digest"]}, "data_digest"),
        ({"possession": hash32("a guess")}, "possession"),
        ({"possession": FACTS.possession(BOB.public)}, "possession"),
        ({"payload_bytes": MOST - AEAD_TAG_BYTES + 1}, "payload_size"),
    ],
)
def test_a_header_the_facts_contradict(changes: dict[str, Any], reason: str) -> None:
    data = head(**changes)
    assert reason_of(lambda: admit(FACTS, ALICE.public, data)) == reason
    assert reason_of(lambda: admit(AUDITOR, ALICE.public, data)) == reason


def test_a_share_smaller_than_a_rounds_work_bounds_the_windows() -> None:
    """A slot of a small text has fewer windows than H steps would take."""
    spec = round_facts().spec
    small = round_facts(spec.model_copy(update={"data": spec.data.model_copy(update={"windows": 20})}))
    data = wire.encode_head(replace(header(FACTS, ALICE, 0, bytes(100), payload_key()), run_id=small.run_id), ALICE)
    assert reason_of(lambda: admit(small, ALICE.public, data)) == "windows_range"


def test_a_header_found_in_somebody_elses_bucket() -> None:
    assert reason_of(lambda: admit(FACTS, BOB.public, head())) == "foreign_header"


@pytest.mark.parametrize(
    ("registered", "changes", "reason"),
    [
        ({}, {}, "unregistered"),
        (peers("bob"), {}, "unregistered"),
        ({ALICE.public: 2}, {}, "uid_mismatch"),
        (peers("alice", "bob"), windows(1, WINDOWS), "uid_mismatch"),
    ],
)
def test_a_header_the_registry_contradicts(
    registered: Mapping[bytes, int], changes: dict[str, Any], reason: str
) -> None:
    facts = round_facts(registered=registered)
    data = head(facts=facts, **changes)
    assert reason_of(lambda: admit(facts, ALICE.public, data)) == reason
    assert isinstance(admit(AUDITOR, ALICE.public, data), Signed), "an auditor cannot know"


@pytest.mark.parametrize("registered", [{}, {ALICE.public: 2}])
def test_the_registry_is_asked_last_so_that_leader_and_auditor_give_one_reason(
    registered: Mapping[bytes, int],
) -> None:
    """A head wrong in both ways would else have two reasons, and its round's record would be valid to nobody."""
    leader = round_facts(registered=registered)
    made = malformed_submissions(3, 400, leader, ALICE, 0, update(), identity("mallory"))
    compared = 0
    for case in made:
        data = case.work.head
        try:
            admit(AUDITOR, ALICE.public, data)
        except WireError as error:
            compared += 1
            assert error.reason in HEAD_REASONS
            assert reason_of(partial(admit, leader, ALICE.public, data)) == error.reason
    assert compared > 100


def test_a_head_has_a_largest_length() -> None:
    room = MAX_HEAD_BYTES - len(head()) - len(field(OPTIONAL, b""))
    longest, longer = padded_head(room), padded_head(room + 1)
    assert len(longest) == MAX_HEAD_BYTES
    assert admit(FACTS, ALICE.public, longest).head == longest
    assert reason_of(lambda: admit(FACTS, ALICE.public, longer)) == "head_size"


def padded_head(size: int) -> bytes:
    """An honest head with an optional field of `size` bytes."""
    data = submission(FACTS, ALICE, 0).head
    return resigned(data, ALICE, FACTS.run_id, lambda fields: fields.update({OPTIONAL: bytes(size)}))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (head()[:-1], "truncated"),
        (head() + b"\0", "trailing"),
        (b"mSTR" + head()[4:], "magic"),
        (submission(FACTS, ALICE, 0).key(), "type"),
        (framed(Type.HEAD, ALICE, FACTS.run_id, b""), "missing_field"),
        (head()[:-64] + bytes(64), "signature"),
    ],
    ids=["empty", "short", "long", "magic", "type", "field", "signature"],  # signed bytes differ every time
)
def test_bytes_that_are_not_a_head(data: bytes, reason: str) -> None:
    assert reason_of(lambda: admit(FACTS, ALICE.public, data)) == reason


def test_a_key_object_fits_its_cap() -> None:
    assert len(submission(FACTS, ALICE, 0).key()) < MAX_KEY_BYTES
