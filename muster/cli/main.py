"""The `muster` command: parse, call, and end in one clear sentence and an exit status whatever goes wrong."""

from __future__ import annotations

from muster.cli.lazy import group
from muster.cli.table import COMMANDS
from muster.run.ending import run_command

SUMMARY = "Train large language models together with anyone who shows up."


def main() -> None:
    """Entry point."""
    run_command(lambda: group("muster", SUMMARY, COMMANDS)(prog_name="muster"))
