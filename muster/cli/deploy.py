"""`muster deploy`: commands about files that start a participant somewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from muster.cli.options import JsonOption
from muster.deploy.check import check_files
from muster.protocol.errors import ConfigError


def check(
    files: Annotated[
        list[Path], typer.Argument(help="settings.env, SkyPilot tasks, compose files, units, cloud-init user data.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Name what deployment tools take in silence: values that are not quoted, empty ones, unknown GPUs, secrets."""
    faults = check_files(files)
    if as_json:
        typer.echo(json.dumps({"faults": [fault.to_json_object() for fault in faults]}))
    else:
        for fault in faults:
            typer.echo(str(fault))
    if faults:
        where = faults[0]
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise ConfigError(f"{where.file}, line {where.line}: {where.text}{more}")
    if not as_json:
        typer.echo(f"nothing found in {len(files)} {'file' if len(files) == 1 else 'files'}")
