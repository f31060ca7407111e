"""Models on several slices: as ranks hold them, or cut at any bands, some slices holding nothing."""

from __future__ import annotations

from hypothesis import strategies as st

from muster.kernels import Grid, Slice

RANKS = st.sampled_from([1, 2, 3, 5])
SHAPES = st.lists(
    st.one_of(
        st.just(()),
        st.tuples(st.integers(0, 20_000)),
        st.tuples(st.integers(0, 400), st.integers(0, 90)),
        st.tuples(st.integers(1, 200), st.integers(1, 5), st.integers(1, 5)),
    ),
    max_size=4,
)
"""Matrices and vectors of several bands, whole and short ones, so that slices end in the middle of tensors."""


@st.composite
def sliced(draw: st.DrawFn, shapes: st.SearchStrategy[list[tuple[int, ...]]] = SHAPES) -> list[Slice]:
    """One model on 1, 2, 3 or 5 slices that hold each of its bands once."""
    grid, ranks = Grid(draw(shapes)), draw(RANKS)
    if draw(st.booleans()):
        return [Slice.of_rank(grid, rank, ranks) for rank in range(ranks)]
    bands: list[list[tuple[int, int]]] = [[] for _ in range(ranks)]
    for i in range(len(grid.shapes)):
        most = len(grid.bands(i))
        cuts = [0, *sorted(draw(st.lists(st.integers(0, most), min_size=ranks - 1, max_size=ranks - 1))), most]
        for n, held in enumerate(draw(st.permutations(range(ranks)))):
            bands[held].append((cuts[n], cuts[n + 1]))
    return [Slice(grid, tuple(each)) for each in bands]
