"""What the rule's thresholds are compared with, at the start, in the middle and at the end of runs of three sizes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.gauntlet import pieces
from benchmarks.gauntlet.figures import Figure, applied, spearman
from benchmarks.gauntlet.judge import Replay, replay
from benchmarks.gauntlet.pieces import Piece
from benchmarks.gauntlet.scenarios import Scenario
from benchmarks.gauntlet.setting import template
from benchmarks.gauntlet.sizes import CHEATS, Cheat

Table = npt.NDArray[np.float64]
Fold = Callable[[Table], np.floating]

STAGES = 3
"""A run's rounds are looked at in thirds."""
CLONES = ("copycat", "three", "disguised")
COPIES = ("best", "mixer-0", "mixer-1", "rider-last", "rider-long")
"""Who sends another's update of the round, and who sends what others made in the one before."""
NOT_OWN = (*CLONES[:1], *COPIES, "noise", "zero", "wrong-data")
"""Who trains on nothing, or on data of nobody."""
UNCOMPARED = {"clone_ratio": 0.0, "copy_ratio": 0.0, "mixer_ratio": 0.0}
"""Fields by which the own-data test is all that stands between a cheat and its pay."""


@dataclass(slots=True)
class Size:
    """A size's runs, one a seed, and what the rule of its preset makes of them."""

    scenario: Scenario
    found: Sequence[Piece]
    _kept: dict[tuple[int, tuple[str, ...], bool], Replay] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, scenario: Scenario) -> Size | None:
        """What has been measured of a size; None where a seed is missing."""
        if not all(pieces.is_there(folder, scenario, seed) for seed in scenario.seeds):
            return None
        paths = (pieces.path_of(folder, scenario, seed) for seed in scenario.seeds)
        return cls(scenario, [Piece.read(path) for path in paths])

    def replays(self, keys: tuple[str, ...] = (), *, compared: bool = True) -> list[Replay]:
        """Each run judged for the honest and some keys beside them, with or without the overlap rule."""
        rule = template(self.scenario.preset).gauntlet
        rule = rule if compared else rule.model_copy(update=UNCOMPARED)
        for number, piece in enumerate(self.found):
            if (number, keys, compared) not in self._kept:
                self._kept[number, keys, compared] = replay(piece, [*applied(piece), *keys], rule)
        return [self._kept[number, keys, compared] for number in range(len(self.found))]

    def honest(self, name: str, *, compared: bool = True) -> list[Table]:
        """A table of `Replay`, of the honest peers where nobody is beside them, a run each."""
        return [getattr(found, name).astype(np.float64) for found in self.replays(compared=compared)]

    def cheats(self, cheat: Cheat, name: str, *, compared: bool = True) -> list[Table]:
        """The same of a cheat's keys beside the honest."""
        found = self.replays(cheat.keys, compared=compared)
        return [
            getattr(one, name)[:, [one.names.index(key) for key in cheat.names]].astype(np.float64) for one in found
        ]


def staged(name: str, tables: Sequence[Table], fold: Fold, **bounds: float) -> Figure:
    """One figure a stage: the fold of what is there in its rounds, of all runs; each must keep the bounds."""
    return Figure(name, tuple(float(fold(values)) for values in _stages(tables)), each=True, **bounds)


def _stages(tables: Sequence[Table]) -> list[Table]:
    """The values of each stage that are there, float64 (n,), of runs of equally many rounds."""
    parts = [np.array_split(table, STAGES) for table in tables]
    joined = [np.concatenate([part[stage].reshape(-1) for part in parts]) for stage in range(STAGES)]
    return [values[~np.isnan(values)] for values in joined]


def least(values: Table) -> np.floating:
    """The smallest, NaN of nothing."""
    return values.min() if len(values) else np.float64(np.nan)


def most(values: Table) -> np.floating:
    """The largest, NaN of nothing."""
    return values.max() if len(values) else np.float64(np.nan)


def _places(piece: Piece, names: Collection[str]) -> list[int]:
    return [i for i, role in enumerate(piece.roles) if role.name in names]


def screening(size: Size) -> Iterator[Figure]:
    """First-order scores beside exact ones on the same windows."""

    def ranked(piece: Piece, names: Collection[str]) -> Table:
        places = _places(piece, names)
        exact = piece.raw.gains["unassigned"][:, 0, places].mean(-1).astype(np.float64)
        first = piece.raw.screened[:, 0, places].astype(np.float64)
        there = piece.raw.present[:, places]
        return np.array([spearman(a[on], b[on]) for a, b, on in zip(exact, first, there, strict=True)])

    def ratio(piece: Piece) -> Table:
        places = _places(piece, applied(piece))
        exact = piece.raw.gains["unassigned"][:, 0, places].mean(-1).astype(np.float64)
        return piece.raw.screened[:, 0, places].astype(np.float64) / exact

    everybody = [role.name for role in size.scenario.roles]
    yield staged("rank correlation, honest", [ranked(p, applied(p)) for p in size.found], np.mean)
    yield staged("rank correlation, all candidates", [ranked(p, everybody) for p in size.found], np.mean)
    yield staged("first-order ÷ exact score, honest, median", [ratio(p) for p in size.found], np.median)


