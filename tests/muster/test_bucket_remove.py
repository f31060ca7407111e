"""What a testnet leaves on a server does not hinder the next one, and goes when it is told to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Commands
from s3_server import RadosGateway

from muster.bucket import remove_bucket
from muster.protocol.errors import ConfigError, StorageError, UsageError
from muster.protocol.storage import parse_location
from muster.protocol.storage.admin import Refused
from muster.protocol.storage.admin.check import can_read
from muster.protocol.storage.s3_location import S3Location

PARTICIPANTS = 2
ROOT = Path(__file__).parents[2]
REMOVAL = re.compile(r"^for file in RUN/keys.*muster bucket remove.*$", re.MULTILINE)
"""How the page for operators removes a testnet's buckets."""


@pytest.fixture
def admin(s3_server: RadosGateway) -> dict[str, str]:
    """The administrator's keys, as a testnet wants them."""
    return {"MUSTER_S3_ADMIN_ACCESS_KEY": s3_server.access, "MUSTER_S3_ADMIN_SECRET_KEY": s3_server.secret}


def locations(folder: Path) -> list[S3Location]:
    """Everybody's bucket in a run's folder."""
    found = []
    for path in (folder / "keys").glob("*.env"):
        lines = dict(line.split("=", 1) for line in path.read_text().splitlines())
        place = parse_location(lines["MUSTER_LOCATION"].strip("'"))
        assert isinstance(place, S3Location)
        found.append(place)
    assert len(found) == PARTICIPANTS
    return found


@pytest.mark.processes
@pytest.mark.timeout(3000)
def test_the_same_testnet_again_and_the_first_one_removed(
    s3_server: RadosGateway, admin: dict[str, str], tmp_path: Path, muster_command: Commands
) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
    for name in ("one", "two"):
        done = muster_command(
            "testnet", "--miners", "1", "--seed", "7", "--store", f"s3://{s3_server.address}", "--prepare",
            "--dir", str(tmp_path / name), environment=kept | admin,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two = locations(tmp_path / "one"), locations(tmp_path / "two")
    assert not {place.bucket for place in one} & {place.bucket for place in two}
    client, said = s3_server.client(), list[str]()
    for place in one:
        client.put_object(Bucket=place.bucket, Key="some/object", Body=b"of the run")
        remove_bucket(str(place), admin, said.append, sure=False)
        can_read(place)
        remove_bucket(str(place), admin, said.append, sure=True)
        assert said[-2].startswith(f"would remove {place.shown} ")
        assert said[-1] == f"removed {place.shown}"
        with pytest.raises(Refused, match="does not know the access key"):
            can_read(place)
    assert not {place.bucket for place in one} & {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for place in two:
        can_read(place)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    loop = REMOVAL.search((ROOT / "docs" / "operations.md").read_text())
    assert loop
    subprocess.run(["sh", "-c", loop[0].replace("RUN/", f"{tmp_path}/two/")], env={"PATH": path, **admin}, check=True)
    assert not {place.bucket for place in two} & {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    remove_bucket(str(one[0]), admin, said.append, sure=True)
    remove_bucket(str(one[0]), admin, said.append, sure=False)
    assert said[-2:] == [f"{one[0].shown} was gone already", "there is no such bucket"]


def test_a_participants_own_key_removes_nothing(s3_server: RadosGateway) -> None:
    access, secret = s3_server.user("stranger")
    s3_server.client().create_bucket(Bucket="remove-not-mine")
    own = {"MUSTER_S3_ACCESS_KEY": access, "MUSTER_S3_SECRET_KEY": secret}
    with pytest.raises(Refused):
        remove_bucket(f"s3://{s3_server.address}/remove-not-mine", own, lambda _: None, sure=True)
    s3_server.client().head_bucket(Bucket="remove-not-mine")


def test_only_a_whole_bucket_of_ones_own_is_removed(s3_server: RadosGateway, admin: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="a part of a bucket"):
        remove_bucket(f"s3://{s3_server.address}/bucket/runs", admin, lambda _: None, sure=True)
    with pytest.raises(StorageError, match="only s3://"):
        remove_bucket("https://example.com/bucket", admin, lambda _: None, sure=True)
    with pytest.raises(ConfigError, match="MUSTER_S3_ACCESS_KEY"):
        remove_bucket(f"s3://{s3_server.address}/bucket", {}, lambda _: None, sure=True)
