"""`muster story`: what happened in one round of a run, for a person."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import Annotated

import typer

from muster.cli.options import WIDTH, AllowOption, ChainOption, JsonOption, RunArgument
from muster.history.story import page, read_story


def story(
    run: RunArgument,
    round_: Annotated[
        int | None, typer.Option("--round", min=0, help="Which round, counted from 0. [default: the open one]")
    ] = None,
    chain: ChainOption = None,
    allow: AllowOption = "",
    as_json: JsonOption = False,
) -> None:
    """Tell what happened in a round, in order: what failed, who was missed, what it waits for; changes nothing."""
    told = asyncio.run(read_story(run, round_, chain, allow))
    columns = shutil.get_terminal_size((WIDTH, 0)).columns
    typer.echo(json.dumps(told.to_json_object()) if as_json else page(told, columns))
