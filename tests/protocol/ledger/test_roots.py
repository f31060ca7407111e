"""Equal roots mean equal bits, and a proof of possession needs the bits."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from blake3 import blake3
from builders import MODEL, hash32, identity, layout, theta
from hypothesis import given
from hypothesis import strategies as st
from slices import SHAPES, sliced
from torch import Tensor

from muster.kernels import Slice
from muster.protocol.ledger.roots import (
    GENESIS_RUN,
    band_leaves,
    digest_of,
    held_digest,
    held_tiles,
    join_leaves,
    join_tiles,
    possession,
    proof_of,
    root_of,
    state_root,
)
from muster.protocol.rules.sampling import sample
from muster.protocol.spec.layout import Layout, layout_of

RUN = hash32("run")
BEACON = bytes(range(32))
ALICE, BOB = identity("alice").public, identity("bob").public
WIDE = MODEL.model_copy(update={"vocab": 130, "hidden": 70, "ffn": 24})
"""Matrices of three bands, the last of two rows, and tiles clipped on both sides."""


def wide_theta() -> list[Tensor]:
    return [
        torch.arange(numel, dtype=torch.float32).reshape(shape) / 64 + i
        for i, (numel, shape) in enumerate(zip(layout_of(WIDE).grid.numel, layout_of(WIDE).shapes, strict=True))
    ]


def root(values: list[Tensor] | tuple[Tensor, ...], run_id: bytes = RUN, step: int = 3) -> bytes:
    return state_root(values, layout_of(WIDE) if len(values[0]) == 130 else layout(), run_id, step)


def test_golden() -> None:
    assert root(theta()).hex() == ("6935c0ac2393d9bf13e44badc9d51f25404c6edc718532b6f0d4a728b7087c23")
    assert state_root(theta(), layout(), GENESIS_RUN, 0).hex() == (
        "6a7889d808850f58852e62bb97b69c274c6d13943be5d14389603f94bb791868"
    )
    assert possession(theta(), layout(), BEACON, ALICE, 4).hex() == (
        "13109a52e2498661536398004221d4ff3ea1aa1c72edead824b96361cc77e206"
    )


def test_equals_the_description() -> None:
    made = blake3(b"muster/state/v1" + RUN + struct.pack("<Q", 3))
    for i, tensor in enumerate(wide_theta()):
        rows = 64 if tensor.dim() == 2 else 4096
        for band, start in enumerate(range(0, len(tensor), rows)):
            part = tensor[start : start + rows].numpy().astype("<f4").tobytes()
            made.update(blake3(struct.pack("<II", i, band) + part).digest())
    assert root(wide_theta()) == made.digest()


def test_every_bit_counts() -> None:
    """The lowest bit of the first, a middle and the last entry of each tensor, and the sign of a zero."""
    base, seen = wide_theta(), {root(wide_theta())}
    changes = 0
    for i in range(len(base)):
        for at in {0, base[i].numel() // 2, base[i].numel() - 1}:
            changed = wide_theta()
            changed[i].view(-1).view(torch.int32)[at] ^= 1
            seen.add(root(changed))
            changes += 1
    changed = wide_theta()
    assert changed[0].view(-1)[0] == 0
    changed[0].view(-1)[0] = -0.0
    seen.add(root(changed))
    assert len(seen) == changes + 2


def test_run_step_and_place_count() -> None:
    swapped = list(wide_theta())
    same_shape = [i for i, t in enumerate(swapped) if t.shape == swapped[1].shape]
    swapped[same_shape[0]], swapped[same_shape[1]] = swapped[same_shape[1]], swapped[same_shape[0]]
    roots = {root(wide_theta()), root(wide_theta(), step=4), root(wide_theta(), run_id=BEACON), root(swapped)}
    assert len(roots) == 4


def test_padding_and_storage_order_never_show() -> None:
    """θ as views into larger buffers full of NaN, and column-major: the same root."""
    padded = []
    for tensor in wide_theta():
        room = torch.full(tuple(size + 3 for size in tensor.shape), torch.nan)
        inside = room[tuple(slice(0, size) for size in tensor.shape)]
        inside.copy_(tensor)
        padded.append(inside)
    columns = [t.t().contiguous().t() if t.dim() == 2 else t for t in wide_theta()]
    assert not columns[0].is_contiguous()
    assert root(padded) == root(columns) == root(wide_theta())
    for tile in range(layout_of(WIDE).grid.tiles):
        owner = layout_of(WIDE).grid.tensor_of(tile)
        assert not layout_of(WIDE).grid.gather_tile(padded[owner], tile).isnan().any()


def proof(values: list[Tensor], beacon: bytes = BEACON, public: bytes = ALICE, round_: int = 4) -> bytes:
    return possession(values, layout_of(WIDE), beacon, public, round_)


def test_possession_equals_the_description() -> None:
    grid, tiles = layout_of(WIDE).grid, blake3(b"muster/tiles/v1")
    count = min(64, grid.tiles)
    for tile in sample(BEACON, b"possession", grid.tiles, count):
        i = max(i for i, (first, _) in enumerate(grid.tensor_tiles) if first <= tile)
        inside, tensor = tile - grid.tensor_tiles[i][0], wide_theta()[i]
        if tensor.dim() == 1:
            part = tensor[4096 * inside : 4096 * (inside + 1)]
        else:
            row, column = divmod(inside, -(-tensor.shape[1] // 64))
            part = tensor[64 * row : 64 * (row + 1), 64 * column : 64 * (column + 1)]
        tiles.update(np.ascontiguousarray(part.numpy()).astype("<f4").tobytes())
    made = blake3(b"muster/possession/v2" + BEACON + ALICE + struct.pack("<Q", 4) + tiles.digest())
    assert proof(wide_theta()) == made.digest()


def test_possession_is_of_one_peer_round_and_state() -> None:
    other = wide_theta()
    other[0].view(torch.int32)[0, 0] ^= 1
    proofs = {
        proof(wide_theta()),
        proof(other),
        proof(wide_theta(), public=BOB),
        proof(wide_theta(), round_=5),
        proof(wide_theta(), beacon=bytes(32)),
    }
    assert layout_of(WIDE).grid.tiles <= 64, "every tile is covered, so the changed one is"
    assert len(proofs) == 5


MODELS = st.one_of(
    SHAPES,
    st.sampled_from([list(layout_of(WIDE.model_copy(update={"tied": tied})).shapes) for tied in (True, False)]),
)
"""Any shapes, and a Llama's with its output head tied and of its own."""


