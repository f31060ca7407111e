"""Secrets a participant needs, from the environment or from files it names: never settings, never arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from muster.protocol.errors import ConfigError, IdentityError
from muster.protocol.identity import Identity
from muster.protocol.storage import Credentials

ACCESS_KEY = "MUSTER_S3_ACCESS_KEY"
SECRET_KEY = "MUSTER_S3_SECRET_KEY"  # noqa: S105
ADMIN_ACCESS_KEY = "MUSTER_S3_ADMIN_ACCESS_KEY"
ADMIN_SECRET_KEY = "MUSTER_S3_ADMIN_SECRET_KEY"  # noqa: S105
_FILE = "_FILE"

CREDENTIAL_VARIABLES = frozenset({ACCESS_KEY, SECRET_KEY, ACCESS_KEY + _FILE, SECRET_KEY + _FILE})
"""What writes the participant's own bucket: each itself, or the path of a file that holds it."""
ADMIN_VARIABLES = frozenset({ADMIN_ACCESS_KEY, ADMIN_SECRET_KEY, ADMIN_ACCESS_KEY + _FILE, ADMIN_SECRET_KEY + _FILE})
"""What makes buckets and users on a server of one's own."""


def load_credentials(
    environment: Mapping[str, str], access: str = ACCESS_KEY, secret: str = SECRET_KEY
) -> Credentials | None:
    """The pair that two variables, or the files named by them with `_FILE` added, hold; None where neither is set.

    Raises:
        ConfigError: only one of the two is set, one is set both ways, or a file cannot be read.
        StorageError: they cannot be S3 keys.
    """
    values = [_read(environment, name) for name in (access, secret)]
    if values == [None, None]:
        return None
    if values[0] is None or values[1] is None:
        raise ConfigError(f"{access} and {secret} (or {access}{_FILE} and {secret}{_FILE}) must both be set")
    return Credentials(values[0], values[1])


def _read(environment: Mapping[str, str], name: str) -> str | None:
    value, path = environment.get(name), environment.get(name + _FILE)
    if value and path:
        raise ConfigError(f"{name} and {name}{_FILE} are both set; keep one of them")
    if not path:
        return value or None
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the file {path} that {name}{_FILE} names") from error


def load_identity(path: Path) -> Identity:
    """The hotkey in a file: 64 hexadecimal digits, or what Bittensor's wallet writes (JSON, not encrypted).

    Raises:
        IdentityError: it cannot be read or is neither.
    """
    try:
        wallet = path.read_bytes()[:1] == b"{"
    except OSError as error:
        raise IdentityError(f"cannot read the hotkey file {path}: {error.strerror}") from error
    return Identity.from_wallet(path) if wallet else Identity.from_file(path)
