"""`muster spec`: the commands about what all participants of a run must agree on."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Annotated, get_args

import typer

from muster.cli.options import AllowOption, ChainOption, JsonOption, RunArgument, one_of
from muster.cli.run import FINNEY
from muster.node.wished import Moments, Wished
from muster.protocol.types import Role
from muster.run.amend import AmendRequest, amend_run
from muster.run.publish import run_file
from muster.run.settings import NODE_VARIABLES, check_variables
from muster.run.specs import describe, describe_memory, find_standing, new_spec


def show(
    what: Annotated[str, typer.Argument(help="A preset's name, a template ending in .toml, or a run's folder or URL.")],
    memory: Annotated[
        bool, typer.Option("--memory", help="What a participant holds, when and where, instead.")
    ] = False,
    role: Annotated[str, typer.Option(help="With --memory: miner, validator or aggregator.")] = Role.MINER.value,
    gpus: Annotated[int, typer.Option(min=0, help="With --memory: GPUs of the peer; 0: it has none.")] = 0,
    moments: Annotated[str, typer.Option(help="With --memory: full, 8bit or factored.")] = "full",
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="With --memory: windows trained on at a time. [default: the batch]")
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="With --memory: activations are made again in the backward pass.")
    ] = False,
    genesis: Annotated[
        bool, typer.Option("--genesis", help="Of a run, the spec that it began with, without asking its ledger.")
    ] = False,
    chain: ChainOption = None,
    allow: AllowOption = "",
    as_json: JsonOption = False,
) -> None:
    """Print a preset, template or run spec with what follows from it, or the memory that it takes."""
    if not memory:
        typer.echo(describe(what, chain, allow, genesis=genesis))
        return
    wished = Wished(
        moments=one_of(moments, get_args(Moments), "--moments"), micro_batch=micro_batch, recompute=recompute
    )
    found = Role(one_of(role, [each.value for each in Role], "--role"))
    typer.echo(describe_memory(what, found, gpus, wished, as_json=as_json))


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
    chain: Annotated[
        str | None,
        typer.Option(help="bittensor, or sqlite:FILE. [default: bittensor with --netuid, else a new local one]"),
    ] = None,
    netuid: Annotated[int | None, typer.Option(min=0, help="The run's subnet on Bittensor.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="wss://… of a Bittensor node; repeat for more. [default: the public one]")
    ] = None,
    block: Annotated[
        int | None, typer.Option(min=0, help="Chain block at which round 0 opens. [default: the newest]")
    ] = None,
) -> None:
    """Fill genesis, chain and data into a template: from then on it is one particular run."""
    file = run_file(str(out), chain, netuid, tuple(endpoint or (FINNEY,)))
    standing = None if file is None else asyncio.run(find_standing(file))
    typer.echo(new_spec(preset, out, owner, tuple(leader), tuple(miner or ()), text, seed, block, standing))


def amend(
    run: RunArgument,
    change: Annotated[
        str | None, typer.Argument(metavar="PATH=VALUE", help="The field and its new value, as JSON.")
    ] = None,
    round_: Annotated[
        int | None,
        typer.Option("--round", min=0, max=2**53, help="The first round it counts in. [default: the soonest, and 3]"),
    ] = None,
    sign: Annotated[Path | None, typer.Option(help="Sign the amendment in this file, too.")] = None,
    submit: Annotated[Path | None, typer.Option(help="Put the amendment in this file where leaders look.")] = None,
    rescue: Annotated[
        bool, typer.Option("--rescue", help="Let whom genesis.leaders names first close the open round, which hangs.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write it to this file, to be signed or submitted later.")] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="MUSTER_KEY_FILE", help="The owner's or a validator's hotkey. [default: RUN/keys/owner.key]"
        ),
    ] = None,
    location: Annotated[
        str | None,
        typer.Option(envvar="MUSTER_LOCATION", help="Your committed bucket, instead of where the run is published."),
    ] = None,
    chain: ChainOption = None,
    allow: AllowOption = "",
    as_json: JsonOption = False,
) -> None:
    """Change a field of a running run from some round on: by its owner, or by more than half of its validators."""
    check_variables(os.environ, NODE_VARIABLES)
    request = AmendRequest(run, change, round_, sign, submit, out, key_file, location, chain, allow, rescue)
    amended = asyncio.run(amend_run(request, os.environ))
    typer.echo(json.dumps(amended.to_json_object()) if as_json else amended.summary())
