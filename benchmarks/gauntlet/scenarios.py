"""Who takes part in each scenario, who of them is applied, and how long and with which seeds it is measured.

Who is judged without being applied changes θ for nobody, so one scenario holds many attackers side by side, and the
judging stage may leave any of them out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Kind = Literal[
    "trainer",
    "flipped",
    "zero",
    "part_zero",
    "noise",
    "clone",
    "perturbed",
    "best_of_last",
    "mixer",
    "rider",
    "wrong_data",
    "scaled",
    "stale",
]


@dataclass(frozen=True, slots=True)
class Role:
    """One key of a scenario and what it does.

    Attributes:
        name: unique in its scenario.
        kind: how its update is made (`peers`).
        group: whose purse it fills; keys of one group are paid together. Its own name by default.
        applied: whether it is accepted, so that its update reaches θ.
        arrives: the first round it takes part in.
        steps: inner steps it takes, of `batch` windows each.
        batch: windows of its inner step.
        declares: how many windows it says it trained on.
        of: whose update it starts from (`clone`, `perturbed`, `scaled`).
        shares: keys whose assigned windows it trains on in turn, batch by batch, its own alone by default.
        factor: what `kind` varies by: scales times so much, part of the indices that move, share of noise or own work
            mixed in, decay of the direction followed, rounds that an update is sent for.
        stands_for: the key whose slot and hotkey it has, as if that one had acted otherwise; its own by default.
    """

    name: str
    kind: Kind = "trainer"
    group: str = ""
    applied: bool = False
    arrives: int = 0
    steps: int = 8
    batch: int = 4
    declares: int = 32
    of: str = ""
    shares: tuple[str, ...] = ()
    factor: float = 1.0
    stands_for: str = ""

    @property
    def purse(self) -> str:
        """The group, or the name where it stands alone."""
        return self.group or self.name


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run to be measured: its roles in the order in which they act, those that look at others after these.

    `preset` names the model and its training: one of the spec files beside this one, or of the product's presets. In a
    `steered` one who sends others' work loses its seat, as in the product; in others who is applied always is.
    """

    name: str
    roles: tuple[Role, ...]
    rounds: int
    seeds: tuple[int, ...]
    validators: int = 1
    preset: str = "study"
    steered: bool = False

    def asdict(self) -> dict[str, Any]:
        """The definition without its seeds and without what its preset says, as JSON takes it."""
        whole = asdict(self)
        del whole["seeds"], whole["preset"]
        if not self.steered:
            del whole["steered"]
        return whole


def honest(count: int) -> tuple[Role, ...]:
    """Equally able peers, applied."""
    return tuple(Role(f"honest-{i}", applied=True) for i in range(count))


def _keys(group: str, count: int, **what: Any) -> tuple[Role, ...]:
    return tuple(Role(f"{group}-{i}", group=group, **what) for i in range(count))


IDLE = (
    Role("noise", "noise"),
    Role("flipped", "flipped"),
    Role("zero", "zero"),
    Role("copycat", "clone", of="honest-0"),
    Role("best", "best_of_last"),
    Role("mixer-0", "mixer", factor=0.1),
    Role("mixer-1", "mixer", factor=0.3),
    Role("rider-last", "rider", factor=0.0),
    Role("rider-long", "rider", factor=0.9),
)
"""The nine who do no work."""
LAZY_BATCH = 2
"""Windows of the one inner step of who does 5 % of the work: 2 of 32."""
IMPOSTORS = (
    Role("wrong-data", "wrong_data"),
    Role("five-percent", steps=1, batch=LAZY_BATCH),
)
_THREE = tuple(f"three-{i}" for i in range(3))
_THREE_ALL = tuple(f"three-all-{i}" for i in range(3))
SYBILS = (
    Role(_THREE[0], group="three", shares=_THREE, declares=12),
    Role(_THREE[1], "clone", group="three", of=_THREE[0], declares=12),
    Role(_THREE[2], "clone", group="three", of=_THREE[0], declares=8),
    Role(_THREE_ALL[0], group="three-all", shares=_THREE_ALL),
    Role(_THREE_ALL[1], "clone", group="three-all", of=_THREE_ALL[0]),
    Role(_THREE_ALL[2], "clone", group="three-all", of=_THREE_ALL[0]),
    *_keys("split", 2, steps=4, declares=16),
    Role("half-all", steps=4),
)
TWIN = (
    Role("twin"),
    *(Role(f"times-{n}", "scaled", of="twin", factor=float(n), stands_for="twin") for n in (2, 4, 8)),
)
WORK = (
    Role("work-25", steps=2, declares=8),
    Role("work-50", steps=4, declares=16),
    Role("work-100"),
    Role("work-200-steps", steps=16),
    Role("work-200-batch", batch=8),
)
OTHERS = (
    Role("part-zero", "part_zero", of="work-100", stands_for="work-100"),
    Role("perturbed-50", "perturbed", of="honest-1", factor=0.5),
    Role("perturbed-80", "perturbed", of="honest-2", factor=0.8),
    Role("newcomer", arrives=20),
    Role("booster", "mixer", steps=1, factor=1.0),
)
NINE_LAZY = _keys("nine-lazy", 9, steps=1, batch=LAZY_BATCH)
CANDIDATES = (*IDLE, *IMPOSTORS, *SYBILS, *TWIN, *WORK, *OTHERS, *NINE_LAZY)

