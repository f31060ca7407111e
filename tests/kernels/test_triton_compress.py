"""The GPU compression, interpreted, against the reference, bit for bit."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from unittest.mock import Mock, patch

import pytest
import torch
from any_order import Device
from blake3 import blake3
from cuda_inputs import CUT, on_gpu
from fast_inputs import KINDS, awkward_list, same_lists
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import GOLDEN_GRID, GOLDEN_UPDATE, KEPT, SHAPES, tensors

from muster.kernels import Codec, Grid, compress, compress_, cuda, fold, residual
from muster.kernels.cuda import compress as cuda_compress
from muster.kernels.cuda.tables import bound_table, parts, pieces
from muster.kernels.quantiser import BOUNDS

DECAYS = st.sampled_from([0.95, 0.0, 1.0, -0.3])


@settings(max_examples=15)
@given(SHAPES, KEPT, KINDS)
@example(CUT, 64, "bits")
@example(CUT, 64, "ties")
@example(CUT, 300, "zeros")
@example(CUT, 1, "equal")
@example(CUT, 4096, "wide")
@example(CUT, 4095, "rows")
@example(CUT, 7, "subnormal")
@example(CUT, 64, "spike")
def test_it_keeps_and_codes_what_the_reference_does(shapes: list[tuple[int, ...]], k: int, kind: str) -> None:
    grid = Grid(shapes)
    acc = awkward_list(grid, kind, 1)
    before = [part.clone() for part in acc]
    expected = compress(acc, Codec(grid, k))
    with on_gpu():
        assert compress(acc, Codec(grid, k)).identical(expected)
    assert same_lists(acc, before)


@settings(max_examples=10)
@given(SHAPES, KEPT, KINDS, KINDS, DECAYS)
@example(CUT, 64, "ties", "wide", 0.95)
@example(CUT, 300, "zeros", "zeros", -0.3)
@example(CUT, 64, "subnormal", "subnormal", 0.95)
@example(CUT, 4096, "equal", "zeros", 0.95)
def test_one_pass_is_fold_compress_and_residual(
    shapes: list[tuple[int, ...]], k: int, kind: str, other: str, decay: float
) -> None:
    grid = Grid(shapes)
    error, delta = awkward_list(grid, kind, 2), awkward_list(grid, other, 3)
    acc = [part.clamp(-3e38, 3e38) for part in fold(error, delta, decay)]
    if not same_lists(acc, fold(error, delta, decay)):
        return
    expected = compress(acc, Codec(grid, k))
    left, before = residual(acc, expected), [part.clone() for part in error]
    with on_gpu():
        assert same_lists(residual(acc, expected), left)
        sent = compress_(delta, error, decay, Codec(grid, k))
        assert sent.identical(expected)
        assert same_lists(delta, left)
        assert same_lists(error, before)


@settings(max_examples=10)
@given(SHAPES.filter(bool), KEPT, st.integers(0, 100), st.sampled_from([0.0, 0.7]))
@example(CUT, 64, 0, 0.0)
@example(CUT, 64, 1, 0.7)
@example([(200, 70), (1, 200), (9000,)], 64, 2, 0.7)
def test_error_feedback_that_comes_and_goes_beside_the_work_is_the_same(
    shapes: list[tuple[int, ...]], k: int, seed: int, eagerness: float
) -> None:
    """In pieces of a band or two, whatever the GPU does first."""
    grid = Grid(shapes)
    error, delta = awkward_list(grid, "ties", 4), awkward_list(grid, "rows", 5)
    acc = fold(error, delta, 0.95)
    expected = compress(acc, Codec(grid, k))
    rest, before = residual(acc, expected), [part.clone() for part in error]
    left = [torch.zeros_like(part) for part in delta]
    with on_gpu(), patch.object(cuda_compress, "PIECE", 2 * 64 * 70):
        sent = cuda_compress.compress_between(delta, error, 0.95, Codec(grid, k), left, Device(seed, eagerness).make())
    assert sent.identical(expected)
    assert same_lists(left, rest)
    assert same_lists(error, before)


@given(SHAPES, st.integers(1, 20_000))
@example([(1, 200), (9000,), (200, 130)], 64 * 130 * 2)
@example([(1, 200), (9000,), (200, 130)], 1)
def test_the_pieces_are_the_tensor_and_each_is_cut_as_the_grid_cuts_it(
    shapes: list[tuple[int, ...]], most: int
) -> None:
    grid = Grid(shapes)
    for part in parts(grid):
        cuts, bands = list(pieces(part, most)), grid.bands(part.tensor)
        assert [0, *(cut.end for cut in cuts)] == [*(cut.begin for cut in cuts), grid.numel[part.tensor]]
        assert all(cut.end - cut.begin <= max(most, bands[0][1]) for cut in cuts)
        tiles = [(cut.part.first, cut.part.first + cut.part.tiles) for cut in cuts]
        assert [part.first, *(last for _, last in tiles)] == [*(first for first, _ in tiles), part.first + part.tiles]
        for cut in cuts:
            assert cut.part.rows * cut.part.cols == cut.end - cut.begin
            sizes = grid.tile_sizes[cut.part.first : cut.part.first + cut.part.tiles]
            assert sizes.sum() == cut.end - cut.begin


def test_where_it_goes_may_be_elsewhere() -> None:
    grid = Grid(CUT)
    error, delta, left = (awkward_list(grid, "ties", salt) for salt in (6, 7, 8))
    acc = fold(error, delta, 0.95)
    with on_gpu():
        sent = compress_(delta, error, 0.95, Codec(grid, 64), left)
    assert same_lists(left, residual(acc, sent))


def test_a_mean_at_a_bound_has_the_byte_above_it_and_one_below_has_not() -> None:
    at = BOUNDS[::8].float()
    edges = torch.cat([at, torch.nextafter(at, torch.zeros(()))])
    grid = Grid([()] * len(edges))
    acc = list(edges.unbind())
    with on_gpu():
        made = compress(acc, Codec(grid, 64))
    expected = torch.cat([torch.arange(1, 256, 8), torch.arange(0, 255, 8)])
    assert torch.equal(made.scales[:, 1].long(), expected)
    assert made.identical(compress(acc, Codec(grid, 64)))


def test_a_low_part_however_far_below_the_high_one_has_its_own_byte() -> None:
    """k = 2 of 4096: one large value and one from as large down to below its last bit."""
    acc = []
    for octaves in range(28):
        acc.append(torch.zeros(4096))
        acc[-1][7:9] = torch.tensor([-1.75, 1.25 * 2.0**-octaves])
    grid = Grid([(4096,)] * len(acc))
    expected = compress(acc, Codec(grid, 2))
    assert len(set(expected.scales[:, 0].tolist())) > 20
    with on_gpu():
        assert compress(acc, Codec(grid, 2)).identical(expected)


def test_the_bounds_in_integers_are_the_bounds() -> None:
    mantissas, powers = bound_table(torch.device("cpu"))
    assert torch.equal(torch.ldexp(mantissas.double(), powers), BOUNDS)
    assert bool(((mantissas >= 1 << 23) & (mantissas < 1 << 24)).all())


def test_a_product_and_a_sum_are_two_roundings() -> None:
    error, delta = torch.full((7, 9), 1 + 2**-23), torch.full((7, 9), -0.95)
    acc = fold([error], [delta], 0.95)
    expected = residual(acc, compress(acc, Codec(Grid([(7, 9)]), 64)))
    with on_gpu():
        compress_([delta], [error], 0.95, Codec(Grid([(7, 9)]), 64))
    assert same_lists([delta], expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    grid = Grid([(7, 9), (70, 9)])
    acc = [torch.zeros(7, 9), torch.ones(70, 9)]
    acc[1][69, 8] = bad
    error = [torch.ones(7, 9), torch.ones(70, 9)]
    with on_gpu():
        with pytest.raises(ValueError, match=r"tensor 1 .* not finite"):
            compress(acc, Codec(grid, 64))
        with pytest.raises(ValueError, match=r"tensor 1 .* not finite"):
            compress_(acc, error, 0.5, Codec(grid, 64))
    assert all(bool((part == 1).all()) for part in error)


def test_a_refused_tile_writes_into_no_other_tiles_entries() -> None:
    """However many of its entries tie at infinity: the next tile's kept ones stand after its own."""
    acc = torch.full((64, 128), float("inf"))
    acc[:, 64:] = tensors(Grid([(64, 64)]), 1)[0]
    expected = compress([acc[:, 64:].contiguous()], Codec(Grid([(64, 64)]), 64))
    real, made = torch.empty, []

    def empty(*arguments: object, **options: object) -> torch.Tensor:
        made.append(real(*arguments, **options).fill_(77))  # type: ignore[call-overload]
        return made[-1]

    with on_gpu(), patch.object(torch, "empty", empty), pytest.raises(ValueError, match="not finite"):
        cuda_compress.compress([acc], Codec(Grid([(64, 128)]), 64))
    assert bool((made[0][:64] == 77).all())
    assert torch.equal(made[0][64:], expected.indices)


