"""Checkpoints: θ as files whose bytes are a pure function of θ, layout and round, so an auditor can remake them.

safetensors (8-byte header length ‖ JSON header ‖ raw tensors) is written here byte by byte, because a library may
reorder its header; it is read by the safetensors library. The manifest's digest is pinned in a record.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rfc8785
import safetensors
import torch
from blake3 import blake3
from safetensors.torch import load as load_safetensors
from torch import Tensor

from muster.protocol.errors import LedgerError, ObjectDamaged
from muster.protocol.spec.layout import Layout
from muster.protocol.wire.manifest import Manifest, ShardInfo, TipInfo, decode_manifest, manifest_digest

SHARD_BYTES = 2**30
"""A shard is closed once it holds this much: small enough to fetch again, large enough to stream."""

_ALIGN = 8
"""safetensors asks for headers padded with spaces to a multiple of 8."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of a checkpoint, manifest apart because it is written last."""

    shards: Mapping[str, bytes]
    manifest: bytes

    @property
    def digest(self) -> bytes:
        """What a record pins."""
        return manifest_digest(self.manifest)


def make_checkpoint(
    theta: Sequence[Tensor], layout: Layout, run_id: bytes, round_: int, outer_step: int, root: bytes, tip: TipInfo
) -> Checkpoint:
    """All files of the checkpoint of θ; `tip` is what the manifest says of the ledger there."""
    groups = _shards(layout)
    names = [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    shards = {name: _safetensors(theta, layout, group) for name, group in zip(names, groups, strict=True)}
    manifest = Manifest(
        run=run_id.hex(),
        round=round_,
        outer_step=outer_step,
        root=root.hex(),
        layout=layout.digest.hex(),
        shards=tuple(
            ShardInfo(name=name, bytes=len(data), blake3=blake3(data).hexdigest()) for name, data in shards.items()
        ),
        tip=tip,
    )
    return Checkpoint(shards, manifest.encode())


def _shards(layout: Layout) -> list[list[int]]:
    """Tensor ids by shard: in layout order, a new shard once one holds `SHARD_BYTES`."""
    groups: list[list[int]] = [[]]
    held = 0
    for tensor_id, numel in enumerate(layout.grid.numel):
        if held >= SHARD_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(tensor_id)
        held += 4 * numel
    return groups


def _safetensors(theta: Sequence[Tensor], layout: Layout, group: Sequence[int]) -> bytes:
    header: dict[str, Any] = {}
    offset = 0
    for i in group:
        end = offset + 4 * layout.grid.numel[i]
        header[layout.names[i]] = {
            "data_offsets": [offset, end],
            "dtype": "F32",
            "shape": list(layout.shapes[i]),
        }
        offset = end
    text = rfc8785.dumps(header)
    text += b" " * (-len(text) % _ALIGN)
    data = [theta[i].detach().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes() for i in group]
    return b"".join([struct.pack("<Q", len(text)), text, *data])


def read_manifest(data: bytes, digest: bytes, run_id: bytes, layout: Layout) -> Manifest:
    """Parse a manifest whose digest a record pins.

    Raises:
        ObjectDamaged: its digest is another.
        LedgerError: another run or layout, not canonical, or sizes that θ cannot have.
    """
    manifest = decode_manifest(data, digest)
    if manifest.run != run_id.hex() or manifest.layout != layout.digest.hex():
        raise LedgerError("the checkpoint is of another run or model")
    groups = _shards(layout)
    slack = 256 * len(layout.names)
    expected = [4 * sum(layout.grid.numel[i] for i in group) for group in groups]
    sizes = [shard.bytes for shard in manifest.shards]
    if len(sizes) != len(groups) or any(not e <= s <= e + slack for e, s in zip(expected, sizes, strict=True)):
        raise LedgerError("the checkpoint's shards have sizes this model cannot have")
    return manifest


def read_shards(manifest: Manifest, read: Callable[[ShardInfo], bytes], layout: Layout) -> list[Tensor]:
    """θ out of the shards, in layout order; `read` gives a shard's bytes.

    Raises:
        ObjectDamaged: a shard is not the one the manifest names.
        LedgerError: they do not hold the layout's tensors.
    """
    found: dict[str, Tensor] = {}
    for shard in manifest.shards:
        data = read(shard)
        if len(data) != shard.bytes or blake3(data).hexdigest() != shard.blake3:
            raise ObjectDamaged(f"{shard.name} is not the shard the manifest names")
        try:
            found.update(load_safetensors(data))
        except safetensors.SafetensorError as error:
            raise LedgerError(f"{shard.name} is not a safetensors file") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if shapes != dict(zip(layout.names, layout.shapes, strict=True)) or any(
        tensor.dtype != torch.float32 for tensor in found.values()
    ):
        raise LedgerError("the checkpoint does not hold exactly this model's tensors")
    return [found[name] for name in layout.names]
