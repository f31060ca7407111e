"""What a miner must not forget: error feedback, the engine's moments, and the submission it made of the open round.

One safetensors file, replaced whole. A miner killed at any instant comes back either as it was before the round's
work, or with that work done: e after it, the key and the submission lie in the same file, so none is there without the
others. The file has one entry for each tensor of the layout (e, and what the engine keeps of it), and entries are
written and read one after another, from and to where they are used: at no time is there a second copy of the model.
What is kept of e stays in the file: it is read once a round, so it need not lie in memory for the rest of it.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from torch import Tensor

from muster.protocol.errors import ConfigError, DiskFailed
from muster.protocol.ledger import Tip
from muster.protocol.spec.layout import Layout

FORMAT = "muster/memory/4"
"""What the file's metadata must say. Format 3 did not name the record that its submission follows."""

Entry = tuple[str, Mapping[str, Tensor]]
"""A tensor of the layout, by name, and what is kept of it, by what it is ("exp_avg")."""

ERROR = "error"
"""The part of an entry that is error feedback; the others are the engine's."""

_MADE = "made"
"""Stands where a tensor's name does, before the parts of the submission."""

_SECRET_MODE = 0o600
"""The file holds the key of a payload nobody may read yet."""

_ALIGN = 8
"""safetensors asks for headers padded with spaces to a multiple of 8."""

_MAX_HEADER = 10**8
"""As many bytes as the safetensors library takes for a header."""

_DTYPES: dict[torch.dtype, Literal["F32", "U8"]] = {torch.float32: "F32", torch.uint8: "U8"}
_ITEM_BYTES = {"F32": 4, "U8": 1}
_Natural = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class Made:
    """The submission of a round, as it was signed, and the key (32 bytes) that opens its payload.

    `parent` is the digest of the record before it: should that be taken back, this is no work on what comes instead.
    """

    round: int
    parent: bytes
    key: bytes
    submission: bytes

    def belongs(self, tip: Tip) -> bool:
        """Whether it is of the open round there."""
        return (self.round, self.parent) == (tip.round, tip.parent)


@dataclass(frozen=True, slots=True)
class MinerState:
    """Error feedback e (fp32, layout order) and the newest submission."""

    error: tuple[Tensor, ...]
    made: Made | None = None

    @classmethod
    def blank(cls, layout: Layout) -> MinerState:
        """Before the first round: e = 0, pages of the host that take no memory before they are written to."""
        return cls(tuple(torch.from_numpy(np.zeros(shape, np.float32)) for shape in layout.shapes))


class _Place(BaseModel):
    """What a safetensors header says of one tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    dtype: Literal["F32", "U8"]
    shape: tuple[_Natural, ...]
    data_offsets: tuple[_Natural, _Natural]


_HEADER = TypeAdapter(dict[str, _Place | dict[str, str]])


def save_made(path: Path, made: Made, after: Made) -> None:
    """Replace the file at `path` by one of a submission alone, made since the state that holds `after` was saved.

    Raises:
        DiskFailed: as `save_state`.
    """
    _write(
        path, lambda: _submission(made), {"format": FORMAT, **_belonging(made), "after": blake3(after.key).hexdigest()}
    )


def load_made(path: Path, after: Made) -> Made | None:
    """The submission at `path`; None where there is none, or it was made before the state that holds `after`.

    Raises:
        ConfigError: the file is of another release, or none of a submission.
        DiskFailed: it cannot be read.
    """
    try:
        with _reading(path), path.open("rb") as file:
            stored = _Stored(path, file)
            return stored.made() if stored.follows(after) else None
    except FileNotFoundError:
        return None


def save_state(path: Path, layout: Layout, state: MinerState, moments: Callable[[], Iterable[Entry]]) -> None:
    """Replace the file at `path`; what it says survives a power cut once this returns.

    `moments` tells what the engine keeps (`Engine.state`); it is asked twice, for the sizes and for the bytes.

    Raises:
        DiskFailed: the disk is full, or the folder cannot be written; the file is whole, as it was or as it is to be.
    """
    about = {"format": FORMAT} | (_belonging(state.made) if state.made else {})
    _write(path, lambda: _tensors(layout, state, moments()), about)


def _belonging(made: Made) -> dict[str, str]:
    """What a header says of a submission."""
    return {"round": str(made.round), "parent": made.parent.hex()}


def _submission(made: Made) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a submission."""
    yield f"{_MADE}/key", _tensor(made.key)
    yield f"{_MADE}/submission", _tensor(made.submission)


