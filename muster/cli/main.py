"""The `muster` command: parse, call, and end in one clear sentence and an exit status whatever goes wrong.

Heavy imports (torch) happen inside the commands, so `--help` answers at once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli import bucket as cli_bucket
from muster.cli import doctor as cli_doctor
from muster.cli import run as cli_run
from muster.cli import story as cli_story
from muster.run.ending import run_command

if TYPE_CHECKING:
    from muster.run.daemon import Role

app = typer.Typer(
    name="muster",
    help="Train large language models together with anyone who shows up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
spec_app = typer.Typer(
    help="Make and show run specs: what all participants of a run must agree on.", no_args_is_help=True
)
app.add_typer(spec_app, name="spec")
cli_run.add_to(app)
app.add_typer(cli_bucket.bucket_app, name="bucket")
app.command()(cli_doctor.doctor)
app.command()(cli_story.story)

RunOption = Annotated[
    str | None, typer.Option("--run", help="The run's folder or URL (it holds run.toml). [env: MUSTER_RUN]")
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", help="What this participant is called in the run's folder. [env: MUSTER_NAME]"),
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file", help="The hotkey: its seed in 64 hexadecimal digits, or a Bittensor file. [env: MUSTER_KEY_FILE]"
    ),
]
LocationOption = Annotated[
    str | None,
    typer.Option("--location", help="The bucket to write, as committed on chain. [env: MUSTER_LOCATION]"),
]
StateOption = Annotated[
    Path | None,
    typer.Option("--state", help="Folder for what must survive a restart. [env: MUSTER_STATE]"),
]
LogOption = Annotated[
    str | None, typer.Option("--log-level", help="debug, info, warning or error. [env: MUSTER_LOG_LEVEL]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


@app.command()
def testnet(
    preset: Annotated[str, typer.Option(help="A preset's name, or a template file ending in .toml.")] = "tiny",
    miners: Annotated[int, typer.Option(min=0, help="Honest miners.")] = 4,
    validators: Annotated[int, typer.Option(min=1, help="Validators; each brings an aggregator.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds before the run closes.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Keys, genesis and beacons follow from it.")] = 0,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="The run's folder; must be empty. [default: runs/PRESET-TIME]"),
    ] = None,
    adversary: Annotated[
        list[str] | None, typer.Option(help="NAME=COUNT: miners gone bad, in addition; may be repeated.")
    ] = None,
    store: Annotated[
        str, typer.Option(help="dir, or s3://HOST[:PORT][?tls=off]: buckets on a server whose administrator you are.")
    ] = "dir",
    chain: Annotated[
        str, typer.Option(help="sqlite, or ws://HOST:PORT of a development chain on which //Alice may do anything.")
    ] = "sqlite",
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only lay the run out and register everybody; start its daemons yourself.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a whole network on this machine: real processes, keys, store and chain."""
    import asyncio  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from muster.history.view import make_view  # noqa: PLC0415
    from muster.run.credentials import ADMIN_VARIABLES  # noqa: PLC0415
    from muster.run.settings import SHARED_VARIABLES, check_variables  # noqa: PLC0415
    from muster.testnet.adversaries import parse_adversaries  # noqa: PLC0415
    from muster.testnet.testnet import Testnet, TestnetOptions  # noqa: PLC0415

    check_variables(os.environ, SHARED_VARIABLES | ADMIN_VARIABLES)
    path = directory or Path("runs") / f"{Path(preset).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    options = TestnetOptions(
        preset, miners, validators, rounds, seed, path, parse_adversaries(adversary or []), time.time(), store, chain
    )
    with make_view(Console(), as_json) as view:
        if prepare:
            run = asyncio.run(Testnet(options, view).prepare())
            view.note(f"the run is laid out; start its daemons with --run {run.path}")
            return
        summary = asyncio.run(Testnet(options, view).run())
    if as_json:
        typer.echo(json.dumps(summary.to_json_object()))


