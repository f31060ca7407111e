"""`muster explain`: why a peer is paid what it is paid, for a person."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import Annotated

import typer

from muster.cli.options import WIDTH, AllowOption, ChainOption, JsonOption, RunArgument
from muster.history.explain import explain as explained
from muster.history.explain import page, read_case


def explain(
    run: RunArgument,
    peer: Annotated[str, typer.Option(help="Whose pay: a slot's number, or a hotkey's address.")],
    round_: Annotated[
        int | None,
        typer.Option("--round", min=0, help="Which round, counted from 0. [default: the newest with a score file]"),
    ] = None,
    validator: Annotated[str | None, typer.Option(help="Only what this validator says: its hotkey's address.")] = None,
    chain: ChainOption = None,
    allow: AllowOption = "",
    as_json: JsonOption = False,
) -> None:
    """Explain a peer's pay: what it sent, what was measured, each factor with its arithmetic, what would change it."""
    told = explained(asyncio.run(read_case(run, peer, round_, validator, chain, allow)), validator)
    columns = shutil.get_terminal_size((WIDTH, 0)).columns
    typer.echo(json.dumps(told.to_json_object()) if as_json else page(told, columns))