@given(sliced(MODELS), st.integers(0, 3))
def test_root_and_possession_of_slices_are_the_whole_models(slices: list[Slice], outer_step: int) -> None:
    grid = slices[0].whole
    names = tuple(map(str, range(len(grid.shapes))))
    whole = Layout(names, grid.shapes, grid, b"")
    sizes = zip(grid.numel, grid.shapes, strict=True)
    theta_ = [torch.arange(numel, dtype=torch.float32).reshape(shape) / 7 for numel, shape in sizes]
    parts = [held.parts(theta_) for held in slices]
    leaves = [list(band_leaves(part, held)) for held, part in zip(slices, parts, strict=True)]
    assert root_of(join_leaves(slices, leaves), RUN, outer_step) == state_root(theta_, whole, RUN, outer_step)
    tiles = digest_of(join_tiles(held_tiles(part, held, BEACON) for held, part in zip(slices, parts, strict=True)))
    assert tiles == held_digest(theta_, whole, BEACON)
    assert proof_of(tiles, BEACON, ALICE, 4) == possession(theta_, whole, BEACON, ALICE, 4)


def test_a_root_of_slices_that_leave_a_band_out_is_refused() -> None:
    grid = layout_of(WIDE).grid
    slices = [Slice.of_rank(grid, rank, 2) for rank in range(2)]
    leaves = [list(band_leaves(held.parts(wide_theta()), held)) for held in slices]
    assert root_of(join_leaves(slices, leaves), RUN, 3) == root(wide_theta())
    with pytest.raises(ValueError, match="not held exactly once"):
        join_leaves(slices[:1], leaves[:1])
