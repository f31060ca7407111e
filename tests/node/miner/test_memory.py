"""The miner's state file: whole or as it was, of this release and model or refused in a sentence."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from builders import layout, theta
from safetensors.torch import load, save_file

from muster.node.miner.memory import FORMAT, Made, Memory, load_memory, save_memory
from muster.protocol.errors import ConfigError, StorageError

MADE = Made(7, bytes(range(32)), b"a submission's bytes")


def remembered() -> Memory:
    moments = {"model.norm.weight/exp_avg": torch.arange(3.0), "model.norm.weight/step": torch.tensor(5.0)}
    return Memory(tuple(theta()), moments, MADE)


def same(a: Memory, b: Memory) -> bool:
    """Whether both hold the same bits."""
    return (
        a.made == b.made
        and all(torch.equal(x, y) for x, y in zip(a.residual, b.residual, strict=True))
        and a.optimizer.keys() == b.optimizer.keys()
        and all(torch.equal(value, b.optimizer[name]) for name, value in a.optimizer.items())
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "memory.safetensors"


def test_round_trip(path: Path) -> None:
    save_memory(remembered(), path)
    assert same(load_memory(path, layout()), remembered())


def test_the_first_round_begins_blank(path: Path) -> None:
    blank = load_memory(path, layout())
    assert blank.made is None
    assert all(not tensor.any() for tensor in blank.residual)
    save_memory(blank, path)
    assert same(load_memory(path, layout()), blank)


def test_it_is_a_safetensors_file(path: Path) -> None:
    """Written here, tensor by tensor; read by the library, here and by whoever looks into it."""
    save_memory(remembered(), path)
    found = load(path.read_bytes())
    assert torch.equal(found["optimizer.model.norm.weight/exp_avg"], torch.arange(3.0))
    assert found["made.key"].numpy().tobytes() == MADE.key
    assert all(torch.equal(found[f"residual.{i}"], tensor) for i, tensor in enumerate(theta()))


def test_tensors_need_not_lie_in_one_piece(path: Path) -> None:
    turned = Memory(tuple(theta()), {"a/exp_avg": torch.arange(6.0).reshape(2, 3).T})
    save_memory(turned, path)
    assert same(load_memory(path, layout()), turned)


def test_nobody_else_may_read_the_key(path: Path) -> None:
    save_memory(remembered(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_crash_while_writing_leaves_the_old_memory(path: Path) -> None:
    save_memory(remembered(), path)
    path.with_suffix(".draft").write_bytes(b"half of a newer mem")
    assert same(load_memory(path, layout()), remembered())
    save_memory(Memory.blank(layout()), path)
    assert load_memory(path, layout()).made is None


def test_a_full_disk_is_a_sentence_and_leaves_the_old_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_memory(remembered(), path)

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"memory\.safetensors: No space left on device; free space"):
        save_memory(Memory.blank(layout()), path)
    assert same(load_memory(path, layout()), remembered())


def test_file_and_folder_are_synced_before_it_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    real = os.fsync

    def record(handle: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        real(handle)

    monkeypatch.setattr(os, "fsync", record)
    save_memory(remembered(), path)
    assert synced == [False, True]


@pytest.mark.parametrize("what", ["garbage", "empty", "other model", "other type", "round"])
def test_a_file_that_is_not_this_miners_memory_is_named(path: Path, what: str) -> None:
    path.parent.mkdir()
    tensors, about = {f"residual.{i}": tensor for i, tensor in enumerate(theta())}, {"format": FORMAT}
    match what:
        case "garbage":
            path.write_bytes(b"\x08garbage" * 40)
        case "empty":
            path.write_bytes(b"")
        case "other model":
            save_file({name: torch.zeros(2) for name in tensors}, path, about)
        case "other type":
            save_file({name: tensor.double() for name, tensor in tensors.items()}, path, about)
        case _:
            save_file({**tensors, "made.key": torch.zeros(32), "made.submission": torch.zeros(1)}, path,
                      {**about, "round": "seven"})  # fmt: skip
    with pytest.raises(ConfigError, match=r"memory\.safetensors is not this miner's memory"):
        load_memory(path, layout())


@pytest.mark.parametrize(("about", "named"), [(None, "format 1,"), ({"format": "muster/memory/9"}, "memory/9")])
def test_a_file_of_another_release_is_named_as_that(path: Path, about: dict[str, str] | None, named: str) -> None:
    """Format 1 had no version; what it kept of a submission under way has no place here."""
    path.parent.mkdir()
    save_file({f"residual.{i}": tensor for i, tensor in enumerate(theta())}, path, about)
    with pytest.raises(ConfigError, match=named) as caught:
        load_memory(path, layout())
    assert "then move the file away" in str(caught.value)
