"""Set-ups for the doctor to look at: a small run on this machine, in folders or on a real S3 server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from s3_server import RadosGateway

from muster.doctor.examine import examine
from muster.doctor.facts import GpuFacts
from muster.doctor.finding import Finding
from muster.doctor.machine import find_gpu
from muster.doctor.network import Clock
from muster.doctor.setup import Setup
from muster.doctor.software import find_software
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.identity import Identity
from muster.protocol.spec import Template, load_template
from muster.protocol.types import Origin, Role
from muster.run.file import NETWORK, RUN_FILE, RunFile
from muster.run.folder import RunDirectory, create
from muster.run.settings import NodeConfig
from muster.testnet.roster import Roster

BLOCK_SECONDS = 0.05
SEED = 11


def miniature(**sections: Mapping[str, Any]) -> Template:
    """`tiny` with a model of some thousand parameters; `inner={"batch": 5}` changes a field of a section."""
    document = load_template("tiny").model_dump()
    document["model"] |= {
        "hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn": 48, "context": 32
    }  # fmt: skip
    document["inner"] |= {"steps": 2, "batch": 2}
    document["data"] |= {"window": 32, "slots": 12}
    for name, fields in sections.items():
        document[name] |= fields
    return Template.model_validate(document)


def lay_out_on(path: Path, made: Template, parts: RunFile | None = None, origin: Origin | None = None) -> RunDirectory:
    """A run of one operator and two miners in folders, on a chain (None: one of its own)."""
    text = path.with_name(f"{path.name}-text")
    text.mkdir(parents=True)
    for i in range(24):
        (text / f"{i:02d}.txt").write_text(f"text {i} " * 400)
    roster = Roster.of(SEED, 2, 1, {})
    return create(path, made, roster, sorted(text.iterdir()), BLOCK_SECONDS, parts, origin=origin)


def lay_out(path: Path, **sections: Mapping[str, Any]) -> RunDirectory:
    """The same on a local chain; operator-0 and miner-0 are registered and committed."""
    run = lay_out_on(path, miniature(**sections))
    commit(run, "operator-0", "dir:operator-0")
    commit(run, "miner-0", "dir:miner-0")
    return run


def commit(run: RunDirectory, name: str, location: str) -> None:
    """Register somebody and commit where its bucket is."""

    async def work() -> None:
        chain = SqliteChain(run.path / "chain.sqlite")
        try:
            identity = Identity.from_file(run.key(name))
            await chain.register(identity)
            await chain.commit(identity, location)
        finally:
            await chain.close()

    asyncio.run(work())


@dataclass
class Bucket:
    """A bucket on the real server: its owner's keys, and the location whose pair only reads it."""

    server: RadosGateway
    name: str
    access: str = field(init=False)
    secret: str = field(init=False)
    location: str = field(init=False)

    def __post_init__(self) -> None:
        self.access, self.secret = self.server.user(f"owner-{self.name}")
        reader = f"reader-{self.name}"
        key, secret = self.server.user(reader)
        client = self.client()
        client.create_bucket(Bucket=self.name)
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": [f"arn:aws:iam:::user/{reader}"]},
            "Action": ["s3:GetObject", "s3:ListBucket"],
            "Resource": [f"arn:aws:s3:::{self.name}", f"arn:aws:s3:::{self.name}/*"],
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        client.put_bucket_policy(Bucket=self.name, Policy=policy)
        self.location = self.at(self.server.address, key, secret)

    def at(self, address: str, key: str, secret: str) -> str:
        """A location of this bucket at HOST:PORT with a pair."""
        return f"s3://{key}:{secret}@{address}/{self.name}"

    def client(self) -> Any:
        """What the owner administers it with."""
        return boto3.client(
            "s3",
            endpoint_url=self.server.endpoint,
            aws_access_key_id=self.access,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )

    @property
    def environment(self) -> dict[str, str]:
        """The owner's credentials as a participant is given them."""
        return {"MUSTER_S3_ACCESS_KEY": self.access, "MUSTER_S3_SECRET_KEY": self.secret}


def on_network(run: RunDirectory, *allow: str) -> None:
    """From now on everybody's bucket is where he committed it; `allow` are the local addresses of servers."""
    file = run.file.model_copy(update={"store": NETWORK, "allow": allow})
    (run.path / RUN_FILE).write_bytes(file.to_bytes())


def diagnose(
    run: Path | str,
    name: str = "miner-0",
    role: Role = Role.MINER,
    environment: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    gpu: GpuFacts | None = None,
    **settings: Any,
) -> dict[str, Finding]:
    """The findings by name; `gpu` is planted in the place of what this machine has to compute with."""
    return asyncio.run(diagnose_async(run, name, role, environment, clock, gpu, **settings))


async def diagnose_async(
    run: Path | str,
    name: str = "miner-0",
    role: Role = Role.MINER,
    environment: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    gpu: GpuFacts | None = None,
    **settings: Any,
) -> dict[str, Finding]:
    """`diagnose` on a running loop."""
    config = NodeConfig(run=str(run), name=name, **settings)
    told: list[Finding] = []
    setup = Setup(role, config, environment or {}, clock or Clock(), (lambda: gpu) if gpu else find_gpu)
    findings = await examine(setup, find_software(), told.append)
    assert told == findings
    return {finding.name: finding for finding in findings}
