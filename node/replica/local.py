"""The replica: θ, and the only code that ever changes it.

Miner, validator, aggregator, audit and simulator hold one each, on whatever device, and know θ by its operations alone:
nobody outside has a whole tensor. Equal state roots mean equal bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels import SparseUpdate, Undo, aggregate_, perturb_, undo_
from muster.node.context import Offload
from muster.node.models import model_class
from muster.node.replica.checkpoint import SHARD_BYTES, Shard, plan_shards, read_shards
from muster.node.replica.genesis import genesis_parameters
from muster.node.scratch import made_again
from muster.protocol import paths
from muster.protocol.errors import DiskFailed
from muster.protocol.ledger import Applied, Tip
from muster.protocol.ledger.roots import GENESIS_RUN, held_digest, proof_of, state_root
from muster.protocol.spec import ModelSpec, RunSpec
from muster.protocol.spec.layout import Layout, layout_of
from muster.protocol.wire import Kind
from muster.protocol.wire.manifest import Manifest, ShardInfo, TipInfo, manifest_digest

EVAL_BATCH = 16
"""Windows per forward pass of an evaluation; fixed, because a loss's last bits depend on it."""


@dataclass(frozen=True, slots=True)
class Spool:
    """Where files of `least` bytes and more wait on disk until they are stored, and what stores one under its name.

    `folder` None: where the system keeps temporary files.
    """

    folder: Path | None
    least: int
    put: Callable[[str, Path], Awaitable[None]]

    @contextmanager
    def file(self) -> Iterator[IO[bytes]]:
        """One, which is there within.

        Raises:
            DiskFailed: the disk has no place for it; closing it may be what shows that.
        """
        try:
            with tempfile.NamedTemporaryFile(prefix="shard-", dir=made_again(self.folder)) as file:
                yield file
        except OSError as error:
            raise DiskFailed(f"a checkpoint cannot be kept on disk: {error.strerror}") from error


