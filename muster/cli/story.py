"""`muster story`: what happened in one round of a run, for a person."""

from __future__ import annotations

import json
import shutil
from typing import Annotated

import typer

WIDTH = 120
"""Columns where stdout is not a terminal."""


def story(
    run: Annotated[str, typer.Argument(help="The run's folder or URL.")],
    round_: Annotated[
        int | None, typer.Option("--round", min=0, help="Which round, counted from 0. [default: the open one]")
    ] = None,
    chain: Annotated[
        str | None, typer.Option(envvar="MUSTER_CHAIN", help="Your own way to the chain: endpoints, or sqlite:FILE.")
    ] = None,
    allow: Annotated[str, typer.Option(envvar="MUSTER_ALLOW", help="Private addresses that may be connected to.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:
    """Tell what happened in a round, in order: what failed, who was missed, what it waits for; changes nothing."""
    import asyncio  # noqa: PLC0415

    from muster.history.story import page, read_story  # noqa: PLC0415

    told = asyncio.run(read_story(run, round_, chain, allow))
    columns = shutil.get_terminal_size((WIDTH, 0)).columns
    typer.echo(json.dumps(told.to_json_object()) if as_json else page(told, columns))
