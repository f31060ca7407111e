"""Buckets on the network by location: who may write which, and through which door each is reached."""

from __future__ import annotations

from dataclasses import replace

from muster.protocol.errors import StorageError
from muster.protocol.storage.addresses import AllowList
from muster.protocol.storage.base import Buckets, Store
from muster.protocol.storage.relay import Door, Relay, Resolve, resolve
from muster.protocol.storage.s3 import S3Store
from muster.protocol.storage.s3_location import Credentials, S3Location, WebLocation, parse_location
from muster.protocol.storage.web import WebStore


class NetworkBuckets(Buckets):
    """The buckets of a run at `s3://…` and `https://…`.

    The own bucket opens with the writing credentials; every other with what its location carries. The own
    bucket's host and what `allow` names are connected to directly and may do without TLS. Every other host must
    have TLS and public addresses, and is reached through the relay.
    """

    def __init__(
        self,
        own: str | None = None,
        credentials: Credentials | None = None,
        *,
        allow: AllowList | None = None,
        roots: bytes | None = None,
        resolve: Resolve = resolve,
    ) -> None:
        """Open nothing yet.

        Args:
            own: the location of the own bucket, None for one who only reads.
            credentials: what writes the own bucket; without it the own bucket is only read too.
            allow: hosts and networks that locations may lead to besides the public internet.
            roots: certificates (PEM) to trust besides the system's.
            resolve: finds the addresses of a host.

        Raises:
            StorageError: `own` is not a location.
        """
        super().__init__()
        self._credentials = credentials
        self._roots = roots
        self._resolve = resolve
        self._relay: Relay | None = None
        self._allow = allow or AllowList()
        self._own = None if own is None else parse_location(own)
        if self._own is not None:
            self._allow = self._allow.with_host(self._own.connect_host, self._own.port)

    async def close(self) -> None:
        """Close every bucket and the relay."""
        await super().close()
        if self._relay is not None:
            await self._relay.close()
            self._relay = None

    def _make(self, location: str) -> Store:
        place = parse_location(location)
        door = self._door(place)
        if isinstance(place, WebLocation):
            return WebStore(place, door=door, roots=self._roots)
        own = self._own is not None and _same_bucket(place, self._own)
        return S3Store(place, self._credentials if own else None, door=door, roots=self._roots)

    def _door(self, place: S3Location | WebLocation) -> Door | None:
        if self._allow.names(place.connect_host, place.port):
            return None
        if not place.tls:
            raise StorageError(
                f"cannot open {place.shown}: without TLS only hosts that the setting `allow` names are opened; add "
                f"{place.connect_host}:{place.port} to it if it is meant"
            )
        if self._relay is None:
            self._relay = Relay(self._allow, resolve=self._resolve)
        return self._relay.door(place.connect_host, place.port)


def _same_bucket(one: S3Location, other: S3Location | WebLocation) -> bool:
    """Whether two locations mean the same objects, whatever reads them."""
    return isinstance(other, S3Location) and replace(one, read=None) == replace(other, read=None)
