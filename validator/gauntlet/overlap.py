"""Who sent what another one made: what two updates have in common, beside what two honest ones have.

Two peers that train on different data choose a few per cent of the same entries; a copy chooses those of what it was
made from. How many honest peers share falls tenfold during a run, so it is the ratio to the round's own that tells, and
not a fixed number. Signs of shared entries say nothing: honest peers agree on nearly all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.kernels import SparseUpdate
from muster.kernels.grid import TILE
from muster.protocol.incentive.sheet import precedence
from muster.protocol.rules.sampling import sample

TILES = 1024
"""Tiles that are looked at: of the model's, as many drawn as tell a ratio of three apart within a few per cent."""

_FEW = 3
"""Fewer peers have no pair beside the one that is looked at, and nothing to compare with."""

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
    beacon: bytes, now: Mapping[str, SparseUpdate], before: Mapping[str, SparseUpdate], limit: float
) -> dict[str, Overlap]:
    """Compare the updates of a round with each other, and with those of the round before, all of one grid.

    `beacon` draws the tiles and settles who of several clones was first; from `limit` times the usual on, two are
    clones. Peers' own earlier updates are not compared with.
    """
    tiles = drawn_tiles(beacon, next(iter(now.values())).grid.tiles) if now else np.empty(0, np.int64)
    entries = {hotkey: chosen_entries(update, tiles) for hotkey, update in now.items()}
    earlier = {hotkey: chosen_entries(update, tiles) for hotkey, update in before.items()}
    same, past = _shared(entries, entries, len(tiles)), _shared(entries, earlier, len(tiles))
    return compared(beacon, same, past, len(before), limit)


Shares = Mapping[str, Mapping[str, float]]
"""Of one peer's entries the part that another peer lists, too; by hotkey and the other's, never its own."""


def compared(beacon: bytes, same: Shares, past: Shares, before: int, limit: float) -> dict[str, Overlap]:
    """What `overlaps` makes of the shares of each peer with the round's others and with `before` earlier updates."""
    peers = len(same)
    usual = _quartile([share for one, row in same.items() for other, share in row.items() if one < other], peers)
    usual_past = _quartile([share for row in past.values() for share in row.values()], min(peers, before + 1))
    found = {}
    for hotkey in same:
        clone_of, clone = _clone(hotkey, same[hotkey], usual, limit, beacon)
        copy_of, share = _nearest(past[hotkey])
        copied = usual_past is not None and copy_of is not None
        found[hotkey] = Overlap(
            clone_of, clone, copy_of if copied else None, share / usual_past if copied and usual_past else None
        )
    return found


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
    """Which part of each one's entries each other one has too."""
    there = np.zeros(tiles * TILE, dtype=np.bool_)
    shared: dict[str, dict[str, float]] = {hotkey: {} for hotkey in of}
    for other, listed in others.items():
        there[listed] = True
        for hotkey, entries in of.items():
            if hotkey != other:
                shared[hotkey][other] = float(np.count_nonzero(there[entries])) / max(len(entries), 1)
        there[listed] = False
    return shared


def _quartile(shares: Sequence[float], peers: int) -> float | None:
    """What two honest ones have in common: the lower quartile of all pairs, for clones may be many; None of too few."""
    if peers < _FEW:
        return None
    quartile = sorted(shares)[(len(shares) - 1) // 4]
    return quartile if quartile > 0.0 else None


def _clone(
    hotkey: str, shares: Mapping[str, float], usual: float | None, limit: float, beacon: bytes
) -> tuple[str | None, float | None]:
    """Whose clone a peer may be: of those beyond the limit the one that takes precedence, else the nearest."""
    if usual is None or not shares:
        return None, None
    beyond = [other for other, share in shares.items() if limit and share / usual > limit]
    if beyond:
        first = min(beyond, key=lambda other: precedence(beacon, other))
        return first, shares[first] / usual
    nearest, share = _nearest(shares)
    return nearest, share / usual


def _nearest(shares: Mapping[str, float]) -> tuple[str | None, float]:
    """Of equals the lowest hotkey."""
    if not shares:
        return None, 0.0
    nearest = min(shares, key=lambda other: (-shares[other], other))
    return nearest, shares[nearest]
