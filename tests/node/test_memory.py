"""A miner killed at any instant comes back with its error feedback and its pending submission, or as it was before."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch
from builders import layout, theta
from safetensors.torch import save_file

from muster.node.miner.memory import Memory, Pending, load_memory, save_memory
from muster.protocol.errors import ConfigError


def remembered() -> Memory:
    pending = Pending(7, 64, tuple(t * 2 for t in theta()), bytes(range(32)), b"a submission's bytes")
    return Memory(tuple(theta()), {"model.norm.weight/exp_avg": torch.ones(3)}, pending)


def same(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "memory.safetensors"
    save_memory(remembered(), path)
    read = load_memory(path, layout())
    assert read.pending is not None
    assert same(read.residual, remembered().residual)
    assert same(read.pending.acc, tuple(t * 2 for t in theta()))
    assert (read.pending.round, read.pending.k) == (7, 64)
    assert (read.pending.key, read.pending.submission) == (bytes(range(32)), b"a submission's bytes")
    assert read.optimizer.keys() == remembered().optimizer.keys()


def test_the_first_round_begins_blank(tmp_path: Path) -> None:
    blank = load_memory(tmp_path / "memory.safetensors", layout())
    assert blank.pending is None
    assert all(not tensor.any() for tensor in blank.residual)


def test_settling_keeps_the_moments_and_drops_what_was_pending(tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    save_memory(remembered().settled(tuple(torch.zeros_like(t) for t in theta())), path)
    read = load_memory(path, layout())
    assert read.pending is None
    assert not read.residual[0].any()
    assert list(read.optimizer) == ["model.norm.weight/exp_avg"]


def test_nobody_else_may_read_the_key(tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    save_memory(remembered(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_crash_while_writing_leaves_the_old_memory(tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    save_memory(remembered(), path)
    path.with_suffix(".draft").write_bytes(b"half of a newer mem")
    read = load_memory(path, layout())
    assert read.pending is not None
    save_memory(Memory.blank(layout()), path)
    assert load_memory(path, layout()).pending is None


@pytest.mark.parametrize("what", ["garbage", "other model", "empty"])
def test_a_file_that_is_not_this_miners_memory_is_named(tmp_path: Path, what: str) -> None:
    path = tmp_path / "memory.safetensors"
    match what:
        case "garbage":
            path.write_bytes(b"\x08garbage" * 40)
        case "empty":
            path.write_bytes(b"")
        case _:
            save_file({f"residual.{i}": torch.zeros(2) for i in range(len(layout().shapes))}, path)
    with pytest.raises(ConfigError, match=r"memory\.safetensors is not this miner's memory"):
        load_memory(path, layout())
