"""Whether a bucket is what a run needs, found out by trying: what a policy says and what it does are two things."""

from __future__ import annotations

import calendar
import email.utils
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from muster.protocol.errors import StorageError
from muster.protocol.storage.admin.bucket import BucketAdmin
from muster.protocol.storage.admin.service import Refused, Service
from muster.protocol.storage.s3_location import Credentials, S3Location

CLOCK_TOLERANCE_S = 60
"""Services refuse requests that are 15 minutes off; a clock that keeps time at all is within a second."""
_BODY = b"muster bucket check\n"
_OTHERS = 20
"""Buckets of the same account that the public part is tried on."""
_DENIED = frozenset({"AccessDenied", "AllAccessDisabled", "403", "401", "MethodNotAllowed"})
_NO_CONDITION = frozenset({"NotImplemented", "501"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried. `ok` is None where it could not be tried; `text` says what, or how to mend it."""

    ok: bool | None
    text: str

    def __str__(self) -> str:
        return f"{'not checked' if self.ok is None else 'ok' if self.ok else 'FAIL'}: {self.text}"


def check_bucket(location: S3Location, writer: Credentials | None, now: Callable[[], float]) -> Iterator[Finding]:
    """Try the bucket as everybody (the location's public part) and, with `writer`, as its owner.

    `now` gives unix seconds. What is put is deleted again. Ends after the first finding if nothing answers.
    """
    public = Service(location, location.read)
    try:
        yield _clock(public, now)
    except StorageError as error:
        yield Finding(False, str(error))
        return
    yield _readable(public)
    yield _shut(public, writer)
    if writer is None:
        yield Finding(None, "writing, lifecycle rules and other buckets; set the bucket's own keys to check them")
        return
    owner = Service(location, writer)
    yield from _round_trip(owner, public)
    yield _others(owner, public)
    yield _lifecycle(BucketAdmin(location, writer))


def can_read(location: S3Location) -> None:
    """Raises `StorageError` unless the location's public part lists the bucket."""
    public = Service(location, location.read)
    with public.doing("list the bucket"):
        public.s3.list_objects_v2(Bucket=location.bucket, Prefix=_prefix(location), MaxKeys=1)


def _clock(public: Service, now: Callable[[], float]) -> Finding:
    """The service's clock is in every answer, a refusal too."""
    try:
        with public.doing("reach the service"):
            answer: Any = public.s3.head_bucket(Bucket=public.location.bucket)
    except Refused as refused:
        answer = getattr(refused.__cause__, "response", {})
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    parsed = email.utils.parsedate(date)
    if parsed is None:
        return Finding(None, "this machine's clock; the service does not tell its time")
    off = round(now() - calendar.timegm(parsed))
    if abs(off) > CLOCK_TOLERANCE_S:
        return Finding(False, f"this machine's clock is {off:+d} s off the service's; set it (NTP)")
    return Finding(True, "the clock agrees with the service's")


def _readable(public: Service) -> Finding:
    try:
        can_read(public.location)
    except Refused as refused:
        if refused.reason == "InvalidAccessKeyId":
            return Finding(False, "the service does not know the location's read key; `muster bucket rotate` makes one")
        if refused.reason == "SignatureDoesNotMatch":
            return Finding(False, "the location's read secret is wrong; commit the location as it was printed")
        if refused.reason in _DENIED:
            hint = "run `muster bucket create` for it again" + ("" if public.location.read else ", with --public")
            return Finding(False, f"what the location carries cannot list the bucket; {hint}")
        return Finding(False, str(refused))
    return Finding(True, "the public part of the location lists the bucket")


def _shut(public: Service, writer: Credentials | None) -> Finding:
    """The public part must be able to write and delete nothing."""
    bucket, key = public.location.bucket, _fresh_key(public.location)
    attempts: dict[str, Callable[[], object]] = {
        "write": lambda: public.s3.put_object(Bucket=bucket, Key=key, Body=_BODY),
        "delete": lambda: public.s3.delete_object(Bucket=bucket, Key=key),
    }
    wrong = []
    for verb, attempt in attempts.items():
        try:
            with public.doing(f"try to {verb}"):
                attempt()
        except Refused as refused:
            if refused.reason not in _DENIED:
                return Finding(None, f"whether everybody can {verb}; {refused}")
        else:
            wrong.append(verb)
    if wrong == ["write"] and writer is not None:
        owner = Service(public.location, writer)
        with owner.doing("delete what the check wrote"):
            owner.s3.delete_object(Bucket=bucket, Key=key)
    if wrong:
        return Finding(
            False,
            f"anybody can {' and '.join(wrong)} with the public part of the location; never commit a writing key: "
            "revoke it and run `muster bucket create` again",
        )
    return Finding(True, "the public part can neither write nor delete")


def _round_trip(owner: Service, public: Service) -> Iterator[Finding]:
    bucket, key = owner.location.bucket, _fresh_key(owner.location)
    try:
        with owner.doing("write with the bucket's own keys"):
            owner.s3.put_object(Bucket=bucket, Key=key, Body=_BODY)
    except Refused as refused:
        yield Finding(False, str(refused))
        return
    yield Finding(True, "the bucket's own keys write")
    try:
        yield _reads_back(public, key)
        yield _conditional(owner, key)
    finally:
        with owner.doing("delete what the check wrote"):
            owner.s3.delete_object(Bucket=bucket, Key=key)
    yield Finding(True, "the bucket's own keys delete")


def _reads_back(public: Service, key: str) -> Finding:
    try:
        with public.doing("read with the public part of the location"):
            found = public.s3.get_object(Bucket=public.location.bucket, Key=key)["Body"].read(len(_BODY) + 1)
    except Refused as refused:
        return Finding(False, str(refused))
    if found != _BODY:
        return Finding(False, "what is read is not what was written; is a cache in front of the service?")
    return Finding(True, "the public part reads what was written")


def _conditional(owner: Service, key: str) -> Finding:
    """Write once more on condition that nothing is there."""
    try:
        with owner.doing("write on condition"):
            owner.s3.put_object(Bucket=owner.location.bucket, Key=key, Body=_BODY, IfNoneMatch="*")
    except Refused as refused:
        if refused.reason in {"PreconditionFailed", "412"}:
            return Finding(True, "conditional writes work")
        if refused.reason not in _NO_CONDITION:
            return Finding(False, str(refused))
    return Finding(
        False, "the service does not do conditional writes; never run a role twice with this bucket, or choose another"
    )


def _others(owner: Service, public: Service) -> Finding:
    """No other bucket of the account may be readable with the committed key."""
    if public.location.read is None:
        return Finding(None, "other buckets; the location carries no key that could open them")
    names: set[str] = set()
    for service in (owner, public):
        try:
            with service.doing("list the account's buckets"):
                found = service.s3.list_buckets().get("Buckets", [])
        except Refused:  # a key for one bucket need not be able to list them
            continue
        names |= {one.get("Name", "") for one in found} - {public.location.bucket}
    if not names:
        return Finding(None, "other buckets; the keys show none to try")
    for name in sorted(names)[:_OTHERS]:
        try:
            with public.doing(f"list the bucket {name}"):
                public.s3.list_objects_v2(Bucket=name, MaxKeys=1)
        except Refused as refused:
            if refused.reason not in _DENIED:
                return Finding(None, f"other buckets; {refused}")
            continue
        return Finding(
            False, f"the location's key also reads the bucket {name}; revoke it and commit one for this bucket only"
        )
    return Finding(True, "the location's key opens no other bucket")


def _lifecycle(bucket: BucketAdmin) -> Finding:
    try:
        there = bucket.drops_incomplete_uploads()
    except Refused as refused:
        return Finding(None, f"lifecycle rules; {refused}")
    if not there:
        return Finding(False, "no rule drops incomplete uploads, which cost space; run `muster bucket create` again")
    return Finding(True, "incomplete uploads are dropped")


def _prefix(location: S3Location) -> str:
    return f"{location.prefix}/" if location.prefix else ""


def _fresh_key(location: S3Location) -> str:
    return f"{_prefix(location)}muster-check/{secrets.token_hex(8)}"
