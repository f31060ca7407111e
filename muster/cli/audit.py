"""`muster audit`: replay a run with no trust in anybody."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from muster.audit import Sampling, audit_run
from muster.cli.options import AllowOption, ChainOption, JsonOption, RunArgument


def audit(
    run: RunArgument,
    first_round: Annotated[
        int | None,
        typer.Option("--from", min=0, help="Start at the checkpoint of this round instead of genesis."),
    ] = None,
    losses: Annotated[
        int,
        typer.Option("--losses", min=0, help="Measure so many drawn rows of the score files again."),
    ] = 0,
    seed: Annotated[
        str | None,
        typer.Option("--seed", help="What those rows are drawn by, any text; else the run's last record."),
    ] = None,
    chain: ChainOption = None,
    allow: AllowOption = "",
    as_json: JsonOption = False,
) -> None:
    """Replay a run with no trust in anybody; names every object that is not what it must be, and changes none."""
    sampling = Sampling(losses, seed) if losses else None
    report = asyncio.run(
        audit_run(run, first_round, lambda line: typer.echo(line, err=as_json), chain, allow, sampling)
    )
    typer.echo(json.dumps(report.to_json_object()) if as_json else report.summary())
    report.raise_fault()
