"""`muster bucket`: the commands about one's own bucket."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from muster.bucket import BUCKET_VARIABLES, CreateRequest, check_location, create_bucket, remove_bucket, rotate_key
from muster.protocol.errors import UsageError
from muster.run.settings import NODE_VARIABLES, check_variables

_VARIABLES = BUCKET_VARIABLES | NODE_VARIABLES

_LocationArgument = Annotated[str, typer.Argument(help="As committed: s3://[READ_KEY:READ_SECRET@]HOST/BUCKET…")]


def create(
    endpoint: Annotated[str, typer.Option(help="The service: https://HOST[:PORT].")],
    name: Annotated[str, typer.Option(help="The bucket's name.")],
    region: Annotated[str | None, typer.Option(help="The service's region. [default: us-east-1]")] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody read it, without a key.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and change nothing.")] = False,
    run_id: Annotated[
        str | None, typer.Option(help="Drop this run's old submissions: its id, 64 hexadecimal digits.")
    ] = None,
    keep_days: Annotated[int, typer.Option(min=1, help="Days such submissions stay.")] = 14,
) -> None:
    """Make a bucket and what reads it; the last line is the location to commit."""
    check_variables(os.environ, _VARIABLES)
    if run_id is not None and (len(run_id) != 64 or set(run_id) - set("0123456789abcdef")):
        raise UsageError("--run-id is a run's id, 64 lower-case hexadecimal digits")
    request = CreateRequest(endpoint, name, region, public, dry_run, run_id, keep_days)
    location = create_bucket(request, os.environ, typer.echo)
    if location is not None:
        typer.echo(location)


def check(location: _LocationArgument) -> None:
    """Try what everybody can do in a bucket and, with its own keys in the environment, what you can."""
    check_variables(os.environ, _VARIABLES)
    check_location(location, os.environ, typer.echo)


def rotate(location: _LocationArgument) -> None:
    """Replace the key that a location carries; the last line is the new location to commit."""
    check_variables(os.environ, _VARIABLES)
    typer.echo(rotate_key(location, os.environ, typer.echo))


def remove(
    location: _LocationArgument,
    sure: Annotated[
        bool, typer.Option("--yes", help="Do it; without this it is only said what would be done.")
    ] = False,
) -> None:
    """Remove a bucket with all that is in it, and the users made for it. Nobody can undo this."""
    check_variables(os.environ, _VARIABLES)
    remove_bucket(location, os.environ, typer.echo, sure=sure)
