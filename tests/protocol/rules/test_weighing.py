"""Weights a verifier recomputes to the bit; no spike outweighs a round, and who brings nothing stops nobody."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import layout, run_spec, theta, update
from hypothesis import given
from hypothesis import strategies as st

from muster.kernels import SparseUpdate, aggregate_, norm
from muster.protocol.ledger import prepare
from muster.protocol.rules.weighing import Limits, as_applied, limits_of, weigh
from muster.protocol.spec import OuterSpec

TENSORS = len(layout().shapes)
EMBEDDING = 0
W = 4
"""Windows that everybody declares where it is no matter."""


def outer(**fields: Any) -> OuterSpec:
    return run_spec(outer=fields).outer


def louder(work: SparseUpdate, octaves: int, tensor: int = EMBEDDING) -> SparseUpdate:
    """`work` with the scales of one tensor times 2**octaves (eight scale bytes to an octave)."""
    scales = work.scales.clone()
    first, last = layout().grid.tensor_tiles[tensor]
    part = scales[first:last]
    scales[first:last] = torch.where(part > 0, part + 8 * octaves, part)
    return replace(work, scales=scales)


def silent(work: SparseUpdate, *tensors: int) -> SparseUpdate:
    """`work` with zero scales for some tensors."""
    scales = work.scales.clone()
    for tensor in tensors:
        first, last = layout().grid.tensor_tiles[tensor]
        scales[first:last] = 0
    return replace(work, scales=scales)


def equal(updates: list[SparseUpdate], spec: OuterSpec) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Weights of updates that all declare the same windows."""
    return weigh(updates, [W] * len(updates), spec).weights


def test_equal_updates_weigh_one_each_or_one_in_r() -> None:
    updates = [update(1)] * 3
    ones = np.ones((3, TENSORS), np.float32)
    assert np.array_equal(equal(updates, outer(rule="sender_mean")), ones)
    assert np.array_equal(equal(updates, outer(rule="mean")), ones * np.float32(1 / 3))


def test_norm_clip_takes_the_lower_median() -> None:
    updates = [update(1), louder(update(1), 1), louder(update(1), 2), louder(update(1), 3)]
    column = equal(updates, outer(rule="sender_mean", norm_clip=True, scale_cap=0.0))[:, EMBEDDING]
    assert column.tolist() == [1.0, 1.0, 0.5, 0.25]
    assert (equal(updates, outer(rule="sender_mean", norm_clip=False)) == 1).all()


def test_mean_divides_in_float64_and_rounds_once() -> None:
    updates = [update(1), update(2), louder(update(3), 2)]
    clip = equal(updates, outer(rule="sender_mean"))
    mean = equal(updates, outer(rule="mean"))
    assert mean.dtype == np.float32
    for r in range(3):
        for i in range(TENSORS):
            assert mean[r, i] == np.float32(float(clip[r, i]) / 3)


def test_weights_are_of_capped_updates() -> None:
    """The cap of 2 × the median high scale brings a spike of 2**5 down to that, low scales too; the clip undoes it."""
    updates = [update(1), update(1), louder(update(1), 5)]
    spec = run_spec(outer={"scale_cap": 2.0, "rule": "sender_mean"})
    prepared, weights, unmoved = prepare(updates, [W] * 3, spec)
    ratio = norm(prepared[2], EMBEDDING) / norm(prepared[0], EMBEDDING)
    assert 2.0 <= ratio < 2.5
    assert weights[2, EMBEDDING] == pytest.approx(1 / ratio)
    assert (weights[:2] == 1).all()
    limits = limits_of(updates, [W] * 3, spec.outer)
    assert [each.scale_limit for each in prepared] == [limits.caps] * 3
    assert unmoved == limits.unmoved == ()


def test_a_damped_mean_weighs_by_the_clip_alone() -> None:
    updates = [update(1), louder(update(1), 1), louder(update(2), 2)]
    clip = equal(updates, outer(rule="sender_mean"))
    assert np.array_equal(equal(updates, outer(rule="damped_mean")), clip)
    assert (clip < 1).any()


def test_no_cap_changes_nothing() -> None:
    updates = [update(1), louder(update(2), 5)]
    assert limits_of(updates, [W] * 2, outer(scale_cap=0.0)).caps == (math.inf,) * TENSORS


def test_no_updates_have_no_weights() -> None:
    prepared, weights, unmoved = prepare([], [], run_spec())
    assert prepared == []
    assert weights.shape == (0, TENSORS)
    assert weights.dtype == np.float32
    assert unmoved == ()


def test_windows_without_an_update_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        limits_of([update(1)], [W, W], outer())


