"""What a miner must not forget: error feedback, optimizer moments, and the submission it is waiting to see judged.

One safetensors file, replaced whole, so a miner killed at any instant comes back as it was before or after.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from muster.protocol.errors import ConfigError
from muster.protocol.layout import Layout

_SECRET_MODE = 0o600
"""The file holds the key of a payload nobody may read yet."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A submission whose record is not known yet: the accumulator it was compressed from, and its own bytes."""

    round: int
    k: int
    acc: tuple[Tensor, ...]
    key: bytes
    submission: bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """Error feedback e (fp32, layout order), the optimizer's tensors, and what is pending."""

    residual: tuple[Tensor, ...]
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    pending: Pending | None = None

    @classmethod
    def blank(cls, layout: Layout) -> Memory:
        """Before the first round: e = 0, cold moments."""
        return cls(tuple(torch.zeros(shape) for shape in layout.shapes))

    def settled(self, residual: tuple[Tensor, ...]) -> Memory:
        """After the pending submission's record: the residual it left."""
        return replace(self, residual=residual, pending=None)


def save_memory(memory: Memory, path: Path) -> None:
    """Replace the file at `path`."""
    tensors = {f"residual.{i}": tensor for i, tensor in enumerate(memory.residual)}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in memory.optimizer.items()}
    if memory.pending is not None:
        tensors |= {f"acc.{i}": tensor for i, tensor in enumerate(memory.pending.acc)}
        tensors["pending.key"] = _bytes(memory.pending.key)
        tensors["pending.submission"] = _bytes(memory.pending.submission)
        tensors["pending.round"] = torch.tensor([memory.pending.round, memory.pending.k])
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _SECRET_MODE)
    with os.fdopen(handle, "wb") as file:
        file.write(save(tensors))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def load_memory(path: Path, layout: Layout) -> Memory:
    """What was saved at `path`, or a blank memory where there is nothing.

    Raises:
        ConfigError: the file is not a miner's memory of this model.
    """
    if not path.exists():
        return Memory.blank(layout)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        residual = _layout_tensors(tensors, "residual", layout)
        optimizer = {
            name.removeprefix("optimizer."): tensor for name, tensor in tensors.items() if name.startswith("optimizer.")
        }
        return Memory(residual, optimizer, _pending(tensors, layout))
    except (safetensors.SafetensorError, KeyError) as error:
        raise ConfigError(
            f"{path} is not this miner's memory of this run; move it away to start with a blank one"
        ) from error


def _pending(tensors: Mapping[str, Tensor], layout: Layout) -> Pending | None:
    if "pending.round" not in tensors:
        return None
    round_, k = (int(value) for value in tensors["pending.round"])
    return Pending(
        round=round_,
        k=k,
        acc=_layout_tensors(tensors, "acc", layout),
        key=tensors["pending.key"].numpy().tobytes(),
        submission=tensors["pending.submission"].numpy().tobytes(),
    )


def _layout_tensors(tensors: Mapping[str, Tensor], prefix: str, layout: Layout) -> tuple[Tensor, ...]:
    found = tuple(tensors[f"{prefix}.{i}"] for i in range(len(layout.shapes)))
    if tuple(tuple(tensor.shape) for tensor in found) != layout.shapes:
        raise KeyError(prefix)
    return found


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
