"""`muster bucket`: from an operator's keys to a bucket that everybody reads, nobody else writes, and a location."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from muster.protocol.errors import ConfigError, StorageError, UsageError
from muster.protocol.storage.admin.accounts import Accounts, find_accounts, reader_name, writer_name
from muster.protocol.storage.admin.bucket import BucketAdmin, LifecycleRule, abort_rule, expiry_rule
from muster.protocol.storage.admin.check import can_read, check_bucket
from muster.protocol.storage.admin.service import Refused, is_aws, is_r2, service_location
from muster.protocol.storage.s3_location import Credentials, S3Location, parse_location
from muster.run.credentials import (
    ACCESS_KEY,
    ADMIN_ACCESS_KEY,
    ADMIN_SECRET_KEY,
    ADMIN_VARIABLES,
    CREDENTIAL_VARIABLES,
    SECRET_KEY,
    load_credentials,
)

READ_ACCESS_KEY = "MUSTER_S3_READ_ACCESS_KEY"
READ_SECRET_KEY = "MUSTER_S3_READ_SECRET_KEY"  # noqa: S105
READ_VARIABLES = frozenset({READ_ACCESS_KEY, READ_SECRET_KEY, f"{READ_ACCESS_KEY}_FILE", f"{READ_SECRET_KEY}_FILE"})
"""A read-only key made elsewhere, for services that make none through an API."""

BUCKET_VARIABLES = CREDENTIAL_VARIABLES | ADMIN_VARIABLES | READ_VARIABLES
"""What the environment of these commands may hold."""

_KEY_ATTEMPTS = 15
_KEY_PAUSE_S = 2.0
"""Amazon's new keys work after some seconds."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What `muster bucket create` was asked for; `run_id` and `keep_days` are about old submissions."""

    endpoint: str
    name: str
    region: str | None = None
    public: bool = False
    dry_run: bool = False
    run_id: str | None = None
    keep_days: int = 14


def create_bucket(request: CreateRequest, environment: Mapping[str, str], say: Say) -> str | None:
    """Make the bucket and what reads it; returns the location to commit, None after a dry run.

    Every step finds what an earlier run left, so a command that failed can be repeated.

    Raises:
        ConfigError: the operator's keys are missing.
        StorageError: the service refused, or cannot make a read-only key and none was given.
    """
    location = service_location(request.endpoint, request.name, request.region)
    owner = _operator(environment)
    if request.public and is_r2(location):
        raise StorageError("R2 opens no bucket to everybody through S3; leave --public out and use a read-only token")
    given = None if request.public else load_credentials(environment, READ_ACCESS_KEY, READ_SECRET_KEY)
    accounts = None
    if not request.public and given is None:
        accounts = _accounts(location, environment)
        if accounts is None:
            raise StorageError(_no_reader(location))
    bucket = BucketAdmin(location, owner)
    rules = [abort_rule()]
    if request.run_id is not None:
        rules.append(expiry_rule(location, request.run_id, request.keep_days))
    if request.dry_run:
        _plan(bucket, rules, request, given is not None, say)
        return None
    bucket.make()
    say(f"made {location.shown}, or found it")
    _set_rules(bucket, rules, request, say)
    read = _open(bucket, accounts, given, say)
    final = replace(location, read=read)
    if given is not None:
        can_read(final)
    return str(final)


def check_location(text: str, environment: Mapping[str, str], say: Say, now: Callable[[], float] = time.time) -> None:
    """Try the bucket at a location and say what was found, a line each.

    Raises:
        StorageError: something is not as it must be, or `text` is not an s3:// location.
    """
    location = _s3(text)
    findings = []
    for finding in check_bucket(location, load_credentials(environment), now):
        say(str(finding))
        findings.append(finding)
    failed = sum(finding.ok is False for finding in findings)
    if failed:
        raise StorageError(f"{failed} of {len(findings)} checks of {location.shown} failed; see the lines above")


def rotate_key(text: str, environment: Mapping[str, str], say: Say, sleep: Callable[[float], None] = time.sleep) -> str:
    """Replace the key in a location; the old one ends once the new one works. Returns the new location.

    Raises:
        UsageError: the location carries no key.
        StorageError: the service refused, cannot make keys and none was given, or the new key does not work.
    """
    location = _s3(text)
    if location.read is None:
        raise UsageError("the location carries no key to rotate: everybody may read the bucket")
    given = load_credentials(environment, READ_ACCESS_KEY, READ_SECRET_KEY)
    if given is not None:
        if given.access == location.read.access:
            raise ConfigError(f"{READ_ACCESS_KEY} is the key that the location already carries; make a new one")
        new = replace(location, read=given)
        can_read(new)
        say("the new key reads the bucket; revoke the old one where it was made, once the new location is committed")
        return str(new)
    accounts = _accounts(location, environment)
    if accounts is None:
        raise StorageError(_no_reader(location))
    name = reader_name(location.bucket)
    try:
        known = accounts.keys(name)
    except Refused as refused:
        raise StorageError(
            f"{location.shown} has no reader made by `muster bucket create`; run that first"
        ) from refused
    if location.read.access not in known:
        raise StorageError(f"the key in the location is not one of {location.shown} any more; give the newest location")
    # Left by a rotation that was cut off; Amazon gives a user two keys at most.
    for stray in set(known) - {location.read.access}:
        accounts.revoke(name, stray)
    new = replace(location, read=accounts.add_key(name))
    try:
        _wait_until_read(new, sleep)
    except StorageError:
        assert new.read is not None
        accounts.revoke(name, new.read.access)
        raise
    assert new.read is not None
    ended = accounts.keep_only(name, new.read.access)
    say(f"the new key reads the bucket; {ended} old one{'s' if ended != 1 else ''} revoked")
    say("commit the new location now: until then nobody can read the bucket")
    return str(new)


