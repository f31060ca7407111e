"""Who is measured on models of three sizes, to see whether a threshold of the rule belongs to one of them only.

Eight honest peers are applied. Who cheats is judged beside them and moves nothing, so every cheat is looked at as if it
were the only one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from benchmarks.gauntlet.scenarios import IDLE, IMPOSTORS, Role, Scenario, honest
from benchmarks.gauntlet.setting import template

PEERS = 8


@dataclass(frozen=True, slots=True)
class Cheat:
    """Who is there beside the honest peers (`keys`), and whose figures those of the cheat are: of the last `own`."""

    keys: tuple[str, ...]
    own: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """The keys whose figures are looked at."""
        return self.keys[-self.own :]


_THREE = ("three-0", "three-1", "three-2")
_LAZY = tuple(role.name for role in IDLE if role.name != "flipped")
CHEATS: Mapping[str, Cheat] = {
    **{name: Cheat((name,)) for name in (*_LAZY, "wrong-data", "stale", "half")},
    "three": Cheat(_THREE, own=3),
    "disguised": Cheat((_THREE[0], "disguised")),
}
"""Each is looked at alone beside the honest. `stale` sends every update of its own twice, `half` does half of the work
and declares all, `three` are three keys of one computation, `disguised` is another one of them that lists other indices
for a third of the entries."""


def scenario_of(preset: str, rounds: int, seeds: tuple[int, ...], peers: int = PEERS) -> Scenario:
    """A model's run with all cheats, whole rounds being its preset's."""
    inner = template(preset).inner
    return Scenario(f"size-{preset}", tuple(_roles(peers, inner.steps, inner.batch)), rounds, seeds, preset=preset)


def _roles(peers: int, steps: int, batch: int) -> Iterator[Role]:
    whole = {"steps": steps, "batch": batch, "declares": steps * batch}
    for role in (*honest(peers), *(role for role in IDLE if role.name in _LAZY), IMPOSTORS[0]):
        yield replace(role, **whole)
    yield Role("stale", "stale", factor=2, **whole)
    yield replace(Role("half", **whole), steps=steps // 2)
    yield Role(_THREE[0], group="three", shares=_THREE, **whole)
    for name in _THREE[1:]:
        yield Role(name, "clone", group="three", of=_THREE[0], **whole)
    yield Role("disguised", "perturbed", of=_THREE[0], factor=1 / 3, **whole)


SIZES = (
    scenario_of("study", 60, (0,)),
    scenario_of("tiny", 18, (0,)),
    scenario_of("large", 21, (0,)),
)
"""27 thousand, 329 thousand and 2.1 million parameters; 480, 720 and 336 inner steps a run."""
