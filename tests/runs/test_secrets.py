"""A run with all that goes wrong in it, searched for every secret it was given: each is in its file and nowhere else.

What is planted: the keys of the server's administrator, the keys that write each bucket, every hotkey's seed, and the
keys with which a participant tries in vain to write. The keys that read a bucket are no secret: they stand on chain.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from forked import Commands
from run_builders import PATIENT, template, write_template
from s3_server import RadosGateway

from muster.node.telemetry import events
from muster.node.telemetry.journal import read_journal
from muster.protocol.identity import SEED_BYTES
from muster.protocol.storage import Credentials, S3Location, parse_location
from muster.protocol.storage.admin import Provisioner, Service
from muster.testnet.roster import Roster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(6000)]

ROUNDS = 3
SEED = 23
ROSTER = Roster.of(SEED, 2, 1, {"garbage": 1})
STRANGERS = ("wrong-key", "wrong-bucket")
LABELS = ("aggregator-operator-0", "validator-operator-0", *(miner.name for miner in ROSTER.miners))
RUN_SECONDS = 3000.0
COMMAND_SECONDS = 900.0
LOOK_SECONDS = 0.1
"""Between two looks at all command lines and environments: short against the life of any process here."""
ASK_LOOKS = 5
"""Looks from one to the next reading of all journals, which takes longer the longer they are."""
PATHS = ("healthz", "status", "metrics")


@dataclass
class Seen:
    """What anybody could see of a run: text by where it was found."""

    command_lines: dict[str, bytes] = field(default_factory=dict)
    environments: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """A run that has ended: its folder, what was printed, what was seen, and what must not have been."""

    folder: Path
    base: Path
    server: RadosGateway
    seen: Seen
    planted: Mapping[str, str]
    location: str

    def found(self, places: Mapping[str, bytes]) -> list[str]:
        """Where a secret is that must not be there: a text as it is, a seed as bytes too."""
        needles = {name: [text.encode()] for name, text in self.planted.items()}
        for name, text in self.planted.items():
            if name.endswith(".key"):
                needles[name] += [text.upper().encode(), bytes.fromhex(text)]
        return [
            f"{name} in {place}"
            for place, data in places.items()
            for name, texts in needles.items()
            if any(text in data for text in texts)
        ]


def plain() -> dict[str, str]:
    """This process's environment without Muster's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
    return kept | {"OMP_NUM_THREADS": "1"}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def look(seen: Seen, testnet: int, kin: set[int]) -> None:
    """Note each process's command line, and the environment of the kin and of what these and a testnet started."""
    itself = Path(f"/proc/{testnet}/cmdline").read_bytes()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(OSError):  # it has ended since
            line = (entry / "cmdline").read_bytes()
            seen.command_lines[f"{entry.name} {line!r}"] = line
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if not line or line == itself:  # forked, and still the memory of who forked it
                continue
            if int(entry.name) in kin or parent in kin | {testnet}:
                environment = (entry / "environ").read_bytes()
                seen.environments[f"{entry.name} {line!r} {environment!r}"] = environment
                kin.add(int(entry.name))


def ask(seen: Seen, folder: Path) -> None:
    """Ask every daemon that answers all it answers, unless it was asked when its last record was applied."""
    for journal in (folder / "logs").glob("*.jsonl"):
        found = [noted.event for noted in read_journal(journal).noted]
        applied = sum(isinstance(event, events.Applied) for event in found)
        for address in {event.address for event in found if isinstance(event, events.Service)}:
            for path in PATHS:
                place = f"http://{address}/{path} of {journal.stem} after {applied}"
                if place not in seen.answers:
                    with suppress(OSError):  # it was killed, or has ended
                        seen.answers[place] = urllib.request.urlopen(f"http://{address}/{path}", timeout=5).read()


