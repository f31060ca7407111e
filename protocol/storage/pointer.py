"""What is committed for a location that is too long to be committed: where its owner's hello is, and a pin of it.

    BOOTSTRAP#PIN      PIN: the first 8 hexadecimal digits of BLAKE3 of the whole location, UTF-8

BOOTSTRAP is a location that anybody can open with nothing but its text, and the signed hello there holds the whole one.
The signature says whose it is. The pin says which: who moves commits another text, and so a location that was found for
a text is right for as long as that text stands, and an earlier hello, shown again, is not taken for the newest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blake3 import blake3

from muster.protocol.errors import StorageError
from muster.protocol.storage.s3_location import is_network_location, parse_location

PIN_DIGITS = 8
_POINTER = re.compile(rf"([^#]+)#([0-9a-f]{{{PIN_DIGITS}}})")


@dataclass(frozen=True, slots=True)
class Pointer:
    """A committed text of this form, taken apart."""

    bootstrap: str
    pin: str

    @classmethod
    def parse(cls, committed: str) -> Pointer | None:
        """A committed text as a pointer; None where it is none, and means to be a location itself."""
        found = _POINTER.fullmatch(committed)
        return None if found is None else cls(*found.groups())

    def names(self, location: str) -> bool:
        """Whether it may stand for this location, which is whole: no pointer leads to another one."""
        return "#" not in location and self.pin == pin_of(location)


def pin_of(location: str) -> str:
    """What a pointer holds of a whole location."""
    return blake3(location.encode()).hexdigest()[:PIN_DIGITS]


def committed_text(location: str, bootstrap: str = "") -> str:
    """What is committed for a location: the location, or where there is a bootstrap the pointer to it."""
    return f"{bootstrap}#{pin_of(location)}" if bootstrap else location


def check_bootstrap(location: str, bootstrap: str) -> None:
    """Refuse a bootstrap from which nobody would come to the location; "" is none.

    Raises:
        StorageError: it is not a location, or the location's own text could be taken for a pointer.
    """
    if not bootstrap:
        return
    if Pointer.parse(committed_text(location, bootstrap)) is None or "#" in location:
        raise StorageError("neither a bootstrap nor the location it is for holds a #")
    if is_network_location(bootstrap):
        parse_location(bootstrap)


def stands_for(committed: str, location: str) -> bool:
    """Whether a committed text is this location, or a pointer to it."""
    pointer = Pointer.parse(committed)
    return committed == location if pointer is None else pointer.names(location)
