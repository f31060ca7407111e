"""What the rule's thresholds and shortcuts stand on: overlaps of honest and of copied updates, first-order scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.gauntlet.figures import Figure, Measurements, spearman
from benchmarks.gauntlet.pieces import Piece
from benchmarks.gauntlet.scenarios import ALONE, ALONE_FOUR, ATTACKERS, UNEVEN

Table = npt.NDArray[np.float64]

COPIES = ("best", "mixer-0", "mixer-1", "rider-last", "rider-long", "booster")
"""Who sends what others made in the round before."""
_FROM = 2
"""The first round in which everybody has something to copy."""


def signals(data: Measurements) -> Iterator[Figure]:
    """Honest and copied overlaps beside the median of honest pairs, and screening beside exact scores."""
    for scenario in (ALONE_FOUR, ALONE, UNEVEN):
        if found := data.of(scenario):
            yield _over(f"{scenario.name}: most in common in a round ÷ median, 99th percentile", found, _clones)
            yield _over(
                f"{scenario.name}: most in common with the last round ÷ median, 99th percentile", found, _copies
            )
            yield Figure(f"{scenario.name}: rank correlation of first-order scores", tuple(map(_screening, found)))
    if found := data.of(ATTACKERS):
        for name in COPIES:
            nearest = tuple(float(np.quantile(_copied(piece, name, np.max), 0.1)) for piece in found)
            mean = tuple(float(np.quantile(_copied(piece, name, np.mean), 0.1)) for piece in found)
            yield Figure(f"{name}: most in common with the last round ÷ median, 10th percentile", nearest)
            yield Figure(f"{name}: in common with the last round on average ÷ median, 10th percentile", mean)


def _over(name: str, found: Sequence[Piece], of: Callable[[Piece], Table]) -> Figure:
    return Figure(name, tuple(float(np.quantile(of(piece), 0.99)) for piece in found))


def _workers(piece: Piece) -> list[int]:
    return [i for i, role in enumerate(piece.roles) if role.applied and role.kind == "trainer"]


def _pairs(table: npt.NDArray[np.float32], workers: Sequence[int]) -> Table:
    """What two different ones have in common, both ways."""
    among = table[np.ix_(workers, workers)].astype(np.float64)
    return among[~np.eye(len(workers), dtype=np.bool_)]


def _clones(piece: Piece) -> Table:
    pairs = [_pairs(table, _workers(piece)) for table in piece.raw.same[_FROM:]]
    return np.array([both.max() / np.median(both) for both in pairs])


def _copies(piece: Piece) -> Table:
    pairs = [_pairs(table, _workers(piece)) for table in piece.raw.last[_FROM:]]
    return np.array([both.max() / np.median(both) for both in pairs])


def _copied(piece: Piece, name: str, of: Callable[[Table], np.floating]) -> Table:
    workers = _workers(piece)
    place = next(i for i, role in enumerate(piece.roles) if role.name == name)
    tables = piece.raw.last[_FROM:]
    return np.array(
        [of(table[place, workers].astype(np.float64)) / np.median(_pairs(table, workers)) for table in tables]
    )


def _screening(piece: Piece) -> float:
    """Mean over rounds of the rank correlation of first-order and exact scores, as the first validator sees them."""
    workers = _workers(piece)
    exact = piece.raw.gains["unassigned"][:, 0, workers].mean(-1).astype(np.float64)
    first = piece.raw.screened[:, 0, workers].astype(np.float64)
    return float(np.mean([spearman(one, other) for one, other in zip(exact, first, strict=True)]))
