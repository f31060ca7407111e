"""The `muster` command and its parts."""

from muster.cli.main import main

__all__ = ["main"]
