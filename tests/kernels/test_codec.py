"""One value says what an update is compressed by, and no wrong one can be made."""

from __future__ import annotations

import pytest

from muster.kernels import VERSIONS, Codec, Grid

GRID = Grid([(64, 128), (64,)])


def test_equal_codecs_are_one_key() -> None:
    assert len({Codec(GRID, 64), Codec(Grid([(64, 128), (64,)]), 64, 1)}) == 1
    assert len({Codec(GRID, 64), Codec(GRID, 32), Codec(Grid([(64, 128)]), 64)}) == 3


def test_the_count_is_that_of_all_tiles() -> None:
    assert Codec(GRID, 64).count == 64 + 64 + 1
    assert Codec(GRID, 4096).count == sum(GRID.numel)
    assert Codec(Grid([]), 1).count == 0


@pytest.mark.parametrize("k", [0, -1, 4097])
def test_a_k_that_no_tile_has_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="1 to 4096"):
        Codec(GRID, k)


def test_a_version_of_another_release_is_refused() -> None:
    with pytest.raises(ValueError, match="has the codecs 1, not 2"):
        Codec(GRID, 64, max(VERSIONS) + 1)
