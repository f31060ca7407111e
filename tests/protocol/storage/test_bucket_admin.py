"""Buckets, their keys and what a check finds, on a real server: only that decides what a policy means."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

import boto3
import pytest
from botocore.stub import Stubber
from s3_server import RadosGateway

from muster.protocol.errors import StorageError
from muster.protocol.storage import Credentials, S3Location, parse_location
from muster.protocol.storage.admin import (
    Access,
    BucketAdmin,
    Finding,
    Provisioned,
    Provisioner,
    Refused,
    Service,
    abort_rule,
    check_bucket,
    expiry_rule,
    find_accounts,
    reader_name,
    service_location,
)
from muster.protocol.storage.admin.accounts import IamAccounts, writer_name
from muster.protocol.storage.admin.check import CLOCK_TOLERANCE_S, can_read
from muster.protocol.storage.s3 import S3Store

RUN_ID = "ab" * 32
_numbers = count()


@pytest.fixture
def admin(s3_server: RadosGateway) -> Credentials:
    return Credentials(s3_server.access, s3_server.secret)


@pytest.fixture
def provisioner(s3_server: RadosGateway, admin: Credentials) -> Provisioner:
    return Provisioner(s3_server.endpoint, admin, f"run{next(_numbers)}")


@pytest.fixture
def bucket(s3_server: RadosGateway, admin: Credentials) -> Iterator[BucketAdmin]:
    made = BucketAdmin(service_location(s3_server.endpoint, f"bucket-{next(_numbers)}"), admin)
    made.make()
    yield made
    made.remove()


def s3_location(text: str) -> S3Location:
    location = parse_location(text)
    assert isinstance(location, S3Location)
    return location


def findings(location: S3Location, writer: Credentials | None, now: Callable[[], float] = time.time) -> list[Finding]:
    return list(check_bucket(location, writer, now))


def failures(location: S3Location, writer: Credentials | None, now: Callable[[], float] = time.time) -> list[str]:
    return [finding.text for finding in findings(location, writer, now) if finding.ok is False]


async def test_a_participant_writes_its_bucket_and_everybody_reads_it(provisioner: Provisioner) -> None:
    mine, other = provisioner.provision("miner-0"), provisioner.provision("miner-1")
    place = s3_location(mine.location)
    owner, public = S3Store(place, mine.write), S3Store(place)
    await owner.put("a/b", b"bytes")
    assert await public.get("a/b", max_bytes=10) == b"bytes"
    assert [info.key for info in await public.list("a/")] == ["a/b"]
    assert not mine.shared
    with pytest.raises(StorageError):
        await public.put("a/b", b"other")
    with pytest.raises(StorageError):
        await public.delete("a/b")
    for pair in (place.read, mine.write):
        assert pair is not None
        with pytest.raises(StorageError):
            await S3Store(s3_location(other.location), pair).put("x", b"")
        with pytest.raises(StorageError):
            await S3Store(s3_location(other.location), pair).list()
    assert await public.get("a/b", max_bytes=10) == b"bytes"
    await owner.close()
    await public.close()


def test_what_is_provisioned_passes_every_check(provisioner: Provisioner) -> None:
    mine = provisioner.provision("miner-0")
    found = findings(s3_location(mine.location), mine.write)
    assert [finding for finding in found if finding.ok is False] == []
    assert {finding.text for finding in found if finding.ok} >= {
        "the public part reads what was written",
        "the public part can neither write nor delete",
        "conditional writes work",
        "incomplete uploads are dropped",
    }


def test_a_participant_cannot_change_its_policy_or_make_buckets(provisioner: Provisioner) -> None:
    mine = provisioner.provision("miner-0")
    service = Service(s3_location(mine.location), mine.write)
    with pytest.raises(Refused, match="may not do this"), service.doing("take the policy away"):
        service.s3.delete_bucket_policy(Bucket=service.location.bucket)
    with pytest.raises(Refused), service.doing("make a bucket"):
        service.s3.create_bucket(Bucket="one-of-my-own")


def test_provisioning_again_finds_what_is_there(provisioner: Provisioner) -> None:
    assert provisioner.provision("miner-0") == provisioner.provision("miner-0")


def test_participants_may_be_provisioned_at_once(provisioner: Provisioner) -> None:
    names = [f"miner-{number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as threads:
        made = list(threads.map(provisioner.provision, names))
    assert len({one.location for one in made}) == len({one.write for one in made}) == len(names)
    for one in made:
        can_read(s3_location(one.location))


def test_removing_takes_bucket_objects_and_users(
    s3_server: RadosGateway, provisioner: Provisioner, admin: Credentials
) -> None:
    mine, kept = provisioner.provision("miner-0"), provisioner.provision("miner-1")
    place = s3_location(mine.location)
    service = Service(place, mine.write)
    service.s3.put_object(Bucket=place.bucket, Key="a/b", Body=b"bytes")
    service.s3.create_multipart_upload(Bucket=place.bucket, Key="half")
    provisioner.remove("miner-0")
    provisioner.remove("miner-0")
    assert not BucketAdmin(place, admin).exists()
    accounts = find_accounts(place, admin)
    assert accounts is not None
    for user in (reader_name(place.bucket), writer_name(place.bucket)):
        with pytest.raises(Refused) as refused:
            accounts.keys(user)
        assert refused.value.reason == "NoSuchUser"
    can_read(s3_location(kept.location))


def test_without_a_user_api_sharing_must_be_asked_for(s3_server: RadosGateway) -> None:
    plain = Credentials(*s3_server.user("plain"))
    with pytest.raises(StorageError, match="users="):
        Provisioner(s3_server.endpoint, plain, "shared").provision("miner-0")
    provisioner = Provisioner(s3_server.endpoint, plain, "shared", shared=True)
    mine = provisioner.provision("miner-0")
    assert mine == Provisioned(mine.location, plain, shared=True)
    assert s3_location(mine.location).read is None
    assert failures(s3_location(mine.location), plain) == []
    provisioner.remove("miner-0")


def test_a_name_that_is_somebody_elses_is_refused(s3_server: RadosGateway, bucket: BucketAdmin) -> None:
    stranger = BucketAdmin(bucket.location, Credentials(*s3_server.user("stranger")))
    with pytest.raises(Refused, match="belongs to somebody else"):
        stranger.make()


def test_rules_and_statements_of_others_stay(bucket: BucketAdmin, admin: Credentials) -> None:
    service = Service(bucket.location, admin)
    name = bucket.location.bucket
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    service.s3.put_bucket_lifecycle_configuration(
        Bucket=name,
        LifecycleConfiguration={"Rules": [theirs]},  # type: ignore[list-item]
    )
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Theirs",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:GetObject",
                "Resource": f"arn:aws:s3:::{name}/secret/*",
            }
        ],
    }
    service.s3.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    for _ in range(2):
        assert bucket.set_lifecycle([abort_rule(), expiry_rule(bucket.location, RUN_ID, 7)]) == []
        bucket.open_to_public()
    rules = service.s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    assert sorted(str(rule.get("ID")) for rule in rules) == ["MusterAbort", f"MusterExpire{RUN_ID[:16]}", "theirs"]
    statements = json.loads(service.s3.get_bucket_policy(Bucket=name)["Policy"])["Statement"]
    assert sorted(one["Sid"] for one in statements) == ["MusterPublic", "Theirs"]


@pytest.mark.parametrize("missing", ["policy", "bucket", "service", "read key", "read secret", "write secret", "rule"])
def test_a_check_finds_what_is_missing(
    provisioner: Provisioner, s3_server: RadosGateway, admin: Credentials, missing: str
) -> None:
    mine = provisioner.provision("miner-0")
    place, write = s3_location(mine.location), mine.write
    assert place.read is not None
    owner = Service(place, admin)
    match missing:
        case "policy":
            owner.s3.delete_bucket_policy(Bucket=place.bucket)
            expected = "cannot list the bucket; run `muster bucket create`"
        case "bucket":
            BucketAdmin(place, admin).remove()
            expected = "there is no such bucket"
        case "service":
            place, expected = replace(place, port=1), "check host and port"
        case "read key":
            place = replace(place, read=Credentials("AKNOBODY", place.read.secret))
            expected = "does not know the location's read key"
        case "read secret":
            place = replace(place, read=Credentials(place.read.access, "0" * 40))
            expected = "the location's read secret is wrong"
        case "write secret":
            write, expected = Credentials(write.access, "0" * 40), "the secret does not belong to the access key"
        case _:
            owner.s3.delete_bucket_lifecycle(Bucket=place.bucket)
            expected = "no rule drops incomplete uploads"
    found = failures(place, write)
    assert any(expected in text for text in found), found
    secrets = (mine.write.secret, admin.secret, place.read.secret if place.read else "")
    assert not any(secret in text for secret in secrets for text in found)


def test_a_check_finds_a_writing_key_in_the_location(bucket: BucketAdmin, admin: Credentials) -> None:
    place = replace(bucket.location, read=admin)
    found = failures(place, admin)
    assert any("anybody can write and delete" in text for text in found), found
    assert Service(place, admin).s3.list_objects_v2(Bucket=place.bucket)["KeyCount"] == 0


def test_a_check_finds_a_key_that_opens_another_bucket(
    s3_server: RadosGateway, bucket: BucketAdmin, admin: Credentials
) -> None:
    accounts = find_accounts(bucket.location, admin)
    assert accounts is not None
    read, _ = bucket.open_to_users(accounts)
    other = BucketAdmin(replace(bucket.location, bucket=f"{bucket.location.bucket}-other"), admin)
    other.make()
    place = replace(bucket.location, read=read)
    bucket.set_lifecycle([abort_rule()])
    assert failures(place, admin) == []
    other.open_to_public()
    assert [other.location.bucket in text for text in failures(place, admin)] == [True]
    other.remove()


def test_a_check_finds_that_everybody_can_write(bucket: BucketAdmin, admin: Credentials) -> None:
    place = bucket.location
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": "*",
                "Action": ["s3:PutObject", "s3:ListBucket", "s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{place.bucket}", f"arn:aws:s3:::{place.bucket}/*"],
            }
        ],
    }
    service = Service(place, admin)
    service.s3.put_bucket_policy(Bucket=place.bucket, Policy=json.dumps(policy))
    assert any("anybody can write with" in text for text in failures(place, admin))
    assert service.s3.list_objects_v2(Bucket=place.bucket)["KeyCount"] == 0


def test_public_and_private_take_turns(bucket: BucketAdmin, admin: Credentials) -> None:
    accounts = find_accounts(bucket.location, admin)
    assert accounts is not None
    bucket.open_to_public()
    can_read(bucket.location)
    read, _ = bucket.open_to_users(accounts)
    can_read(replace(bucket.location, read=read))
    with pytest.raises(Refused):
        can_read(bucket.location)
    bucket.open_to_public()
    can_read(bucket.location)


def test_a_check_finds_a_clock_that_is_off(bucket: BucketAdmin) -> None:
    bucket.open_to_public()
    assert failures(bucket.location, None) == []
    late = failures(bucket.location, None, lambda: time.time() + 5 * CLOCK_TOLERANCE_S)
    assert [text.startswith("this machine's clock is +") for text in late] == [True]


def test_iam_users_get_rights_for_one_bucket_and_one_key() -> None:
    # Amazon cannot run here; the stubber checks each request against Amazon's own description of IAM.
    iam = boto3.client("iam", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    user = {"UserName": "muster-read-b"}
    key = {**user, "AccessKeyId": "A" * 20, "Status": "Active", "SecretAccessKey": "new"}
    with Stubber(iam) as stub:
        stub.add_client_error("create_user", "EntityAlreadyExists", expected_params=user)
        stub.add_response("put_user_policy", {})
        stub.add_response("list_access_keys", {"AccessKeyMetadata": [{"AccessKeyId": "B" * 20}]}, user)
        stub.add_response("delete_access_key", {}, {**user, "AccessKeyId": "B" * 20})
        stub.add_response("create_access_key", {"AccessKey": key}, user)
        accounts = IamAccounts(Credentials("a", "b"), iam)
        assert accounts.open("muster-read-b", "bkt", Access.READ) == Credentials("A" * 20, "new")
        stub.assert_no_pending_responses()
        stub.add_client_error("list_access_keys", "NoSuchEntity")
        accounts.remove("muster-read-b")
    assert accounts.principal("muster-read-b") is None


def test_users_of_long_bucket_names_stay_apart() -> None:
    one, other = reader_name("b" * 62 + "1"), reader_name("b" * 62 + "2")
    assert one != other
    assert len(one) <= 64


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("https://s3.example.com", "s3://s3.example.com/bkt"),
        ("http://10.0.0.1:9000/", "s3://10.0.0.1:9000/bkt?tls=off"),
        ("127.0.0.1:9000", "s3://127.0.0.1:9000/bkt"),
    ],
)
def test_an_endpoint_becomes_a_location(endpoint: str, expected: str) -> None:
    assert str(service_location(endpoint, "bkt")) == expected


@pytest.mark.parametrize("endpoint", ["ftp://host", "https://key:secret@host", "https://host/path", ""])
def test_anything_else_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(StorageError) as error:
        service_location(endpoint, "bkt")
    assert "secret" not in str(error.value)


def test_a_repr_tells_no_secret(provisioner: Provisioner) -> None:
    mine = provisioner.provision("miner-0")
    assert mine.write.secret not in repr(mine)
