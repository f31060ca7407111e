"""32 bytes that say "we hold the same θ": the state root, and the proof of possession drawn from it.

Both are pure functions of θ's float32 bits, so equal roots mean equal models on any hardware, and on any number of
slices: each hashes the bands and gathers the tiles that it holds, and what it says is joined.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from blake3 import blake3

from muster.kernels import Grid, Slice, cover
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
    return root_of(band_leaves(theta, Slice.all_of(layout.grid)), run_id, outer_step)


def band_leaves(theta: Sequence[torch.Tensor], held: Slice) -> Iterator[bytes]:
    """For each tensor the leaves, 32 bytes each, of the bands that are held; `theta` are the parts held, on any device.

    One tensor at a time is brought to the CPU.
    """
    for tensor_id, tensor in enumerate(theta):
        values = tensor.detach().cpu().contiguous().view(-1).numpy().astype("<f4", copy=False).view(np.uint8).data
        first, _ = held.bands[tensor_id]
        yield b"".join(
            blake3(_LEAF.pack(tensor_id, band) + values[4 * start : 4 * stop]).digest()
            for band, (start, stop) in enumerate(held.grid.bands(tensor_id), first)
        )


def join_leaves(slices: Sequence[Slice], leaves: Sequence[Sequence[bytes]]) -> list[bytes]:
    """The whole model's leaves by tensor, from those of its slices.

    Raises:
        ValueError: the slices do not hold each band once.
    """
    tensors = range(len(slices[0].bands))
    return [b"".join(leaves[n][i] for n in cover(slices, i)) for i in tensors]


def root_of(leaves: Iterable[bytes], run_id: bytes, outer_step: int) -> bytes:
    """The state root over the leaves of all tensors, in order."""
    root = blake3(b"muster/state/v1" + run_id + outer_step.to_bytes(8, "little"))
    for of_tensor in leaves:
        root.update(of_tensor)
    return root.digest()


def possession(theta: Sequence[torch.Tensor], layout: Layout, beacon: bytes, public: bytes, round_: int) -> bytes:
    """The proof that a peer holds θ: BLAKE3 over 64 beacon-chosen tiles, mixed with who claims it and when.

    Copying somebody else's proof fails because the hotkey is inside; computing it needs the tiles themselves.
    """
    return proof_of(held_digest(theta, layout, beacon), beacon, public, round_)


def held_digest(theta: Sequence[torch.Tensor], layout: Layout, beacon: bytes) -> bytes:
    """The digest of θ's 64 tiles that a beacon chooses: what all proofs are made of, and what is kept of an old θ."""
    return digest_of(join_tiles([held_tiles(theta, Slice.all_of(layout.grid), beacon)]))


def held_tiles(theta: Sequence[torch.Tensor], held: Slice, beacon: bytes) -> dict[int, bytes]:
    """The bytes of those chosen tiles that are held, by their place in the order drawn; `theta` are the parts held.

    Nothing but these tiles leaves the device.
    """
    found, grid, parts = {}, held.grid, [_in_reach(tensor) for tensor in theta]
    tiles = held.whole.tiles
    for place, tile in enumerate(sample(beacon, b"possession", tiles, min(POSSESSION_TILES, tiles))):
        mine = held.tile(tile)
        if mine is not None:
            found[place] = _bytes_of(parts[grid.tensor_of(mine)], grid, mine)
    return found


def _in_reach(tensor: torch.Tensor) -> torch.Tensor | npt.NDArray[np.float32]:
    """A tensor that is on a device, or the array that one in host memory is: cutting 64 tiles takes a third then."""
    tensor = tensor.detach().contiguous()
    array: torch.Tensor | npt.NDArray[np.float32] = tensor.numpy() if tensor.device.type == "cpu" else tensor
    return array


def _bytes_of(values: torch.Tensor | npt.NDArray[np.float32], grid: Grid, tile: int) -> bytes:
    """The float32 bytes of one tile, row-major."""
    if isinstance(values, np.ndarray):
        array = grid.cut_tile(values, tile)
    else:
        array = grid.gather_tile(values, tile).cpu().numpy()
    return array.astype("<f4", copy=False).tobytes()


def join_tiles(found: Iterable[Mapping[int, bytes]]) -> bytes:
    """The chosen tiles in the order drawn, from those of all slices."""
    tiles = {place: values for part in found for place, values in part.items()}
    return b"".join(tiles[place] for place in sorted(tiles))


def digest_of(tiles: bytes) -> bytes:
    """The digest of chosen tiles, θ's float32 bytes in the order drawn, at most 1 MiB."""
    return blake3(b"muster/tiles/v1" + tiles).digest()


def proof_of(held: bytes, beacon: bytes, public: bytes, round_: int) -> bytes:
    """A peer's proof from the digest of the chosen tiles, which is the same for all: who judges many makes it once."""
    return blake3(b"muster/possession/v2" + beacon + public + round_.to_bytes(8, "little") + held).digest()