def _tensors(layout: Layout, state: MinerState, moments: Iterable[Entry]) -> Iterator[tuple[str, Tensor]]:
    """Everything a file holds, by its name there and in its order."""
    for name, error in zip(layout.names, state.error, strict=True):
        yield f"{name}/{ERROR}", error
    for name, entry in moments:
        assert name in layout.names and ERROR not in entry
        for part, tensor in entry.items():
            yield f"{name}/{part}", tensor
    if state.made is not None:
        yield from _submission(state.made)


def _write(path: Path, tensors: Callable[[], Iterator[tuple[str, Tensor]]], about: Mapping[str, str]) -> None:
    """`_replace`, whose errors are sentences."""
    try:
        _replace(path, tensors, about)
    except OSError as problem:
        raise DiskFailed(
            f"cannot write {path}: {problem.strerror or problem}; free space or mend the folder, the round's work waits"
        ) from problem


def _replace(path: Path, tensors: Callable[[], Iterator[tuple[str, Tensor]]], about: Mapping[str, str]) -> None:
    """Write a draft beside the file, a tensor at a time, and put it in the file's place once it is on the disk."""
    draft = path.with_suffix(".draft")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _SECRET_MODE)
    with os.fdopen(handle, "wb") as file:
        file.write(_header(tensors(), about))
        for _, tensor in tensors():
            file.write(tensor.detach().cpu().contiguous().reshape(-1).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync_folder(path.parent)


def load_state(path: Path, layout: Layout, take: Callable[[Iterable[Entry]], None]) -> MinerState:
    """What was saved at `path`, or a blank state where there is nothing; e as of `stored_error`.

    `take` is given what the engine kept, an entry at a time, and owns its tensors (`Engine.load_state`).

    Raises:
        ConfigError: the file is of another release, or not a miner's state of this model.
        DiskFailed: it cannot be read.
        MusterError: what `take` raises where the entries are not its own.
    """
    try:
        with _reading(path), path.open("rb") as file:
            stored = _Stored(path, file)
            stored.check(layout)
            take(stored.moments(layout))
            return MinerState(stored.error(layout), stored.made())
    except FileNotFoundError:
        take(())
        return MinerState.blank(layout)


def stored_error(path: Path, layout: Layout) -> tuple[Tensor, ...]:
    """The e that was saved at `path`, where it lies in the file: the kernel brings a page when it is read.

    It may take the page back at any time. The tensors stay what they are when the file is replaced by another, as
    `save_state` does; not so when it is written over, which nobody may do while a miner runs.

    Raises:
        ConfigError, DiskFailed: as `load_state`; DiskFailed also where there is none.
    """
    try:
        with _reading(path), path.open("rb") as file:
            stored = _Stored(path, file)
            stored.check(layout)
            return stored.error(layout)
    except FileNotFoundError as problem:
        raise DiskFailed(f"{path} was saved and is gone; leave it to the miner while it runs") from problem


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file, as a sentence; that there is none is said as Python says it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise DiskFailed(
            f"cannot read {path}: {problem.strerror or problem}; mend the disk or its permissions"
        ) from problem
    except (KeyError, ValueError, struct.error) as problem:
        raise ConfigError(
            f"{path} is not this miner's memory of this run; move it away to start without it"
        ) from problem


class _Stored:
    """A state file that is open for reading; its header is checked whole before anything is read by it."""

    def __init__(self, path: Path, file: BufferedReader) -> None:
        size = os.fstat(file.fileno()).st_size
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, _MAX_HEADER):
            raise ValueError("the header is longer than the file")
        header = _HEADER.validate_json(file.read(length))
        about = header.pop("__metadata__", {})
        self._about = about if isinstance(about, dict) else {}
        _check_format(path, self._about)
        self._file = file
        self._begin = 8 + length
        self._places: dict[str, dict[str, _Place]] = {}
        for name, place in header.items():
            owner, _, part = name.rpartition("/")
            if isinstance(place, _Place):
                self._places.setdefault(owner, {})[part] = place
        self._check_places(size)

    def _check_places(self, size: int) -> None:
        """Raise ValueError unless the tensors lie one after another and fill the file, of `size` bytes."""
        end = 0
        every = (place for parts in self._places.values() for place in parts.values())
        for place in sorted(every, key=lambda place: place.data_offsets):
            start, after = place.data_offsets
            if not start == end < after or after - start != math.prod(place.shape) * _ITEM_BYTES[place.dtype]:
                raise ValueError("the tensors do not lie one after another")
            end = after
        if end != size - self._begin:
            raise ValueError("the tensors do not fill the file")

    def check(self, layout: Layout) -> None:
        """Raise ValueError unless there is an entry for each tensor of the layout, with an e of its shape."""
        named = self._places.keys() - {_MADE}
        places = [self._places.get(name, {}).get(ERROR) for name in layout.names]
        found = tuple(place.shape for place in places if place is not None and place.dtype == "F32")
        if named != set(layout.names) or found != layout.shapes:
            raise ValueError("error feedback of another model")

    def follows(self, after: Made) -> bool:
        """Whether it is a submission made since the state that holds `after` was saved."""
        return self._about.get("after") == blake3(after.key).hexdigest()

    def error(self, layout: Layout) -> tuple[Tensor, ...]:
        """e in layout order, in one map of the file; what is written to it never reaches the file.

        Where the file cannot be mapped (by its file system, by a limit on memory) it is read.
        """
        places = [self._places[name][ERROR] for name in layout.names]
        end = self._begin + max(place.data_offsets[1] for place in places)
        try:
            kept = mmap.mmap(self._file.fileno(), end, access=mmap.ACCESS_COPY)
        except OSError:
            return tuple(self._read(place) for place in places)
        return tuple(
            torch.frombuffer(
                kept, dtype=torch.float32, count=math.prod(place.shape), offset=self._begin + place.data_offsets[0]
            ).view(place.shape)
            for place in places
        )

    def moments(self, layout: Layout) -> Iterator[Entry]:
        """What is kept of each tensor beside its e, each entry read when it is asked for."""
        for name in layout.names:
            entry = {part: self._read(place) for part, place in self._places[name].items() if part != ERROR}
            if entry:
                yield name, entry

    def made(self) -> Made | None:
        """The submission, if there is one."""
        if "round" not in self._about:
            return None
        places = [self._places[_MADE][part] for part in ("key", "submission")]
        if any(place.dtype != "U8" for place in places):
            raise ValueError("the submission is not bytes")
        key, submission = (self._read(place).numpy().tobytes() for place in places)
        return Made(int(self._about["round"]), bytes.fromhex(self._about["parent"]), key, submission)

    def _read(self, place: _Place) -> Tensor:
        """One tensor, in memory of its own."""
        tensor = torch.empty(place.shape, dtype=torch.float32 if place.dtype == "F32" else torch.uint8)
        self._file.seek(self._begin + place.data_offsets[0])
        room = tensor.reshape(-1).numpy().data.cast("B")
        if self._file.readinto(room) != len(room):
            raise ValueError("the file has become shorter")
        return tensor


def _check_format(path: Path, about: Mapping[str, str]) -> None:
    found = about.get("format")
    if found != FORMAT:
        raise ConfigError(
            f"{path} is a memory of another release (format {found or '1'}, this one has {FORMAT}): let that release "
            "finish its round, then move the file away to start with zero error feedback and cold moments"
        )


def _header(tensors: Iterable[tuple[str, Tensor]], about: Mapping[str, str]) -> bytes:
    """The safetensors header of tensors that follow in this order."""
    entries: dict[str, object] = {"__metadata__": about}
    offset = 0
    for name, tensor in tensors:
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


def _tensor(data: bytes) -> Tensor:
    """A copy, which no other thread waits for, as for one that the interpreter makes."""
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())
