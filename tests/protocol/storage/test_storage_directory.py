"""What a directory promises beyond any store: many processes, crashes, hostile folders, failing disks."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from muster.protocol.errors import ObjectMissing, StorageError
from muster.protocol.storage import Store
from muster.protocol.storage.directory import TEMP_FOLDER, TEMP_LIFETIME, DirectoryStore

CAP = 1 << 20


async def keys(store: Store, prefix: str = "") -> list[str]:
    return [info.key for info in await store.list(prefix)]


RACE = """
import asyncio, sys
from pathlib import Path
from muster.protocol.storage.directory import DirectoryStore

async def main(root, name):
    store = DirectoryStore(Path(root), fsync=False)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(100):
        if await store.put_if_absent(f"race/{number}", name.encode()):
            print(number)

asyncio.run(main(*sys.argv[1:]))
"""

DIES_BEFORE_RENAME = """
import asyncio, os, sys
from pathlib import Path
from muster.protocol.storage.directory import DirectoryStore

os.rename = lambda *_, **__: os._exit(70)
asyncio.run(DirectoryStore(Path(sys.argv[1])).put("a/b", b"never seen"))
"""


async def python(program: str, *arguments: str | Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


def open_descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def set_mode(bucket: Path, mode: int) -> None:
    (bucket / TEMP_FOLDER).chmod(mode)
    bucket.chmod(mode)


class TestDirectory:
    async def test_of_four_racing_processes_one_wins_each_key(self, tmp_path: Path) -> None:
        racers = {name: await python(RACE, tmp_path, name) for name in "ABCD"}
        for racer in racers.values():
            assert racer.stdout is not None
            assert await racer.stdout.readline() == b"ready\n"
        outputs = await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers.values()))
        assert [racer.returncode for racer in racers.values()] == [0] * 4
        winners = {int(number): name for name, (out, _) in zip(racers, outputs, strict=True) for number in out.split()}
        assert sum(len(out.split()) for out, _ in outputs) == len(winners)
        store = DirectoryStore(tmp_path)
        assert len(await store.list("race/")) == len(winners) == 100
        for number, name in winners.items():
            assert await store.get(f"race/{number}", max_bytes=1) == name.encode()

    async def test_a_writer_killed_before_the_rename_leaves_the_old_object(self, tmp_path: Path) -> None:
        store = DirectoryStore(tmp_path)
        await store.put("a/b", b"old")
        assert await (await python(DIES_BEFORE_RENAME, tmp_path)).wait() == 70
        assert [file.read_bytes() for file in (tmp_path / TEMP_FOLDER).iterdir()] == [b"never seen"]
        assert await store.get("a/b", max_bytes=CAP) == b"old"
        assert await keys(store) == ["a/b"]

    async def test_what_crashed_writers_left_is_swept_after_a_day(self, tmp_path: Path) -> None:
        await DirectoryStore(tmp_path).put("a", b"x")
        for name, modified in (("dead", 1_000.0), ("writing", 2_000.0)):
            (tmp_path / TEMP_FOLDER / name).write_bytes(b"half")
            os.utime(tmp_path / TEMP_FOLDER / name, (modified, modified))
        (tmp_path / TEMP_FOLDER / "folder").mkdir()
        store = DirectoryStore(tmp_path, now=lambda: 1_500.0 + TEMP_LIFETIME)
        await store.get("a", max_bytes=CAP)
        assert (tmp_path / TEMP_FOLDER / "dead").exists()
        await store.put("a", b"y")
        assert sorted(file.name for file in (tmp_path / TEMP_FOLDER).iterdir()) == ["folder", "writing"]

    async def test_the_temporary_folder_is_empty_after_writes(self, tmp_path: Path) -> None:
        store = DirectoryStore(tmp_path)
        await store.put("a/b", b"x")
        assert await store.put_if_absent("a/b", b"y") is False
        assert await store.put_if_absent("a/c", b"y") is True
        with pytest.raises(StorageError, match="folder of other objects"):
            await store.put("a", b"x")
        assert list((tmp_path / TEMP_FOLDER).iterdir()) == []

    @pytest.mark.parametrize(("fsync", "synced"), [(True, True), (False, False)])
    async def test_fsync(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: bool, synced: bool) -> None:
        seen: list[str] = []
        rename = os.rename

        def record_sync(fd: int) -> None:
            seen.append(str(Path(f"/dev/fd/{fd}").resolve().relative_to(tmp_path)))

        def record_rename(old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
            seen.append("rename")
            rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        monkeypatch.setattr(os, "fsync", record_sync)
        monkeypatch.setattr(os, "rename", record_rename)
        await DirectoryStore(tmp_path / "new", fsync=fsync).put("a/b", b"x")
        if not synced:
            assert seen == ["rename"]
            return
        *folders, temp, renamed, last = seen
        assert folders == [".", "new", "new"]
        assert temp.startswith(f"new/{TEMP_FOLDER}/")
        assert (renamed, last) == ("rename", "new/a")

    async def test_only_regular_files_in_real_folders_are_objects(self, tmp_path: Path) -> None:
        root, outside = tmp_path / "bucket", tmp_path / "outside"
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        store = DirectoryStore(root)
        await store.put("real/object", b"x")
        (root / "file").symlink_to(outside / "secret")
        (root / "folder").symlink_to(outside)
        (root / "inside").symlink_to(root / "real")
        os.mkfifo(root / "fifo")
        (root / "not a key").write_bytes(b"x")
        assert await keys(store) == ["real/object"]
        assert await keys(store, "folder/") == []
        for key in ("file", "folder/secret", "inside/object", "fifo", "real"):
            with pytest.raises(ObjectMissing):
                await store.get(key, max_bytes=CAP)
            assert await store.head(key) is None
        for key in ("folder/planted", "inside/planted"):
            with pytest.raises(StorageError, match="symbolic link"):
                await store.put(key, b"x")
        with pytest.raises(StorageError, match="not an object"):
            await store.put_if_absent("file", b"x")
        await store.delete("folder/secret")
        assert [file.name for file in outside.iterdir()] == ["secret"]

    async def test_a_bucket_that_is_itself_a_link_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "a").write_bytes(b"x")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        store = DirectoryStore(tmp_path / "link")
        assert await store.head("a") is None
        with pytest.raises(StorageError, match="symbolic link"):
            await store.put("b", b"x")

    async def test_a_growing_file_cannot_exceed_the_cap(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = DirectoryStore(tmp_path)
        await store.put("a", b"12345")
        read = os.read

        def read_while_it_grows(fd: int, count: int) -> bytes:
            with (tmp_path / "a").open("ab") as file:
                file.write(b"more")
            return read(fd, min(count, 2))

        monkeypatch.setattr(os, "read", read_while_it_grows)
        assert await store.get("a", max_bytes=5) == b"12345"
        assert await store.get_range("a", 1, 3) == b"234"

    @pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
    @pytest.mark.parametrize(
        ("number", "advice"),
        [
            (errno.ENOSPC, "disk is full"),
            (errno.EACCES, "permission denied"),
            (errno.EROFS, "read-only"),
            (errno.EIO, "Input/output error"),
            (errno.ETIMEDOUT, "timed out"),
        ],
    )
    async def test_a_disk_that_refuses_is_explained(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, advice: str
    ) -> None:
        store = DirectoryStore(tmp_path)
        await store.put("a", b"old")

        def refuse(*_: object, **__: object) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as broken:
            broken.setattr(os, call, refuse)
            with pytest.raises(StorageError, match=f"cannot store a in .*{advice}"):
                await store.put("a", b"new")
        assert await store.get("a", max_bytes=CAP) == b"old"
        assert list((tmp_path / TEMP_FOLDER).iterdir()) == []

    async def test_a_full_device_is_explained(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        write = os.write
        monkeypatch.setattr(os, "write", lambda _, data: write(full, data))
        with pytest.raises(StorageError, match="disk is full"):
            await DirectoryStore(tmp_path).put("a", b"x")
        os.close(full)

    async def test_a_folder_without_write_permission(self, tmp_path: Path) -> None:
        await DirectoryStore(tmp_path).put("a", b"x")
        set_mode(tmp_path, 0o500)
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        store = DirectoryStore(tmp_path)
        with pytest.raises(StorageError, match="permission denied"):
            await store.put("b", b"x")
        assert await store.get("a", max_bytes=CAP) == b"x"
        set_mode(tmp_path, 0o700)

    @pytest.mark.parametrize("write", [DirectoryStore.put, DirectoryStore.put_if_absent])
    async def test_a_write_that_misses_its_deadline_is_dropped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Awaitable[object]]
    ) -> None:
        disk_answers, done = threading.Event(), threading.Event()
        unlink = os.unlink

        def slow_sync(_: int) -> None:
            disk_answers.wait()

        def last_unlink(path: str, *, dir_fd: int) -> None:
            unlink(path, dir_fd=dir_fd)
            done.set()

        store = DirectoryStore(tmp_path)
        await store.put("old", b"x")
        monkeypatch.setattr(os, "fsync", slow_sync)
        monkeypatch.setattr(os, "unlink", last_unlink)
        try:
            with pytest.raises(StorageError, match=r"could not store a in .* within 0\.02 s"):
                await write(store, "a", b"late", deadline=0.02)
        finally:
            disk_answers.set()
        assert await asyncio.to_thread(done.wait, 10)
        assert await keys(store) == ["old"]

    async def test_a_read_that_misses_its_deadline_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        disk_answers = threading.Event()
        read = os.read

        def slow_read(fd: int, count: int) -> bytes:
            disk_answers.wait()
            return read(fd, count)

        store = DirectoryStore(tmp_path)
        await store.put("a", b"x")
        monkeypatch.setattr(os, "read", slow_read)
        try:
            with pytest.raises(StorageError, match=r"could not read a in .* within 0\.02 s"):
                await store.get("a", max_bytes=CAP, deadline=0.02)
        finally:
            disk_answers.set()

    async def test_no_descriptor_is_left_open(self, tmp_path: Path) -> None:
        store = DirectoryStore(tmp_path / "bucket")
        await store.put("a/b/c", b"x")
        before = open_descriptors()
        for _ in range(3):
            await store.put("a/b/c", b"x")
            await store.put_if_absent("a/b/d", b"x")
            await store.get("a/b/c", max_bytes=CAP)
            await store.list()
            await store.delete("a/b/d")
            for key in ("a/b", "a/b/c/d"):
                with pytest.raises(StorageError):
                    await store.put(key, b"x")
                with pytest.raises(ObjectMissing):
                    await store.get(key, max_bytes=CAP)
        assert open_descriptors() == before
