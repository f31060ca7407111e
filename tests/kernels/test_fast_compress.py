"""The compiled compression against the reference, bit for bit."""

from __future__ import annotations

import inspect
import re
from importlib.util import module_from_spec, spec_from_file_location
from unittest.mock import patch

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
import torch
from blake3 import blake3
from fast_inputs import BIG, KINDS, SPLITS, awkward_list, same_lists, shared_out
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import GOLDEN_GRID, GOLDEN_UPDATE, KEPT, SHAPES, tensors

from muster.kernels import Codec, Grid, compress, compress_, fast, fold, residual
from muster.kernels import grid as grid_module
from muster.kernels.fast import compress as fast_compress
from muster.kernels.fast import jit, jobs, loops
from muster.kernels.fast.step import step_

DECAYS = st.sampled_from([0.95, 0.0, 1.0, -0.3])


@given(SHAPES, KEPT, KINDS, SPLITS)
@example([(4096,)], 513, "ties", (1, 256))
@example([(64, 64)], 512, "ties", (1, 256))
@example([(64, 64)], 511, "equal", (1, 256))
@example([(70, 2500)], 64, "bits", (2, 1))
def test_it_keeps_and_codes_what_the_reference_does(
    shapes: list[tuple[int, ...]], k: int, kind: str, split: tuple[int, int]
) -> None:
    grid = Grid(shapes)
    acc = awkward_list(grid, kind, 1)
    with shared_out(split):
        assert fast_compress.compress(acc, Codec(grid, k)).identical(compress(acc, Codec(grid, k)))


@settings(max_examples=40)
@given(BIG, KEPT, KINDS, KINDS, DECAYS, SPLITS)
def test_one_pass_is_fold_compress_and_residual(
    shapes: list[tuple[int, ...]], k: int, kind: str, other: str, decay: float, split: tuple[int, int]
) -> None:
    grid = Grid(shapes)
    error, delta = awkward_list(grid, kind, 2), awkward_list(grid, other, 3)
    acc = [part.clamp(-3e38, 3e38) for part in fold(error, delta, decay)]
    if not same_lists(acc, fold(error, delta, decay)):
        return
    expected = compress(acc, Codec(grid, k))
    before = [part.clone() for part in error]
    with shared_out(split):
        update = fast_compress.compress_(delta, error, decay, Codec(grid, k), delta)
        assert update.identical(expected)
        assert same_lists(delta, residual(acc, expected))
        assert same_lists(error, before)


@given(SHAPES, KEPT, KINDS, DECAYS)
def test_the_reference_in_place_is_the_reference(
    shapes: list[tuple[int, ...]], k: int, kind: str, decay: float
) -> None:
    grid = Grid(shapes)
    error, delta = awkward_list(grid, "ties", 4), awkward_list(grid, kind, 5)
    acc = fold(error, delta, decay)
    expected = compress(acc, Codec(grid, k))
    assert compress_(delta, error, decay, Codec(grid, k)).identical(expected)
    assert same_lists(delta, residual(acc, expected))


def test_a_product_and_a_sum_are_two_roundings() -> None:
    error, delta = torch.full((70, 70), 1 + 2**-23), torch.full((70, 70), -0.95)
    acc = fold([error], [delta], 0.95)
    expected = residual(acc, compress(acc, Codec(Grid([(70, 70)]), 64)))
    fast_compress.compress_([delta], [error], 0.95, Codec(Grid([(70, 70)]), 64), [delta])
    assert same_lists([delta], expected)


def assembly() -> dict[str, str]:
    """What the processor is told to do by each loop: compiled anew, for what numba keeps shows no assembly."""
    grid = Grid([(64, 64)])
    delta = tensors(grid, 1)
    update = fast_compress.compress_(delta, tensors(grid, 0), 0.5, Codec(grid, 64), delta)
    step_(tensors(grid, 0), [update], np.ones((1, 1), np.float32), 1.0, np.ones(2, np.float32))
    fast_compress.subtract_(tensors(grid, 0), update, [1.0] * len(grid.shapes), save=True)
    spec = spec_from_file_location("fresh_loops", loops.__file__)
    assert spec is not None
    assert spec.loader is not None
    fresh, compiler = module_from_spec(spec), numba.njit
    with patch.object(numba, "njit", lambda **options: compiler(**(options | {"cache": False}))):
        spec.loader.exec_module(fresh)
    made = {}
    for name in ("compress_tiles", "step_tiles", "subtract_tiles"):
        loop = getattr(fresh, name)
        loop.compile(getattr(loops, name).signatures[0])
        made[name] = "".join(loop.inspect_asm().values())
    return made


