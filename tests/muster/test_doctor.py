"""The doctor finds each planted fault with the real parts, names it, says what to do, and goes on with the rest."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web
from doctor_setups import Bucket, commit, diagnose, diagnose_async, lay_out, on_network
from files_left_alone import picture
from forked import Commands
from s3_proxies import http_server, pass_on
from s3_server import RadosGateway

from muster.doctor import machine
from muster.doctor.facts import GpuFacts
from muster.doctor.finding import MACHINE_STATUS, Finding, Status, exit_status
from muster.node.compute import Machine
from muster.protocol.identity import Identity
from muster.protocol.types import Role
from muster.run.folder import RunDirectory

CONFIG, STORAGE, CHAIN, DATA, IDENTITY = 3, 4, 5, 7, 9
NAMES = [
    "software", "gpu", "compute", "speed", "memory", "disk", "clock", "bucket", "bandwidth", "chain",
    "registration", "location", "anchors", "leader", "run", "text", "key",
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run in folders, everything in order."""
    return lay_out(tmp_path / "run")


@pytest.fixture
def bucket(s3_server: RadosGateway) -> Bucket:
    """A bucket as it should be."""
    return Bucket(s3_server, f"doctor-{uuid4().hex[:12]}")


@pytest.fixture
def remote(run: RunDirectory, bucket: Bucket) -> RunDirectory:
    """The run with the miner's bucket on the real server."""
    on_network(run, bucket.server.address)
    for name in ("miner-0", "operator-0"):
        commit(run, name, bucket.location)
    return run


def failures(findings: dict[str, Finding]) -> dict[str, int]:
    """What failed, with its exit status."""
    return {name: finding.exit_status for name, finding in findings.items() if finding.status is Status.FAIL}


class TestInOrder:
    """A set-up without a fault."""

    def test_a_run_in_folders_is_ready(self, run: RunDirectory) -> None:
        before = picture(run.path)
        findings = diagnose(run.path)
        assert list(findings) == NAMES
        assert failures(findings) == {}
        assert exit_status(findings.values()) == 0
        assert {name for name, found in findings.items() if found.status is Status.SKIPPED} == {
            "clock", "bandwidth", "anchors",
        }  # fmt: skip
        assert picture(run.path) == before

    def test_a_bucket_on_a_server_is_ready(self, remote: RunDirectory, bucket: Bucket) -> None:
        findings = diagnose(remote.path, environment=bucket.environment, location=bucket.location)
        assert failures(findings) == {}
        assert {findings[name].status for name in ("clock", "bucket", "bandwidth", "location")} == {Status.OK}
        assert "/s up" in findings["bandwidth"].text
        assert bucket.client().list_objects_v2(Bucket=bucket.name)["KeyCount"] == 0

    def test_no_finding_tells_a_secret(self, remote: RunDirectory, bucket: Bucket) -> None:
        wrong = bucket.environment | {"MUSTER_S3_SECRET_KEY": "wrong-secret"}
        for environment in (bucket.environment, wrong):
            told = repr(diagnose(remote.path, environment=environment, location=bucket.location))
            assert bucket.location not in told
            assert bucket.secret not in told
            assert "wrong-secret" not in told

    def test_operators(self, run: RunDirectory) -> None:
        for role in (Role.VALIDATOR, Role.AGGREGATOR):
            findings = diagnose(run.path, "operator-0", role)
            assert failures(findings) == {}
            assert "permit" in findings["registration"].text

    def test_a_newcomer_need_not_be_registered_on_a_local_chain(self, run: RunDirectory) -> None:
        finding = diagnose(run.path, "miner-1")["registration"]
        assert finding.status is Status.OK
        assert "starting registers it" in finding.text


