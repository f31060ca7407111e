"""Top-k with error feedback against a sort in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import GOLDEN_GRID, GOLDEN_UPDATE, KEPT, SHAPES, same_bits, tensors, update

from muster.kernels import Codec, Grid, compress, fold, residual


def expected_indices(values: torch.Tensor, kept: int) -> list[int]:
    """The kept indices of one tile, by the words of the definition."""
    bits = (values.numpy().view(np.uint32) & np.uint32(0x7FFFFFFF)).tolist()
    return sorted(sorted(range(len(bits)), key=lambda index: (-bits[index], index))[:kept])


@given(SHAPES, KEPT, st.integers(0, 3))
def test_the_largest_of_each_tile_are_kept(shapes: list[tuple[int, ...]], k: int, salt: int) -> None:
    grid = Grid(shapes)
    acc = tensors(grid, salt)
    made = compress(acc, Codec(grid, k))
    expected = [
        index
        for tile in range(grid.tiles)
        for index in expected_indices(grid.gather_tile(acc[grid.tensor_of(tile)], tile), int(grid.kept(k)[tile]))
    ]
    assert made.indices.tolist() == expected


def test_ties_go_to_the_lower_index_whatever_the_sign() -> None:
    acc = torch.tensor([0.0, 1.0, -1.0, 1.0, -1.0, -0.0, 2.0**-149, -(2.0**-149)]).repeat(512)
    grid = Grid([(4096,)])
    assert compress([acc], Codec(grid, 3)).indices.tolist() == [1, 2, 3]
    assert compress([torch.zeros(4096)], Codec(grid, 3)).indices.tolist() == [0, 1, 2]
    ones = (acc.abs() == 1).nonzero().flatten().tolist()
    assert set(compress([-acc], Codec(grid, 2051)).indices.tolist()) == {*ones, 6, 7, 14}
    subnormal = torch.zeros(4096)
    subnormal[4000] = -(2.0**-149)
    assert compress([subnormal], Codec(grid, 1)).indices.tolist() == [4000]


def test_a_zero_tensor_compresses_to_zero() -> None:
    grid = Grid([(64, 65)])
    made = compress([torch.zeros(64, 65)], Codec(grid, 64))
    assert not made.codes.any()
    assert not made.scales.any()
    assert not made.dense()[0].any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    acc = torch.zeros(70, 70)
    acc[69, 69] = bad
    with pytest.raises(ValueError, match="not finite"):
        compress([acc], Codec(Grid([(70, 70)]), 64))


def test_tensors_that_are_not_the_grids_are_refused() -> None:
    grid = Grid([(4, 5)])
    for acc in ([torch.zeros(5, 4)], [torch.zeros(4, 5).double()], []):
        with pytest.raises(ValueError, match="shapes of the grid"):
            compress(acc, Codec(grid, 64))
    with pytest.raises(ValueError, match="shapes of the grid"):
        residual([torch.zeros(20)], compress([torch.zeros(4, 5)], Codec(grid, 64)))


@given(SHAPES, KEPT)
def test_the_residual_is_what_was_not_sent(shapes: list[tuple[int, ...]], k: int) -> None:
    grid = Grid(shapes)
    acc = tensors(grid, 1)
    made = compress(acc, Codec(grid, k))
    for before, sent, left in zip(acc, made.dense(), residual(acc, made), strict=True):
        assert torch.equal(left, before - sent)


def test_entries_that_were_not_sent_keep_their_bits() -> None:
    acc = torch.full((4096,), -0.0)
    acc[7] = 1 + 1 / 64
    left = residual([acc], compress([acc], Codec(Grid([(4096,)]), 1)))[0]
    untouched = torch.arange(4096) != 7
    assert same_bits(left[untouched], acc[untouched])
    assert left[7] == 1 / 64
    assert acc[7] == 1 + 1 / 64


def test_a_transposed_tensor_is_read_by_its_logical_order() -> None:
    acc = tensors(Grid([(70, 90)]), 3)[0]
    grid = Grid([(90, 70)])
    strided, packed = acc.t(), acc.t().contiguous()
    assert compress([strided], Codec(grid, 64)).identical(compress([packed], Codec(grid, 64)))
    made = compress([packed], Codec(grid, 64))
    assert same_bits(residual([strided], made)[0], residual([packed], made)[0])


def test_fold_rounds_the_product_and_the_sum() -> None:
    error, delta = np.float32(1 + 2**-23), np.float32(-0.95)
    folded = fold([torch.tensor([error])], [torch.tensor([delta])], 0.95)[0]
    beta = np.float32(0.95)
    assert folded[0].item() == float(np.float32(beta * error) + delta)
    fused = np.float32(np.float64(beta) * np.float64(error) + np.float64(delta))
    assert folded[0].item() != float(fused)


def test_fold_makes_new_tensors() -> None:
    error, delta = torch.ones(3), torch.ones(3)
    fold([error], [delta], 0.5)[0].fill_(9)
    assert error.tolist() == delta.tolist() == [1, 1, 1]


def test_golden_update() -> None:
    made = update(GOLDEN_GRID, 64, 0)
    content = b"".join(part.numpy().tobytes() for part in (made.indices, made.codes, made.scales))
    assert blake3(content).hexdigest() == GOLDEN_UPDATE


def test_a_bf16_pseudo_gradient_is_widened_exactly_before_anything_is_rounded() -> None:
    """A working copy in bf16 gives Δ in bf16; what is folded has fp32 all the way."""
    grid = Grid([(130, 70), (5000,)])
    narrow = [tensor.to(torch.bfloat16) for tensor in tensors(grid, 1)]
    error = tensors(grid, 2)
    folded = fold(error, narrow, 0.95)
    assert all(tensor.dtype == torch.float32 for tensor in folded)
    widened = fold(error, [tensor.float() for tensor in narrow], 0.95)
    assert all(same_bits(a, b) for a, b in zip(folded, widened, strict=True))
    assert compress(folded, Codec(grid, 64)).identical(compress(widened, Codec(grid, 64)))
