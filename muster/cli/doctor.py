"""`muster doctor`: examine a participant's set-up and say what to fix.

Nothing here imports torch: where it is broken, that is the finding. The examination itself is loaded after that.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import Annotated

import typer

from muster.cli.lazy import load
from muster.cli.options import WIDTH, Flags, JsonOption, with_settings
from muster.doctor.finding import Finding, exit_status
from muster.doctor.report import conclusion, json_object, line
from muster.doctor.software import find_software, judge_software
from muster.protocol.errors import UsageError
from muster.protocol.types import Role
from muster.run.settings import load_config

ROLES = {role.value: role for role in Role}


@with_settings
def doctor(
    flags: Flags,
    role: Annotated[str, typer.Option(help="miner, validator or aggregator.")] = Role.MINER.value,
    as_json: JsonOption = False,
) -> None:
    """Examine this machine and a participant's settings before it starts; ends with the first failure's status."""
    if role not in ROLES:
        raise UsageError(f"--role is one of {', '.join(ROLES)}, not {role}")
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
        findings = load("muster.doctor.examine:examine_here")(ROLES[role], config, software, tell)
    typer.echo(json.dumps(json_object(findings)) if as_json else conclusion(findings))
    raise typer.Exit(exit_status(findings))
