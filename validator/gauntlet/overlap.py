"""Who sent what another one made: what two updates have in common, beside what two honest ones have.

Two peers that train on different data choose a few per cent of the same entries; a copy chooses those of what it was
made from. How many honest peers share falls tenfold during a run, so it is the ratio to the round's own that tells, and
not a fixed number. Signs of shared entries say nothing: honest peers agree on nearly all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.kernels import SparseUpdate
from muster.kernels.grid import TILE
from muster.protocol.incentive.row import PeerState
from muster.protocol.incentive.score import exceeds, gate
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


@dataclass(frozen=True, slots=True)
class Overlap:
    """What one peer's update has in common with others', in units of what two honest ones have.

    `clone_of` is the peer of this round whose update it would be a clone of, `copy_of` the one of the last round whose
    it is nearest to; None, with the ratio, where there was nothing to compare with.
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
    before: Mapping[str, SparseUpdate],
    honest: Collection[str],
    states: Mapping[str, PeerState],
    spec: GauntletSpec,
) -> dict[str, Overlap]:
    """Compare the updates of a round with each other, and with those of the round before, all of one grid.

    `beacon` draws the tiles and settles who of several clones was first.
    """
    if not now:
        return {}
    tiles = drawn_tiles(beacon, next(iter(now.values())).grid.tiles)
    entries = {hotkey: chosen_entries(update, tiles) for hotkey, update in now.items()}
    each = len(next(iter(entries.values())))
    earlier = {hotkey: chosen_entries(update, tiles) for hotkey, update in before.items()}
    same, past = _shared(entries, entries, len(tiles)), _shared(entries, earlier, len(tiles))
    return compared(beacon, same, past, honest, states, spec, each)


Shares = Mapping[str, Mapping[str, float]]
"""Of one peer's entries the part that another peer lists, too; by hotkey and the other's, never its own."""


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
    found = {}
    for hotkey in same:
        beyond = [other for other, share in same[hotkey].items() if exceeds(share / usual, spec.clone_ratio)]
        first = min(beyond, key=lambda other: precedence(beacon, other, states), default=None)
        clone_of = first or _nearest(same[hotkey])
        copy_of = _nearest(past[hotkey])
        found[hotkey] = Overlap(
            clone_of,
            None if clone_of is None else same[hotkey][clone_of] / usual,
            copy_of,
            None if copy_of is None else past[hotkey][copy_of] / usual_past,
        )
    return found


def _unit(shares: Shares, honest: Collection[str], limit: float, entries: int) -> float:
    """What two honest peers have in common: the lower median of all pairs of proven ones.

    Of those alone, because whoever lists entries at random has little in common with anybody, and many such keys would
    make honest ones look like clones. Never so much that `limit` times it came to more than half way to an identical
    update: in early rounds honest peers choose a third of the same entries. With fewer than three proven peers there is
    nothing to go by, and only what is half way to identical is taken for a copy.
    """
    pairs = sorted(
        share for one, row in shares.items() if one in honest for other, share in row.items() if other in honest
    )
    usual = pairs[(len(pairs) - 1) // 2] if len(pairs) >= _PAIRS else None
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


def _shared(of: Mapping[str, Entries], others: Mapping[str, Entries], tiles: int) -> dict[str, dict[str, float]]:
    """Which part of each one's entries each other one has too; all list as many."""
    there = np.zeros(tiles * TILE, dtype=np.bool_)
    shared: dict[str, dict[str, float]] = {hotkey: {} for hotkey in of}
    listed = np.stack(tuple(of.values()))
    together = max(1, _AT_ONCE // max(1, listed.shape[1]))
    parts = [listed[first : first + together] for first in range(0, len(listed), together)]
    for other, entries in others.items():
        there[entries] = True
        counts = np.concatenate([np.count_nonzero(there[part], axis=1) for part in parts])
        for hotkey, count in zip(of, counts.tolist(), strict=True):
            if hotkey != other:
                shared[hotkey][other] = count / max(listed.shape[1], 1)
        there[entries] = False
    return shared


def _nearest(shares: Mapping[str, float]) -> str | None:
    """Who lists the largest part too, of equals the lowest hotkey; None where there is nobody."""
    return min(shares, key=lambda other: (-shares[other], other), default=None)