LONG = 60
"""Rounds in which `tiny`'s inner schedule is over: 480 inner steps of 8 a round."""
SHORT = 30
_TEN = tuple(range(10))


def _applied(*roles: Role) -> tuple[Role, ...]:
    return tuple(replace(role, applied=True) for role in roles)


def _equal(peers: int) -> Scenario:
    return Scenario(f"equal-{peers}", honest(peers), LONG, _TEN)


ALONE = _equal(8)
ALONE_FOUR = _equal(4)
"""Honest peers alone: what the others' effect on the model is measured against."""

UNEVEN = Scenario(
    "uneven",
    _applied(
        Role("w-25", steps=2, declares=8),
        Role("w-50", steps=4, declares=16),
        Role("w-100"),
        Role("w-100-too"),
        Role("w-150", steps=12),
        Role("w-200", batch=8),
        Role("noise", "noise"),
        Role("best", "best_of_last"),
    ),
    SHORT,
    (0, 1, 2, 3, 4),
    validators=2,
)
"""Peers of very different strength and two attackers, all applied, as two validators see them."""

AMOUNTS = Scenario("work", (*honest(8), *WORK, Role("newcomer", arrives=20)), LONG, _TEN)


def _twice(role: Role) -> tuple[Role, ...]:
    return tuple(replace(role, name=f"{role.name}-{i}", applied=True) for i in "ab")


def _effect(name: str, attackers: tuple[Role, ...]) -> Scenario:
    return Scenario(f"effect-{name}", (*honest(8), *attackers), SHORT, (0, 1), steered=True)


def _half(name: str, others: tuple[Role, ...]) -> Scenario:
    return Scenario(f"effect-{name}", (*honest(4), *others), LONG, (0, 1))


EFFECTS = (
    _effect("ten-honest", _applied(Role("honest-8"), Role("honest-9"))),
    *(
        _effect(role.name, _twice(role))
        for role in (
            Role("noise", "noise"),
            Role("flipped", "flipped"),
            Role("zero", "zero"),
            Role("copycat", "clone", of="honest-0"),
            Role("best", "best_of_last"),
            Role("mixer", "mixer", factor=0.1),
            Role("rider", "rider", factor=0.0),
            Role("stale", "stale", factor=5),
            Role("wrong-data", "wrong_data"),
            Role("lazy", steps=1, batch=LAZY_BATCH),
        )
    ),
)
"""Two attackers of a kind applied beside eight honest peers."""
HALVES = (
    _half("half-zero", _applied(*_keys("zero", 4, kind="zero"))),
    _half("half-work", _applied(*_keys("half", 4, steps=4, declares=16))),
    _half("half-work-all", _applied(*_keys("half", 4, steps=4))),
)
"""Half of the accepted bring nothing, or half of the work: caps and norms are medians of the accepted."""

ATTACKERS = Scenario("attackers", (*honest(8), *CANDIDATES), LONG, (0, 1, 2))


def _disguised(group: str, declares: tuple[int, int, int]) -> tuple[Role, ...]:
    """One computation under three keys, of which two list other indices for a third of the entries."""
    names = tuple(f"{group}-{i}" for i in range(3))
    first = Role(names[0], group=group, shares=names, declares=declares[0])
    copies = (
        Role(name, "perturbed", group=group, of=names[0], factor=1 / 3, declares=count)
        for name, count in zip(names[1:], declares[1:], strict=True)
    )
    return first, *copies


DISGUISED = Scenario(
    "disguised",
    (*honest(8), *_disguised("disguised", (12, 12, 8)), *_disguised("disguised-all", (32, 32, 32))),
    LONG,
    (0, 1, 2),
)
SCENARIOS = (ALONE_FOUR, ALONE, _equal(20), ATTACKERS, DISGUISED, AMOUNTS, UNEVEN, *EFFECTS, *HALVES)

QUICK = Scenario(
    "quick",
    (*honest(6), *IDLE, Role("wrong-data", "wrong_data"), *WORK[:2]),
    40,
    (0, 1),
)
"""Long enough for the gate to be open and for the signs to show."""
BY_NAME = {scenario.name: scenario for scenario in (*SCENARIOS, QUICK)}
