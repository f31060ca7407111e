"""`muster doctor`: examine a participant's set-up and say what to fix."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.doctor.facts import SoftwareFacts
    from muster.doctor.finding import Finding
    from muster.run.settings import NodeConfig

WIDTH = 120
"""Columns where stdout is not a terminal."""


def doctor(
    run: Annotated[str | None, typer.Option(help="The run's folder or URL. [env: MUSTER_RUN]")] = None,
    name: Annotated[str | None, typer.Option(help="What the participant is called. [env: MUSTER_NAME]")] = None,
    role: Annotated[str, typer.Option(help="miner, validator or aggregator.")] = "miner",
    key_file: Annotated[Path | None, typer.Option(help="The hotkey's file. [env: MUSTER_KEY_FILE]")] = None,
    location: Annotated[
        str | None, typer.Option(help="The own bucket, as committed on chain. [env: MUSTER_LOCATION]")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder for what must survive a restart. [env: MUSTER_STATE]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:
    """Examine this machine and a participant's settings before it starts; ends with the first failure's status."""
    from muster.doctor.finding import exit_status  # noqa: PLC0415
    from muster.doctor.report import conclusion, json_object, line  # noqa: PLC0415
    from muster.doctor.software import find_software, judge_software  # noqa: PLC0415
    from muster.run.settings import load_config  # noqa: PLC0415

    flags = {"run": run, "name": name, "key_file": key_file, "location": location, "state": state}
    config = load_config(flags, os.environ)
    columns = shutil.get_terminal_size((WIDTH, 0)).columns

    def tell(finding: Finding) -> None:
        if not as_json:
            typer.echo(line(finding, columns))

    software = find_software()
    if software.torch_problem:
        findings = [judge_software(software)]
        tell(findings[0])
    else:
        findings = _examined(role, config, software, tell)
    typer.echo(json.dumps(json_object(findings)) if as_json else conclusion(findings))
    raise typer.Exit(exit_status(findings))


def _examined(role: str, config: NodeConfig, software: SoftwareFacts, tell: Callable[[Finding], None]) -> list[Finding]:
    import torch  # noqa: PLC0415

    from muster.doctor.examine import examine  # noqa: PLC0415
    from muster.doctor.network import Clock  # noqa: PLC0415
    from muster.doctor.setup import Setup  # noqa: PLC0415
    from muster.protocol.errors import UsageError  # noqa: PLC0415
    from muster.protocol.types import Role  # noqa: PLC0415

    if role not in {known.value for known in Role}:
        raise UsageError(f"--role is one of {', '.join(known.value for known in Role)}, not {role}")
    torch.set_num_threads(config.threads)  # as the participant will
    return asyncio.run(examine(Setup(Role(role), config, os.environ, Clock()), software, tell))
