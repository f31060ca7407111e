"""A hotkey is the same one whatever file it comes from, and a file without one says why."""

from __future__ import annotations

import json
from pathlib import Path

import bittensor as bt
import bittensor_core
import pytest

from muster.protocol.errors import IdentityError
from muster.protocol.identity import Identity, verify

MESSAGE = b"message"


@pytest.fixture
def wallet(tmp_path: Path) -> Path:
    """The hotkey file of a fresh wallet, as Bittensor's SDK writes it."""
    made = bt.Wallet("cold", "hot", path=str(tmp_path))
    made.create_new_hotkey(use_password=False, suppress=True)
    return tmp_path / "cold" / "hotkeys" / "hot"


def test_a_wallets_hotkey_signs(wallet: Path) -> None:
    identity = Identity.from_wallet(wallet)
    assert identity.hotkey == json.loads(wallet.read_text())["ss58Address"]
    assert verify(identity.public, MESSAGE, identity.sign(MESSAGE))


def wrapped(message: bytes) -> bytes:
    """As a wallet signs what a person types."""
    return b"<Bytes>" + message + b"</Bytes>"


@pytest.mark.parametrize("message", [MESSAGE, b"", wrapped(MESSAGE), wrapped(wrapped(b""))])
def test_a_signature_is_over_the_message_itself_and_nothing_around_it(message: bytes) -> None:
    """The library below takes a wrapped message too: then one signature would serve two messages."""
    identity = Identity(bytes(range(32)))
    once, twice = wrapped(message), wrapped(wrapped(message))
    assert bittensor_core.verify(message, identity.sign(once), identity.hotkey), "or this test tests nothing"
    forms = (message, once, twice)
    for signed in forms:
        signature = identity.sign(signed)
        assert [verify(identity.public, form, signature) for form in forms] == [form == signed for form in forms]


def test_a_signature_in_another_encoding_is_none() -> None:
    """Without schnorrkel's mark, or with a scalar that is not reduced: other bytes must not say the same."""
    identity = Identity(bytes(range(32)))
    signature = identity.sign(MESSAGE)
    scalar = int.from_bytes(signature[32:], "little") & (2**255 - 1)
    unreduced = (scalar + 2**252 + 27742317777372353535851937790883648493) | 1 << 255
    others = [
        signature[:63] + bytes((signature[63] & 0x7F,)),
        signature[:32] + unreduced.to_bytes(32, "little"),
        signature + b"\0",
        signature[:-1],
    ]
    assert verify(identity.public, MESSAGE, signature)
    assert not any(verify(identity.public, MESSAGE, other) for other in others)


def test_a_wallets_seed_is_a_seed_file_too(wallet: Path, tmp_path: Path) -> None:
    (tmp_path / "seed").write_text(json.loads(wallet.read_text())["secretSeed"])
    assert Identity.from_file(tmp_path / "seed").hotkey == Identity.from_wallet(wallet).hotkey


def test_a_wallet_without_a_seed_has_a_private_key(wallet: Path) -> None:
    before, held = Identity.from_wallet(wallet), json.loads(wallet.read_text())
    wallet.write_text(json.dumps(held | {"secretSeed": None}))
    assert Identity.from_wallet(wallet).hotkey == before.hotkey


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read"),
        (b"$NACL\x80\x01", "encrypted"),
        (b"[]", "holds no secretSeed"),
        (b'{"ss58Address": "x"}', "public half"),
        (b'{"secretSeed": "0xcafe"}', "not an sr25519 key"),
        (json.dumps({"secretSeed": "0x" + "07" * 32, "ss58Address": "other"}).encode(), "another address"),
    ],
)
def test_a_file_without_a_usable_hotkey_says_why(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "hot"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(IdentityError, match=says) as caught:
        Identity.from_wallet(path)
    assert "cafe" not in str(caught.value)
