"""Checkpoints: θ as files whose bytes are a pure function of θ, layout and round, so an auditor can remake them.

A file is a safetensors one (8-byte header length ‖ JSON header ‖ raw tensors), written and read here byte by byte:
a library may reorder its header, and a reader that knows the layout needs no parser. Shards are made, and taken in, one
at a time, so that beside θ there is never more than one of them. The manifest's digest is pinned in a record.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import IO, Any

import numpy as np
import rfc8785
import torch
from blake3 import blake3
from torch import Tensor

from muster.protocol.errors import LedgerError, ObjectDamaged
from muster.protocol.spec.layout import Layout
from muster.protocol.wire.manifest import Manifest, ShardInfo, decode_manifest

SHARD_BYTES = 2**30
"""A shard is closed once it holds this much: small enough to fetch again, large enough to stream."""

_ALIGN = 8
"""safetensors asks for headers padded with spaces to a multiple of 8."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a checkpoint before there are bytes: all of it but the values of θ.

    Attributes:
        name: the file's name, `model-iiiii-of-nnnnn.safetensors`.
        tensors: ids of the tensors it holds, a range in layout order.
        header: what stands before the tensors' data.
        size: bytes of the file.
    """

    name: str
    tensors: range
    header: bytes
    size: int

    def write(self, theta: Sequence[Tensor]) -> bytes:
        """The file; of CPU tensors no copy is made but this."""
        return b"".join([self.header, *(_bytes_of(theta[i]) for i in self.tensors)])

    def write_to(self, file: IO[bytes], theta: Sequence[Tensor]) -> ShardInfo:
        """The same into a file, of which there is a tensor at a time in memory, and of CPU tensors no copy.

        Returns what a manifest says of it.

        Raises:
            OSError: the disk did not take it.
        """
        digest, tensors = blake3(), (_bytes_of(theta[i]) for i in self.tensors)
        parts: Iterator[bytes | memoryview] = chain((self.header,), tensors)
        for part in parts:
            digest.update(part)
            file.write(part)
        file.flush()
        return ShardInfo(name=self.name, bytes=self.size, blake3=digest.hexdigest())

    def read_(self, data: bytes, theta: Sequence[Tensor]) -> None:
        """Copy the file's values into contiguous fp32 tensors, on any device; the others of `theta` are left alone.

        Raises:
            LedgerError: it is not a file of these tensors.
        """
        if len(data) != self.size or not data.startswith(self.header):
            raise LedgerError(f"{self.name} does not hold exactly this model's tensors")
        at = len(self.header)
        for i in self.tensors:
            values = np.frombuffer(data, "<f4", theta[i].numel(), at)
            at += values.nbytes
            if theta[i].device.type == "cpu":
                theta[i].view(-1).numpy()[:] = values
            else:
                theta[i].view(-1).copy_(torch.from_numpy(values.copy()))

    def info(self, data: bytes) -> ShardInfo:
        """What a manifest says of a file of this name."""
        return ShardInfo(name=self.name, bytes=len(data), blake3=blake3(data).hexdigest())


def plan_shards(layout: Layout, shard_bytes: int = SHARD_BYTES) -> tuple[Shard, ...]:
    """The files of any checkpoint of a layout: tensors in its order, a new file once one holds `shard_bytes`."""
    bounds, held = [0], 0
    for tensor_id, numel in enumerate(layout.grid.numel):
        if held >= shard_bytes:
            bounds.append(tensor_id)
            held = 0
        held += 4 * numel
    bounds.append(len(layout.names))
    groups = [range(first, last) for first, last in pairwise(bounds)]
    return tuple(
        _shard(layout, f"model-{n:05d}-of-{len(groups):05d}.safetensors", group) for n, group in enumerate(groups, 1)
    )


def _shard(layout: Layout, name: str, group: range) -> Shard:
    table: dict[str, Any] = {}
    offset = 0
    for i in group:
        end = offset + 4 * layout.grid.numel[i]
        table[layout.names[i]] = {"data_offsets": [offset, end], "dtype": "F32", "shape": list(layout.shapes[i])}
        offset = end
    text = rfc8785.dumps(table)
    text += b" " * (-len(text) % _ALIGN)
    header = struct.pack("<Q", len(text)) + text
    return Shard(name, group, header, len(header) + offset)


def _bytes_of(tensor: Tensor) -> memoryview:
    values = tensor.detach().cpu().contiguous().view(-1).numpy().astype("<f4", copy=False)
    return values.view(np.uint8).data


def read_manifest(
    data: bytes, digest: bytes, run_id: bytes, layout: Layout, shard_bytes: int = SHARD_BYTES
) -> Manifest:
    """Parse a manifest whose digest a record pins.

    Raises:
        ObjectDamaged: its digest is another.
        LedgerError: another run or layout, or files that θ cannot have.
    """
    manifest = decode_manifest(data, digest)
    if manifest.run != run_id.hex() or manifest.layout != layout.digest.hex():
        raise LedgerError("the checkpoint is of another run or model")
    expected = [(shard.name, shard.size) for shard in plan_shards(layout, shard_bytes)]
    if [(info.name, info.bytes) for info in manifest.shards] != expected:
        raise LedgerError("the checkpoint's shards have names or sizes this model cannot have")
    return manifest


async def read_shards(
    manifest: Manifest,
    read: Callable[[ShardInfo], Awaitable[bytes]],
    layout: Layout,
    shard_bytes: int = SHARD_BYTES,
    device: torch.device | None = None,
) -> list[Tensor]:
    """θ out of the shards, in layout order, on `device` (the CPU unless named); `read` brings a shard's bytes, checked
    (`check_shard`): it knows where else they are to be had.

    Each is read, copied and freed before the next, into memory taken once for θ.

    Raises:
        LedgerError: one does not hold the layout's tensors.
    """
    theta = [torch.empty(shape, dtype=torch.float32, device=device) for shape in layout.shapes]
    for shard, info in zip(plan_shards(layout, shard_bytes), manifest.shards, strict=True):
        shard.read_(await read(info), theta)
    return theta


def check_shard(info: ShardInfo, data: bytes) -> None:
    """Whether these are the bytes that a manifest names.

    Raises:
        ObjectDamaged: they are not.
    """
    if (len(data), blake3(data).hexdigest()) != (info.bytes, info.blake3):
        raise ObjectDamaged(f"{info.name} is not the shard the manifest names")
