"""Buckets of any S3-compatible service, so that strangers can exchange gigabytes without servers of their own.

Reading is `RemoteStore`; writing and listing are here. Large bodies go up in parts (`admin.uploads`): a connection that
is cut costs the part it carried, and an upload that failed is gone on with where it stopped, by a later life too.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store as S3Client

from muster.protocol.errors import StorageError
from muster.protocol.storage.base import DEFAULT_DEADLINE, ObjectInfo, check_key, is_key
from muster.protocol.storage.relay import Door
from muster.protocol.storage.remote import RemoteStore, object_info
from muster.protocol.storage.remote_errors import NO_BUCKET, service_code
from muster.protocol.storage.s3_location import Credentials, S3Location

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

    from muster.protocol.storage.admin.uploads import Uploads

_log = logging.getLogger(__name__)

PART = 8 << 20
"""Bytes of one part of a large upload."""
_MAX_PARTS = 9_000
"""A service takes 10,000 parts of one object: larger objects get larger parts."""
_UPLOADS_AT_ONCE = 1
"""Large ones: some parts are on their way, and more connections would only share the same line."""

RETRIES: RetryConfig = {
    "max_retries": 4,
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
    "retry_timeout": timedelta(minutes=4),
}
"""A request's signature is 15 minutes old at most; the call's own deadline ends the retries sooner."""
_CONNECT_TIMEOUT = timedelta(seconds=5)
_PART_TIMEOUT = timedelta(minutes=10)
"""A write's time-out covers sending its body: a part at 14 KB/s."""
READ_TIMEOUTS: ClientConfig = {"read_timeout": timedelta(seconds=20), "timeout": timedelta(days=1)}
"""20 s of silence, and a download is continued on another connection; a whole read ends by its call's deadline."""

_PAGE = 1_000
"""Objects in a page of a listing, by the S3 protocol."""
_ENTRY_BYTES = 4096
"""More than an entry of a listing takes: a key of 512 characters, maybe escaped, and some fields."""
_STEM = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,127})?")
_NOT_IMPLEMENTED = frozenset({"NotImplemented", "501"})


