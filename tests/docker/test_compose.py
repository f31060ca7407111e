"""compose.yml makes a run that closes, every service of it is well on the way, and what is watched is really there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import tomli_w
import yaml
from compose_run import DOCKER, PORT, Container, containers, default_services, load_compose
from forked import Commands
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prometheus_client.parser import text_string_to_metric_families
from s3_server import RadosGateway

from muster.protocol.errors import ConfigError
from muster.protocol.spec import load_template

ROUNDS = 3
WAIT_BLOCKS = 1200
"""Five minutes of the local chain: no round waits so long, for everybody is there."""

DEADLINE_SECONDS = 1200.0
"""Seven interpreters start one after the other, and each imports torch: seconds where the machine is idle."""

pytestmark = pytest.mark.timeout(2 * DEADLINE_SECONDS)
METRIC = re.compile(r"\b(?:muster|process)_[a-z_]+")
LAST = "aggregator"
"""Started last: no round closes without it, so until then every other one can be asked in peace."""

SCRAPE_SECONDS = 0.4
"""Between two scrapes of a daemon: some fall into every round."""


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` made small, and so patient that every round has everybody's work however busy the machine is."""
    document = load_template("tiny").model_dump(mode="json")
    document["name"] = "miniature"
    document["model"] |= {
        "hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn": 48, "context": 32
    }  # fmt: skip
    document["inner"] |= {"steps": 12, "batch": 2, "warmup": 3, "total": 96}
    document["gauntlet"] |= {"eval_windows": 4, "heldout_windows": 16, "lag": 1, "score_wait": WAIT_BLOCKS}
    document["clock"] |= {"deadline": WAIT_BLOCKS, "reveal": WAIT_BLOCKS, "grace": WAIT_BLOCKS}
    document["clock"] |= {"touch": 3 * WAIT_BLOCKS, "silent": 3 * WAIT_BLOCKS}
    document["data"] |= {"window": 32, "slots": 12}
    path = tmp_path_factory.mktemp("preset") / "miniature.toml"
    path.write_text(tomli_w.dumps(document))
    return path


class Run:
    """A run by compose.yml: exit statuses, and every metric that its daemons showed, by service."""

    def __init__(self) -> None:
        self.statuses: dict[str, int] = {}
        self.metrics: dict[str, set[str]] = {}
        self.before: tuple[int, str] = (0, "")


async def scrape(container: Container, seen: set[str]) -> None:
    """Note the metrics with a sample until the daemon is gone."""
    assert container.process is not None
    async with aiohttp.ClientSession() as session:
        while container.process.returncode is None:
            try:
                async with session.get(f"http://{container.address}/metrics") as answer:
                    families = text_string_to_metric_families(await answer.text())
                    seen |= {sample.name for family in families for sample in family.samples}
            except aiohttp.ClientError:
                pass  # it is not there yet, or not any more
            await asyncio.sleep(SCRAPE_SECONDS)


async def play(volume: Path, preset: Path, **variables: str) -> Run:
    """Start the services as an engine would and wait until the run has closed."""
    run = Run()
    compose = load_compose({"ROUNDS": str(ROUNDS), "PRESET": str(preset), **variables})
    made = containers(default_services(compose), volume)
    daemons = {name: container for name, container in made.items() if name != "init"}
    try:
        async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as tasks:
            await made["init"].start()
            status, out = await made["init"].ended()
            assert status == 0, out
            run.before = await daemons[LAST].healthy()
            for name, container in daemons.items():
                if name != LAST:
                    await container.start()
            for name in sorted(daemons, key=lambda name: name == LAST):
                if name == LAST:
                    await daemons[name].start()
                await daemons[name].until_healthy()
                run.metrics[name] = set()
                tasks.create_task(scrape(daemons[name], run.metrics[name]))
            for name, container in daemons.items():
                status, out = await container.ended()
                assert status == 0, f"{name}: {out}"
                run.statuses[name] = status
            await made["init"].start()
            run.statuses["init"], _ = await made["init"].ended()
    finally:
        for container in made.values():
            await container.stop()
    return run


