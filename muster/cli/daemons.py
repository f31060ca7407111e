"""`muster miner`, `muster validator`, `muster aggregator`: one participant each, from its settings."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from muster.cli.options import Flags, with_settings
from muster.protocol.types import Role
from muster.run.daemon import run_daemon
from muster.run.settings import load_config


@with_settings
def miner(flags: Flags) -> None:
    """Train on this machine and submit to a run, until it closes."""
    run_daemon(Role.MINER, load_config(flags, os.environ))


@with_settings
def validator(flags: Flags) -> None:
    """Measure submissions, publish scores and set weights, until the run closes."""
    run_daemon(Role.VALIDATOR, load_config(flags, os.environ))


@with_settings
def aggregator(
    flags: Flags,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Close the run after so many rounds. [default: never]")
    ] = None,
) -> None:
    """Seal rounds, decide them and sign their records when it is this operator's turn."""
    run_daemon(Role.AGGREGATOR, load_config(flags, os.environ), rounds=rounds)