def test_no_product_is_fused_with_a_sum(pytestconfig: pytest.Config) -> None:
    """Whatever the inputs: the processor is never told to.

    The compiler takes a dozen seconds, so what it made is kept until the loops, it or the processor are others.
    """
    assert pytestconfig.cache is not None
    sources = [inspect.getsource(module) for module in (loops, jit, grid_module)]
    cpu = (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
    made_of = blake3("\0".join((*sources, numba.__version__, llvmlite.__version__, *cpu)).encode()).hexdigest()
    found = pytestconfig.cache.get("muster/assembly", {})
    if found.get("made_of") != made_of:
        found = {"made_of": made_of, "code": assembly()}
        pytestconfig.cache.set("muster/assembly", found)
    assert set(found["code"]) == {"compress_tiles", "step_tiles", "subtract_tiles"}
    for name, code in found["code"].items():
        assert re.search(r"\bv?mul[sp]s\b|\bfmul\b", code), name
        assert not re.search(r"\bv?fn?m(add|sub|la|ls)", code), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("split", [(1, 256), (2, 1)])
def test_a_value_that_is_not_finite_is_refused(bad: float, split: tuple[int, int]) -> None:
    grid = Grid([(70, 70), (70, 70)])
    acc = [torch.zeros(70, 70), torch.ones(70, 70)]
    acc[1][69, 69] = bad
    with shared_out(split):
        with pytest.raises(ValueError, match=r"tensor 1 .* not finite"):
            fast_compress.compress(acc, Codec(grid, 64))
        error = [torch.ones(70, 70), torch.ones(70, 70)]
        with pytest.raises(ValueError, match=r"tensor 1 .* not finite"):
            fast_compress.compress_(acc, error, 0.5, Codec(grid, 64), acc)
    assert all(bool((part == 1).all()) for part in error)


def test_a_sum_that_overflows_is_refused() -> None:
    grid = Grid([(8,)])
    huge = torch.full((8,), 3e38)
    with pytest.raises(ValueError, match="not finite"):
        compress_([huge.clone()], [huge], 1.0, Codec(grid, 64))
    with pytest.raises(ValueError, match="not finite"):
        fast_compress.compress_([huge.clone()], [huge], 1.0, Codec(grid, 64), [huge.clone()])


def test_what_is_changed_in_place_must_fit() -> None:
    grid = Grid([(4, 5)])
    good = [torch.ones(4, 5)]
    for bad in ([torch.ones(5, 4).t()], [torch.ones(5, 4)], [torch.ones(4, 5).double()], []):
        with pytest.raises(ValueError, match=r"contiguous|shapes"):
            compress_(bad, good, 0.5, Codec(grid, 64))
        with pytest.raises(ValueError, match=r"contiguous|shapes"):
            compress_(good, bad, 0.5, Codec(grid, 64))


@pytest.mark.parametrize("split", [(1, 256), (2, 1)])
def test_golden_update(split: tuple[int, int]) -> None:
    """The very digest of the reference's test."""
    with shared_out(split):
        made = fast_compress.compress(tensors(GOLDEN_GRID, 0), Codec(GOLDEN_GRID, 64))
    content = b"".join(part.numpy().tobytes() for part in (made.indices, made.codes, made.scales))
    assert blake3(content).hexdigest() == GOLDEN_UPDATE


def test_large_models_take_the_compiled_loops() -> None:
    grid = Grid([(130, 70), (5000,)])
    error, delta = tensors(grid, 1), tensors(grid, 2)
    acc = fold(error, delta, 0.95)
    expected, left = compress(acc, Codec(grid, 64)), residual(acc, compress(acc, Codec(grid, 64)))
    ran = []
    real = jobs.run

    def run(*arguments: object) -> object:
        ran.append(arguments)
        return real(*arguments)  # type: ignore[arg-type]

    with patch.object(fast, "FAST_ENTRIES", sum(grid.numel)), patch.object(fast_compress, "run", run):
        assert compress(acc, Codec(grid, 64)).identical(expected)
        assert same_lists(residual(acc, expected), left)
        assert compress_(delta, error, 0.95, Codec(grid, 64)).identical(expected)
        assert same_lists(delta, left)
        strided = [acc[0].t().contiguous().t(), acc[1]]
        assert compress(strided, Codec(grid, 64)).identical(expected)
        assert len(ran) == 4
    with patch.object(fast, "FAST_ENTRIES", sum(grid.numel) + 1), patch.object(fast_compress, "run", run):
        compress(acc, Codec(grid, 64))
    assert len(ran) == 4


def test_without_the_compiler_everything_is_the_references() -> None:
    fast._compiler.cache_clear()
    with patch.object(fast, "find_spec", lambda _name: None):
        assert not fast.suits(fast.FAST_ENTRIES)
    fast._compiler.cache_clear()
    assert fast.suits(fast.FAST_ENTRIES)
    assert not fast.suits(fast.FAST_ENTRIES - 1)
