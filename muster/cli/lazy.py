"""Commands that are imported when they are called: `muster --help` must answer at once, and torch takes seconds."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command's function is ("module:function"), and the first line of its docstring."""

    function: str
    summary: str


@dataclass(frozen=True, slots=True)
class Group:
    """Commands under one name."""

    summary: str
    commands: Mapping[str, Command]


def load(where: str) -> Any:
    """What is at "module:name"; whatever importing the module raises goes through."""
    module, _, name = where.partition(":")
    with _all_stays():
        return getattr(importlib.import_module(module), name)


@contextmanager
def _all_stays() -> Iterator[None]:
    """Within, nothing looks for garbage, and what is made is never looked at for it again.

    What is imported stays. Looking through torch's half a million objects whenever enough new ones are there takes
    0.3 s of an import of the daemons (CPython 3.11), and in a daemon's later life 0.1 s each time, with everything
    else stopped.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was:
            gc.enable()


def group(name: str, summary: str, commands: Mapping[str, Command | Group]) -> TyperGroup:
    """Commands of which nothing has been imported."""
    made: dict[str, Any] = {
        word: group(word, entry.summary, entry.commands) if isinstance(entry, Group) else _Lazy(word, entry)
        for word, entry in commands.items()
    }
    settings = {"help_option_names": ["-h", "--help"]}
    return TyperGroup(name=name, help=summary, commands=made, no_args_is_help=True, context_settings=settings)


class _Lazy(TyperCommand):
    """Knows its name and summary; parsing its arguments is the first thing that needs the function."""

    def __init__(self, name: str, entry: Command) -> None:
        super().__init__(name, help=entry.summary)
        self._function = entry.function

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the real command: from here on the group has to do with that one."""
        app = typer.Typer(add_completion=False)
        app.command(self.name)(load(self._function))
        return typer.main.get_command(app).make_context(info_name, args, parent, **extra)
