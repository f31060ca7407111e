"""Who sent what another one made: what two updates have in common, beside what two honest ones have.

Two peers that train on different data choose a few per cent of the same entries; a copy chooses those of what it was
made from. How many honest peers share falls tenfold during a run, so it is the ratio to the round's own that tells, and
not a fixed number. Signs of shared entries say nothing: honest peers agree on nearly all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from muster.kernels import SparseUpdate
from muster.kernels.grid import TILE
from muster.protocol.incentive.row import PeerState
from muster.protocol.incentive.score import gate
from muster.protocol.incentive.sheet import precedence
from muster.protocol.rules.sampling import sample
from muster.protocol.spec import GauntletSpec

TILES = 1024
"""Tiles that are looked at: of the model's, as many drawn as tell a ratio of three apart within a few per cent."""

_PAIRS = 6
"""Ordered pairs that the usual is the median of: of three peers."""

_PART = 3.0
"""Who does a third of the most work counts among those that the usual is measured by: twice the work is honest too."""

_EARLY = 0.5
"""More than honest peers have in common in any round: of the first, when they all move what is wrong most."""

_FEW = 16
"""The usual is at least as many entries: of fewer, chance alone makes several times as many shared ones."""

_AT_ONCE = 1 << 20
"""Entries, of several peers where each lists few, that are looked up in one call: what a call costs by itself is
most of what a crowd's small updates take."""

Entries = npt.NDArray[np.int64]

Earlier = tuple[str, SparseUpdate]
"""An update that was made before, and its peer's hotkey; a peer may have several, of which one came late."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What one peer's update has in common with others', in units of what two honest ones have.

    `clone_of` is the peer of this round whose update it would be a clone of, `copy_of` the one of those before whose it
    is nearest to; None, with the ratio, where there was nothing to compare with.
    """

    clone_of: str | None = None
    clone: float | None = None
    copy_of: str | None = None
    copy: float | None = None

    def columns(self) -> dict[str, str | float | None]:
        """The columns of a score row."""
        return {"clone_of": self.clone_of, "clone": self.clone, "copy_of": self.copy_of, "copy": self.copy}


def overlaps(
    beacon: bytes,
    now: Mapping[str, SparseUpdate],
    before: Sequence[Earlier],
    honest: Collection[str],
    states: Mapping[str, PeerState],
    spec: GauntletSpec,
) -> dict[str, Overlap]:
    """Compare the updates of a round with each other, and with earlier ones, all of one grid.

    `beacon` draws the tiles and settles who of several clones was first.
    """
    if not now:
        return {}
    tiles = drawn_tiles(beacon, next(iter(now.values())).grid.tiles)
    entries = {hotkey: chosen_entries(update, tiles) for hotkey, update in now.items()}
    each = len(next(iter(entries.values())))
    earlier = [(hotkey, chosen_entries(update, tiles)) for hotkey, update in before]
    same = _shared(entries, tuple(entries.items()), len(tiles))
    past = _shared(entries, earlier, len(tiles))
    return compared(beacon, same, past, honest, states, spec, each)


@dataclass(frozen=True, slots=True)
class Shares:
    """Which part of each peer's entries each other one lists, too: row by row `of`, column by column `others`, never
    its own. A table, since a crowd's pairs are too many to look at one by one.

    `parts` is float64, (of, others), and NaN where row and column are one hotkey.
    """

    of: tuple[str, ...]
    others: tuple[str, ...]
    parts: npt.NDArray[np.float64]


def compared(
    beacon: bytes,
    same: Shares,
    past: Shares,
    honest: Collection[str],
    states: Mapping[str, PeerState],
    spec: GauntletSpec,
    entries: int,
) -> dict[str, Overlap]:
    """What `overlaps` makes of the shares of each peer with the round's others and with the earlier updates, each of so
    many entries."""
    usual, usual_past = (
        _unit(shares, honest, limit, entries) for shares, limit in ((same, spec.clone_ratio), (past, spec.copy_ratio))
    )
    beyond = same.parts / usual > spec.clone_ratio if spec.clone_ratio > 0.0 else np.zeros(same.parts.shape, np.bool_)
    found = {}
    for hotkey, row, clones, near, copy in zip(
        same.of, same.parts, beyond, _nearest(same), _nearest(past), strict=True
    ):
        shares = [Near(same.others[place], float(row[place])) for place in np.flatnonzero(clones)]
        clone = min(shares, key=lambda one: precedence(beacon, one.hotkey, states), default=near)
        found[hotkey] = Overlap(
            None if clone is None else clone.hotkey,
            None if clone is None else clone.part / usual,
            None if copy is None else copy.hotkey,
            None if copy is None else copy.part / usual_past,
        )
    return found