def test_golden_bits() -> None:
    _, weights, _ = prepare([update(1), update(2), update(3)], [W] * 3, run_spec(outer={"rule": "mean"}))
    assert weights.astype("<f4").tobytes().hex() == (
        "abaaaa3eabaaaa3eabaaaa3ed3bca33eabaaaa3eabaaaa3eabaaaa3eabaaaa3eb930a83eabaaaa3eabaaaa3e"
        "85809c3eabaaaa3eabaaaa3eabaaaa3eabaaaa3e4bff9f3eabaaaa3e85809c3eabaaaa3eabaaaa3eabaaaa3e"
        "abaaaa3eabaaaa3ead4ca43eabaaaa3ed3bca33eabaaaa3eabaaaa3eabaaaa3eabaaaa3eed7ba33eabaaaa3e"
    )


def moved(updates: list[SparseUpdate], windows: list[int]) -> list[torch.Tensor]:
    """How far each tensor of θ goes in an outer step, |θ' − θ|."""
    spec = run_spec(outer={"rule": "damped_mean", "scale_cap": 8.0, "norm_clip": True})
    after = [tensor.clone() for tensor in theta()]
    prepared, weights, _ = prepare(updates, windows, spec)
    aggregate_(after, prepared, weights, 1.0, spec.outer.rule)
    return [(a - b).abs() for a, b in zip(after, theta(), strict=True)]


def test_half_of_the_accepted_cannot_stop_a_tensor_with_zero_scales() -> None:
    honest, idle = [update(1), update(2), update(3)], [silent(update(salt), EMBEDDING) for salt in (4, 5, 6)]
    spec = outer(scale_cap=8.0)
    alone, beside = limits_of(honest, [W] * 3, spec), limits_of([*idle, *honest], [W] * 6, spec)
    assert beside.caps[EMBEDDING] == alone.caps[EMBEDDING] > 0
    assert beside.medians[EMBEDDING] == alone.medians[EMBEDDING]
    assert beside.unmoved == ()
    assert moved([*idle, *honest], [W] * 6)[EMBEDDING].any()


def test_half_of_the_seats_with_less_work_do_not_clip_the_others() -> None:
    """Half of the work has about half the norm: declared, it gives the measure that the whole work gives."""
    weak, full = [update(salt) for salt in (1, 2, 3)], [louder(update(salt), 1) for salt in (1, 2, 3)]
    spec = outer(scale_cap=0.0)
    declared = weigh([*weak, *full], [2] * 3 + [4] * 3, spec).weights[:, EMBEDDING]
    hidden = weigh([*weak, *full], [4] * 6, spec).weights[:, EMBEDDING]
    assert (declared[:3] == declared[3:]).all()
    assert (hidden[3:] <= 0.5).any()
    assert (declared[3:] > hidden[3:]).all()
    honest, cut = moved([*weak, *full], [2] * 3 + [4] * 3), moved([*weak, *full], [4] * 6)
    assert honest[EMBEDDING].sum() > cut[EMBEDDING].sum()


def test_a_lone_owner_among_others_moves_nothing() -> None:
    """Its cap and its clip would be its own, so it could move the tensor as far as it liked."""
    others = [silent(update(salt), EMBEDDING) for salt in (1, 2, 3)]
    updates = [*others, louder(update(4), 5)]
    weighed = weigh(updates, [W] * 4, outer())
    assert weighed.unmoved == (EMBEDDING,)
    assert not weighed.weights[:, EMBEDDING].any()
    assert weighed.weights[:, 1:].all()
    assert not moved(updates, [W] * 4)[EMBEDDING].any()
    assert weigh(updates, [W] * 4, outer(min_owners=1)).unmoved == ()
    two = [*others[1:], update(5), louder(update(4), 5)]
    weights = weigh(two, [W] * 4, outer()).weights[:, EMBEDDING]
    assert weights[2] == 1
    assert weights[3] < 1, "of two the lower median is the smaller"


def test_a_lone_miner_moves_all_it_brings() -> None:
    lone, idle = update(1), silent(update(2), *range(TENSORS))
    assert weigh([lone], [W], outer()).unmoved == ()
    assert weigh([idle, lone], [W] * 2, outer()).unmoved == (), "who brings nothing at all makes it no less alone"
    assert weigh([silent(lone, 2)], [W], outer()).unmoved == (2,)
    assert weigh([idle], [W], outer()).unmoved == tuple(range(TENSORS))


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[SparseUpdate], list[int]]:
    """Updates of any loudness, some silent for some tensors, and their windows."""
    tensors, salts = st.integers(0, TENSORS - 1), st.integers(1, 5)
    updates = []
    for salt in draw(st.lists(salts, min_size=1, max_size=6)):
        loud = louder(update(salt), draw(st.integers(-3, 3)), draw(tensors))
        updates.append(silent(loud, *draw(st.sets(tensors, max_size=3))))
    return updates, draw(st.lists(st.integers(1, 6), min_size=len(updates), max_size=len(updates)))


