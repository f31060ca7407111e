"""What a miner must not forget: error feedback, optimizer moments, and the submission it made of the open round.

One safetensors file, replaced whole. A miner killed at any instant comes back either as it was before the round's
work, or with that work done: e after it, the key and the submission lie in the same file, so none is there without the
others. The tensors are written one after another from where they are, so that saving needs no memory of its own (one
tensor's, where they are on another device).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import safe_open
from torch import Tensor

from muster.protocol.errors import ConfigError, StorageError
from muster.protocol.spec.layout import Layout

FORMAT = "muster/memory/2"
"""What the file's metadata must say. Format 1 kept the accumulator of a submission until its record was known."""

_SECRET_MODE = 0o600
"""The file holds the key of a payload nobody may read yet."""

_ALIGN = 8
"""safetensors asks for headers padded with spaces to a multiple of 8."""

_DTYPES = {torch.float32: "F32", torch.uint8: "U8"}


@dataclass(frozen=True, slots=True)
class Made:
    """The submission of a round, as it was signed, and the key (32 bytes) that opens its payload."""

    round: int
    key: bytes
    submission: bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """Error feedback e (fp32, layout order), the optimizer's tensors, and the newest submission."""

    residual: tuple[Tensor, ...]
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    made: Made | None = None

    @classmethod
    def blank(cls, layout: Layout) -> Memory:
        """Before the first round: e = 0, cold moments."""
        return cls(tuple(torch.zeros(shape) for shape in layout.shapes))


def save_memory(memory: Memory, path: Path) -> None:
    """Replace the file at `path`; what it says survives a power cut once this returns.

    Raises:
        StorageError: the disk is full, or the folder cannot be written; the file is whole, as it was or as it is to be.
    """
    tensors = {f"residual.{i}": tensor for i, tensor in enumerate(memory.residual)}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in memory.optimizer.items()}
    about = {"format": FORMAT}
    if memory.made is not None:
        about["round"] = str(memory.made.round)
        tensors |= {"made.key": _tensor(memory.made.key), "made.submission": _tensor(memory.made.submission)}
    draft = path.with_suffix(".draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _SECRET_MODE)
        with os.fdopen(handle, "wb") as file:
            file.write(_header(tensors, about))
            for tensor in tensors.values():
                file.write(tensor.detach().cpu().contiguous().reshape(-1).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free space or mend the folder, the round's work waits"
        ) from error


def load_memory(path: Path, layout: Layout) -> Memory:
    """What was saved at `path`, or a blank memory where there is nothing.

    Raises:
        ConfigError: the file is of another release, or not a miner's memory of this model.
    """
    if not path.exists():
        return Memory.blank(layout)
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            _check_format(path, about)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        optimizer = {
            name.removeprefix("optimizer."): tensor for name, tensor in tensors.items() if name.startswith("optimizer.")
        }
        return Memory(_residual(tensors, layout), optimizer, _made(tensors, about))
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{path} is not this miner's memory of this run; move it away to start with a blank one"
        ) from error


def _check_format(path: Path, about: Mapping[str, str]) -> None:
    found = about.get("format")
    if found != FORMAT:
        raise ConfigError(
            f"{path} is a memory of another release (format {found or '1'}, this one has {FORMAT}): let that release "
            "finish its round, then move the file away to start with zero error feedback and cold moments"
        )


def _header(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """The safetensors header of tensors that follow in this order."""
    entries: dict[str, Any] = {"__metadata__": about}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    return struct.pack("<Q", len(text)) + text


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable: without it a power cut may bring the old file back."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _made(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> Made | None:
    if "round" not in about:
        return None
    key, submission = (tensors[f"made.{part}"].numpy().tobytes() for part in ("key", "submission"))
    return Made(int(about["round"]), key, submission)


def _residual(tensors: Mapping[str, Tensor], layout: Layout) -> tuple[Tensor, ...]:
    found = tuple(tensors[f"residual.{i}"] for i in range(len(layout.shapes)))
    if tuple(tuple(tensor.shape) for tensor in found) != layout.shapes or any(
        tensor.dtype != torch.float32 for tensor in found
    ):
        raise ValueError("error feedback of another model")
    return found


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
