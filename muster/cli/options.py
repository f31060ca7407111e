"""Options that several commands take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer

from muster.protocol.errors import UsageError
from muster.run.settings import SETTINGS, Setting

T = TypeVar("T")

WIDTH = 120
"""Columns where stdout is not a terminal."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
RunArgument = Annotated[str, typer.Argument(help="The run's folder or URL.")]
ChainOption = Annotated[
    str | None, typer.Option(envvar="MUSTER_CHAIN", help="Your own way to the chain: endpoints, or sqlite:FILE.")
]
AllowOption = Annotated[str, typer.Option(envvar="MUSTER_ALLOW", help="Private addresses that may be connected to.")]

Flags = Mapping[str, str | None]
"""What was given for each setting, by name; None: not given."""


def one_of(value: str, allowed: Sequence[T], flag: str) -> T:
    """The allowed value that was given for a flag.

    Raises:
        UsageError: it is none of them.
    """
    for known in allowed:
        if known == value:
            return known
    raise UsageError(f"{flag} is one of {', '.join(map(str, allowed))}, not {value}")


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command with a flag for each setting of a participant; it gets them as its first argument, `Flags`.

    The values are text: the settings themselves say what is valid, whichever way they come.
    """
    first, *others = inspect.signature(command, eval_str=True).parameters.values()
    assert first.annotation == Flags

    def called(**given: Any) -> None:
        flags = {name: given.pop(name) for name in SETTINGS}
        command(flags, **given)

    parameters = [*(_parameter(setting) for setting in SETTINGS.values()), *others]
    vars(called)["__signature__"] = inspect.Signature(parameters)
    called.__doc__ = command.__doc__
    return called


def _parameter(setting: Setting) -> inspect.Parameter:
    option = typer.Option(setting.flag, help=f"{setting.meaning} [env: {setting.variable}]", show_default=False)
    annotation = Annotated[str | None, option]
    return inspect.Parameter(setting.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=annotation)