class Replica:
    """One copy of θ after `outer_step` outer steps, fp32, as tensors in layout order, all on one device.

    The evaluation model computes with θ's own storage. Not safe to use from two threads at once.
    """

    def __init__(self, model: ModelSpec, run_id: bytes, theta: Sequence[Tensor], outer_step: int) -> None:
        """Take `theta` over: contiguous tensors are not copied, and are nobody else's from here on."""
        self.layout: Layout = layout_of(model)
        self.run_id = run_id
        self.outer_step = outer_step
        self._theta = [tensor.contiguous() for tensor in theta]
        self._model = model_class(model).over(model, self._theta)
        self._root: bytes | None = None
        self._held: tuple[bytes, bytes] | None = None

    @classmethod
    def genesis(cls, spec: RunSpec, run_id: bytes, device: torch.device | None = None) -> Replica:
        """θ_0 of a run, from its seed, on `device` (the CPU unless named)."""
        theta = genesis_parameters(spec.model, spec.genesis.seed)
        return cls(spec.model, run_id, [tensor.to(device) for tensor in theta], 0)

    @classmethod
    async def load(
        cls,
        tip: Tip,
        manifest: Manifest,
        read: Callable[[ShardInfo], Awaitable[bytes]],
        shard_bytes: int = SHARD_BYTES,
        device: torch.device | None = None,
    ) -> Replica:
        """θ at a tip out of a checkpoint, with one shard at a time beside it; `read` brings a shard's bytes, checked.

        Raises:
            LedgerError: one does not hold this model's tensors.
        """
        theta = await read_shards(manifest, read, tip.layout, shard_bytes, device)
        return cls(tip.spec.model, tip.run_id, theta, tip.outer_step)

    @property
    def device(self) -> torch.device:
        """Where θ is."""
        return self._theta[0].device

    def root(self) -> bytes:
        """The state root (32 bytes); hashed once per outer step."""
        if self._root is None:
            self._root = state_root(self._theta, self.layout, self.run_id, self.outer_step)
        return self._root

    def held(self, beacon: bytes) -> bytes:
        """The digest of the tiles of θ, as it is now, that a beacon chooses; read once per outer step."""
        if self._held is None or self._held[0] != beacon:
            self._held = beacon, held_digest(self._theta, self.layout, beacon)
        return self._held[1]

    def possession(self, beacon: bytes, public: bytes, round_: int) -> bytes:
        """The proof of possession that peer `public` must show in a round whose base is θ as it is now."""
        return proof_of(self.held(beacon), beacon, public, round_)

    def step(self, applied: Applied, spec: RunSpec) -> Undo | None:
        """Take the outer step of a verified record; what `undo` needs, None where the record changes nothing."""
        if applied.record.kind is not Kind.ROUND:
            return None
        alpha = spec.outer.alpha_at(self.outer_step)
        undo = aggregate_(self._theta, applied.updates, applied.weights, alpha, spec.outer.rule)
        self.outer_step += 1
        self._root = self._held = None
        return undo

    def undo(self, applied: Applied, undo: Undo) -> None:
        """Take back the last `step`, of this record: θ has the very bits it had before.

        Raises:
            ValueError: the log is of another record; θ is void then.
        """
        undo_(self._theta, applied.updates, undo)
        self.outer_step -= 1
        self._root = self._held = None

    @contextmanager
    def perturbed(self, update: SparseUpdate, weights: npt.NDArray[np.float32], scale: float) -> Iterator[None]:
        """θ − scale·w·Δ̂ inside the block, `weights` fp32 (tensors,); the very bits of before after it, whatever happens
        inside."""
        undo = perturb_(self._theta, update, scale, weights)
        try:
            yield
        finally:
            undo_(self._theta, [update], undo)

    @contextmanager
    def moved(self, updates: Sequence[SparseUpdate], weights: npt.NDArray[np.float32], scale: float) -> Iterator[None]:
        """θ − scale·Σ w·Δ̂ inside the block, `weights` fp32 (updates, tensors), rounded as an outer step by `mean`;
        the very bits of before after it, whatever happens inside."""
        undo = aggregate_(self._theta, updates, weights, scale, "mean")
        try:
            yield
        finally:
            undo_(self._theta, updates, undo)

    def losses(self, windows: Tensor) -> npt.NDArray[np.float64]:
        """Loss in nat/token of θ as it is now on each of windows, int64 (n, length + 1)."""
        with torch.no_grad():
            parts = [
                self._model.window_losses(windows[i : i + EVAL_BATCH].to(self.device)).double().cpu()
                for i in range(0, len(windows), EVAL_BATCH)
            ]
        return torch.cat(parts).numpy()

    def loss(self, windows: Tensor) -> float:
        """Mean of `losses`."""
        return float(torch.from_numpy(self.losses(windows)).mean())

    def gradient(self, windows: Tensor) -> list[Tensor]:
        """The gradient of `loss` on windows, int64 (n, length + 1): fp32 of θ's shapes, on its device.

        In autograd's own order of operations, so not the same bits on every machine.
        """
        total = [torch.zeros_like(tensor) for tensor in self._theta]
        parameters = list(self._model.parameters())
        self._model.requires_grad_(True)
        try:
            for i in range(0, len(windows), EVAL_BATCH):
                batch = windows[i : i + EVAL_BATCH].to(self.device)
                loss = self._model.window_losses(batch).sum() / len(windows)
                for held, part in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                    held.add_(part)
        finally:
            self._model.requires_grad_(False)
        return total

    def copy_into(self, parameters: Iterable[Tensor]) -> None:
        """Make a working copy: `parameters` := θ, in layout order, rounded to their dtype, on their own device.

        Raises:
            ValueError: they do not have θ's shapes; none is changed.
        """
        with torch.no_grad():
            for target, source in self._beside(parameters):
                target.copy_(source)

    def delta(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """Δ = θ − `parameters`, fp32 with one rounding, in layout order, as new tensors on θ's device.

        Raises:
            ValueError: they do not have θ's shapes.
        """
        return [before - after.detach().to(before.device).float() for after, before in self._beside(parameters)]

    def _beside(self, parameters: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
        given = list(parameters)
        if [tensor.shape for tensor in given] != [tensor.shape for tensor in self._theta]:
            raise ValueError("the parameters do not have the shapes of this model's layout")
        return list(zip(given, self._theta, strict=True))

    async def save(
        self,
        round_: int,
        tip: TipInfo,
        put: Callable[[str, bytes], Awaitable[None]],
        offload: Offload,
        shard_bytes: int = SHARD_BYTES,
        large: Spool | None = None,
    ) -> tuple[bytes, int]:
        """Write θ's checkpoint before the record of a round, a shard at a time and the manifest last.

        Args:
            round_: the round whose record pins it.
            tip: what the manifest says of the ledger there.
            put: stores the bytes of one file under its name.
            offload: runs what takes a while.
            shard_bytes: what a shard holds at least, the last one excepted.
            large: how shards go that are not held in memory (None: all are).

        Returns:
            What the record pins, and the bytes of all shards.

        Raises:
            StorageError: the disk or the store does not take a file.
        """

        async def write(shard: Shard) -> ShardInfo:
            if large is not None and shard.size >= large.least:
                with large.file() as file:
                    info = await offload(lambda: shard.write_to(file, self._theta))
                    await large.put(shard.name, Path(file.name))
                return info
            data = await offload(lambda: self.shard(shard))
            await put(shard.name, data)
            return await offload(lambda: shard.info(data))

        shards = [await write(shard) for shard in self.shards(shard_bytes)]
        manifest = await offload(lambda: self.manifest(round_, tip, shards))
        await put(paths.MANIFEST, manifest)
        return manifest_digest(manifest), sum(shard.bytes for shard in shards)

    def shards(self, shard_bytes: int = SHARD_BYTES) -> tuple[Shard, ...]:
        """The files of θ's checkpoint; `shard` makes the bytes of one."""
        return plan_shards(self.layout, shard_bytes)

    def shard(self, shard: Shard) -> bytes:
        """The bytes of one file of θ's checkpoint; who holds one at a time needs memory for one."""
        return shard.write(self._theta)

    def manifest(self, round_: int, tip: TipInfo, shards: Sequence[ShardInfo]) -> bytes:
        """The manifest of θ's checkpoint before the record of a round, once its files are made."""
        return Manifest(
            run=self.run_id.hex(),
            round=round_,
            outer_step=self.outer_step,
            root=self.root().hex(),
            layout=self.layout.digest.hex(),
            shards=tuple(shards),
            tip=tip,
        ).encode()


def genesis_root(model: ModelSpec, seed: int) -> bytes:
    """The root a genesis spec pins: of θ_0, with zeros for the run id it is itself a part of."""
    return state_root(genesis_parameters(model, seed), layout_of(model), GENESIS_RUN, 0)
