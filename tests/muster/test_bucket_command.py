"""`muster bucket` as an operator meets it: real processes, a real server, and no secret in anything that is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from forked import Commands
from s3_server import RadosGateway

from muster.bucket import CreateRequest, check_location, create_bucket, remove_bucket, rotate_key
from muster.protocol.errors import ConfigError, MusterError, StorageError, UsageError
from muster.protocol.storage import Credentials, S3Location, parse_location
from muster.protocol.storage.admin import BucketAdmin, Refused, Service
from muster.protocol.storage.admin.check import can_read
from muster.run.credentials import CREDENTIAL_VARIABLES
from muster.run.settings import check_variables

STORAGE_STATUS = 4
RUN_ID = "cd" * 32
_numbers = count()

Muster = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def operator(s3_server: RadosGateway) -> dict[str, str]:
    """Keys that may make buckets and users."""
    return {"MUSTER_S3_ACCESS_KEY": s3_server.access, "MUSTER_S3_SECRET_KEY": s3_server.secret}


@pytest.fixture
def request_(s3_server: RadosGateway) -> CreateRequest:
    return CreateRequest(s3_server.endpoint, f"command-{next(_numbers)}")


def place(location: str | None) -> S3Location:
    assert location is not None
    found = parse_location(location)
    assert isinstance(found, S3Location)
    return found


@pytest.fixture
def muster(muster_command: Commands) -> Muster:
    """`muster bucket` with an environment of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}

    def run(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        return muster_command("bucket", *arguments, environment=kept | dict(environment))

    return run


def failing(location: str, environment: Mapping[str, str]) -> list[str]:
    said: list[str] = []
    with pytest.raises(StorageError, match="checks of"):
        check_location(location, environment, said.append)
    return [line for line in said if line.startswith("FAIL")]


def test_create_check_rotate_check(
    s3_server: RadosGateway, operator: dict[str, str], tmp_path: Path, muster: Muster
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(s3_server.secret + "\n")
    environment = {"MUSTER_S3_ACCESS_KEY": s3_server.access, "MUSTER_S3_SECRET_KEY_FILE": str(secret)}
    name = f"command-{next(_numbers)}"
    made = muster("create", "--endpoint", s3_server.endpoint, "--name", name, environment=environment)
    assert made.returncode == 0, made.stderr
    first = made.stdout.splitlines()[-1]
    checked = muster("check", first, environment=environment)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok: the public part reads what was written" in checked.stdout
    rotated = muster("rotate", first, environment=environment)
    assert rotated.returncode == 0, rotated.stderr
    second = rotated.stdout.splitlines()[-1]
    can_read(place(second))
    with pytest.raises(Refused, match="does not know the access key"):
        can_read(place(first))
    stale = muster("check", first, environment=environment)
    assert stale.returncode == STORAGE_STATUS
    assert "FAIL: the service does not know the location's read key" in stale.stdout
    assert stale.stderr.startswith("error[storage]: ")
    for done in (made, checked, rotated, stale):
        assert s3_server.secret not in done.stdout + done.stderr


def test_a_dry_run_changes_nothing(request_: CreateRequest, operator: dict[str, str], s3_server: RadosGateway) -> None:
    said: list[str] = []
    asked = replace(request_, dry_run=True, run_id=RUN_ID)
    assert create_bucket(asked, operator, said.append) is None
    assert len(said) == 4
    assert all(line.startswith("would ") for line in said)
    admin = Credentials(s3_server.access, s3_server.secret)
    assert not BucketAdmin(place(f"s3://{s3_server.address}/{request_.name}"), admin).exists()


def test_creating_again_gives_the_same_location(request_: CreateRequest, operator: dict[str, str]) -> None:
    first = create_bucket(request_, operator, lambda _: None)
    assert create_bucket(request_, operator, lambda _: None) == first


def test_old_submissions_of_a_run_are_dropped(request_: CreateRequest, operator: dict[str, str]) -> None:
    location = place(create_bucket(replace(request_, run_id=RUN_ID, keep_days=3), operator, lambda _: None))
    service = Service(location, Credentials(operator["MUSTER_S3_ACCESS_KEY"], operator["MUSTER_S3_SECRET_KEY"]))
    rules = service.s3.get_bucket_lifecycle_configuration(Bucket=location.bucket)["Rules"]
    expiring = [rule for rule in rules if "Expiration" in rule]
    assert [(rule["Expiration"]["Days"], rule.get("Filter", {}).get("Prefix")) for rule in expiring] == [
        (3, f"{RUN_ID}/submissions/")
    ]


def test_a_public_bucket_carries_no_key(request_: CreateRequest, operator: dict[str, str]) -> None:
    location = create_bucket(replace(request_, public=True), operator, lambda _: None)
    assert place(location).read is None
    check_location(str(location), operator, lambda _: None)
    with pytest.raises(UsageError, match="no key to rotate"):
        rotate_key(str(location), operator, lambda _: None)
    remove_bucket(str(location), operator, lambda _: None, sure=True)


def test_keys_that_make_no_users_are_told_what_to_do(request_: CreateRequest, s3_server: RadosGateway) -> None:
    access, secret = s3_server.user("modest")
    modest = {"MUSTER_S3_ACCESS_KEY": access, "MUSTER_S3_SECRET_KEY": secret}
    with pytest.raises(StorageError, match="--public") as error:
        create_bucket(request_, modest, lambda _: None)
    assert secret not in str(error.value)
    admin = {"MUSTER_S3_ADMIN_ACCESS_KEY": s3_server.access, "MUSTER_S3_ADMIN_SECRET_KEY": s3_server.secret}
    location = str(create_bucket(request_, {**modest, **admin}, lambda _: None))
    check_location(location, modest, lambda _: None)


def test_a_read_key_made_elsewhere_is_used_and_replaced(
    request_: CreateRequest, operator: dict[str, str], s3_server: RadosGateway
) -> None:
    first = create_bucket(request_, operator, lambda _: None)
    read = place(first).read
    assert read is not None
    given = {"MUSTER_S3_READ_ACCESS_KEY": read.access, "MUSTER_S3_READ_SECRET_KEY": read.secret}
    assert create_bucket(request_, {**operator, **given}, lambda _: None) == first
    with pytest.raises(ConfigError, match="already carries"):
        rotate_key(str(first), given, lambda _: None)
    before = str(replace(place(first), read=Credentials("AKBEFORE", "before")))
    assert rotate_key(before, given, lambda _: None) == first


def test_a_key_that_does_not_read_is_not_accepted(request_: CreateRequest, operator: dict[str, str]) -> None:
    given = {"MUSTER_S3_READ_ACCESS_KEY": "AKNOBODY", "MUSTER_S3_READ_SECRET_KEY": "not-to-be-shown"}
    with pytest.raises(Refused) as error:
        create_bucket(request_, {**operator, **given}, lambda _: None)
    assert "not-to-be-shown" not in str(error.value)


def test_rotation_that_cannot_work_keeps_the_old_key(request_: CreateRequest, operator: dict[str, str]) -> None:
    location = place(create_bucket(request_, operator, lambda _: None))
    service = Service(location, Credentials(operator["MUSTER_S3_ACCESS_KEY"], operator["MUSTER_S3_SECRET_KEY"]))
    policy = service.s3.get_bucket_policy(Bucket=location.bucket)["Policy"]
    service.s3.delete_bucket_policy(Bucket=location.bucket)
    pauses: list[float] = []
    with pytest.raises(Refused):
        rotate_key(str(location), operator, lambda _: None, pauses.append)
    assert pauses
    service.s3.put_bucket_policy(Bucket=location.bucket, Policy=policy)
    can_read(location)


def test_a_bucket_of_another_making_has_no_reader_to_rotate(s3_server: RadosGateway, operator: dict[str, str]) -> None:
    with pytest.raises(StorageError, match="bucket create"):
        rotate_key(f"s3://AK:secret@{s3_server.address}/never-made", operator, lambda _: None)


def test_r2_is_told_where_its_keys_are_made(request_: CreateRequest, operator: dict[str, str]) -> None:
    r2 = replace(request_, endpoint="https://abc.r2.cloudflarestorage.com")
    with pytest.raises(StorageError, match="dashboard"):
        create_bucket(r2, operator, lambda _: None)
    with pytest.raises(StorageError, match="leave --public out"):
        create_bucket(replace(r2, public=True), operator, lambda _: None)


def test_only_the_newest_location_is_rotated(request_: CreateRequest, operator: dict[str, str]) -> None:
    first = str(create_bucket(request_, operator, lambda _: None))
    second = rotate_key(first, operator, lambda _: None)
    with pytest.raises(StorageError, match="newest location"):
        rotate_key(first, operator, lambda _: None)
    can_read(place(second))


def test_the_missing_bucket_is_named(
    request_: CreateRequest, operator: dict[str, str], s3_server: RadosGateway
) -> None:
    lines = failing(f"s3://{s3_server.address}/{request_.name}", operator)
    assert any("there is no such bucket" in line for line in lines), lines


def test_a_wrong_write_secret_is_named_but_not_shown(request_: CreateRequest, operator: dict[str, str]) -> None:
    location = str(create_bucket(request_, operator, lambda _: None))
    wrong = {**operator, "MUSTER_S3_SECRET_KEY": "not-to-be-shown"}
    lines = failing(location, wrong)
    assert any("secret does not belong" in line for line in lines), lines
    assert not any("not-to-be-shown" in line for line in lines)


@pytest.mark.parametrize("command", ["check", "rotate"])
def test_a_web_address_has_no_keys(command: str, operator: dict[str, str]) -> None:
    act = check_location if command == "check" else rotate_key
    with pytest.raises(StorageError, match="only s3://"):
        act("https://example.com/bucket", operator, lambda _: None)


def test_keys_are_asked_for_by_name(request_: CreateRequest) -> None:
    with pytest.raises(ConfigError, match="MUSTER_S3_ACCESS_KEY"):
        create_bucket(replace(request_, public=True), {}, lambda _: None)


def test_only_bucket_commands_load_boto3() -> None:
    code = "import sys, muster.cli, muster.run.settings, muster.protocol.storage; sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=600).returncode == 0


def test_no_other_command_accepts_the_administrators_keys() -> None:
    with pytest.raises(MusterError, match="MUSTER_S3_ADMIN_SECRET_KEY is not a setting"):
        check_variables({"MUSTER_S3_ADMIN_SECRET_KEY": "x"}, CREDENTIAL_VARIABLES)


def test_a_run_id_that_is_none_is_refused(operator: dict[str, str], muster: Muster) -> None:
    done = muster("create", "--endpoint", "http://127.0.0.1:1", "--name", "bkt", "--run-id", "x", environment=operator)
    assert (done.returncode, "64 lower-case" in done.stderr) == (2, True)