def test_a_sum_that_overflows_is_refused() -> None:
    huge = torch.full((8,), 3e38)
    with on_gpu(), pytest.raises(ValueError, match="not finite"):
        compress_([huge.clone()], [huge], 1.0, Codec(Grid([(8,)]), 64))


def test_golden_update() -> None:
    """The very digest of the reference's test."""
    with on_gpu():
        made = compress(tensors(GOLDEN_GRID, 0), Codec(GOLDEN_GRID, 64))
    content = b"".join(part.numpy().tobytes() for part in (made.indices, made.codes, made.scales))
    assert blake3(content).hexdigest() == GOLDEN_UPDATE


@pytest.mark.parametrize(
    ("found", "expected"), [("3.6.0+git1", True), ("3.10.1", True), ("3.5.1", False), (None, False)]
)
def test_tritons_that_flush_subnormal_quotients_are_not_used(found: str | None, expected: bool) -> None:
    version = Mock(return_value=found) if found else Mock(side_effect=PackageNotFoundError)
    cuda.suits.cache_clear()
    with patch.object(cuda, "version", version):
        assert cuda.suits() is expected
    cuda.suits.cache_clear()


def test_a_compiler_for_other_gpus_is_not_used() -> None:
    assert cuda.suits()
    with patch.object(torch.version, "hip", "6.4"):
        cuda.suits.cache_clear()
        assert not cuda.suits()
    cuda.suits.cache_clear()