class TestMachines:
    """What there is to compute with: a planted GPU that cannot be used, too little memory, and no GPU."""

    BROKEN = GpuFacts(
        Machine(None, "the first GPU fails (no kernel image is available)", "install a torch build for it", bf16=False),
        0, "570.86.10", "12.8",
    )  # fmt: skip

    def test_a_gpu_it_cannot_use(self, run: RunDirectory) -> None:
        findings = diagnose(run.path, gpu=self.BROKEN)
        assert failures(findings) == {}
        assert findings["gpu"].status is Status.WARN
        assert findings["gpu"].text == (
            "there is an NVIDIA driver 570.86.10, but its GPU cannot be used: "
            "the first GPU fails (no kernel image is available)"
        )
        assert findings["compute"].text.endswith("on the CPU: the first GPU fails (no kernel image is available)")

    def test_a_gpu_it_is_told_to_use_and_cannot(self, run: RunDirectory) -> None:
        findings = diagnose(run.path, gpu=self.BROKEN, device="cuda")
        assert failures(findings) == {"gpu": CONFIG, "compute": CONFIG}
        assert {findings[name].status for name in ("speed", "memory", "disk")} == {Status.SKIPPED}
        assert "see compute" in findings["memory"].text

    def test_too_little_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        small = tmp_path / "meminfo"
        small.write_text("MemTotal: 300000 kB\nMemAvailable: 200000 kB\n")
        monkeypatch.setattr(machine, "_MEMORY", small)
        finding = diagnose(lay_out(tmp_path / "run").path)["memory"]
        assert (finding.status, finding.exit_status) == (Status.FAIL, MACHINE_STATUS)
        assert "this machine has only 293 MiB" in finding.text
        assert "use a machine (or a container limit) with at least" in finding.fix

    def test_no_gpu(self, run: RunDirectory) -> None:
        none = GpuFacts(Machine(None, "torch finds no GPU with a driver", "", bf16=True), 0, "", "")
        findings = diagnose(run.path, gpu=none)
        assert findings["gpu"].text == "no GPU: this machine computes on its CPU"
        assert findings["compute"].text.startswith("bf16 or fp32 products, as found faster")
        assert "an inner step on the CPU (measured, fp32 products)" in findings["speed"].text


