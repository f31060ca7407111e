"""Every command of the pages for strangers works as it is typed, from nothing to the first accepted work."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import tomli_w
from doctor_setups import Bucket, miniature
from pages import DOCS, Shell, blocks
from s3_server import RadosGateway

from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.identity import Identity, derive_seed
from muster.protocol.storage import Credentials
from muster.run.credentials import load_credentials
from muster.testnet.roster import OPERATOR_STAKE

PAGES = ("mine.md", "validate.md")
INSTALLING = {"install", "update"}
SKIPPED = INSTALLING | {"bittensor", "keys", "rented"}
BLOCK_SECONDS = 0.25
SEED = 31


@dataclass(frozen=True)
class Context:
    """What a page takes for granted: a published run on a real server, a chain, and a hotkey file."""

    server: RadosGateway
    folder: Path
    url: str
    chain: Path

    def key(self, name: str) -> Path:
        """The hotkey file of somebody."""
        return self.folder / f"{name}.key"

    def values(self, name: str) -> dict[str, str]:
        """A reader's own values, but for the addresses he answers at."""
        for file, text in (("access", self.server.access), ("secret", self.server.secret)):
            secret = self.folder / file
            secret.touch(mode=0o600)
            secret.write_text(text)
        return {
            "RUN_URL": self.url,
            "NETUID": "1",
            "BT_WALLET": "muster",
            "BT_WALLET_HOTKEY": name,
            "HOTKEY": str(self.key(name)),
            "NODE": str(self.folder / f"node-{name}"),
            "S3_ENDPOINT": self.server.endpoint,
            "BUCKET": f"page-{name}-{os.getpid()}",
            "MUSTER_S3_ACCESS_KEY_FILE": str(self.folder / "access"),
            "MUSTER_S3_SECRET_KEY_FILE": str(self.folder / "secret"),
        }

    @property
    def local(self) -> dict[str, str]:
        """What only a run on this machine needs: where its chain is, and that its server may be connected to."""
        return {"MUSTER_CHAIN": f"sqlite:{self.chain}", "MUSTER_ALLOW": self.server.address}


def make_key(path: Path, name: str) -> Identity:
    """The hotkey of somebody, in a file."""
    path.touch(mode=0o600)
    path.write_text(derive_seed(SEED, name).hex())
    return Identity.from_file(path)


@pytest.fixture
def context(s3_server: RadosGateway, tmp_path: Path) -> Context:
    """A run with one operator, published by the real commands."""
    operator = make_key(tmp_path / "operator.key", "operator")
    for name in ("miner", "other"):
        make_key(tmp_path / f"{name}.key", name)
    chain = tmp_path / "chain.sqlite"
    genesis = ChainGenesis(seed=SEED, stakes={operator.hotkey: OPERATOR_STAKE}, weights_rate_limit=1)
    asyncio.run(SqliteChain.create(chain, genesis, block_seconds=BLOCK_SECONDS).close())
    made = miniature(
        clock={"deadline": 40, "reveal": 12, "grace": 12, "min_submissions": 1, "seal_age": 10, "evaluate": 11},
        gauntlet={"lag": 1, "score_wait": 8},
    )
    (tmp_path / "miniature.toml").write_text(tomli_w.dumps(made.model_dump(mode="json")))
    text = tmp_path / "text"
    text.mkdir()
    for i in range(24):
        (text / f"{i:02d}.txt").write_text(f"text {i} " * 400)
    publisher = Bucket(s3_server, f"runs-{os.getpid()}-{tmp_path.name.replace('_', '-')[:30].strip('-')}")
    files = " ".join(f"--text {path}" for path in sorted(text.iterdir()))
    with Shell(tmp_path / "publisher", publisher.environment) as shell:
        shell.run(
            f"muster spec new {tmp_path}/miniature.toml {tmp_path}/spec --owner {operator.hotkey} "
            f"--leader {operator.hotkey} --chain sqlite:{chain} {files}"
        )
        store = shlex.quote(f"{publisher.location}/runs/first")
        url = shell.run(f"muster run publish {tmp_path}/spec --store {store} --chain sqlite:{chain}").splitlines()[-1]
    return Context(s3_server, tmp_path, url, chain)