class S3Store(RemoteStore):
    """A bucket, or what is below a prefix of one, at a location."""

    def __init__(
        self,
        location: S3Location,
        credentials: Credentials | None = None,
        *,
        door: Door | None = None,
        roots: bytes | None = None,
    ) -> None:
        """Open the bucket; nothing is sent yet.

        Args:
            location: where it is; its own read-only pair is used if there are no `credentials`.
            credentials: what may write it.
            door: the way of every connection, for a host nobody vouched for.
            roots: certificates (PEM) to trust besides the system's, for a service with its own authority.
        """
        pair = credentials or location.read
        options = client_options(location.tls, door, roots)
        reader = _client(location, pair, {**options, **READ_TIMEOUTS})
        super().__init__(reader, location.shown, door)
        self._reader = reader
        self._writer = _client(location, pair, {**options, "timeout": _PART_TIMEOUT})
        self._conditional = True
        self._place, self._pair, self._roots = location, pair, roots
        self._turn = asyncio.Semaphore(_UPLOADS_AT_ONCE)
        self._parts: Uploads | None = None

    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Store `data`, in parts if it is large."""
        check_key(key)
        await self._send(f"store {key}", key, data, len(data), deadline)

    async def upload(self, key: str, source: Path, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Store the bytes of `source`, which are read part by part."""
        check_key(key)
        try:
            size = (await asyncio.to_thread(source.stat)).st_size
        except OSError as error:
            raise StorageError(f"cannot store {key}: {source} cannot be read: {error.strerror}") from error
        await self._send(f"store {source} as {key}", key, source, size, deadline)

    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        """Store `data` unless `key` exists, by the service's conditional put.

        Where the service has none, by looking first: then two writers that race may both get True, which is
        logged once. Only a bucket with one writer is safe there.
        """
        check_key(key)

        async def create() -> bool:
            if self._conditional:
                try:
                    await obstore.put_async(self._writer, key, data, mode="create", use_multipart=False)
                    return True
                except AlreadyExistsError:
                    return False
                except BaseError as error:
                    if service_code(error) not in _NOT_IMPLEMENTED:
                        raise
                    self._conditional = False
                    _log.warning(
                        "%s has no conditional put: of two writers of one object that race, both may believe to "
                        "have been first; let one process only write this bucket",
                        self._shown,
                    )
            try:
                await obstore.head_async(self._client, key)
            except FileNotFoundError as error:
                if service_code(error) == NO_BUCKET:
                    raise
                await obstore.put_async(self._writer, key, data, use_multipart=False)
                return True
            return False

        return await self._run(f"store {key}", deadline, 0, create)

    async def list(
        self, prefix: str = "", *, limit: int = 10_000, deadline: float = DEFAULT_DEADLINE
    ) -> list[ObjectInfo]:
        """Objects whose key starts with `prefix`, in ascending key order, at most `limit`.

        Names that are not keys are left out, but for the folder markers (`b/`) that some services' consoles
        make: the client shows one as `b`.
        """
        folder, _, stem = prefix.rpartition("/")
        possible = (not folder or is_key(folder)) and _STEM.fullmatch(stem) and not prefix.startswith("/")
        if not possible or limit <= 0:
            return await self._run(f"list {prefix!r}", deadline, 0, _nothing)

        async def collect() -> list[ObjectInfo]:
            found: list[ObjectInfo] = []
            # A listing is by folder and begins after a key: that key itself is looked up.
            if stem and is_key(prefix):
                with suppress(FileNotFoundError):
                    found.append(await self._head(prefix))
            offset = prefix if stem else None
            async for page in obstore.list(self._reader, folder or None, offset=offset, chunk_size=_PAGE):
                for entry in page:
                    key = entry["path"]
                    if not key.startswith(prefix):
                        if key > prefix:
                            return found
                    elif is_key(key):
                        found.append(object_info(key, entry))
                    if len(found) >= limit:
                        return found
            return found

        size = (limit + 2 * _PAGE) * _ENTRY_BYTES
        return sorted(await self._run(f"list {prefix!r}", deadline, size, collect), key=lambda info: info.key)

    async def delete(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Remove an object if it is there."""
        check_key(key)
        await self._run(f"delete {key}", deadline, 0, lambda: obstore.delete_async(self._writer, key))

    async def close(self) -> None:
        """Release what large uploads hold."""
        if self._parts is not None:
            self._parts.close()

    async def _send(self, action: str, key: str, body: bytes | Path, size: int, deadline: float) -> None:
        part = max(PART, -(-size // _MAX_PARTS))

        async def send() -> None:
            # What goes through a door is not the own bucket, and another client would find another way there.
            if size <= PART or self._door is not None:
                await obstore.put_async(self._writer, key, body, use_multipart=size > PART, chunk_size=part)
                return
            async with self._turn:
                if self._parts is None:
                    self._parts = await asyncio.to_thread(_uploads, self._place, self._pair, self._roots)
                await self._parts.send(key, body, size, part)

        await self._run(action, deadline, 0, send)


def _uploads(location: S3Location, pair: Credentials | None, roots: bytes | None) -> Uploads:
    """Its client takes half a second to load, and small objects do without."""
    from muster.protocol.storage.admin.uploads import Uploads  # noqa: PLC0415

    return Uploads(location, pair, roots)


def client_options(tls: bool, door: Door | None, roots: bytes | None) -> ClientConfig:
    """What every HTTP client of ours has in common."""
    options: ClientConfig = {"allow_http": not tls, "connect_timeout": _CONNECT_TIMEOUT}
    if door is not None:
        options["proxy_url"] = door.proxy_url
    if roots is not None:
        options["root_certificate"] = roots
    return options


def _client(location: S3Location, pair: Credentials | None, options: ClientConfig) -> S3Client:
    # Everything is spelt out because the client fills in what is not from AWS_* environment variables.
    config: S3Config = {
        "endpoint": location.endpoint,
        "aws_endpoint_url_s3": location.endpoint,
        "region": location.region,
        "virtual_hosted_style_request": location.virtual,
        "skip_signature": pair is None,
        # Over TLS a second hash of the body proves nothing more.
        "unsigned_payload": location.tls,
        "conditional_put": "etag",
        "disable_bulk_delete": True,
        "s3_express": False,
        "request_payer": False,
    }
    return S3Client(
        location.bucket,
        prefix=location.prefix or None,
        config=config,
        client_options=options,
        retry_config=RETRIES,
        credential_provider=_provider(pair) if pair else None,
    )


def _provider(pair: Credentials) -> Callable[[], S3Credential]:
    def provide() -> S3Credential:
        return {
            "access_key_id": pair.access,
            "secret_access_key": pair.secret,
            "token": None,
            "expires_at": None,
        }

    return provide


async def _nothing() -> list[ObjectInfo]:
    return []
