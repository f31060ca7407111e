"""Every form in which the study sends an update is what its name says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.convergence import updates
from benchmarks.convergence.attack import on_empty_entries
from muster import kernels
from muster.kernels import Codec, Grid

GRID = Grid(((130, 70), (64,), (128, 64)))
K = 64


def accumulator(seed: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random) for shape in GRID.shapes]


def test_the_loops_taken_by_name_have_the_references_bits() -> None:
    acc = accumulator(0)
    sent = updates.largest(acc, K, GRID)
    assert sent.identical(kernels.compress(acc, Codec(GRID, K)))
    pairs = zip(updates.subtracted(acc, sent), kernels.residual(acc, sent), strict=True)
    assert all(torch.equal(ours, reference) for ours, reference in pairs)
    others = [sent, updates.largest(accumulator(1), K, GRID)]
    weights = kernels.clip_weights(others, [1, 1])
    for rule in ("mean", "sender_mean", "damped_mean"):
        ours, reference = accumulator(2), accumulator(2)
        updates.aggregate_(ours, others, weights, 0.7, rule)
        kernels.aggregate_(reference, others, weights, 0.7, rule)
        assert all(torch.equal(a, b) for a, b in zip(ours, reference, strict=True))


def test_exact_values_leave_nothing_behind_where_they_are_sent() -> None:
    acc = accumulator(0)
    sent = updates.with_values(updates.largest(acc, K, GRID), acc, "exact")
    for i, left in enumerate(updates.subtracted(acc, sent)):
        assert not left.view(-1)[sent.positions(i)].any()
    dense = [torch.zeros(shape) for shape in GRID.shapes]
    updates.aggregate_(dense, [sent], np.ones((1, len(GRID.shapes)), np.float32), -1.0, "sender_mean")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(dense, sent.dense(), strict=True))


def test_eight_bits_are_within_half_a_step_of_each_tile() -> None:
    acc = accumulator(0)
    plain = updates.largest(acc, K, GRID)
    eight = updates.with_values(plain, acc, "8bit")
    exact = updates.listed(acc, plain)
    starts = GRID.entry_starts(K)
    for tile in range(GRID.tiles):
        entries = slice(int(starts[tile]), int(starts[tile + 1]))
        error = (torch.cat([eight.values(i) for i in range(len(GRID.shapes))])[entries] - exact[entries]).abs().max()
        assert error <= exact[entries].abs().max() / 254 * 1.0001


def test_a_tile_of_zeros_has_eight_bit_zeros() -> None:
    acc = [torch.zeros(shape) for shape in GRID.shapes]
    sent = updates.with_values(updates.largest(acc, K, GRID), acc, "8bit")
    assert all(not tensor.any() for tensor in sent.dense())


def test_the_cap_bounds_precise_values() -> None:
    acc = accumulator(0)
    sent = updates.with_values(updates.largest(acc, K, GRID), acc, "exact")
    capped = kernels.capped(sent, (0.5, math.inf, 2.0))
    assert capped.values(0).abs().max() == 0.5
    assert torch.equal(capped.values(1), sent.values(1))


def test_random_entries_are_quantised_where_they_are_and_differ_between_draws() -> None:
    acc = accumulator(0)
    first, other = (updates.random_entries(acc, K, GRID, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert not torch.equal(first.indices, other.indices)
    for i, tensor in enumerate(acc):
        there = tensor.view(-1)[first.positions(i)]
        assert torch.equal(there < 0, first.values(i) < 0)
    assert kernels.encode(kernels.decode(kernels.encode(first), Codec(GRID, K))) == kernels.encode(first)


def test_bytes_of_two_bit_values_are_the_wires() -> None:
    acc = accumulator(0)
    sent = updates.largest(acc, K, GRID)
    assert updates.payload_bytes(sent, "2bit") == 17 + len(kernels.encode(sent))
    entries = len(sent.indices)
    blank = replace(sent, scales=torch.zeros_like(sent.scales), codes=torch.zeros_like(sent.codes))
    rest = 17 + len(kernels.encode(blank)) - math.ceil(entries / 4)
    assert updates.payload_bytes(sent, "exact") == rest + 4 * entries
    assert updates.payload_bytes(sent, "8bit") == rest + entries + 4 * GRID.tiles


def test_an_attacker_is_where_nobody_is_and_far_above_everybody() -> None:
    small = [[0.01 * tensor for tensor in accumulator(seed)] for seed in range(8)]  # or the scale bytes end first
    others = [updates.largest(acc, K, GRID) for acc in small]
    attack = on_empty_entries(others, np.random.default_rng(0))
    for i in range(len(GRID.shapes)):
        taken = set(torch.cat([other.positions(i) for other in others]).tolist())
        assert taken.isdisjoint(attack.positions(i).tolist())
        peak = max(float(other.tensor_scales(i).max()) for other in others)
        assert attack.values(i).abs().numpy() == pytest.approx(20.7 * peak, rel=0.01)
    assert attack.identical(kernels.decode(kernels.encode(attack), Codec(GRID, K)))