def location_of(keys: Path, name: str) -> S3Location:
    """Where a participant's bucket is, and what reads it."""
    lines = dict(line.split("=", 1) for line in (keys / f"{name}.env").read_text().splitlines())
    location = parse_location(lines["MUSTER_LOCATION"].strip("'"))
    assert isinstance(location, S3Location)
    assert location.read is not None
    return location


def read_buckets(server: RadosGateway, keys: Path) -> dict[str, bytes]:
    """Every object of everybody, read as anybody reads it, and the buckets' policies."""
    admin, found = server.client("admin"), {}
    for location in (location_of(keys, member.name) for member in ROSTER.members):
        name, client = location.bucket, Service(location, location.read).s3
        found[f"policy of {name}"] = admin.get_bucket_policy(Bucket=name)["Policy"].encode()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            for item in page.get("Contents", []):
                found[f"{name}/{item['Key']}"] = client.get_object(Bucket=name, Key=item["Key"])["Body"].read()
    return found


def outsider(base: Path, folder: Path, name: str, location: str, keys: Credentials) -> subprocess.Popen[bytes]:
    """A miner of one's own, whose keys do not fit its bucket."""
    home = base / name
    home.mkdir(mode=0o700)
    texts = {"access": keys.access, "secret": keys.secret, "key": secrets.token_hex(SEED_BYTES)}
    for file, text in texts.items():
        (home / file).touch(mode=0o600)
        (home / file).write_text(text)
    argv = (
        "miner", "--run", str(folder), "--name", name, "--location", location, "--key-file", str(home / "key"),
        "--state", str(home / "state"), "--log-level", "debug",
    )  # fmt: skip
    files = {"MUSTER_S3_ACCESS_KEY_FILE": str(home / "access"), "MUSTER_S3_SECRET_KEY_FILE": str(home / "secret")}
    with (folder / "logs" / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "muster", *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=plain() | files,
        )


def kill_once(folder: Path, name: str) -> bool:
    """Kill a participant in the middle of its training; whether that came to pass."""
    journal = folder / "logs" / f"{name}.jsonl"
    found = [noted.event for noted in read_journal(journal).noted]
    if not any(isinstance(event, events.Training) for event in found):
        return False
    os.kill([event.pid for event in found if isinstance(event, events.Started)][-1], signal.SIGKILL)
    return True