def audit(muster_command: Commands, run: Path) -> dict[str, Any]:
    """What the audit of a run says; it must find nothing wrong."""
    done = muster_command("audit", str(run), "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def played(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """The volume and the run."""
    volume = tmp_path_factory.mktemp("volume")
    return volume, asyncio.run(play(volume, preset))


@pytest.mark.processes
def test_the_run_closes_and_can_be_audited(played: tuple[Path, Run], muster_command: Commands) -> None:
    volume, run = played
    assert run.statuses == dict.fromkeys(default_services(load_compose({})), 0), "init leaves a run that is there alone"
    assert len(audit(muster_command, volume / "run")["state_roots"]) == ROUNDS


@pytest.mark.processes
@pytest.mark.slow
def test_the_same_services_run_on_an_s3_service(
    played: tuple[Path, Run], preset: Path, tmp_path: Path, s3_server: RadosGateway, muster_command: Commands
) -> None:
    """What the profile `real` adds to init's environment is enough for every daemon to find its bucket and keys."""
    access, secret = s3_server.access, s3_server.secret
    chosen = f"--store s3://{s3_server.endpoint.removeprefix('http://')}?tls=off"
    asyncio.run(play(tmp_path, preset, BACK_ENDS=chosen, S3_ADMIN_ACCESS_KEY=access, S3_ADMIN_SECRET_KEY=secret))
    assert not (tmp_path / "run" / "buckets").exists() or not list((tmp_path / "run" / "buckets").iterdir())
    roots = [audit(muster_command, volume / "run")["state_roots"] for volume in (played[0], tmp_path)]
    assert roots[0] == roots[1], "where the bytes lie changes none of them"


@pytest.mark.processes
def test_a_daemon_whose_port_is_taken_ends_in_one_sentence(played: tuple[Path, Run], muster_command: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ("miner", "--run", str(played[0] / "run"), "--name", "miner-0")
        done = muster_command(*words, environment=os.environ | {"MUSTER_SERVICE": address})
    assert done.returncode == ConfigError.exit_status
    assert done.stderr.splitlines()[-1].startswith(f"error[config]: cannot listen on {address} ")


@pytest.mark.processes
def test_a_service_that_does_not_run_is_not_healthy(played: tuple[Path, Run]) -> None:
    status, out = played[1].before
    assert status == 1
    assert out.startswith("nobody answers at http://")


def drawn() -> dict[str, set[str]]:
    """Every metric that the dashboard or an alert names, by what names it."""
    dashboard = json.loads((DOCKER / "grafana/dashboards/muster.json").read_text())
    rules = yaml.safe_load((DOCKER / "prometheus/alerts.yml").read_text())["groups"]
    asked = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [(rule["alert"], rule["expr"]) for group in rules for rule in group["rules"]]
    found: dict[str, set[str]] = {}
    for title, expression in asked:
        found.setdefault(title, set()).update(METRIC.findall(expression))
    return found


def test_every_panel_and_alert_draws_something() -> None:
    assert all(metrics or title == "MusterDown" for title, metrics in drawn().items()), "`up` is Prometheus' own"


@pytest.mark.processes
def test_every_metric_drawn_is_one_that_a_daemon_shows(played: tuple[Path, Run]) -> None:
    shown = set().union(*played[1].metrics.values())
    missing = {title: metrics - shown for title, metrics in drawn().items() if metrics - shown}
    assert not missing


@pytest.mark.processes
def test_each_role_shows_what_is_its_own(played: tuple[Path, Run]) -> None:
    metrics = played[1].metrics
    assert "muster_inner_loss" in metrics["miner-0"] - metrics["validator"]
    assert {"muster_heldout_loss", "muster_peer_score"} <= metrics["validator"] - metrics["miner-0"]
    assert {"muster_healthy", "muster_round", "muster_block"} <= set.intersection(*metrics.values())


def test_prometheus_asks_every_daemon() -> None:
    (job,) = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    daemons = default_services(load_compose({})).keys() - {"init"}
    assert set(job["static_configs"][0]["targets"]) == {f"{name}:{PORT}" for name in daemons}


@pytest.mark.parametrize("name", sorted(default_services(load_compose({})).keys() - {"init"}))
def test_a_daemons_port_is_the_images_and_is_not_published(name: str) -> None:
    service = default_services(load_compose({}))[name]
    assert service["environment"]["MUSTER_SERVICE"] == f"0.0.0.0:{PORT}"
    assert "ports" not in service
    assert service["depends_on"]["init"]["condition"] == "service_completed_successfully"
    assert f"EXPOSE {PORT}" in (DOCKER / "Dockerfile").read_text().splitlines()


def test_what_a_profile_adds_is_reachable_from_this_machine_only() -> None:
    services = load_compose({})["services"]
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published == ["127.0.0.1:3000:3000"]


def test_real_env_gives_the_flags_of_the_command() -> None:
    """The back ends of the profile `real` is what the command takes, on the services of that profile."""
    lines = [line for line in (DOCKER / "real.env").read_text().splitlines() if not line.startswith("#")]
    variables = dict(line.split("=", 1) for line in lines)
    services = load_compose(variables)["services"]
    command = services["init"]["command"][0]
    assert command.endswith(f" {variables['BACK_ENDS']}")
    help_text = subprocess.run(
        [sys.executable, "-P", "-m", "muster", "testnet", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for flag, url in zip(*[iter(variables["BACK_ENDS"].split())] * 2, strict=True):
        host = re.sub(r"^[a-z0-9]+://|:\d+.*$", "", url)
        assert services[host]["profiles"] == ["real"]
        assert flag in help_text
    assert services["init"]["environment"]["MUSTER_S3_ADMIN_SECRET_KEY"] == variables["S3_ADMIN_SECRET_KEY"]


def test_the_image_pins_every_requirement() -> None:
    """A requirement without a pin would make tomorrow's image another than today's."""
    lines = (DOCKER / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lines if not line.startswith("#")}
    assert all("==" in line for line in lines if not line.startswith("#"))
    required: set[str] = set()
    todo = {"muster-network"}
    while todo:
        requirements = [Requirement(text) for text in distribution(todo.pop()).requires or ()]
        fresh = {
            canonicalize_name(one.name)
            for one in requirements
            if one.marker is None or one.marker.evaluate({"extra": ""})
        }
        todo |= fresh - required
        required |= fresh
    assert required <= pinned
