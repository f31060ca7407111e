"""A copy shares what honest updates do not, and nobody can make honest updates look like copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import identity, run_spec
from hypothesis import given
from hypothesis import strategies as st

from muster.kernels import Codec, Grid, SparseUpdate, compress
from muster.protocol.incentive.row import PeerState
from muster.validator.gauntlet.overlap import (
    TILES,
    Overlap,
    Shares,
    chosen_entries,
    compared,
    drawn_tiles,
    overlaps,
    proven,
)

BEACON = bytes(range(32))
SPEC = run_spec().gauntlet
GRID = Grid([(128, 192), (70, 64), (5000,)])
CODEC = Codec(GRID, 64)
NAMES = sorted(identity(name).hotkey for name in ("alice", "bob", "carol", "dave", "eve", "frank"))
OLD = {name: PeerState(name, mu=0.5, tested=9) for name in NAMES}


def made(seed: int, common: int = 0) -> SparseUpdate:
    """An update of random entries; of the same `common` seed they are partly the same."""
    draws, shared = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(common)
    return compress([torch.randn(s, generator=draws) + torch.randn(s, generator=shared) for s in GRID.shapes], CODEC)


def six(**changed: SparseUpdate) -> dict[str, SparseUpdate]:
    return {name: made(i + 1) for i, name in enumerate(NAMES)} | changed


class TestEntries:
    """What is compared: the entries of drawn tiles."""

    def test_they_are_those_of_the_tiles(self) -> None:
        update = made(1)
        starts = GRID.entry_starts(64)
        tiles = np.array([0, 3, GRID.tiles - 1])
        expected = [
            place * 4096 + int(index)
            for place, tile in enumerate(tiles)
            for index in update.indices[starts[tile] : starts[tile + 1]]
        ]
        assert chosen_entries(update, tiles).tolist() == expected

    def test_of_few_tiles_all_are_drawn_and_of_many_as_many_as_needed(self) -> None:
        assert drawn_tiles(BEACON, 5).tolist() == [0, 1, 2, 3, 4]
        drawn = drawn_tiles(BEACON, 10 * TILES)
        assert len(set(drawn.tolist())) == TILES
        assert drawn.tolist() == sorted(drawn.tolist()) != drawn_tiles(bytes(32), 10 * TILES).tolist()


class TestCopies:
    """What two have in common, in units of what two honest ones have."""

    def test_honest_updates_are_about_one(self) -> None:
        found = overlaps(BEACON, six(), tuple(six().items()), NAMES, OLD, SPEC)
        for name in NAMES:
            assert found[name].clone == pytest.approx(1, abs=0.5)
            assert found[name].copy == pytest.approx(1, abs=0.5)

    def test_a_clone_is_beside_the_one_that_comes_first(self) -> None:
        copied = six(**{NAMES[0]: made(4), NAMES[5]: made(4)})  # as NAMES[3]
        states = OLD | {NAMES[3]: PeerState(NAMES[3], mu=0.6, tested=9)}
        found = overlaps(BEACON, copied, (), NAMES, states, SPEC)
        for name in (NAMES[0], NAMES[5]):
            assert found[name].clone_of == NAMES[3]
            assert found[name].clone is not None
            assert found[name].clone > SPEC.clone_ratio

    def test_a_copy_of_the_last_round_and_never_of_the_own(self) -> None:
        before = {name: made(i + 11) for i, name in enumerate(NAMES)}
        now = six(**{NAMES[0]: made(12), NAMES[1]: made(12)})
        found = overlaps(BEACON, now, tuple(before.items()), NAMES, OLD, SPEC)
        assert found[NAMES[0]].copy_of == NAMES[1]
        assert found[NAMES[0]].copy is not None
        assert found[NAMES[0]].copy > SPEC.copy_ratio
        assert found[NAMES[1]].copy == pytest.approx(1, abs=0.5)

    def test_a_peer_may_have_several_before_and_is_compared_with_none_of_its_own(self) -> None:
        """One of them came late; who made it is no copier of it, and who copied it is."""
        before = [*((name, made(i + 11)) for i, name in enumerate(NAMES)), (NAMES[1], made(40))]
        found = overlaps(BEACON, six(**{NAMES[0]: made(40), NAMES[1]: made(40)}), before, NAMES, OLD, SPEC)
        assert found[NAMES[0]].copy_of == NAMES[1]
        assert found[NAMES[0]].copy is not None
        assert found[NAMES[0]].copy > SPEC.copy_ratio
        assert found[NAMES[1]].copy == pytest.approx(1, abs=0.5)

    def test_the_first_round_has_none_before(self) -> None:
        found = overlaps(BEACON, six(), (), NAMES, OLD, SPEC)
        assert {(one.copy_of, one.copy) for one in found.values()} == {(None, None)}

    def test_what_two_share_is_what_their_sets_share(self) -> None:
        """Beside the plain count of each pair, whoever has most in common, and of equals the lowest hotkey."""
        now, before = six(**{NAMES[2]: made(4)}), {name: made(i + 3) for i, name in enumerate(NAMES[1:])}
        tiles = drawn_tiles(BEACON, GRID.tiles)
        sets = [
            {name: set(chosen_entries(update, tiles).tolist()) for name, update in round_.items()}
            for round_ in (now, before)
        ]
        found = overlaps(BEACON, now, tuple(before.items()), (), {}, SPEC.model_copy(update={"clone_ratio": 0.0}))
        for name, entries in sets[0].items():
            for others, near in ((sets[0], found[name].clone_of), (sets[1], found[name].copy_of)):
                common = {other: len(entries & listed) for other, listed in others.items() if other != name}
                assert near == min(common, key=lambda other: (-common[other], other))

    def test_alone_there_is_nobody_to_compare_with(self) -> None:
        assert overlaps(BEACON, {NAMES[0]: made(1)}, (), [], {}, SPEC) == {NAMES[0]: Overlap()}
        assert overlaps(BEACON, {}, (), [], {}, SPEC) == {}


MANY = 65_536
"""Entries of an update in as many tiles as are ever drawn."""


def table(share: float, peers: int = 6) -> Shares:
    """All pairs of so many peers share as much."""
    parts = np.full((peers, peers), share)
    np.fill_diagonal(parts, np.nan)
    return Shares(tuple(NAMES[:peers]), tuple(NAMES[:peers]), parts)


def nobody(peers: int = 6) -> Shares:
    """Nobody sent anything the round before."""
    return Shares(tuple(NAMES[:peers]), (), np.empty((peers, 0)))


class TestTheUsual:
    """What honest peers have in common."""

    def test_of_strangers_who_list_entries_at_random_nothing_is_learned(self) -> None:
        """Two thirds of the candidates share next to nothing with anybody; honest ones share a tenth."""
        shares = table(0.01)
        shares.parts[:3, :3] *= 10
        found = compared(BEACON, shares, nobody(), NAMES[:3], OLD, SPEC, MANY)
        assert found[NAMES[0]].clone == pytest.approx(1)

    def test_before_anybody_is_proven_only_near_identity_is_a_clone(self) -> None:
        for share, clone in ((0.7, False), (0.8, True)):
            found = compared(BEACON, table(share), nobody(), [], {}, SPEC, MANY)
            ratio = found[NAMES[0]].clone
            assert ratio is not None
            assert (ratio > SPEC.clone_ratio) is clone

    def test_an_identical_update_is_a_clone_however_much_honest_ones_share(self) -> None:
        shares = table(0.6)
        shares.parts[0, 1] = shares.parts[1, 0] = 1.0
        found = compared(BEACON, shares, nobody(), NAMES[1:], OLD, SPEC, MANY)
        ratios = {name: found[name].clone for name in NAMES}
        assert all(
            ratio is not None and (ratio > SPEC.clone_ratio) is (name in NAMES[:2]) for name, ratio in ratios.items()
        )

    @given(st.floats(0, 1), st.integers(1, 6))
    def test_equals_are_never_clones_unless_they_are_nearly_the_same(self, share: float, peers: int) -> None:
        found = compared(BEACON, table(share, peers), nobody(peers), NAMES, OLD, SPEC, MANY)
        for one in found.values():
            if one.clone is not None and share < 0.75:
                assert one.clone <= SPEC.clone_ratio

    def test_proven_are_accepted_peers_whom_the_own_data_test_lets_through(self) -> None:
        states = {name: PeerState(name, mu=0.5, tested=9, work=1.0) for name in NAMES[:5]}
        states |= {NAMES[1]: PeerState(NAMES[1], mu=0.05, tested=9, work=1.0)}
        accepted = {NAMES[0]: 32, NAMES[1]: 32, NAMES[2]: 16, NAMES[3]: 8, NAMES[5]: 32}
        assert proven(accepted, states, SPEC) == {NAMES[0], NAMES[2]}, "who does a quarter is not the usual"
