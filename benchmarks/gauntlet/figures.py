"""The figures of the report: what a rule pays in the measured runs, beside what it must show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.gauntlet import pieces
from benchmarks.gauntlet.judge import Replay, replay
from benchmarks.gauntlet.pieces import Piece
from benchmarks.gauntlet.scenarios import (
    ALONE,
    ALONE_FOUR,
    AMOUNTS,
    ATTACKERS,
    DISGUISED,
    EFFECTS,
    HALVES,
    IDLE,
    IMPOSTORS,
    NINE_LAZY,
    QUICK,
    SCENARIOS,
    TWIN,
    UNEVEN,
    Role,
    Scenario,
)
from muster.protocol.spec.gauntlet import GauntletSpec

EARLY = 12
"""Rounds after which the start of a run is looked at."""
LAST_LOSSES = 3
"""A run's final loss is the mean over so many last rounds."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number a seed, and the bound that their mean, or each of them, must keep."""

    name: str
    values: tuple[float, ...]
    at_most: float | None = None
    at_least: float | None = None
    each: bool = False

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.values))

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept; None where there is none."""
        if self.at_most is None and self.at_least is None:
            return None
        looked = self.values if self.each else (self.mean,)
        most = np.inf if self.at_most is None else self.at_most
        least = -np.inf if self.at_least is None else self.at_least
        return all(least <= value <= most for value in looked)

    @property
    def bound(self) -> str:
        """As the report writes it."""
        parts = [f"≥ {self.at_least:g}"] if self.at_least is not None else []
        parts += [f"≤ {self.at_most:g}"] if self.at_most is not None else []
        return ", ".join(parts) + (" each" if parts and self.each else "")


@dataclass(slots=True)
class Measurements:
    """The pieces of a folder, read when they are asked for."""

    folder: Path
    spec: GauntletSpec
    _kept: dict[tuple[str, int], Piece] = field(default_factory=dict)

    def of(self, scenario: Scenario) -> list[Piece]:
        """Every seed of a scenario that has been measured as it is defined now."""
        found = (self.piece(scenario, seed) for seed in scenario.seeds)
        return [piece for piece in found if piece is not None]

    def piece(self, scenario: Scenario, seed: int) -> Piece | None:
        """One of them, None where it has not been measured."""
        key = scenario.name, seed
        if key not in self._kept:
            if not pieces.is_there(self.folder, scenario, seed):
                return None
            self._kept[key] = Piece.read(pieces.path_of(self.folder, scenario, seed))
        return self._kept[key]

    def replay(self, piece: Piece, names: Collection[str], validator: int = 0) -> Replay:
        """What the rule makes of it."""
        return replay(piece, names, self.spec, validator)


def variation(values: npt.NDArray[np.float64]) -> float:
    """Standard deviation ÷ mean; infinite where nobody is paid."""
    return float(values.std() / values.mean()) if values.mean() > 0 else np.inf


def applied(piece: Piece) -> list[str]:
    """The names of those whose updates reach θ."""
    return [role.name for role in piece.roles if role.applied]


def last_third(rounds: int) -> int:
    """The first round of it."""
    return rounds - rounds // 3


def equal(data: Measurements, scenario: Scenario) -> Iterator[Figure]:
    """How unequally equals are paid."""
    four = scenario is ALONE_FOUR
    early, whole, late, unpaid = [], [], [], []
    for piece in data.of(scenario):
        shares = data.replay(piece, applied(piece)).shares
        early.append(variation(shares[:EARLY].sum(0)))
        whole.append(variation(shares.sum(0)))
        tail = shares[last_third(len(shares)) :]
        late.append(float(np.mean([variation(row) for row in tail])))
        unpaid.append(float((shares[EARLY:] == 0).mean()))
    if early:
        title = f"{scenario.name}: CV of pay"
        yield Figure(f"{title}, {EARLY} rounds", tuple(early), at_most=0.35 if four else 0.25)
        yield Figure(f"{title}, all rounds", tuple(whole), at_most=0.15 if four else 0.10)
        yield Figure(f"{title}, one late round", tuple(late), at_most=0.20)
        yield Figure(f"{scenario.name}: part of (peer, round) unpaid after {EARLY} rounds", tuple(unpaid))


def _beside(data: Measurements, piece: Piece, names: Collection[str]) -> tuple[float, float, Replay]:
    """What names get together, in one applied peer's mean pay: over the run, and over its last third."""
    honest = applied(piece)
    found = data.replay(piece, {*honest, *names})
    late = last_third(len(found.shares))

    def part(first: int) -> float:
        theirs = found.pay(honest, first) / len(honest)
        return found.pay(names, first) / theirs if theirs else np.inf

    return part(0), part(late), found


