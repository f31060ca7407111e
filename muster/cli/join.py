"""`muster join`: from a run's URL to a participant that can be started."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from muster.run.join import JoinRequest, join_run
from muster.run.settings import NODE_VARIABLES, SETTINGS, check_variables


def join(
    run: Annotated[str, typer.Argument(help="The run's URL (or folder), as its publisher gives it.")],
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Folder for all of it. [default: in the user's data folder]")
    ] = None,
    name: Annotated[str, typer.Option(help="What this participant is called here.")] = "node",
    key_file: Annotated[
        Path | None, typer.Option(help="An existing hotkey: a seed in hexadecimal, or a Bittensor hotkey file.")
    ] = None,
    wallet: Annotated[str | None, typer.Option(help="An existing Bittensor hotkey: NAME/HOTKEY.")] = None,
    location: Annotated[str | None, typer.Option(help="Your bucket. [env: MUSTER_LOCATION]")] = None,
    chain: Annotated[str | None, typer.Option(help="Your own way to the chain. [env: MUSTER_CHAIN]")] = None,
    allow: Annotated[
        str | None, typer.Option(help="Private addresses that may be connected to. [env: MUSTER_ALLOW]")
    ] = None,
) -> None:
    """Prepare this machine to take part in a run: key, settings, and the command that starts it."""
    check_variables(os.environ, NODE_VARIABLES)
    settings = [
        flag or os.environ.get(SETTINGS[of].variable)
        for flag, of in ((location, "location"), (chain, "chain"), (allow, "allow"))
    ]
    request = JoinRequest(run, directory, name, key_file, wallet, *settings)
    typer.echo(asyncio.run(join_run(request, os.environ)))
