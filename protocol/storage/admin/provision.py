"""Buckets for all participants of a run on a server of one's own: each with keys that open nothing but it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from muster.protocol.errors import StorageError
from muster.protocol.storage.admin.accounts import Accounts, find_accounts, reader_name, writer_name
from muster.protocol.storage.admin.bucket import BucketAdmin, abort_rule
from muster.protocol.storage.admin.service import service_location
from muster.protocol.storage.s3_location import Credentials, S3Location

_RUN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
"""Short enough that a participant's name fits into the 63 characters of a bucket's."""


@dataclass(frozen=True, slots=True)
class Provisioned:
    """A participant's bucket: the location to commit, and what writes it. `shared` keys write all of them."""

    location: str = field(repr=False)
    write: Credentials
    shared: bool = False


class Provisioner:
    """Makes and removes the buckets `RUN-NAME` of one run. Every call blocks: from a task, call it in a thread."""

    def __init__(
        self, endpoint: str, admin: Credentials, run: str, *, region: str | None = None, shared: bool = False
    ) -> None:
        """Nothing is sent yet.

        Args:
            endpoint: http(s)://HOST[:PORT], or HOST[:PORT]: TLS except on loopback.
            admin: keys that may make buckets and users.
            run: what the run's buckets begin with, so that several runs share a server.
            region: the service's, where it asks for one.
            shared: on a service that cannot make users, give everybody the administrator's keys for writing and
                let the buckets be public. Only for trying things out: anybody can then write as anybody.

        Raises:
            StorageError: `run` is not 1 to 32 lower-case letters, digits and inner hyphens.
        """
        if not _RUN.fullmatch(run):
            raise StorageError("a run's name in buckets is 1 to 32 lower-case letters, digits and inner hyphens")
        self._endpoint = endpoint
        self._admin = admin
        self._run = run
        self._region = region
        self._shared = shared
        self._found: tuple[Accounts | None] | None = None

    def provision(self, name: str) -> Provisioned:
        """The bucket of the participant `name` with its keys; a second call finds them, or makes new keys.

        Raises:
            StorageError: refused, not reached, or the service cannot make users and `shared` was not asked for.
        """
        location = self._location(name)
        accounts = self._accounts(location)
        if accounts is None and not self._shared:
            raise StorageError(
                f"the service at {self._endpoint} makes no users with these keys; on a Ceph gateway give them the "
                "capability users=*, elsewhere make each bucket with `muster bucket create`"
            )
        bucket = BucketAdmin(location, self._admin)
        bucket.make()
        bucket.set_lifecycle([abort_rule()])
        if accounts is None:
            bucket.open_to_public()
            return Provisioned(str(location), self._admin, shared=True)
        read, write = bucket.open_to_users(accounts, writer=True)
        assert write is not None, "a writer was asked for"
        return Provisioned(str(replace(location, read=read)), write)

    def remove(self, name: str) -> None:
        """Remove the participant's bucket with all that is in it, and its users; what is gone is no error."""
        location = self._location(name)
        accounts = self._accounts(location)
        BucketAdmin(location, self._admin).remove()
        if accounts is not None:
            for user in (reader_name(location.bucket), writer_name(location.bucket)):
                accounts.remove(user)

    def _location(self, name: str) -> S3Location:
        return service_location(self._endpoint, f"{self._run}-{name}", self._region)

    def _accounts(self, location: S3Location) -> Accounts | None:
        if self._found is None:
            self._found = (find_accounts(location, self._admin),)
        return self._found[0]