@pytest.fixture
def ports() -> list[str]:
    """Addresses to answer at."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]


@dataclass(frozen=True)
class Goal:
    """What a page leads to: the word of the block that shows it, and whether what this prints is it."""

    word: str
    reached: Callable[[str], bool]


def follow(page: str, context: Context, values: dict[str, str], goal: Goal, shell: Shell) -> None:
    """Do what a page says, until its goal is reached and everything was stopped again."""
    found, started, reached = blocks(page), False, False
    assert found[0].words == ("values",)
    assert found[0].names == values.keys()
    for block in found[1:]:
        words = set(block.words)
        if words & SKIPPED:
            continue
        if "daemon" in words:
            shell.start(block.text)
            started = True
        elif goal.word in words:
            shell.until(block.text, goal.reached)
            reached = True
        elif started:
            # Whoever audits a run of this machine has to say where its chain is, as whoever joins it.
            local = "".join(f"{name}={shlex.quote(value)} " for name, value in context.local.items())
            shell.until(block.text.replace("muster audit", f"{local}muster audit"))
        else:
            shell.run(block.text, **(context.local if "muster join" in block.text else {}))
    assert reached
    shell.stop()


@contextmanager
def taking_part(context: Context, role: str, *names: str) -> Iterator[None]:
    """Participants that are there before the reader comes and after he has gone."""
    with ExitStack() as stack:
        shells = [stack.enter_context(participant(context, role, name)) for name in names]
        yield
        for shell in shells:
            shell.stop()


def participant(context: Context, role: str, name: str) -> Shell:
    """One of them, started."""
    folder = context.folder / f"there-{name}"
    bucket = Bucket(context.server, f"there-{name}-{os.getpid()}")
    settings = {
        "run": context.url,
        "name": name,
        "key_file": str(context.key(name)),
        "location": bucket.location,
        "state": str(folder / "state"),
        "chain": context.local["MUSTER_CHAIN"],
        "allow": context.local["MUSTER_ALLOW"],
    }
    shell = Shell(folder, {**bucket.environment, "MUSTER_CONFIG": str(folder / "muster.toml")})
    (folder / "muster.toml").write_text(tomli_w.dumps(settings))
    shell.start(f"muster {role}\n")
    return shell


@pytest.mark.processes
@pytest.mark.timeout(6000)
class TestPages:
    """The pages, from top to bottom."""

    def test_mine(self, context: Context, ports: list[str]) -> None:
        values = context.values("miner") | {"SERVICE": ports[0]}
        hotkey = Identity.from_file(context.key("miner")).hotkey
        goal = Goal("accepted", lambda told: hotkey in json.loads(told)["accepted"])
        with taking_part(context, "aggregator", "operator"), Shell(context.folder / "me", values) as shell:
            follow("mine.md", context, values, goal, shell)

    def test_validate(self, context: Context, ports: list[str]) -> None:
        services = {"VALIDATOR_SERVICE": ports[0], "AGGREGATOR_SERVICE": ports[1]}
        values = context.values("operator") | services | {"STAKE": "1"}
        goal = Goal("weights", lambda told: bool(json.loads(told)["weights"]))
        # A rating says who of two did better: one miner alone would never get a weight.
        miners = taking_part(context, "miner", "miner", "other")
        with miners, Shell(context.folder / "me", values) as shell:
            follow("validate.md", context, values, goal, shell)


def test_bittensor_commands_exist(tmp_path: Path) -> None:
    """What only a real chain can run is at least what its tool offers: each command, each option."""
    caches = ("BTCLI_CONFIG", "BITTENSOR_RUNTIME_CACHE_DIR", "BTCLI_TOKEN_SYMBOLS_CACHE")
    environment = {**os.environ, **{name: str(tmp_path / name) for name in caches}, "COLUMNS": "200"}

    @cache
    def help_of(*command: str) -> str:
        argv = [str(Path(sys.executable).parent / "btcli"), *command, "--help"]
        told = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert told.returncode == 0, told.stderr
        return told.stdout

    for page in PAGES:
        lines = [line for block in blocks(page) if "bittensor" in block.words for line in block.text.splitlines()]
        assert lines, page
        for line in lines:
            words = shlex.split(line)
            assert words[0] == "btcli"
            command = [word for word in words[1:3] if not word.startswith("-")]
            for option in ("--help", *(word for word in words if word.startswith("--"))):
                assert re.search(rf"{option}\b", help_of(*command)), f"btcli {' '.join(command)} has no {option}"


def test_key_files_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    """Line by line, with what a reader pastes; a blank after it does no harm."""
    (block,) = [block for block in blocks("mine.md") if "keys" in block.words]
    pasted = {"MUSTER_S3_ACCESS_KEY_FILE": "access", "MUSTER_S3_SECRET_KEY_FILE": "secret"}
    files = {name: tmp_path / "muster-keys" / name for name in pasted}
    environment = {**os.environ, "HOME": str(tmp_path), **{name: str(path) for name, path in files.items()}}
    for line in block.text.splitlines():
        given = next((text for name, text in pasted.items() if name in line), "")
        subprocess.run(["bash", "-c", line], env=environment, input=f"{given} \n", text=True, check=True)
    assert (tmp_path / "muster-keys").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    found = load_credentials({name: str(path) for name, path in files.items()})
    assert found == Credentials("access", "secret")


def test_what_is_typed_for_a_rented_card_is_there() -> None:
    """Files that the commands name, and the flags of `muster` in them."""
    lines = [line for block in blocks("mine.md") if "rented" in block.words for line in block.text.splitlines()]
    named = {word for line in lines for word in shlex.split(line) if word.startswith("deploy/")}
    assert {name.split("/")[1] for name in named} == {path.name for path in (DOCS.parent / "deploy").iterdir()}
    assert all((DOCS.parent / name).is_file() for name in named)
    commands = {tuple(line.split()[1:3]) for line in lines if line.startswith("muster ")}
    assert commands == {("deploy", "check")}


@pytest.mark.slow
@pytest.mark.timeout(6000)
def test_install_and_update(tmp_path: Path) -> None:
    """Both pages install and update alike, in a clone, with nothing but Python there."""
    first, second = ([block for block in blocks(page) if INSTALLING & set(block.words)] for page in PAGES)
    assert first == second
    clone = clone_of_this_tree(tmp_path)
    script = "\n".join(["set -euo pipefail", *(block.text for block in first)])
    done = subprocess.run(["bash", "-c", script], cwd=clone, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


def clone_of_this_tree(tmp_path: Path) -> Path:
    """A clone, on a branch, of a repository that holds the files of this tree as they are now."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=DOCS.parent, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if os.path.lexists(DOCS.parent / name):
            (origin / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(DOCS.parent / name, origin / name, follow_symlinks=False)  # the rooms are links
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "now"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    subprocess.run(["git", "clone", "--quiet", str(origin), str(clone)], check=True)
    return clone
