"""`muster run`: the commands of who publishes a run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from muster.run.credentials import CREDENTIAL_VARIABLES
from muster.run.publish import publish_run, run_file
from muster.run.settings import check_variables

FINNEY = "wss://entrypoint-finney.opentensor.ai:443"
"""The public way to Bittensor's main network."""


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
    check_variables(os.environ, CREDENTIAL_VARIABLES)
    file = run_file(store, chain, netuid, tuple(endpoint or (FINNEY,)))
    typer.echo(asyncio.run(publish_run(spec, store, file, os.environ)))
