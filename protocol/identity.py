"""Who signed this: sr25519 hotkeys, the same on every chain Muster runs on.

A hotkey is 32 public bytes on the wire and in sort orders, and its ss58 address wherever a person reads it.
"""

from __future__ import annotations

import json
from pathlib import Path

import bittensor_core
from blake3 import blake3

from muster.protocol.errors import IdentityError

PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
SEED_BYTES = 32

_WRAP = (b"<Bytes>", b"</Bytes>")
"""What wallets put around a message that a person signs."""


class Identity:
    """A hotkey that can sign. The secret never leaves this object."""

    __slots__ = ("_pair", "hotkey", "public")

    def __init__(self, seed: bytes) -> None:
        """Make the sr25519 pair of a 32-byte mini-secret.

        Raises:
            IdentityError: the seed is not 32 bytes.
        """
        if len(seed) != SEED_BYTES:
            raise IdentityError(f"a hotkey seed is {SEED_BYTES} bytes, not {len(seed)}")
        self._hold(bittensor_core.Keypair.create_from_seed(seed))

    def _hold(self, pair: bittensor_core.Keypair) -> None:
        self._pair = pair
        self.public: bytes = bytes(pair.public_key)
        self.hotkey: str = str(pair.ss58_address)

    @classmethod
    def derive(cls, seed: int, name: str) -> Identity:
        """The identity a local run gives to participant `name`: BLAKE3 of the run's seed and the name."""
        return cls(derive_seed(seed, name))

    @classmethod
    def from_file(cls, path: Path) -> Identity:
        """Read a hexadecimal 32-byte seed from a file.

        Raises:
            IdentityError: the file cannot be read or does not hold 64 hexadecimal digits.
        """
        try:
            return cls(bytes.fromhex(path.read_text().strip().removeprefix("0x")))
        except OSError as error:
            raise IdentityError(f"cannot read the hotkey file {path}: {error.strerror}") from error
        except ValueError as error:
            raise IdentityError(f"the hotkey file {path} must hold 64 hexadecimal digits") from error

    @classmethod
    def from_wallet(cls, path: Path) -> Identity:
        """Read the hotkey file of a Bittensor wallet: JSON, not encrypted, with `secretSeed` or `privateKey`.

        Raises:
            IdentityError: the file cannot be read, is encrypted, holds no secret, or one of another address.
        """
        try:
            held = json.loads(path.read_bytes())
        except OSError as error:
            raise IdentityError(f"cannot read the hotkey file {path}: {error.strerror}") from error
        except ValueError as error:
            raise IdentityError(
                f"the hotkey file {path} is not a wallet's JSON; an encrypted one must be decrypted"
            ) from error
        secret = (held.get("secretSeed") or held.get("privateKey")) if isinstance(held, dict) else None
        if not isinstance(secret, str):
            raise IdentityError(f"the hotkey file {path} holds no secretSeed and no privateKey; is it the public half?")
        identity = cls.__new__(cls)
        try:
            identity._hold(bittensor_core.Keypair.create_from_private_key(secret))
        except (ValueError, TypeError):
            # Without the cause: its text may repeat what was read.
            raise IdentityError(f"the secret in the hotkey file {path} is not an sr25519 key") from None
        if held.get("ss58Address", identity.hotkey) != identity.hotkey:
            raise IdentityError(f"the hotkey file {path} names another address than that of its secret")
        return identity

    def sign(self, message: bytes) -> bytes:
        """Sign `message`; 64 bytes (sr25519 signatures are randomised, so digests never cover them)."""
        return bytes(self._pair.sign(message))

    def __repr__(self) -> str:
        return f"Identity({self.hotkey})"


def derive_seed(seed: int, name: str) -> bytes:
    """The 32-byte hotkey seed of a local run's participant."""
    return blake3(b"muster/identity/v1" + seed.to_bytes(8, "little") + name.encode()).digest()


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` over `message` itself was made by the owner of `public`; false for anything malformed.

    The library also takes a signature over `<Bytes>message</Bytes>`, the form in which wallets sign for people. Two
    forms would split implementations, so what also verifies as a signature over the wrapped message is refused: a
    signature over the message itself never does.
    """
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    hotkey = hotkey_of(public)
    if not bittensor_core.verify(message, signature, hotkey):
        return False
    return not bittensor_core.verify(_WRAP[0] + message + _WRAP[1], signature, hotkey)


def hotkey_of(public: bytes) -> str:
    """The ss58 address of 32 public bytes."""
    return str(bittensor_core.ss58_encode(public))


def public_of(hotkey: str) -> bytes:
    """The 32 public bytes of an ss58 address.

    Raises:
        IdentityError: not an ss58 address.
    """
    try:
        return bytes(bittensor_core.ss58_decode(hotkey))
    except ValueError as error:
        raise IdentityError(f"{hotkey!r} is not a hotkey address") from error
