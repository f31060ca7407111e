"""`muster status`: what a run waits for, of whom, until when, and who can move it."""

from __future__ import annotations

import asyncio
import json
import shutil

import typer

from muster.cli.options import WIDTH, AllowOption, ChainOption, JsonOption, RunArgument
from muster.history.standing import page, read_standing


def status(run: RunArgument, chain: ChainOption = None, allow: AllowOption = "", as_json: JsonOption = False) -> None:
    """Tell where a run stands: its phase, what it waits for, until which block, who can move it; changes nothing."""
    standing = asyncio.run(read_standing(run, chain, allow))
    columns = shutil.get_terminal_size((WIDTH, 0)).columns
    typer.echo(json.dumps(standing.to_json_object()) if as_json else page(standing, columns))