def _pairs(piece: Piece, past: bool, who: Collection[str] | None = None) -> Table:
    """Of each round the part of entries that each of `who` (the honest) shares with each honest peer, both ways."""
    honest = _places(piece, applied(piece))
    rows = honest if who is None else _places(piece, who)
    table = piece.raw.last if past else piece.raw.same
    shares = table[:, rows][:, :, honest].astype(np.float64)
    own = np.array(rows)[:, None] == np.array(honest)
    return np.where(own, np.nan, shares).reshape(len(table), -1)


def parts(size: Size) -> Iterator[Figure]:
    """What honest updates, and copies, share in parts of their entries: what no fixed threshold could tell apart."""
    for past, name in ((False, "of the round"), (True, "of the round before")):
        tables = [_pairs(piece, past) for piece in size.found]
        yield staged(f"honest, with one {name}: median", tables, np.median)
        yield staged(f"honest, with one {name}: most", tables, most)
    for name in COPIES:
        tables = [np.nanmax(_pairs(p, True, [name])[1:], axis=1, keepdims=True) for p in size.found]
        yield staged(f"{name}, nearest of the round before: least", tables, least)


def overlaps(size: Size) -> Iterator[Figure]:
    """What updates have in common, in the rule's own unit, beside its thresholds."""
    rule = template(size.scenario.preset).gauntlet
    limits = {"clones": rule.clone_ratio, "copies": rule.copy_ratio, "mixtures": rule.mixer_ratio}
    words = {"clones": "one of the round", "copies": "one of the round before", "mixtures": "those on average"}
    for name, limit in limits.items():
        tables = size.honest(name)
        yield staged(f"honest, with {words[name]}: median", tables, np.median)
        yield staged(f"honest, with {words[name]}: most", tables, most, at_most=limit)
        for cheat in CLONES if name == "clones" else COPIES:
            found = size.cheats(CHEATS[cheat], name)
            yield staged(f"{cheat}, with {words[name]}: least", found, least)
    yield staged("honest: part of rounds refused", size.honest("refused"), np.mean, at_most=0.0)
    for cheat in (*CLONES, *COPIES):
        yield staged(f"{cheat}: part of rounds refused", size.cheats(CHEATS[cheat], "refused"), np.mean)


def own_data(size: Size) -> Iterator[Figure]:
    """The own-data test alone, with nobody refused for what its update has in common with others."""
    yield from _tested("honest", size.honest("own_data", compared=False))
    for name, cheat in CHEATS.items():
        yield from _tested(name, size.cheats(cheat, "own_data", compared=False))


def _tested(name: str, tables: Sequence[Table]) -> Iterator[Figure]:
    yield staged(f"{name}: x, mean", tables, np.mean)
    yield staged(f"{name}: x, standard deviation", tables, np.std)


def gates(size: Size) -> Iterator[Figure]:
    """What the test lets through: μ where each stage ends, and the gate on average."""
    rule = template(size.scenario.preset).gauntlet

    def ends(tables: Iterable[Table]) -> list[Table]:
        """Of each stage its last round alone."""
        return [np.stack([part[-1] for part in np.array_split(table, STAGES)]) for table in tables]

    honest = ends(size.honest("means", compared=False))
    yield staged("honest: μ where the stage ends, least", honest, least)
    yield staged("honest: μ where the stage ends, median", honest, np.median)
    yield staged("honest: gate", size.honest("gates", compared=False), np.mean)
    others = []
    for name, cheat in CHEATS.items():
        means = ends(size.cheats(cheat, "means", compared=False))
        yield staged(f"{name}: μ where the stage ends, most", means, most)
        yield staged(f"{name}: gate", size.cheats(cheat, "gates", compared=False), np.mean)
        others += [table[-1].max() for table in means if name in NOT_OWN]
    last = np.median([table[-1] for table in honest])
    yield Figure("honest: μ where the run ends, median", (float(last),), at_least=rule.mu_full)
    yield Figure("no data of their own: μ where the run ends, most", (max(map(float, others)),), at_most=rule.mu_floor)


def work(size: Size) -> Iterator[Figure]:
    """s_r beside the median of the honest ones."""
    for name, cheat in CHEATS.items():
        yield staged(f"{name}: s_r ÷ median", size.cheats(cheat, "ratios", compared=False), np.mean)


def pay(size: Size) -> Iterator[Figure]:
    """What the whole rule pays each cheat, all its keys together, beside the honest: in one honest peer's pay."""
    for name, cheat in CHEATS.items():
        tables = []
        for found, piece in zip(size.replays(cheat.keys), size.found, strict=True):
            honest = [found.names.index(one) for one in applied(piece)]
            theirs = np.array([part.mean() for part in np.array_split(found.shares[:, honest], STAGES)])
            own = found.shares[:, [found.names.index(key) for key in cheat.names]].sum(1)
            parts_ = np.array([part.mean() for part in np.array_split(own, STAGES)])
            tables.append((parts_ / theirs)[:, None])
        yield staged(name, tables, np.mean)


SECTIONS: Mapping[str, Callable[[Size], Iterator[Figure]]] = {
    "First-order scores": screening,
    "Entries in common, as a part": parts,
    "Entries in common, in the rule's unit": overlaps,
    "The own-data test": own_data,
    "What the own-data test lets through, on its own": gates,
    "Work": work,
    "Pay by the whole rule, in one honest peer's": pay,
}