class TestBuckets:
    """Faults of the own bucket."""

    def test_bad_key(self, remote: RunDirectory, bucket: Bucket) -> None:
        environment = bucket.environment | {"MUSTER_S3_SECRET_KEY": "0" * 40}
        findings = diagnose(remote.path, environment=environment, location=bucket.location)
        assert failures(findings) == {"bucket": STORAGE}
        assert "secret does not belong to the access key" in findings["bucket"].text
        assert "MUSTER_S3_SECRET_KEY" in findings["bucket"].fix
        assert findings["bandwidth"].status is Status.SKIPPED

    def test_no_key(self, remote: RunDirectory, bucket: Bucket) -> None:
        findings = diagnose(remote.path, location=bucket.location)
        assert failures(findings) == {"bucket": STORAGE}
        assert "MUSTER_S3_ACCESS_KEY" in findings["bucket"].fix

    def test_wrong_bucket(self, remote: RunDirectory, bucket: Bucket) -> None:
        location = bucket.location.replace(bucket.name, f"{bucket.name}-other")
        findings = diagnose(remote.path, environment=bucket.environment, location=location)
        assert failures(findings) == {"bucket": STORAGE, "location": CONFIG}
        assert "no such bucket" in findings["bucket"].text

    def test_a_public_part_that_can_write(self, remote: RunDirectory, bucket: Bucket) -> None:
        location = bucket.at(bucket.server.address, bucket.access, bucket.secret)
        commit(remote, "miner-0", location)
        findings = diagnose(remote.path, environment=bucket.environment, location=location)
        assert failures(findings) == {"bucket": STORAGE}
        assert "can write" in findings["bucket"].text
        assert "rotate" in findings["bucket"].fix
        assert bucket.client().list_objects_v2(Bucket=bucket.name)["KeyCount"] == 0

    def test_a_public_part_that_cannot_read(self, remote: RunDirectory, bucket: Bucket) -> None:
        bucket.client().delete_bucket_policy(Bucket=bucket.name)
        findings = diagnose(remote.path, environment=bucket.environment, location=bucket.location)
        assert failures(findings) == {"bucket": STORAGE, "location": STORAGE, "leader": STORAGE}  # the leader's too
        assert "cannot be read as others would" in findings["bucket"].text

    def test_a_folder_that_is_no_folder(self, run: RunDirectory) -> None:
        (run.path / "buckets" / "miner-0").write_text("in the way")
        finding = diagnose(run.path)["bucket"]
        assert (finding.status, finding.exit_status) == (Status.FAIL, STORAGE)
        assert "is no folder" in finding.text

    def test_another_location_is_committed(self, remote: RunDirectory, bucket: Bucket) -> None:
        commit(remote, "miner-0", "s3://example.org/elsewhere")
        findings = diagnose(remote.path, environment=bucket.environment, location=bucket.location)
        assert failures(findings) == {"location": CONFIG}
        assert "s3://example.org/elsewhere" in findings["location"].text
        assert "start the participant" in findings["location"].fix

    def test_a_service_that_does_not_answer(self, remote: RunDirectory, bucket: Bucket) -> None:
        on_network(remote, "127.0.0.1:9", bucket.server.address)
        location = bucket.location.replace(bucket.server.address, "127.0.0.1:9")
        findings = diagnose(remote.path, environment=bucket.environment, location=location)
        assert failures(findings) == {"clock": STORAGE, "bucket": STORAGE, "location": CONFIG}
        assert "127.0.0.1:9" in findings["clock"].text

    def test_a_missing_location(self, remote: RunDirectory, bucket: Bucket) -> None:
        findings = diagnose(remote.path, environment=bucket.environment)
        assert failures(findings)["bucket"] == CONFIG
        assert "muster bucket create" in findings["bucket"].fix

    @pytest.mark.parametrize(("minutes", "status"), [(1, Status.WARN), (-20, Status.FAIL)])
    async def test_skewed_clock(self, remote: RunDirectory, bucket: Bucket, minutes: int, status: Status) -> None:
        async def late(request: web.Request) -> web.Response:
            answer = await pass_on(request, bucket.server.endpoint)
            answer.headers["Date"] = format_datetime(datetime.now(UTC) - timedelta(minutes=minutes), usegmt=True)
            return answer

        async with http_server(late) as address:
            on_network(remote, address, bucket.server.address)
            location = bucket.location.replace(bucket.server.address, address)
            findings = await diagnose_async(remote.path, environment=bucket.environment, location=location)
        assert findings["clock"].status is status
        assert findings["clock"].exit_status == (MACHINE_STATUS if status is Status.FAIL else 0)
        assert ("ahead of" if minutes > 0 else "behind") in findings["clock"].text
        assert "chrony" in findings["clock"].fix
        assert findings["bucket"].status is Status.OK


