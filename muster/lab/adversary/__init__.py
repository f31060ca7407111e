"""Miners gone bad at named seams: what a run must survive, ready to be added to any testnet or simulation."""

from __future__ import annotations

from collections.abc import Sequence

from muster.adversaries.miners import ADVERSARIES
from muster.cast import HONEST
from muster.node.miner.miner import Miner
from muster.protocol.errors import UsageError


def miner_class(behaviour: str) -> type[Miner]:
    """The miner that behaves like this.

    Raises:
        UsageError: there is no such behaviour.
    """
    if behaviour == HONEST:
        return Miner
    if behaviour not in ADVERSARIES:
        raise UsageError(f"unknown adversary {behaviour!r}; there are: {', '.join(sorted(ADVERSARIES))}")
    return ADVERSARIES[behaviour]


def parse_adversaries(texts: Sequence[str]) -> dict[str, int]:
    """NAME=COUNT texts as a count by behaviour; a name twice adds up.

    Raises:
        UsageError: another form, an unknown name, or a count that is not a positive number.
    """
    found: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition("=")
        miner_class(name)
        if not count.isdecimal() or int(count) < 1:
            raise UsageError(f"--adversary takes NAME=COUNT with a count from 1 on, not {text!r}")
        found[name] = found.get(name, 0) + int(count)
    return found


__all__ = ["ADVERSARIES", "miner_class", "parse_adversaries"]