@app.command()
def audit(
    run: Annotated[str, typer.Argument(help="The run's folder or URL.")],
    first_round: Annotated[
        int | None,
        typer.Option("--from", min=0, help="Start at the checkpoint of this round instead of genesis."),
    ] = None,
    chain: Annotated[
        str | None, typer.Option(envvar="MUSTER_CHAIN", help="Your own way to the chain: endpoints, or sqlite:FILE.")
    ] = None,
    allow: Annotated[str, typer.Option(envvar="MUSTER_ALLOW", help="Private addresses that may be connected to.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Replay a run with no trust in anybody; names every object that is not what it must be, and changes none."""
    import asyncio  # noqa: PLC0415

    from muster.audit import audit_run  # noqa: PLC0415

    report = asyncio.run(audit_run(run, first_round, lambda line: typer.echo(line, err=as_json), chain, allow))
    typer.echo(json.dumps(report.to_json_object()) if as_json else report.summary())
    report.raise_fault()


def _daemon(role: Role, flags: Mapping[str, object], rounds: int | None = None) -> None:
    from muster.run.daemon import run_daemon  # noqa: PLC0415
    from muster.run.settings import load_config  # noqa: PLC0415

    run_daemon(role, load_config(flags, os.environ), rounds=rounds)


@app.command()
def miner(
    run: RunOption = None,
    name: NameOption = None,
    key_file: KeyOption = None,
    location: LocationOption = None,
    state: StateOption = None,
    log_level: LogOption = None,
) -> None:
    """Train on this machine and submit to a run, until it closes."""
    from muster.run.daemon import Role  # noqa: PLC0415

    flags = {
        "run": run,
        "name": name,
        "key_file": key_file,
        "location": location,
        "state": state,
        "log_level": log_level,
    }
    _daemon(Role.MINER, flags)


@app.command()
def validator(
    run: RunOption = None,
    name: NameOption = None,
    key_file: KeyOption = None,
    location: LocationOption = None,
    state: StateOption = None,
    log_level: LogOption = None,
) -> None:
    """Measure submissions, publish scores and set weights, until the run closes."""
    from muster.run.daemon import Role  # noqa: PLC0415

    flags = {
        "run": run,
        "name": name,
        "key_file": key_file,
        "location": location,
        "state": state,
        "log_level": log_level,
    }
    _daemon(Role.VALIDATOR, flags)


@app.command()
def aggregator(
    run: RunOption = None,
    name: NameOption = None,
    key_file: KeyOption = None,
    location: LocationOption = None,
    state: StateOption = None,
    log_level: LogOption = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Close the run after so many rounds. [default: never]")
    ] = None,
) -> None:
    """Seal rounds, decide them and sign their records when it is this operator's turn."""
    from muster.run.daemon import Role  # noqa: PLC0415

    flags = {
        "run": run,
        "name": name,
        "key_file": key_file,
        "location": location,
        "state": state,
        "log_level": log_level,
    }
    _daemon(Role.AGGREGATOR, flags, rounds=rounds)


@spec_app.command("show")
def spec_show(
    what: Annotated[str, typer.Argument(help="A preset's name, a template ending in .toml, or a run's folder or URL.")],
) -> None:
    """Print a preset, template or run spec with what follows from it."""
    from muster.run.specs import describe  # noqa: PLC0415

    typer.echo(describe(what))


@spec_app.command("new")
def spec_new(
    preset: Annotated[str, typer.Argument(help="A preset's name, or a template file ending in .toml.")],
    out: Annotated[Path, typer.Argument(help="Folder for spec.json and the text's shards; must be empty.")],
    owner: Annotated[str, typer.Option(help="Hotkey that may amend the run.")],
    leader: Annotated[list[str], typer.Option(help="Hotkey of an aggregator, in turn order; repeat for more.")],
    miner: Annotated[list[str] | None, typer.Option(help="Hotkey expected in round 0; repeat for more.")] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="A text file; repeat for more. [default: Python's standard library]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the genesis weights.")] = 0,
    chain: Annotated[
        str | None,
        typer.Option(help="bittensor, or sqlite:FILE. [default: bittensor with --netuid, else a new local one]"),
    ] = None,
    netuid: Annotated[int | None, typer.Option(min=0, help="The run's subnet on Bittensor.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="wss://… of a Bittensor node; repeat for more. [default: the public one]")
    ] = None,
    block: Annotated[
        int | None, typer.Option(min=0, help="Chain block at which round 0 opens. [default: the newest]")
    ] = None,
) -> None:
    """Fill genesis, chain and data into a template: from then on it is one particular run."""
    import asyncio  # noqa: PLC0415

    from muster.cli.run import FINNEY  # noqa: PLC0415
    from muster.run.publish import run_file  # noqa: PLC0415
    from muster.run.specs import find_standing, new_spec  # noqa: PLC0415

    file = run_file(str(out), chain, netuid, tuple(endpoint or (FINNEY,)))
    standing = None if file is None else asyncio.run(find_standing(file))
    typer.echo(new_spec(preset, out, owner, tuple(leader), tuple(miner or ()), text, seed, block, standing))


def main() -> None:
    """Entry point."""
    run_command(lambda: app(prog_name="muster"))