class TestRunAndKey:
    """Faults of what RUN and the hotkey file are."""

    def test_no_run(self, tmp_path: Path) -> None:
        findings = diagnose(tmp_path / "nowhere")
        assert failures(findings) == {"run": CONFIG, "key": CONFIG}
        assert findings["software"].status is Status.OK
        skipped = [name for name in NAMES if findings[name].status is Status.SKIPPED]
        assert {"memory", "bucket", "registration", "location", "text"} <= set(skipped)
        assert all("see run" in findings[name].text for name in skipped if name not in ("clock", "anchors"))

    def test_wrong_run_id(self, run: RunDirectory) -> None:
        file = run.file.model_copy(update={"run_id": "0" * 64})
        (run.path / "run.toml").write_bytes(file.to_bytes())
        findings = diagnose(run.path, key_file=run.key("miner-0"))
        assert failures(findings) == {"run": CONFIG}
        assert "another run" in findings["run"].text
        assert "RUN_URL" in findings["run"].fix

    def test_a_key_file_that_cannot_be_read(self, run: RunDirectory) -> None:
        findings = diagnose(run.path, key_file=run.path / "keys")
        assert failures(findings) == {"key": IDENTITY}
        assert "muster join" in findings["key"].fix
        assert findings["registration"].status is Status.SKIPPED
        assert "see key" in findings["registration"].text
        assert findings["bucket"].status is Status.OK

    def test_a_key_file_that_others_can_read(self, run: RunDirectory) -> None:
        run.key("miner-0").chmod(0o644)
        finding = diagnose(run.path)["key"]
        assert finding.status is Status.WARN
        assert "0644" in finding.text
        assert "chmod 600" in finding.fix

    def test_another_text(self, run: RunDirectory) -> None:
        with (run.data / "manifest.json").open("ab") as file:
            file.write(b" ")
        findings = diagnose(run.path)
        assert failures(findings) == {"text": DATA}
        assert "the run pins" in findings["text"].text

    def test_a_text_that_was_cut(self, run: RunDirectory) -> None:
        (run.data / "heldout.bin").write_bytes(b"short")
        assert failures(diagnose(run.path)) == {"text": DATA}

    def test_a_service_s_credential_is_its_own_whatever_the_mask_of_its_access_list(
        self, run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "credentials"
        folder.mkdir()
        key = folder / "hotkey"
        key.write_bytes(run.key("miner-0").read_bytes())
        key.chmod(0o440)
        assert diagnose(run.path, key_file=key)["key"].status is Status.WARN
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
        assert diagnose(run.path, key_file=key)["key"].status is Status.OK
        key.chmod(0o444)
        assert diagnose(run.path, key_file=key)["key"].status is Status.WARN


class TestChain:
    """Faults of chain and registration."""

    def test_dead_endpoint(self, run: RunDirectory) -> None:
        findings = diagnose(run.path, chain="sqlite:/nowhere/chain.sqlite")
        assert failures(findings) == {"chain": CHAIN}
        assert "setting chain" in findings["chain"].fix
        assert all("see chain" in findings[name].text for name in ("registration", "location", "leader"))
        assert "while the chain does not answer" in findings["speed"].text

    def test_a_validator_without_stake(self, run: RunDirectory) -> None:
        findings = diagnose(run.path, "miner-0", Role.VALIDATOR)
        assert failures(findings) == {"registration": CHAIN}
        assert "no validator permit" in findings["registration"].text


class TestMachine:
    """Faults of the machine."""

    def test_memory_too_small(self, tmp_path: Path) -> None:
        run = lay_out(tmp_path / "run", inner={"batch": 10**9})
        findings = diagnose(run.path)
        assert failures(findings)["memory"] == MACHINE_STATUS
        assert "TiB" in findings["memory"].text
        assert findings["memory"].fix.startswith("set micro_batch to ")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
    def test_full_disk(self, run: RunDirectory, small_disk: Path) -> None:
        findings = diagnose(run.path, state=small_disk / "state")
        assert failures(findings) == {"disk": MACHINE_STATUS}
        assert "free some space" in findings["disk"].fix


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"this root may not mount: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class TestCommand:
    """What `muster doctor` prints and ends with."""

    def test_the_first_failure_decides_the_status(self, run: RunDirectory, muster_command: Commands) -> None:
        (run.data / "heldout.bin").write_bytes(b"short")
        run.key("miner-0").write_text("not a key")
        done = muster_command("doctor", "--run", str(run.path), "--name", "miner-0")
        assert done.returncode == DATA, done.stderr
        lines = done.stdout.splitlines()
        assert lines[-1] == "2 failed: text, key; look at: leader"
        assert [line.split()[1] for line in lines[:-1] if not line.startswith(" ")] == NAMES
        assert sum(line.lstrip().startswith("fix: ") for line in lines) == 3

    def test_json(self, run: RunDirectory, muster_command: Commands) -> None:
        done = muster_command("doctor", "--run", str(run.path), "--name", "miner-0", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["exit_status"] == 0
        assert [check["name"] for check in told["checks"]] == NAMES
        hotkey = Identity.from_file(run.key("miner-0")).hotkey
        assert hotkey in told["checks"][-1]["finding"]

    def test_an_unknown_role(self, run: RunDirectory, muster_command: Commands) -> None:
        done = muster_command("doctor", "--run", str(run.path), "--name", "miner-0", "--role", "king")
        assert done.returncode == 2
        assert "aggregator" in done.stderr
