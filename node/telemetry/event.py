"""What an event is, apart from which there are: how a class becomes one, and by what name it is found again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, TypeVar, dataclass_transform


class Event:
    """Something that a participant notes of itself.

    `name` is what it is called in a journal, `by` whose journal it stands in, `failed` says that something went wrong.
    """

    __slots__ = ()
    name: ClassVar[str] = ""
    by: ClassVar[str] = "all"
    failed: ClassVar[bool] = False

    def said(self) -> str:
        """What happened, in words that follow the name of whom it happened to."""
        words = re.split("[:.]", self.__doc__ or self.name, maxsplit=1)[0]
        return words[0].lower() + words[1:]


@dataclass(frozen=True, slots=True)
class RoundEvent(Event):
    """An event of a round; the round is its first fact."""

    round: int


EVENTS: dict[str, type[Event]] = {}
"""Every event by its name in a journal."""

E = TypeVar("E", bound=Event)


@dataclass_transform(frozen_default=True)
def event(kind: type[E]) -> type[E]:
    """Make a class an event: frozen, slotted, with its name, and known by it."""
    made = dataclass(frozen=True, slots=True)(kind)
    made.name = re.sub("(?<!^)(?=[A-Z])", "_", made.__name__).lower()
    EVENTS[made.name] = made
    return made
