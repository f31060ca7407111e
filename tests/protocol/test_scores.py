"""A judgement is its validator's word for word, or it is nobody's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import rfc8785
from blake3 import blake3
from builders import hash32, identity

from muster.protocol.errors import WireError
from muster.protocol.identity import verify
from muster.protocol.scores import PeerScores, ScoresBody, decode_scores, encode_scores, max_scores_bytes, used
from muster.protocol.wire import ScoreRow, ScoresUsed

RUN = hash32("run")
VALIDATOR = identity("validator")


def peer(name: str, **changes: Any) -> PeerScores:
    fields: dict[str, Any] = {
        "hotkey": identity(name).hotkey,
        "uid": 1,
        "assigned": (2.5, 2.25),
        "unassigned": None,
        "mu": -0.25,
        "rating": (25.0, 8.125),
        "positive": True,
        "peer_score": 1e-7,
        "incentive": 0.5,
    }
    return PeerScores(**(fields | changes))


BODY = ScoresBody(round=5, record="ab" * 32, heldout=2.75, peers=(peer("alice"), peer("bob", positive=False)))
FILE = encode_scores(BODY, VALIDATOR, RUN)


def decode(data: bytes) -> tuple[ScoresBody, bytes]:
    return decode_scores(data, RUN, VALIDATOR.hotkey, 5)


def test_round_trip_and_digest() -> None:
    body, digest = decode(FILE)
    assert body == BODY
    canonical = rfc8785.dumps(json.loads(FILE)["body"])
    assert digest == blake3(b"muster/scores/v1" + canonical).digest()
    assert decode(encode_scores(BODY, VALIDATOR, RUN))[1] == digest
    signature = bytes.fromhex(json.loads(FILE)["signature"])
    assert verify(VALIDATOR.public, b"muster/scores/v1" + RUN + canonical, signature)


def test_no_byte_can_be_changed() -> None:
    """One flipped bit in every byte (0x20 turns 1e-7 into 1E-7, which means the same), and every truncation."""
    for at in range(len(FILE)):
        for flip in (0x01, 0x20):
            with pytest.raises(WireError):
                decode(FILE[:at] + bytes([FILE[at] ^ flip]) + FILE[at + 1 :])
    for end in range(len(FILE)):
        with pytest.raises(WireError):
            decode(FILE[:end])


def resigned(change: Any) -> bytes:
    """The file with its body's JSON changed, signed again by the validator."""
    body = json.loads(FILE)["body"]
    change(body)
    canonical = rfc8785.dumps(body)
    signature = VALIDATOR.sign(b"muster/scores/v1" + RUN + canonical).hex()
    return rfc8785.dumps({"body": body, "hotkey": VALIDATOR.hotkey, "signature": signature})


@dataclass(frozen=True)
class Never:
    """A change to make and the reason it must be refused for."""

    reason: str
    change: Any


def set_peer(**fields: Any) -> Any:
    return lambda body: body["peers"][0].update(fields)


@pytest.mark.parametrize(
    "never",
    [
        Never("scores_round", lambda body: body.update(round=6)),
        Never("scores_format", lambda body: body.update(round=-1)),
        Never("scores_format", lambda body: body.update(extra=1)),
        Never("scores_format", lambda body: body.pop("heldout")),
        Never("scores_format", set_peer(peer_score=-1)),
        Never("scores_format", set_peer(mu=1.5)),
        Never("scores_format", set_peer(positive=1)),
        Never("scores_format", set_peer(assigned=[1.0])),
        Never("scores_format", set_peer(hotkey="not a hotkey")),
        Never("scores_duplicate", set_peer(hotkey=identity("bob").hotkey)),
    ],
)
def test_a_signed_file_that_breaks_a_rule(never: Never) -> None:
    with pytest.raises(WireError) as caught:
        decode(resigned(never.change))
    assert caught.value.reason == never.reason


def test_a_signed_file_after_a_harmless_change_is_another_file() -> None:
    body, digest = decode(resigned(set_peer(peer_score=2.0)))
    assert body.peers[0].peer_score == 2.0
    assert digest != decode(FILE)[1]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda d: d.replace(b'":', b'": ', 1), "scores_format"),
        (lambda d: d + b"\n", "scores_format"),
        (lambda d: d.replace(b'{"body":', b'{"hotkey":"","body":', 1), "scores_format"),
        (lambda d: b"", "scores_format"),
        (lambda d: b"\xff", "scores_format"),
        (lambda d: b"[" * 100_000, "scores_format"),
    ],
)
def test_other_spellings_and_garbage(spoil: Any, reason: str) -> None:
    with pytest.raises(WireError) as caught:
        decode(spoil(FILE))
    assert caught.value.reason == reason


def test_whose_and_for_what() -> None:
    with pytest.raises(WireError, match="scores_signer"):
        decode_scores(FILE, RUN, identity("somebody").hotkey, 5)
    with pytest.raises(WireError, match="scores_round"):
        decode_scores(FILE, RUN, VALIDATOR.hotkey, 4)
    with pytest.raises(WireError, match="signature"):
        decode_scores(FILE, hash32("another run"), VALIDATOR.hotkey, 5)
    forged = json.loads(encode_scores(BODY, identity("somebody"), RUN)) | {"hotkey": VALIDATOR.hotkey}
    with pytest.raises(WireError, match="signature"):
        decode(rfc8785.dumps(forged))


def test_what_a_record_carries() -> None:
    rows = [ScoreRow(identity("alice").public, 1e-7, True), ScoreRow(identity("bob").public, 1e-7, False)]
    rows.sort(key=lambda row: row.public)
    expected = ScoresUsed(VALIDATOR.public, 9, 5, b"d" * 32, tuple(rows))
    known = {identity("alice").public, identity("bob").public, hash32("somebody")}
    assert used(BODY, b"d" * 32, VALIDATOR.hotkey, 9, known) == expected


def test_peers_that_a_validator_invents_add_nothing_to_a_record() -> None:
    known = {identity("alice").public}
    (row,) = used(BODY, b"d" * 32, VALIDATOR.hotkey, 9, known).rows
    assert row.public == identity("alice").public
    invented = [peer(f"invented {i}") for i in range(200)]
    body = BODY.model_copy(update={"peers": (*invented, *BODY.peers)})
    assert used(body, b"d" * 32, VALIDATOR.hotkey, 9, known).rows == (row,)


@pytest.mark.parametrize("slots", [4, 64, 256])
def test_a_file_with_a_row_for_every_slot_fits_its_cap_with_the_longest_numbers(slots: int) -> None:
    long = -2.2250738585072014e-308
    worst: dict[str, Any] = {
        "uid": 2**53 - 1,
        "assigned": (long, long),
        "unassigned": (long, long),
        "mu": long,
        "rating": (long, long),
        "positive": False,
        "peer_score": -long,
        "incentive": -long,
    }
    rows = tuple(peer(f"peer {i}", **worst) for i in range(slots))
    body = ScoresBody(round=2**53 - 1, record="ab" * 32, heldout=long, peers=rows)
    data = encode_scores(body, VALIDATOR, RUN)
    assert max_scores_bytes(slots) / 2 < len(data) <= max_scores_bytes(slots)
    assert decode_scores(data, RUN, VALIDATOR.hotkey, 2**53 - 1)[0] == body
