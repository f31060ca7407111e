"""`muster spec`: the commands about what all participants of a run must agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from muster.run.specs import describe, new_spec


def show(
    what: Annotated[str, typer.Argument(help="A preset's name, a template ending in .toml, or a run's folder or URL.")],
) -> None:
    """Print a preset, template or run spec with what follows from it."""
    typer.echo(describe(what))


def new(
    preset: Annotated[str, typer.Argument(help="A preset's name, or a template file ending in .toml.")],
    out: Annotated[Path, typer.Argument(help="Folder for spec.json and the text's shards; must be empty.")],
    owner: Annotated[str, typer.Option(help="Hotkey that may amend the run.")],
    leader: Annotated[list[str], typer.Option(help="Hotkey of an aggregator, in turn order; repeat for more.")],
    miner: Annotated[list[str] | None, typer.Option(help="Hotkey expected in round 0; repeat for more.")] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="A text file; repeat for more. [default: Python's standard library]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the genesis weights.")] = 0,
    block: Annotated[int, typer.Option(min=0, help="Chain block at which round 0 opens.")] = 0,
) -> None:
    """Fill genesis and data into a template: from then on it is one particular run."""
    typer.echo(new_spec(preset, out, owner, tuple(leader), tuple(miner or ()), text, seed, block))
