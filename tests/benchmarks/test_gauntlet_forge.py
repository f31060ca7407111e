"""Each forgery is the one it says, and of good form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gauntlet import forge
from benchmarks.gauntlet.measure import listed, overlaps
from muster.kernels import Codec, Grid, SparseUpdate, compress, decode, encode

CODEC = Codec(Grid([(70, 65), (5000,), (3, 4)]), 64)
BEACON = bytes(32)


SIZE = 0.01
"""Of values: four times so much has a scale, too."""


def update_of(seed: int) -> SparseUpdate:
    draws = torch.Generator().manual_seed(seed)
    return compress([SIZE * torch.randn(shape, generator=draws) for shape in CODEC.grid.shapes], CODEC)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.sampled_from([0.25, 0.5, 0.8]))
def test_forgeries_are_updates_of_good_form(seed: int, part: float) -> None:
    update = update_of(seed)
    for forged in (
        forge.flipped(update),
        forge.scaled(update, 4.0),
        forge.part_zero(update),
        forge.zero(CODEC),
        forge.perturbed(update, part, np.random.default_rng(seed)),
        forge.noise(update, torch.Generator().manual_seed(seed)),
    ):
        assert decode(encode(forged), CODEC).identical(forged)


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_flipping_and_scaling_change_values_alone(seed: int) -> None:
    update = update_of(seed)
    for plain, against, twice in zip(
        update.dense(), forge.flipped(update).dense(), forge.scaled(update, 2.0).dense(), strict=True
    ):
        assert torch.equal(-plain, against)
        assert torch.equal(2 * plain, twice)


def test_the_part_of_the_indices_that_moves_is_the_one_asked_for() -> None:
    update = update_of(0)
    moved = forge.perturbed(update, 0.5, np.random.default_rng(0))
    shares = overlaps([listed(one, BEACON) for one in (update, moved)], [listed(update, BEACON)])
    assert shares.ravel().tolist() == [1.0, pytest.approx(0.5, abs=0.02)]


def test_zero_moves_nothing_and_half_zero_every_other_tensor() -> None:
    assert not any(tensor.any() for tensor in forge.zero(CODEC).dense())
    halved = forge.part_zero(update_of(0)).dense()
    assert [bool(tensor.any()) for tensor in halved] == [False, True, False]