def remove_bucket(text: str, environment: Mapping[str, str], say: Say, *, sure: bool) -> None:
    """Remove the bucket at a location with all that is in it, and the users that were made for it.

    Without `sure` it only says what it would remove. What is gone already is no error.

    Raises:
        UsageError: the location names a part of a bucket.
        ConfigError: the owner's keys are missing.
        StorageError: the service refused, or `text` is not an s3:// location.
    """
    location = _s3(text)
    if location.prefix:
        raise UsageError("the location names a part of a bucket; give that of the whole bucket to remove it")
    owner = load_credentials(environment, ADMIN_ACCESS_KEY, ADMIN_SECRET_KEY) or _operator(environment)
    bucket, accounts = BucketAdmin(location, owner), _accounts(location, environment)
    there = bucket.exists()
    if not sure:
        say(f"would remove {location.shown} with all that is in it; --yes does" if there else "there is no such bucket")
        return
    bucket.remove()
    if accounts is not None:
        for user in (reader_name(location.bucket), writer_name(location.bucket)):
            accounts.remove(user)
    say(f"removed {location.shown}" if there else f"{location.shown} was gone already")


def _operator(environment: Mapping[str, str]) -> Credentials:
    pair = load_credentials(environment)
    if pair is None:
        raise ConfigError(f"set {ACCESS_KEY} and {SECRET_KEY} (or …_FILE) to keys that may make buckets")
    return pair


def _accounts(location: S3Location, environment: Mapping[str, str]) -> Accounts | None:
    """The service's user API with the administrator's keys, else the operator's own."""
    admin = load_credentials(environment, ADMIN_ACCESS_KEY, ADMIN_SECRET_KEY) or _operator(environment)
    return find_accounts(location, admin)


def _s3(text: str) -> S3Location:
    location = parse_location(text)
    if not isinstance(location, S3Location):
        raise StorageError("only s3:// locations have keys and policies to work on")
    return location


def _no_reader(location: S3Location) -> str:
    if is_r2(location):
        where = "in Cloudflare's dashboard make an R2 API token “Object Read only” for this bucket alone"
        return f"R2 makes no keys through S3: {where}, and set {READ_ACCESS_KEY} and {READ_SECRET_KEY} to it"
    return (
        "the service makes no read-only key with these keys: on a Ceph gateway set "
        f"{ADMIN_ACCESS_KEY} and {ADMIN_SECRET_KEY} (capability users=*); elsewhere make one for this bucket by hand "
        f"and set {READ_ACCESS_KEY} and {READ_SECRET_KEY}, or let everybody read it with --public"
    )


def _plan(bucket: BucketAdmin, rules: list[LifecycleRule], request: CreateRequest, given: bool, say: Say) -> None:
    """What would be done; the service is asked, nothing is changed."""
    say(f"would {'keep' if bucket.exists() else 'make'} the bucket {bucket.location.shown}")
    for rule in rules:
        say(f"would set the rule: {rule.text}")
    if request.public:
        say("would let everybody read and list it")
    elif given:
        say(f"would use the read-only key in {READ_ACCESS_KEY}")
    else:
        say(f"would make the user {reader_name(request.name)}, who can read and list this bucket and nothing else")


def _set_rules(bucket: BucketAdmin, rules: list[LifecycleRule], request: CreateRequest, say: Say) -> None:
    problems = bucket.set_lifecycle(rules)
    for problem in problems:
        say(f"not done: {problem}")
    if len(problems) < len(rules):
        say(f"set {len(rules) - len(problems)} of {len(rules)} lifecycle rules")
    if request.run_id is None:
        say("not done: submissions stay for ever; with --run-id the old ones of a run are dropped")


def _open(bucket: BucketAdmin, accounts: Accounts | None, given: Credentials | None, say: Say) -> Credentials | None:
    """Give everybody, or a key for everybody, the right to read."""
    if given is not None:
        say("the location carries the read-only key from the environment; `muster bucket check` shows what it can do")
        return given
    if accounts is None:
        bucket.open_to_public()
        say("everybody can read and list it")
        return None
    read, _ = bucket.open_to_users(accounts)
    say("the location carries a key that reads and lists this bucket and can do nothing else")
    if is_aws(bucket.location):
        say("IAM shows no key twice: this one is new, and a location printed earlier no longer reads the bucket")
    return read


def _wait_until_read(location: S3Location, sleep: Callable[[float], None]) -> None:
    for _ in range(_KEY_ATTEMPTS - 1):
        try:
            can_read(location)
        except Refused:
            sleep(_KEY_PAUSE_S)
        else:
            return
    can_read(location)
