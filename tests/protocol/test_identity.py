"""A hotkey is the same one whatever file it comes from, and a file without one says why."""

from __future__ import annotations

import json
from pathlib import Path

import bittensor as bt
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
