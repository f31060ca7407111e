"""The vectors of the outer step: caps, clips, what is left alone, and θ after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from example_run import Run
from torch import Tensor

from muster.kernels import SparseUpdate, aggregate_, norm
from muster.protocol.ledger import prepare
from muster.protocol.ledger.roots import state_root

DECLARED = [6, 2, 3]
"""Declared windows of the three updates of the outer step."""
SILENT_FOR = [[], [0, 1], [1]]
"""The tensors for which each of them has zeros: two bring the embedding, one the tensor after it."""

LATE_AGES, LATE_WEIGHTS = [1, 2], (0.75, 0.25)
"""How late the second and the third are, and what that weighs."""


def f32(values: Tensor | np.ndarray[Any, Any]) -> str:
    """The little-endian bytes of fp32 values, hexadecimal."""
    return np.asarray(values, dtype="<f4").tobytes().hex()


def outer_vectors(run: Run) -> dict[str, Any]:
    """Three updates, the last one louder, by each rule; then each with its own windows and tensors."""
    found: dict[str, Any] = {}
    spike = replace(run.updates[2], scales=(run.updates[2].scales.int() + 40).clamp(max=255).to(torch.uint8))
    updates: list[SparseUpdate] = [run.updates[0], run.updates[1], spike]
    found["scale_bytes_of_the_third"] = spike.scales.numpy().tobytes().hex()
    found["norm_of_embedding_of_the_first"] = norm(updates[0], 0).hex()
    for rule in ("sender_mean", "mean", "damped_mean"):
        outer = run.spec.outer.model_copy(update={"rule": rule})
        capped, weights, _ = prepare(updates, [1, 1, 1], run.spec.model_copy(update={"outer": outer}))
        theta = [tensor.clone() for tensor in run.theta]
        aggregate_(theta, capped, weights, 0.65, outer.rule)
        found[f"{rule}_caps"] = f32(np.array(capped[0].scale_limit))
        found[f"{rule}_weights_of_embedding"] = f32(weights[:, 0])
        found[f"{rule}_root_at_step_1"] = state_root(theta, run.layout, run.run_id, 1).hex()
    return found | _uneven(run, updates) | _late(run, updates)


def _uneven(run: Run, updates: list[SparseUpdate]) -> dict[str, Any]:
    """The same three where each did another part of its work, and some bring nothing for two tensors."""
    sent = []
    for update, tensors in zip(updates, SILENT_FOR, strict=True):
        scales, codes = update.scales.clone(), update.codes.clone()
        for i in tensors:
            scales[slice(*update.grid.tensor_tiles[i])] = 0
            codes[update.grid.entries(i, update.k)] = 0
        sent.append(replace(update, scales=scales, codes=codes))
    capped, weights, unmoved = prepare(sent, DECLARED, run.spec)
    theta = [tensor.clone() for tensor in run.theta]
    aggregate_(theta, capped, weights, 0.65, run.spec.outer.rule)
    return {
        "uneven_windows": DECLARED,
        "uneven_silent_for": SILENT_FOR,
        "uneven_caps": f32(np.array(capped[0].scale_limit)),
        "uneven_weights_of_the_first": f32(weights[0]),
        "uneven_weights_of_the_second": f32(weights[1]),
        "uneven_weights_of_the_third": f32(weights[2]),
        "uneven_unmoved": list(unmoved),
        "uneven_root_at_step_1": state_root(theta, run.layout, run.run_id, 1).hex(),
    }


def _late(run: Run, updates: list[SparseUpdate]) -> dict[str, Any]:
    """The same three, of which two came late: they are under the first one's caps and norms."""
    fields = {"age_weights": LATE_WEIGHTS, "min_owners": 1}
    spec = run.spec.model_copy(update={"outer": run.spec.outer.model_copy(update=fields)})
    capped, weights, _ = prepare(updates, [1, 1, 1], spec, LATE_AGES)
    theta = [tensor.clone() for tensor in run.theta]
    aggregate_(theta, capped, weights, 0.65, spec.outer.rule)
    return {
        "late_ages": [0, *LATE_AGES],
        "late_age_weights": list(LATE_WEIGHTS),
        "late_caps": f32(np.array(capped[0].scale_limit)),
        "late_weights_of_embedding": f32(weights[:, 0]),
        "late_root_at_step_1": state_root(theta, run.layout, run.run_id, 1).hex(),
    }
