"""A bucket's public web address, for who only looks: a run is audited or joined without a key or an S3 client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from obstore.store import HTTPStore

from muster.protocol.errors import StorageError
from muster.protocol.storage.base import DEFAULT_DEADLINE, ObjectInfo
from muster.protocol.storage.relay import Door
from muster.protocol.storage.remote import RemoteStore
from muster.protocol.storage.s3 import READ_TIMEOUTS, RETRIES, client_options
from muster.protocol.storage.s3_location import WebLocation

if TYPE_CHECKING:
    from obstore.store import ClientConfig

# ruff: noqa: ARG002 - an interface's arguments, of operations that are refused


class WebStore(RemoteStore):
    """Objects read with plain GET requests; writing and listing raise `StorageError`."""

    def __init__(self, location: WebLocation, *, door: Door | None = None, roots: bytes | None = None) -> None:
        """Open the address; nothing is sent yet. `door` and `roots` are as in `S3Store`."""
        options: ClientConfig = {**client_options(location.tls, door, roots), **READ_TIMEOUTS}
        client = HTTPStore(location.endpoint, client_options=options, retry_config=RETRIES)
        super().__init__(client, location.shown, door)

    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Not possible."""
        self._refuse(f"store {key}")

    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        """Not possible."""
        self._refuse(f"store {key}")

    async def upload(self, key: str, source: Path, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Not possible."""
        self._refuse(f"store {key}")

    async def list(
        self, prefix: str = "", *, limit: int = 10_000, deadline: float = DEFAULT_DEADLINE
    ) -> list[ObjectInfo]:
        """Not possible: a web server does not say what it holds."""
        self._refuse(f"list {prefix!r}")

    async def delete(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Not possible."""
        self._refuse(f"delete {key}")

    def _refuse(self, action: str) -> NoReturn:
        raise StorageError(
            f"cannot {action} in {self._shown}: a web address is read-only and cannot be listed; use s3://"
        )
