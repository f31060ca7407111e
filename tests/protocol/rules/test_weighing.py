"""Weights a verifier recomputes to the bit, and that no spike outweighs a round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import layout, run_spec, update

from muster.kernels import SparseUpdate, norm
from muster.protocol.ledger import prepare
from muster.protocol.rules.weighing import cap_scales, weigh
from muster.protocol.spec import OuterSpec

TENSORS = len(layout().shapes)
EMBEDDING = 0


def outer(**fields: Any) -> OuterSpec:
    return run_spec(outer=fields).outer


def louder(work: SparseUpdate, octaves: int, tensor: int = EMBEDDING) -> SparseUpdate:
    """`work` with the scales of one tensor times 2**octaves (eight scale bytes to an octave)."""
    scales = work.scales.clone()
    first, last = layout().grid.tensor_tiles[tensor]
    part = scales[first:last]
    scales[first:last] = torch.where(part > 0, part + 8 * octaves, part)
    return replace(work, scales=scales)


def test_equal_updates_weigh_one_each_or_one_in_r() -> None:
    updates = [update(1)] * 3
    ones = np.ones((3, TENSORS), np.float32)
    assert np.array_equal(weigh(updates, outer(rule="sender_mean")), ones)
    assert np.array_equal(weigh(updates, outer(rule="mean")), ones * np.float32(1 / 3))


def test_norm_clip_takes_the_lower_median() -> None:
    updates = [update(1), louder(update(1), 1), louder(update(1), 2), louder(update(1), 3)]
    column = weigh(updates, outer(rule="sender_mean", norm_clip=True))[:, EMBEDDING]
    assert column.tolist() == [1.0, 1.0, 0.5, 0.25]
    assert (weigh(updates, outer(rule="sender_mean", norm_clip=False)) == 1).all()


def test_mean_divides_in_float64_and_rounds_once() -> None:
    updates = [update(1), update(2), louder(update(3), 2)]
    clip = weigh(updates, outer(rule="sender_mean"))
    mean = weigh(updates, outer(rule="mean"))
    assert mean.dtype == np.float32
    for r in range(3):
        for i in range(TENSORS):
            assert mean[r, i] == np.float32(float(clip[r, i]) / 3)


def test_weights_are_of_capped_updates() -> None:
    """The cap of 2 × the median high scale brings a spike of 2**5 down to that, low scales too; the clip undoes it."""
    updates = [update(1), update(1), louder(update(1), 5)]
    capped = cap_scales(updates, outer(scale_cap=2.0))
    ratio = norm(capped[2], EMBEDDING) / norm(capped[0], EMBEDDING)
    assert 2.0 <= ratio < 2.5
    prepared, weights = prepare(updates, run_spec(outer={"scale_cap": 2.0, "rule": "sender_mean"}))
    assert np.array_equal(weights, weigh(capped, outer(rule="sender_mean")))
    assert weights[2, EMBEDDING] == pytest.approx(1 / ratio)
    assert [u.scale_limit for u in prepared] == [u.scale_limit for u in capped]


def test_a_damped_mean_weighs_by_the_clip_alone() -> None:
    updates = [update(1), louder(update(1), 1), louder(update(2), 2)]
    clip = weigh(updates, outer(rule="sender_mean"))
    assert np.array_equal(weigh(updates, outer(rule="damped_mean")), clip)
    assert (clip < 1).any()


def test_no_cap_changes_nothing() -> None:
    updates = [update(1), louder(update(2), 5)]
    assert cap_scales(updates, outer(scale_cap=0.0)) == updates


def test_no_updates_have_no_weights() -> None:
    prepared, weights = prepare([], run_spec())
    assert prepared == []
    assert weights.shape == (0, TENSORS)
    assert weights.dtype == np.float32


def test_golden_bits() -> None:
    _, weights = prepare([update(1), update(2), update(3)], run_spec(outer={"rule": "mean"}))
    assert weights.astype("<f4").tobytes().hex() == (
        "abaaaa3eabaaaa3eabaaaa3ed3bca33eabaaaa3eabaaaa3eabaaaa3eabaaaa3eb930a83eabaaaa3eabaaaa3e"
        "85809c3eabaaaa3eabaaaa3eabaaaa3eabaaaa3e4bff9f3eabaaaa3e85809c3eabaaaa3eabaaaa3eabaaaa3e"
        "abaaaa3eabaaaa3ead4ca43eabaaaa3ed3bca33eabaaaa3eabaaaa3eabaaaa3eabaaaa3eed7ba33eabaaaa3e"
    )
