"""One process a hotkey, role and run, by the kernel's word: the second hears of the first, and death frees."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from hotkey_process import LEDGER, SINCE, line, other_process

from muster.node.lock import TRIES, Holder, find_holder, held, hotkey_folder, role_lock
from muster.protocol.errors import ConfigError, HotkeyInUse

HOLDER = Holder(os.getpid(), "here", "miner-0", SINCE, "/runs/one")
RUN, OTHER_RUN = bytes(32), bytes([1]) * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A hotkey's folder, not made yet."""
    return hotkey_folder({"XDG_STATE_HOME": str(tmp_path)}, "5Hot")


@pytest.fixture
def lock(folder: Path) -> Path:
    """A miner's lock."""
    return role_lock(folder, LEDGER, RUN, "miner")


async def no_pause(_: float) -> None:
    """Look again at once."""


def mode(path: Path) -> int:
    """Who may do what."""
    return stat.S_IMODE(path.stat().st_mode)


def everything(folder: Path) -> dict[Path, bytes | None]:
    """All that is in a folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def spoil(lock: Path, words: bytes) -> None:
    """Write something else into a lock's file."""
    lock.write_bytes(words)


async def test_the_second_process_is_told_whose_it_is(lock: Path) -> None:
    with other_process("lock", lock, "first") as first:
        assert line(first) == "held"
        with pytest.raises(HotkeyInUse) as caught:
            async with held(lock, HOLDER, no_pause):
                pass
        for words in (f"process {first.pid} on host", "called first", "2023-11-14 22:13:20 UTC", "/runs/one"):
            assert words in str(caught.value)
        assert caught.value.exit_status == ConfigError.exit_status


async def test_a_killed_holder_holds_nothing(lock: Path) -> None:
    with other_process("lock", lock, "first") as first:
        assert line(first) == "held"
        first.kill()
        first.wait()
        async with held(lock, HOLDER, no_pause):
            assert find_holder(lock).startswith(f"process {os.getpid()} on here, called miner-0")


async def test_an_old_life_may_be_about_to_end(lock: Path) -> None:
    old = AsyncExitStack()
    await old.enter_async_context(held(lock, HOLDER))
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == TRIES - 1:
            await old.aclose()

    async with held(lock, HOLDER, sleep):
        assert len(pauses) == TRIES - 1


async def test_other_roles_runs_and_chains_have_locks_of_their_own(folder: Path) -> None:
    locks = {
        role_lock(folder, ledger, run, role)
        for ledger in (LEDGER, "bittensor")
        for run in (RUN, OTHER_RUN)
        for role in ("validator", "aggregator")
    }
    assert len(locks) == 8
    async with AsyncExitStack() as stack:
        for each in locks:
            await stack.enter_async_context(held(each, HOLDER, no_pause))


async def test_only_its_user_can_look_into_the_folder(lock: Path, tmp_path: Path) -> None:
    async with held(lock, HOLDER):
        for each in (lock.parent, lock.parent.parent, tmp_path / "muster"):
            assert mode(each) == 0o700
        assert mode(lock) == 0o600


def test_the_folder_follows_the_users_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    at_home = Path("/home/somebody/.local/state/muster/hotkeys/5Hot")
    assert hotkey_folder({}, "5Hot") == hotkey_folder({"XDG_STATE_HOME": "relative"}, "5Hot") == at_home
    assert hotkey_folder({"XDG_STATE_HOME": "/state"}, "5Hot") == Path("/state/muster/hotkeys/5Hot")


async def test_a_folder_that_cannot_be_written_is_named(lock: Path, tmp_path: Path) -> None:
    (tmp_path / "muster").touch()
    with pytest.raises(ConfigError, match=r"cannot lock .*/muster/hotkeys/.*; set XDG_STATE_HOME"):
        async with held(lock, HOLDER):
            pass
    with pytest.raises(ConfigError, match="set XDG_STATE_HOME"):
        find_holder(lock)


async def test_looking_makes_and_changes_nothing(lock: Path, tmp_path: Path) -> None:
    assert find_holder(lock) == ""
    assert everything(tmp_path) == {}
    async with held(lock, HOLDER):
        before = everything(tmp_path)
        assert find_holder(lock) == str(HOLDER)
    assert find_holder(lock) == ""
    assert everything(tmp_path) == before != {}


async def test_what_a_file_says_does_not_reach_the_terminal_raw(lock: Path) -> None:
    async with held(lock, HOLDER):
        spoil(lock, b"\x1b[2Jprocess\xff\n" + b"x" * 10_000)
        assert find_holder(lock).startswith("[2Jprocess")
        assert len(find_holder(lock)) < 5_000
        spoil(lock, b"")
        assert find_holder(lock) == "another process"


async def test_the_loop_is_not_blocked(lock: Path) -> None:
    with other_process("lock", lock, "first") as first:
        assert await asyncio.to_thread(line, first) == "held"
        with blockbuster_ctx(scanned_modules=["muster"]):
            async with held(lock.with_name("another.lock"), HOLDER):
                with pytest.raises(HotkeyInUse):
                    async with held(lock, HOLDER, no_pause):
                        pass