@given(rounds(), st.integers(1, 6), st.integers(0, 6), st.sampled_from([0.0, 1.5, 8.0]))
def test_who_brings_nothing_changes_nothing_for_the_others(
    made: tuple[list[SparseUpdate], list[int]], windows: int, at: int, cap: float
) -> None:
    """An update of zeros anywhere in a round leaves limits and clips to the bit as they were."""
    (updates, declared), spec = made, outer(scale_cap=cap)
    at = min(at, len(updates))
    idle = silent(update(1), *range(TENSORS))
    more, theirs = [*updates[:at], idle, *updates[at:]], [*declared[:at], windows, *declared[at:]]
    assert limits_of(more, theirs, spec) == limits_of(updates, declared, spec)
    before, after = weigh(updates, declared, spec), weigh(more, theirs, spec)
    assert np.delete(after.weights, at, axis=0).tobytes() == before.weights.tobytes()


@given(rounds(), st.integers(1, 6), st.integers(0, TENSORS - 1))
def test_who_brings_nothing_for_a_tensor_moves_neither_its_cap_nor_its_clip(
    made: tuple[list[SparseUpdate], list[int]], windows: int, tensor: int
) -> None:
    (updates, declared), spec = made, outer(scale_cap=2.0)
    alone = limits_of(updates, declared, spec)
    beside = limits_of([*updates, silent(update(6), tensor)], [*declared, windows], spec)
    assert beside.caps[tensor] == alone.caps[tensor]
    assert beside.medians[tensor] == alone.medians[tensor]


@given(rounds(), st.sampled_from(["mean", "sender_mean", "damped_mean"]), st.booleans())
def test_the_accepted_are_weighed_as_anybody_is(
    made: tuple[list[SparseUpdate], list[int]], rule: str, norm_clip: bool
) -> None:
    """What `as_applied` says of an accepted update is what its record does with it, R aside."""
    (updates, declared), spec = made, outer(rule=rule, norm_clip=norm_clip, scale_cap=2.0)
    limits, weighed = limits_of(updates, declared, spec), weigh(updates, declared, spec)
    for i, (each, windows) in enumerate(zip(updates, declared, strict=True)):
        taken, clip = as_applied(each, windows, limits, spec)
        assert taken.identical(weighed.updates[i])
        by = len(updates) if rule == "mean" else 1
        assert weighed.weights[i].tobytes() == (clip.astype(np.float64) / by).astype(np.float32).tobytes()


def test_who_got_no_seat_is_measured_by_the_accepted() -> None:
    """Loud as it may be, it is what its quiet twin is, and it has no part in what measures it."""
    accepted, spec = [update(1), update(2), update(3)], outer(scale_cap=2.0)
    limits = limits_of(accepted, [W] * 3, spec)
    loud = louder(louder(update(4), 4, EMBEDDING), 3, 2)
    taken, clip = as_applied(loud, W, limits, spec)
    assert taken.scale_limit == limits.caps
    for i in (EMBEDDING, 2):
        allowed = limits.medians[i][0]
        assert norm(taken, i) * clip[i] == pytest.approx(allowed, rel=1e-6)
    alone = Limits(limits.caps, limits.medians, (EMBEDDING,))
    assert as_applied(loud, W, alone, spec)[1][EMBEDDING] == 0


@given(
    salts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    late=st.lists(st.tuples(st.integers(7, 9), st.integers(1, 3), st.integers(-2, 6), st.integers(1, 9)), max_size=3),
    rule=st.sampled_from(["mean", "sender_mean", "damped_mean"]),
)
def test_what_comes_late_changes_nothing_of_what_came_in_time(
    salts: list[int], late: list[tuple[int, int, int, int]], rule: str
) -> None:
    """Caps, clips and tensors left alone are those of the work in time; what is late is under them, times its age."""
    spec = outer(rule=rule, scale_cap=2.0, age_weights=(0.75, 0.5, 0.125))
    timely, overdue = [update(salt) for salt in salts], [louder(update(salt), loud) for salt, _, loud, _ in late]
    windows, ages = [W] * len(salts) + [declared for *_, declared in late], [age for _, age, _, _ in late]
    alone, both = weigh(timely, windows[: len(salts)], spec), weigh([*timely, *overdue], windows, spec, ages)
    assert both.unmoved == alone.unmoved
    assert [one.scale_limit for one in both.updates] == [alone.updates[0].scale_limit] * len(windows)
    limits = limits_of(timely, windows[: len(salts)], spec)
    clips = [as_applied(one, w, limits, spec)[1] for one, w in zip([*timely, *overdue], windows, strict=True)]
    weights = [
        clip * np.float32(spec.age_weight(age)) for clip, age in zip(clips, [0] * len(salts) + ages, strict=True)
    ]
    expected = np.stack(weights)
    if rule == "mean":
        expected = (expected.astype(np.float64) / len(windows)).astype(np.float32)
    else:
        assert np.array_equal(both.weights[: len(salts)], alone.weights)
    assert np.array_equal(both.weights, expected)