def _both(name: str, pairs: Iterable[tuple[float, float]], at_most: float | None = None) -> Iterator[Figure]:
    whole, late = zip(*pairs, strict=True)
    yield Figure(f"{name}, run", whole, at_most=at_most)
    yield Figure(f"{name}, last third", late, at_most=at_most)


def _names(roles: Iterable[Role]) -> list[str]:
    return [role.name for role in roles]


_BOUNDS = {
    "three": 1.0,
    "three-all": 1.0,
    "disguised": 1.0,
    "disguised-all": 1.0,
    "half-all": 0.5,
    "split": 0.6,
    "five-percent": 0.05,
    "wrong-data": 0.05,
}


def purses(data: Measurements, found: Sequence[Piece]) -> Iterator[Figure]:
    """What each purse gets alone beside the applied ones."""
    keys: dict[str, list[str]] = {}
    for role in found[0].roles:
        if not role.applied and role not in TWIN:
            keys.setdefault(role.purse, []).append(role.name)
    idle = set(_names(IDLE)) | {"perturbed-50", "perturbed-80", "booster"}
    for purse, names in keys.items():
        bound = 0.05 if purse in idle else _BOUNDS.get(purse)
        yield from _both(purse, [_beside(data, piece, names)[:2] for piece in found], bound)


def attackers(data: Measurements) -> Iterator[Figure]:
    """What attackers get beside eight honest peers, alone and all of a kind together."""
    if disguised := data.of(DISGUISED):
        yield from purses(data, disguised)
    found = data.of(ATTACKERS)
    if not found:
        return
    yield from purses(data, found)
    nine, eleven = _names(IDLE), _names((*IDLE, *IMPOSTORS))
    yield from _both("nine idle at once", [_beside(data, p, nine)[:2] for p in found], 0.10)
    yield from _both("eleven at once", [_beside(data, p, eleven)[:2] for p in found], 0.10)
    yield from _twins(data, found)
    yield Figure("nine lazy: most they move an honest share", tuple(_moved(data, p) for p in found), at_most=0.10)


def _twins(data: Measurements, found: Sequence[Piece]) -> Iterator[Figure]:
    twin, *copies = TWIN
    for role in copies:
        ratios = [_beside(data, p, [role.name])[0] / _beside(data, p, [twin.name])[0] for p in found]
        yield Figure(f"scales {role.name} ÷ its twin", tuple(ratios), at_least=0.9, at_most=1.1, each=True)


def _moved(data: Measurements, piece: Piece) -> float:
    """The largest relative change of an honest peer's share among the honest by nine lazy keys."""
    honest = applied(piece)
    alone, beside = data.replay(piece, honest), data.replay(piece, [*honest, *_names(NINE_LAZY)])
    return max(abs(beside.pay([name]) / alone.pay([name]) - 1) for name in honest)


WORK_NAMES = ("work-25", "work-50", "work-100", "work-200-batch")


def amounts(data: Measurements) -> Iterator[Figure]:
    """Pay by work, and how soon a newcomer is paid."""
    found = data.of(AMOUNTS)
    if not found:
        return
    pay = {name: [_beside(data, piece, [name])[:2] for piece in found] for name in (*WORK_NAMES, "work-200-steps")}
    for name, pairs in pay.items():
        yield from _both(name, pairs)
    for twice in ("work-200-batch", "work-200-steps"):
        order = [*WORK_NAMES[:3], twice]
        rising = [all(pay[less][i][0] < pay[more][i][0] for less, more in pairwise(order)) for i in range(len(found))]
        yield Figure(f"25 < 50 < 100 < {twice}: part of seeds", (float(np.mean(rising)),), at_least=0.9)
    waits = tuple(_wait(data, piece) for piece in found)
    yield Figure("newcomer: rounds after its first to half of an honest peer's pay", waits, at_most=3)


def _wait(data: Measurements, piece: Piece) -> float:
    arrives = next(role.arrives for role in piece.roles if role.name == "newcomer")
    found = _beside(data, piece, ["newcomer"])[2]
    theirs = np.array([found.shares[r, : len(applied(piece))].mean() for r in range(len(found.shares))])
    own = found.shares[:, -1]
    paid = np.flatnonzero(own[arrives:] >= theirs[arrives:] / 2)
    return float(paid[0]) if len(paid) else np.inf


