"""A miner whose state is saved in every n-th round: what is sent is durable in each, and what a kill costs is said."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from builders import layout, theta
from hypothesis import given
from hypothesis import strategies as st
from miner_world import World, next_round

from muster.node.miner import Memory
from muster.node.miner.state import Made, MinerState, load_made, load_state, save_made
from muster.protocol.errors import ConfigError, StorageError

LAYOUT = layout()
ERROR = tuple(theta())


def made(round_: int) -> Made:
    """The submission of a round."""
    return Made(round_, bytes([round_]) * 32, bytes([round_, 1]) * 16, b"submission %d" % round_)


def state(round_: int) -> MinerState:
    """The state after a round: e says which."""
    return MinerState(tuple(tensor + round_ for tensor in ERROR), made(round_))


def saved_round(path: Path) -> int:
    """Of which round the state on the disk is."""
    found = load_state(path, LAYOUT, list).made
    assert found is not None
    return found.round


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "memory.safetensors"


def save(memory: Memory, round_: int) -> None:
    memory.save(LAYOUT, state(round_), lambda: ())


@given(every=st.integers(1, 5), lives=st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_the_newest_submission_is_durable_and_the_state_is_at_most_so_old(
    tmp_path_factory: pytest.TempPathFactory, every: int, lives: list[int]
) -> None:
    """Lives of so many rounds each, every one ended by a kill after its last save."""
    path, round_ = tmp_path_factory.mktemp("life") / "memory.safetensors", 0
    for rounds in lives:
        memory = Memory(path, every)
        memory.load(LAYOUT, list)
        for saved in range(rounds):
            round_ += 1
            save(memory, round_)
            found, forgotten = Memory(path, every).load(LAYOUT, list)
            assert found.made == made(round_)
            assert forgotten == saved % every == round_ - saved_round(path)
            assert all((e == s).all() for e, s in zip(found.error, state(round_ - forgotten).error, strict=True))


def test_every_round_is_one_file(path: Path) -> None:
    memory = Memory(path)
    for round_ in (1, 2):
        save(memory, round_)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_between_it_writes_what_was_sent_and_no_more(path: Path) -> None:
    memory = Memory(path, 3)
    save(memory, 1)
    before = path.read_bytes()
    save(memory, 2)
    assert path.read_bytes() == before
    assert path.with_name("submission.safetensors").stat().st_size < 1000


def test_a_submission_from_before_the_state_does_not_count(path: Path) -> None:
    """A kill between the two renames of a round in which the state is saved leaves both files."""
    memory = Memory(path, 2)
    for round_ in (1, 2):
        save(memory, round_)
    stale = path.with_name("submission.safetensors").read_bytes()
    save(memory, 3)
    path.with_name("submission.safetensors").write_bytes(stale)
    found, forgotten = Memory(path, 2).load(LAYOUT, list)
    assert (found.made, forgotten) == (made(3), 0)


def test_a_round_that_is_made_again_after_an_undo_loses_none(path: Path) -> None:
    memory = Memory(path, 5)
    save(memory, 7)
    again = Made(6, bytes(32), bytes(32), b"another round 6")
    memory.save(LAYOUT, MinerState(ERROR, again), lambda: ())
    found, forgotten = Memory(path, 5).load(LAYOUT, list)
    assert (found.made, forgotten) == (again, 0)


@pytest.mark.parametrize("data", [b"", b"\x08\0\0\0\0\0\0\0not json", b"\xff" * 64])
def test_a_damaged_submission_is_a_sentence(path: Path, data: bytes) -> None:
    memory = Memory(path, 2)
    for round_ in (1, 2):
        save(memory, round_)
    path.with_name("submission.safetensors").write_bytes(data)
    with pytest.raises(ConfigError, match="is not this miner's memory"):
        Memory(path, 2).load(LAYOUT, list)


def test_a_state_in_the_place_of_a_submission_is_refused(path: Path) -> None:
    memory = Memory(path, 2)
    for round_ in (1, 2):
        save(memory, round_)
    path.with_name("submission.safetensors").write_bytes(path.read_bytes())
    found, _ = Memory(path, 2).load(LAYOUT, list)
    assert found.made == made(1), "it says of no state that it follows it"


def test_a_submission_alone_is_durable_and_secret(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), real(handle))[1])
    save_made(path, made(2), made(1))
    assert (len(synced), path.stat().st_mode & 0o777) == (2, 0o600)
    assert load_made(path, made(1)) == made(2)
    assert load_made(path, made(3)) is None
    assert load_made(path.with_name("none"), made(1)) is None


def test_a_full_disk_leaves_what_was_saved(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(path, 2)
    save(memory, 1)

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device; free space"):
            save(memory, 2)
    assert Memory(path, 2).load(LAYOUT, list)[0].made == made(1)
    save(memory, 2)
    assert Memory(path, 2).load(LAYOUT, list)[0].made == made(2)


async def test_a_miner_that_was_killed_between_sends_again_and_says_what_it_forgot(tmp_path: Path) -> None:
    world = await World.begin(tmp_path / "memory.safetensors")
    world.save_every = 3
    miner = world.miner()
    for _ in range(3):
        await miner.train()
        await next_round(miner)
    after_first, sent = saved_round(tmp_path / "memory.safetensors"), world.submissions(2)
    assert after_first == 0
    again = world.miner(2)
    await again.train()
    assert set(world.submissions(2)) == set(sent), "made once, sent twice"
    assert world.events("trained") == [0, 1, 2]
    assert world.events("forgot") == [2]
    await next_round(again)
    await again.train()
    assert saved_round(tmp_path / "memory.safetensors") == 3, "a new life begins with a whole state"
    assert world.events("forgot") == [2]
    unharmed = world.miner(3)
    assert unharmed.made == again.made
    assert world.events("forgot") == [2]
