"""Networks that fall apart: who reaches whose bucket, and for whom the chain is late or away, as faults of a script.

    Partition((frozenset({"operator-0", "miner-0"}), frozenset({"operator-1", "operator-2"})), 12, 60)

cuts a run in two for 48 blocks. There is one chain, and whoever can write to it is seen by all who can read it: what a
partition takes away is the objects that anchors name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from muster.lab.faults import Fault

Cut = Literal["error", "hang", "missing"]
"""How a bucket that cannot be reached answers: at once, when the deadline is over, or that nothing is there."""


def processes_of(place: str) -> tuple[str, ...]:
    """What runs where a bucket's owner is: an operator's two daemons, or one miner."""
    kind, _, number = place.partition("-")
    return (f"aggregator-{number}", f"validator-{number}") if kind == "operator" else (place,)


@dataclass(frozen=True, slots=True)
class Partition:
    """From a block on and until another one the places of a run are in groups that cannot reach each other's buckets.

    A place is a bucket's owner (`operator-0`, `miner-0`) with all that runs there; one that is in no group reaches
    everybody. For who is in `chainless` the chain does not answer; for who is in `late` it does so many seconds late.
    """

    groups: tuple[frozenset[str], ...]
    from_block: int
    until_block: int
    cut: Cut = "error"
    chainless: frozenset[str] = frozenset()
    late: Mapping[str, float] = field(default_factory=dict)

    def faults(self) -> Iterator[Fault]:
        """What befalls whose requests."""
        fault = partial(Fault, from_block=self.from_block, until_block=self.until_block)
        for place in sorted(frozenset[str]().union(*self.groups, self.chainless, self.late)):
            grouped = any(place in group for group in self.groups)
            away = [owner for group in self.groups if grouped and place not in group for owner in sorted(group)]
            for who in processes_of(place):
                for owner in away:
                    yield fault(self.cut, "store.*", who=who, owner=owner)
                if place in self.chainless:
                    yield fault("error", "chain.*", who=who)
                elif place in self.late:
                    yield fault("slow", "chain.*", who=who, seconds=self.late[place])

    def majority(self, operators: Sequence[str]) -> frozenset[str]:
        """The group with more than half of the operators who also have the chain; empty where there is none."""
        for group in self.groups:
            if 2 * len(group.intersection(operators) - self.chainless) > len(operators):
                return group - self.chainless
        return frozenset()


def drawn(seed: int, places: Sequence[str], from_block: int, blocks: int) -> Partition:
    """A partition of these places into two or three groups, with chains that are late or away, by a seed."""
    draw = random.Random(seed)  # noqa: S311 - a bench's
    count = draw.choice((2, 2, 3))
    shuffled = draw.sample(places, len(places))
    groups = [{place} for place in shuffled[:count]]
    for place in shuffled[count:]:
        draw.choice(groups).add(place)
    return Partition(
        tuple(map(frozenset, groups)),
        from_block,
        from_block + blocks,
        draw.choice(("error", "hang", "missing")),
        frozenset(place for place in places if draw.random() < 0.1),
        {place: draw.choice((0.5, 2.0)) for place in places if draw.random() < 0.3},
    )