@pytest.fixture(scope="module")
def scene(s3_server: RadosGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """`muster testnet --store s3://…` with an adversary, a crash, and two strangers whose keys do not fit."""
    base, seen = tmp_path_factory.mktemp("secrets"), Seen()
    folder = base / "run"
    made = template(
        inner={"steps": 3, "total": 12},
        # Rounds of five seconds at least: the strangers' failures fall into them.
        clock={"min_blocks": 20, "deadline": 480, "reveal": 240, "grace": 240, **PATIENT},
        gauntlet={"score_wait": 240},
    )
    preset = write_template(made, base / "miniature.toml")
    admin, secret = s3_server.user("admin")
    bucket = Provisioner(s3_server.endpoint, Credentials(admin, secret), f"secrets-{os.getpid()}").provision("mine")
    nowhere = bucket.location.replace("-mine", "-not-there")
    wrong = Credentials(bucket.write.access, secrets.token_hex(20))
    argv = (
        "testnet", "--preset", str(preset), "--miners", "2", "--adversary", "garbage=1", "--rounds", str(ROUNDS),
        "--seed", str(SEED), "--dir", str(folder), "--store", f"s3://{s3_server.address}", "--json",
    )  # fmt: skip
    admins = {"MUSTER_S3_ADMIN_ACCESS_KEY": admin, "MUSTER_S3_ADMIN_SECRET_KEY": secret}
    started: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        out, err = (stack.enter_context((base / name).open("wb")) for name in ("stdout", "stderr"))
        stack.callback(end, started)
        testnet = subprocess.Popen(
            [sys.executable, "-P", "-m", "muster", *argv], stdout=out, stderr=err, env=plain() | admins
        )
        started.append(testnet)
        kin, killed, deadline, looks = set[int](), False, time.monotonic() + RUN_SECONDS, 0
        while testnet.poll() is None:
            looks += 1
            assert time.monotonic() < deadline, (base / "stderr").read_text()
            look(seen, testnet.pid, kin)
            if (folder / "run.toml").exists():
                if len(started) == 1:
                    started.append(outsider(base, folder, "wrong-key", bucket.location, wrong))
                    started.append(outsider(base, folder, "wrong-bucket", nowhere, bucket.write))
                    kin |= {process.pid for process in started[1:]}
                if looks % ASK_LOOKS == 0:
                    ask(seen, folder)
                    killed = killed or kill_once(folder, "miner-1")
            time.sleep(LOOK_SECONDS)
    assert testnet.returncode == 0, (base / "stderr").read_text()
    assert killed
    seen.objects = read_buckets(s3_server, folder / "keys")
    planted = {path.name: path.read_text().strip() for path in (folder / "keys").iterdir() if path.suffix != ".env"}
    planted |= {f"{name}.key": (base / name / "key").read_text() for name in STRANGERS}
    planted |= {"admin's access key": admin, "admin's secret": secret, "wrong secret": wrong.secret}
    planted |= {"stranger's access key": bucket.write.access, "stranger's secret": bucket.write.secret}
    yield Scene(folder, base, s3_server, seen, planted, bucket.location)


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask processes to stop; a testnet stops its own."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_what_was_planted_is_where_it_belongs_for_its_owner_alone(scene: Scene) -> None:
    keys = scene.folder / "keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    for member in ROSTER.members:
        assert scene.planted[f"{member.name}.key"] == member.seed.hex()
        for suffix in ("key", "s3-access", "s3-secret"):
            path = keys / f"{member.name}.{suffix}"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert scene.found({path.name: path.read_bytes()}) == [f"{path.name} in {path.name}"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.glob("*.env")} == {0o600}
    assert len(set(scene.planted.values())) == len(scene.planted)


def test_things_went_wrong(scene: Scene) -> None:
    """Else there would be no error texts to search."""
    for stranger, words in (("wrong-key", "could not be written"), ("wrong-bucket", "could not be written")):
        assert words in (scene.folder / "logs" / f"{stranger}.log").read_text()
    rejected = [
        noted.event.rejected
        for noted in read_journal(scene.folder / "logs" / "validator-operator-0.jsonl").noted
        if isinstance(noted.event, events.Applied) and noted.event.kind == "round"
    ]
    assert len(rejected) == ROUNDS
    assert all(rejected)
    assert "crashed (killed by SIGKILL)" in (scene.folder / "report.html").read_text()


def test_no_file_of_the_run_holds_one(scene: Scene) -> None:
    keys = scene.folder / "keys"
    files = {place: data for place, data in contents(scene.folder).items() if Path(place).parent != keys}
    assert {str(scene.folder / name) for name in ("report.html", "chain.sqlite", "spec.json")} <= files.keys()
    for label in (*LABELS, *STRANGERS):
        assert {str(scene.folder / "logs" / f"{label}.{kind}") for kind in ("log", "jsonl")} <= files.keys()
    assert scene.found(files) == []
    environments = {path.name: path.read_bytes() for path in keys.glob("*.env")}
    assert len(environments) == len(ROSTER.members)
    assert scene.found(environments) == []


def test_what_may_be_read_is_found_by_the_same_search(scene: Scene) -> None:
    """The key that reads a bucket stands on chain: a search that does not find it there would find nothing."""
    read = location_of(scene.folder / "keys", "miner-0").read
    assert read is not None
    public = replace(scene, planted={"public": read.secret})
    assert any("chain.sqlite" in place for place in public.found(contents(scene.folder)))


def test_nothing_printed_holds_one(scene: Scene) -> None:
    printed = {name: (scene.base / name).read_bytes() for name in ("stdout", "stderr")}
    assert json.loads(printed["stdout"].splitlines()[-1])["roots_agree"] is True
    assert scene.found(printed) == []


def test_no_command_line_holds_one(scene: Scene) -> None:
    told = [line.split(b"\0")[1:4] for line in scene.seen.command_lines.values()]
    assert told.count([b"-P", b"-m", b"muster"]) > len(LABELS) + len(STRANGERS)
    assert scene.found(scene.seen.command_lines) == []


def test_children_get_files_and_nothing_of_the_administrator(scene: Scene) -> None:
    children = scene.seen.environments
    assert len(children) > len(LABELS) + len(STRANGERS)
    assert scene.found(children) == []
    names = {item.split(b"=")[0] for environment in children.values() for item in environment.split(b"\0")}
    assert {b"MUSTER_S3_ACCESS_KEY_FILE", b"MUSTER_S3_SECRET_KEY_FILE"} <= names
    assert not any(b"ADMIN" in name for name in names if name.startswith(b"MUSTER_"))


def test_no_answer_over_http_holds_one(scene: Scene) -> None:
    for label in LABELS:
        for path in PATHS[1:]:
            assert any(f"/{path} of {label} " in place for place in scene.seen.answers), (label, path)
    assert scene.found(scene.seen.answers) == []


def test_no_bucket_holds_one(scene: Scene) -> None:
    assert sum("/records/" in place for place in scene.seen.objects) >= ROUNDS
    assert sum(place.startswith("policy of ") for place in scene.seen.objects) == len(ROSTER.members)
    assert scene.found(scene.seen.objects) == []


COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "check": (("bucket", "check", "{place}"), "FAIL"),
    "create": (("bucket", "create", "--endpoint", "{endpoint}", "--name", "secrets-other"), "error[storage]"),
    "rotate": (("bucket", "rotate", "{place}"), "error[storage]"),
    "publish": (("run", "publish", "{folder}", "--store", "{place}/runs", "--chain", "sqlite:none"), "error[storage]"),
    "testnet": (("testnet", "--store", "s3://{address}", "--dir", "{empty}"), "error[storage]"),
    "doctor": (
        ("doctor", "--run", "{folder}", "--name", "wrong-key", "--key-file", "{key}", "--location", "{place}"), "FAIL"
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        *((command, "a wrong secret") for command in COMMANDS),
        ("check", "a key nobody knows"),
        ("testnet", "a key nobody knows"),
        ("check", "a secret with a blank in it"),
        ("publish", "a secret with a blank in it"),
    ],
)
def test_no_error_of_a_command_holds_one(
    scene: Scene, tmp_path: Path, command: str, wrong: str, muster_command: Commands
) -> None:
    argv, words = COMMANDS[command]
    access = scene.planted["stranger's access key"]
    pair = {
        "a wrong secret": (access, scene.planted["wrong secret"]),
        "a key nobody knows": (f"AK{secrets.token_hex(9)}", scene.planted["wrong secret"]),
        "a secret with a blank in it": (access, f"{scene.planted['wrong secret']} {secrets.token_hex(20)}"),
    }[wrong]
    prefix = "MUSTER_S3_ADMIN" if command == "testnet" else "MUSTER_S3"
    given = dict(zip((f"{prefix}_ACCESS_KEY", f"{prefix}_SECRET_KEY"), pair, strict=True))
    values = {
        "place": scene.location, "endpoint": scene.server.endpoint, "folder": str(scene.folder),
        "address": scene.server.address, "empty": str(tmp_path / "empty"),
        "key": str(scene.base / "wrong-key" / "key"),
    }  # fmt: skip
    done = muster_command(*(word.format(**values) for word in argv), environment=plain() | given)
    said = done.stdout + done.stderr
    assert done.returncode in {3, 4}, said
    assert words in said or (" " in pair[1] and "error[storage]" in said), said
    assert "Traceback" not in said
    told = replace(scene, planted={**scene.planted, "secret given": pair[1], "its parts": pair[1].split()[-1]})
    assert [place for place in told.found({command: said.encode()}) if "access key" not in place] == []
