"""How every command ends: what goes wrong by a person's or the machine's doing is one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from muster.protocol.errors import MusterError

INTERRUPTED_STATUS = 130
BROKEN_PIPE_STATUS = 141
"""128 + the number of the signal, as a shell reports it: SIGINT, SIGPIPE."""


def run_command(command: Callable[[], object]) -> None:
    """Call a command; an error of ours or the operating system's ends the process in one line on stderr."""
    try:
        command()
    except BrokenPipeError:
        # Whoever read our output is gone; Python's own flush at exit must not complain about it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE_STATUS)
    except (MusterError, OSError) as error:
        _fail(error)
    except BaseExceptionGroup as group:
        _fail(_first(group))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_STATUS)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group that a person can act on, else the group itself."""
    leaf: BaseException | None = group.subgroup((MusterError, OSError))
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf or group


def _fail(error: BaseException) -> NoReturn:
    """End in one line; what is neither ours nor the operating system's is a bug and keeps its traceback."""
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        error = MusterError(f"the operating system refused: {error.strerror}{where}")
    if not isinstance(error, MusterError):
        raise error
    typer.echo(f"error[{error.code}]: {error}", err=True)
    sys.exit(error.exit_status)