def _unit(shares: Shares, honest: Collection[str], limit: float, entries: int) -> float:
    """What two honest peers have in common: the lower median of all pairs of proven ones.

    Of those alone, because whoever lists entries at random has little in common with anybody, and many such keys would
    make honest ones look like clones. Never so much that `limit` times it came to more than half way to an identical
    update: in early rounds honest peers choose a third of the same entries. With fewer than three proven peers there is
    nothing to go by, and only what is half way to identical is taken for a copy.
    """
    rows, columns = ([one in honest for one in hotkeys] for hotkeys in (shares.of, shares.others))
    of_proven = shares.parts[rows][:, columns]
    pairs = of_proven[~np.isnan(of_proven)]
    middle = (pairs.size - 1) // 2
    usual = float(np.partition(pairs, middle)[middle]) if pairs.size >= _PAIRS else None
    most = (1.0 + (_EARLY if usual is None else usual)) / 2.0
    bound = most / limit if limit else most
    return bound if usual is None else min(max(usual, _FEW / entries), bound)


def proven(accepted: Mapping[str, int], states: Mapping[str, PeerState], spec: GauntletSpec) -> frozenset[str]:
    """The accepted peers, with the windows they declare, that the own-data test lets through by the rounds before, and
    that do a third and more of the work of whoever does most.

    Who trains little lists other entries than who trains much, and has less in common with anybody.
    """
    work = {
        one: states[one].work * windows
        for one, windows in accepted.items()
        if one in states and gate(states[one], spec) > 0.0
    }
    most = max(work.values(), default=0.0)
    return frozenset(one for one, done in work.items() if done > 0.0 and _PART * done >= most)


def drawn_tiles(beacon: bytes, tiles: int) -> Entries:
    """The tiles of a grid that are looked at, ascending."""
    return np.sort(np.asarray(sample(beacon, b"overlap", tiles, min(TILES, tiles)), np.int64))


def chosen_entries(update: SparseUpdate, tiles: Entries) -> Entries:
    """The entries of an update in some tiles: place of the tile among them · 4096 + index, in that order."""
    starts = update.grid.entry_starts(update.k)
    counts = starts[tiles + 1] - starts[tiles]
    ends = np.cumsum(counts)
    places = np.repeat(starts[tiles] - (ends - counts), counts) + np.arange(int(ends[-1]) if len(ends) else 0)
    indices = update.indices.numpy()[places].astype(np.int64)
    return np.repeat(np.arange(len(tiles), dtype=np.int64), counts) * TILE + indices


def _shared(of: Mapping[str, Entries], others: Sequence[tuple[str, Entries]], tiles: int) -> Shares:
    """Which part of each one's entries each other one has too; all list as many."""
    there = np.zeros(tiles * TILE, dtype=np.bool_)
    listed = np.stack(tuple(of.values()))
    together = max(1, _AT_ONCE // max(1, listed.shape[1]))
    rows = {hotkey: row for row, hotkey in enumerate(of)}
    parts = np.empty((len(of), len(others)))
    for column, (other, entries) in enumerate(others):
        there[entries] = True
        for first in range(0, len(listed), together):
            each = slice(first, first + together)
            parts[each, column] = np.count_nonzero(there[listed[each]], axis=1)
        there[entries] = False
        if other in rows:
            parts[rows[other], column] = np.nan
    return Shares(tuple(of), tuple(other for other, _ in others), parts / max(listed.shape[1], 1))


class Near(NamedTuple):
    """Whose entries a peer's are nearest to, and which part of them."""

    hotkey: str
    part: float


def _nearest(shares: Shares) -> list[Near | None]:
    """Of each one who lists the largest part too, of equals the lowest hotkey; None where there is nobody."""
    order = np.argsort(np.array(shares.others, dtype=np.str_), kind="stable")
    if not len(order):
        return [None] * len(shares.of)
    parts = np.where(np.isnan(shares.parts), -1.0, shares.parts)[:, order]
    best = np.argmax(parts, axis=1)
    return [
        None if row[place] < 0.0 else Near(shares.others[order[place]], float(row[place]))
        for row, place in zip(parts, best, strict=True)
    ]