def uneven(data: Measurements) -> Iterator[Figure]:
    """How far two validators agree."""
    ranks, equals, together, tops = [], [], [], []
    for piece in data.of(UNEVEN):
        both = [data.replay(piece, applied(piece), v) for v in range(UNEVEN.validators)]
        ranks.append(spearman(*(found.shares[-1] for found in both)))
        pays = [(found.pay(["w-100"]), found.pay(["w-100-too"])) for found in both]
        equals += [_difference(*pair) for pair in pays]
        together.append(_difference(*(sum(side) for side in zip(*pays, strict=True))))
        tops += [found.pay(["noise", "best"]) / max(found.pay(["w-100"]), 1e-12) for found in both]
    if ranks:
        yield Figure("two validators: Spearman of shares, last round", tuple(ranks), at_least=0.9)
        yield Figure("two validators: difference of two equals ÷ their share, by each", tuple(equals), at_most=0.10)
        yield Figure("two validators: the same, by the mean of both", tuple(together), at_most=0.10)
        yield Figure("two validators: both attackers ÷ a full worker", tuple(tops), at_most=0.05)


def _difference(one: float, other: float) -> float:
    """Of two equals' pay, as a part of one's."""
    return abs(one - other) / max((one + other) / 2, 1e-12)


def spearman(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Rank correlation; 0 where either side has no ranking."""
    a, b = _ranks(one), _ranks(other)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks, equals sharing the middle of theirs."""
    return np.array([(values < value).sum() + ((values == value).sum() - 1) / 2 for value in values])


def effects(data: Measurements) -> Iterator[Figure]:
    """How many rounds two applied attackers cost the model, and half of the seats without, or with half, the work."""
    for scenario in (*EFFECTS, *HALVES):
        alone = ALONE_FOUR if scenario in HALVES else ALONE
        behind, losses = [], []
        for piece in data.of(scenario):
            reference = data.piece(alone, piece.seed)
            if reference is None:
                continue
            curve, own = _smooth(reference), _smooth(piece)
            reached = np.flatnonzero(curve[: len(own)] <= own[-1])
            behind.append(float(len(own) - 1 - reached[0]) if len(reached) else 0.0)
            losses.append(float(own[-1] - curve[len(own) - 1]))
        if behind:
            # Who declares all and does half is seen by no clip: there it is what it costs, and no bound.
            bound = None if scenario.name == "effect-half-work-all" else 2
            yield Figure(f"{scenario.name}: rounds behind the honest alone", tuple(behind), at_most=bound)
            yield Figure(f"{scenario.name}: held-out loss above theirs, nat/token", tuple(losses))


def _smooth(piece: Piece) -> npt.NDArray[np.float64]:
    """Held-out loss, each round the mean of the last ones."""
    losses = piece.raw.heldout.astype(np.float64)
    return np.array([losses[max(0, r + 1 - LAST_LOSSES) : r + 1].mean() for r in range(len(losses))])


def signs(data: Measurements) -> Iterator[Figure]:
    """What must never be the other way round, by the quick scenario: work is paid, more of it more, none not."""
    for piece in data.of(QUICK):
        honest = applied(piece)
        alone = data.replay(piece, honest)
        late = last_third(len(alone.shares))
        least = min(alone.pay([name], late) for name in honest) / alone.pay(honest, late) * len(honest)
        yield Figure("least paid honest peer, last third", (least,), at_least=0.5)
        idle = {name: _beside(data, piece, [name])[1] for name in _names((*IDLE, *IMPOSTORS[:1]))}
        yield from (Figure(f"{name}, last third", (pay,), at_most=0.25) for name, pay in idle.items())
        less, more = (_beside(data, piece, [name])[1] for name in WORK_NAMES[:2])
        yield Figure("25 % of the work ÷ 50 %", (less / more if more else np.inf,), at_most=0.9)
        yield Figure("50 % of the work", (more,), at_most=0.9)


SECTIONS: Sequence[tuple[str, Callable[[Measurements], Iterator[Figure]]]] = (
    ("Equal honest peers", lambda data: (f for s in SCENARIOS if s.name.startswith("equal") for f in equal(data, s))),
    ("Attackers beside eight honest peers, in one honest peer's mean pay", attackers),
    ("Pay by work, in one honest peer's mean pay", amounts),
    ("Two validators", uneven),
    ("Effect on the model", effects),
)
