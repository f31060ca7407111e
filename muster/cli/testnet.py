"""`muster testnet`: a whole network on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from muster.cli.options import JsonOption
from muster.history.view import make_view
from muster.node.wished import device_named
from muster.run.credentials import ADMIN_VARIABLES
from muster.run.settings import SHARED_VARIABLES, check_variables
from muster.testnet.adversaries import parse_adversaries
from muster.testnet.spawning import execute
from muster.testnet.warm import warmed


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
    device: Annotated[
        str, typer.Option(envvar="MUSTER_DEVICE", help="Where miners and validators compute: auto, cpu or cuda.")
    ] = "auto",
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only lay the run out and register everybody; start its daemons yourself.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a whole network on this machine: real processes, keys, store and chain."""
    check_variables(os.environ, SHARED_VARIABLES | ADMIN_VARIABLES)
    path = directory or Path("runs") / f"{Path(preset).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    bad, where = parse_adversaries(adversary or []), device_named(device)
    with ExitStack() as stack:
        # Beside the imports that follow, which take as long.
        spawn = execute if prepare else stack.enter_context(warmed()).spawn
        from muster.testnet.testnet import Testnet, TestnetOptions  # noqa: PLC0415 - takes a while to load

        options = TestnetOptions(preset, miners, validators, rounds, seed, path, bad, time.time(), store, chain, where)
        view = stack.enter_context(make_view(Console(), as_json))
        network = Testnet(options, view, spawn)
        if prepare:
            run = asyncio.run(network.prepare())
            view.note(f"the run is laid out; start its daemons with --run {run.path}")
            return
        summary = asyncio.run(network.run())
    if as_json:
        typer.echo(json.dumps(summary.to_json_object()))
