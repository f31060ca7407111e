"""32 bytes that say "we hold the same θ": the state root, and the proof of possession drawn from it.

Both are pure functions of θ's float32 bits, so equal roots mean equal models on any hardware.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import torch
from blake3 import blake3

from muster.protocol.rules.sampling import sample
from muster.protocol.spec.layout import Layout

POSSESSION_TILES = 64
"""Tiles a possession proof covers: a peer that lacks 5 % of θ is caught with probability 1 − 0.95⁶⁴ = 96 %."""

GENESIS_RUN = bytes(32)
"""Stands for the run id in the genesis root, which is itself part of what the run id is the digest of."""

_LEAF = struct.Struct("<II")


def state_root(theta: Sequence[torch.Tensor], layout: Layout, run_id: bytes, outer_step: int) -> bytes:
    """BLAKE3("muster/state/v1" ‖ run id ‖ outer step u64 ‖ leaves).

    A leaf is BLAKE3(tensor id u32 ‖ band u32 ‖ little-endian float32 bytes of the band): 64 rows of a matrix, a run
    of 4096 of a vector.
    """
    root = blake3(b"muster/state/v1" + run_id + outer_step.to_bytes(8, "little"))
    for tensor_id, tensor in enumerate(theta):
        values = tensor.detach().cpu().contiguous().view(-1).numpy().astype("<f4", copy=False).view(np.uint8).data
        for band, (start, stop) in enumerate(layout.grid.bands(tensor_id)):
            root.update(blake3(_LEAF.pack(tensor_id, band) + values[4 * start : 4 * stop]).digest())
    return root.digest()


def possession(theta: Sequence[torch.Tensor], layout: Layout, beacon: bytes, public: bytes, round_: int) -> bytes:
    """The proof that a peer holds θ: BLAKE3 over 64 beacon-chosen tiles, mixed with who claims it and when.

    Copying somebody else's proof fails because the hotkey is inside; computing it needs the tiles themselves.
    """
    return proof_of(chosen_tiles(theta, layout, beacon), beacon, public, round_)


def chosen_tiles(theta: Sequence[torch.Tensor], layout: Layout, beacon: bytes) -> bytes:
    """θ's float32 bytes in the 64 tiles that a beacon chooses, at most 1 MiB: what all proofs are made of."""
    tiles = sample(beacon, b"possession", layout.grid.tiles, min(POSSESSION_TILES, layout.grid.tiles))
    return b"".join(
        layout.grid.gather_tile(theta[layout.grid.tensor_of(tile)], tile).contiguous().numpy().tobytes()
        for tile in tiles
    )


def proof_of(tiles: bytes, beacon: bytes, public: bytes, round_: int) -> bytes:
    """A peer's proof from the chosen tiles, which are the same for all: who judges many reads them once."""
    return blake3(b"muster/possession/v1" + beacon + public + round_.to_bytes(8, "little") + tiles).digest()
