"""`muster run publish` and `muster join`: how a run gets to others, and others to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

FINNEY = "wss://entrypoint-finney.opentensor.ai:443"
"""The public way to Bittensor's main network."""

run_app = typer.Typer(help="Publish runs for others to join.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(run_app, name="run")
    app.command()(join)


@run_app.command("publish")
def publish(
    spec: Annotated[Path, typer.Argument(help="Folder made by `muster spec new`: spec.json and data/.")],
    store: Annotated[str, typer.Option(help="Where to: an empty folder, or s3://HOST/BUCKET/PREFIX.")],
    chain: Annotated[
        str | None,
        typer.Option(help="bittensor, or sqlite:FILE. [default: bittensor with --netuid, else a new local chain]"),
    ] = None,
    netuid: Annotated[int | None, typer.Option(min=0, help="The run's subnet on Bittensor.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help=f"wss://… of a Bittensor node; repeat for more. [default: {FINNEY}]")
    ] = None,
) -> None:
    """Put a run's spec and text where others can read them, and print the URL they join by."""
    import asyncio  # noqa: PLC0415

    from muster.run.credentials import CREDENTIAL_VARIABLES  # noqa: PLC0415
    from muster.run.publish import publish_run, run_file  # noqa: PLC0415
    from muster.run.settings import check_variables  # noqa: PLC0415

    check_variables(os.environ, CREDENTIAL_VARIABLES)
    file = run_file(store, chain, netuid, tuple(endpoint or (FINNEY,)))
    typer.echo(asyncio.run(publish_run(spec, store, file, os.environ)))


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
    import asyncio  # noqa: PLC0415

    from muster.run.join import JoinRequest, join_run  # noqa: PLC0415
    from muster.run.settings import NODE_VARIABLES, check_variables  # noqa: PLC0415

    check_variables(os.environ, NODE_VARIABLES)
    settings = [
        flag or os.environ.get(variable)
        for flag, variable in ((location, "MUSTER_LOCATION"), (chain, "MUSTER_CHAIN"), (allow, "MUSTER_ALLOW"))
    ]
    request = JoinRequest(run, directory, name, key_file, wallet, *settings)
    typer.echo(asyncio.run(join_run(request, os.environ)))
