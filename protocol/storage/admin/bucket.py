"""A bucket as its owner sets it up: that it exists, who may read it, and what disappears from it by itself.

Rules and statements of other origin that a bucket already has are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from muster.protocol.storage.admin.accounts import Access, Accounts, reader_name, statement, writer_name
from muster.protocol.storage.admin.service import Refused, Service, is_aws
from muster.protocol.storage.s3_location import DEFAULT_REGION, Credentials, S3Location

_OURS = "Muster"
"""How the statements and rules that belong to us begin, so that a rerun replaces them."""
_PUBLIC, _READ, _WRITE = f"{_OURS}Public", f"{_OURS}Read", f"{_OURS}Write"
_ABORT_DAYS = 1
_NO_LIFECYCLE = frozenset({"NoSuchLifecycleConfiguration", "NoSuchLifecycle"})


@dataclass(frozen=True, slots=True)
class LifecycleRule:
    """One of our rules: its name, what it does in words, and the body that S3 wants."""

    text: str
    body: dict[str, Any]


def abort_rule() -> LifecycleRule:
    """What a process that died uploaded in part goes after a day."""
    body = {
        "ID": f"{_OURS}Abort",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _ABORT_DAYS},
    }
    return LifecycleRule("drop incomplete uploads after 1 day", body)


def expiry_rule(location: S3Location, run_id: str, days: int) -> LifecycleRule:
    """Submissions of one run go after `days`: they are in the aggregators' bundles long before."""
    prefix = f"{location.prefix}/{run_id}/submissions/" if location.prefix else f"{run_id}/submissions/"
    body = {
        "ID": f"{_OURS}Expire{run_id[:16]}",
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "Expiration": {"Days": days},
    }
    return LifecycleRule(f"drop submissions of run {run_id[:16]}… after {days} days", body)


class BucketAdmin:
    """The bucket at a location in its owner's hands."""

    def __init__(self, location: S3Location, owner: Credentials) -> None:
        self.location = replace(location, read=None)
        self._service = Service(self.location, owner)
        self._s3 = self._service.s3
        self._bucket = location.bucket

    def exists(self) -> bool:
        """Whether the bucket is there; raises `Refused` (403) if it is somebody else's."""
        try:
            with self._service.doing("look for the bucket"):
                self._s3.head_bucket(Bucket=self._bucket)
        except Refused as refused:
            if refused.reason in {"404", "NoSuchBucket"}:
                return False
            raise
        return True

    def make(self) -> None:
        """Make the bucket if it is not there; raises `Refused` if the name is taken or the keys may not."""
        if self.exists():
            return
        with self._service.doing("make the bucket"):
            if is_aws(self.location) and self.location.region != DEFAULT_REGION:
                where: Any = {"LocationConstraint": self.location.region}
                self._s3.create_bucket(Bucket=self._bucket, CreateBucketConfiguration=where)
            else:
                self._s3.create_bucket(Bucket=self._bucket)

    def set_lifecycle(self, rules: Sequence[LifecycleRule]) -> list[str]:
        """Set our rules, as many as the service takes; returns one sentence for each it does not."""
        problems = []
        names = {rule.body["ID"] for rule in rules}
        try:
            kept = [rule for rule in self._lifecycle() if rule.get("ID") not in names]
        except Refused as refused:
            return [str(refused)]
        for rule in rules:
            wanted: Any = {"Rules": [*kept, rule.body]}
            try:
                with self._service.doing(f"set the rule “{rule.text}”"):
                    self._s3.put_bucket_lifecycle_configuration(Bucket=self._bucket, LifecycleConfiguration=wanted)
            except Refused as refused:
                problems.append(str(refused))
            else:
                kept.append(rule.body)
        return problems

    def drops_incomplete_uploads(self) -> bool:
        """Whether some rule ends incomplete uploads; raises `Refused` where the service has no rules to show."""
        rules = self._lifecycle()
        return any(rule.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in rule for rule in rules)

    def open_to_public(self) -> None:
        """Let everybody read and list, in place of a user who could."""
        if is_aws(self.location):
            with self._service.doing("lift the block of public access"):
                self._s3.delete_public_access_block(Bucket=self._bucket)
        self._set_policy({_READ: None, _PUBLIC: statement(self._bucket, _PUBLIC, Access.READ.value, "*")})

    def open_to_users(self, accounts: Accounts, *, writer: bool = False) -> tuple[Credentials, Credentials | None]:
        """Keys that read this bucket and, if asked, keys that write it: each for this bucket only.

        The public loses what `open_to_public` gave it.
        """
        wanted = [(_READ, reader_name(self._bucket), Access.READ)]
        if writer:
            wanted.append((_WRITE, writer_name(self._bucket), Access.WRITE))
        pairs = [accounts.open(name, self._bucket, access) for _, name, access in wanted]
        ours: dict[str, dict[str, object] | None] = {_PUBLIC: None}
        for sid, name, access in wanted:
            principal = accounts.principal(name)
            if principal is not None:
                ours[sid] = statement(self._bucket, sid, access.value, {"AWS": [principal]})
        self._set_policy(ours)
        return pairs[0], pairs[1] if writer else None

    def remove(self) -> None:
        """Remove the bucket with everything in it; one that is not there is not an error."""
        if not self.exists():
            return
        with self._service.doing("empty the bucket"):
            for upload in self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket):
                for part in upload.get("Uploads", []):
                    self._s3.abort_multipart_upload(
                        Bucket=self._bucket, Key=part.get("Key", ""), UploadId=part.get("UploadId", "")
                    )
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket):
                for item in page.get("Contents", []):
                    self._s3.delete_object(Bucket=self._bucket, Key=item.get("Key", ""))
        with self._service.doing("remove the bucket"):
            self._s3.delete_bucket(Bucket=self._bucket)

    def _lifecycle(self) -> list[dict[str, Any]]:
        try:
            with self._service.doing("read the bucket's lifecycle rules"):
                found: Any = self._s3.get_bucket_lifecycle_configuration(Bucket=self._bucket)
        except Refused as refused:
            if refused.reason in _NO_LIFECYCLE:
                return []
            raise
        return list(found.get("Rules", []))

    def _set_policy(self, ours: Mapping[str, dict[str, object] | None]) -> None:
        """Replace the named statements of the bucket's policy, or remove those that are None."""
        try:
            with self._service.doing("read the bucket's policy"):
                policy = json.loads(self._s3.get_bucket_policy(Bucket=self._bucket)["Policy"])
        except Refused as refused:
            if refused.reason != "NoSuchBucketPolicy":
                raise
            policy = {"Version": "2012-10-17", "Statement": []}
        before = policy["Statement"]
        after = [one for one in before if one.get("Sid") not in ours]
        after += [one for one in ours.values() if one is not None]
        with self._service.doing("set the bucket's policy"):
            if after:
                self._s3.put_bucket_policy(Bucket=self._bucket, Policy=json.dumps({**policy, "Statement": after}))
            elif before:  # a policy without statements is not one
                self._s3.delete_bucket_policy(Bucket=self._bucket)
