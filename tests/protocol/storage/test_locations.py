from __future__ import annotations

from pathlib import Path

import pytest
from files_left_alone import picture
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import StorageError
from muster.protocol.storage import Buckets
from muster.protocol.storage.directory import DirectoryStore
from muster.protocol.storage.locations import DirectoryBuckets, MemoryBuckets, open_store
from muster.protocol.storage.memory import MemoryStore


@pytest.fixture(params=["dir", "mem"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def buckets(scheme: str, tmp_path: Path) -> Buckets:
    return DirectoryBuckets(tmp_path) if scheme == "dir" else MemoryBuckets()


async def test_a_location_always_means_the_same_bucket(buckets: Buckets, scheme: str) -> None:
    one = buckets.bucket(f"{scheme}:miner-1")
    await one.put("a", b"x")
    assert buckets.bucket(f"{scheme}:miner-1") is one
    other = buckets.bucket(f"{scheme}:miner-2")
    assert await other.list() == []
    await buckets.close()


async def test_directory_buckets_are_folders_of_the_base(tmp_path: Path) -> None:
    await DirectoryBuckets(tmp_path, fsync=False).bucket("dir:miner-1").put("a/b", b"x")
    assert (tmp_path / "miner-1" / "a" / "b").read_bytes() == b"x"
    assert await open_store("dir:miner-1", tmp_path).get("a/b", max_bytes=1) == b"x"


async def test_two_processes_worth_of_directory_buckets_share(tmp_path: Path) -> None:
    writer, reader = DirectoryBuckets(tmp_path), DirectoryBuckets(tmp_path)
    await writer.bucket("dir:m").put("a", b"x")
    assert await reader.bucket("dir:m").get("a", max_bytes=1) == b"x"


async def test_a_reader_changes_nothing(tmp_path: Path) -> None:
    """Neither a bucket that is there, nor one that is not there yet."""
    await DirectoryBuckets(tmp_path).bucket("dir:there").put("a/b", b"x")
    (tmp_path / "file").write_bytes(b"y")
    before = picture(tmp_path)
    reader = DirectoryBuckets(tmp_path, read_only=True)
    for name in ("there", "not-there"):
        store = reader.bucket(f"dir:{name}")
        for write in (
            store.put("a/c", b"x"),
            store.put_if_absent("a/c", b"x"),
            store.upload("a/c", tmp_path / "file"),
            store.delete("a/b"),
        ):
            with pytest.raises(StorageError, match="opened for reading"):
                await write
        assert [info.key for info in await store.list()] == ["a/b"] * (name == "there")
        assert (await store.head("a/b") is None) == (name == "not-there")
    assert picture(tmp_path) == before


NAMES = [
    "",
    ".",
    "..",
    "../x",
    "/etc",
    "a/b",
    "a/",
    ".hidden",
    "a b",
    "a\n",
    "a\0",
    "ä",
    "x" * 129,
    "x" * 9999,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_one_segment_is_refused(buckets: Buckets, scheme: str, name: str) -> None:
    with pytest.raises(StorageError, match=f"only {scheme}:NAME") as caught:
        buckets.bucket(f"{scheme}:{name}")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("location", ["", "dir", "DIR:a", "file:a", "http://x", "s3://h/b", "a:b:c", " dir:a"])
def test_an_unknown_scheme_is_refused(buckets: Buckets, location: str) -> None:
    with pytest.raises(StorageError, match="cannot open the location"):
        buckets.bucket(location)


def test_the_other_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="dir:NAME"):
        DirectoryBuckets(tmp_path).bucket("mem:a")
    with pytest.raises(StorageError, match="mem:NAME"):
        MemoryBuckets().bucket("dir:a")


@given(st.text(alphabet=st.sampled_from("adir:./\\-~$\n\0"), max_size=10).map("dir:".__add__))
def test_no_location_leads_out_of_the_base(location: str) -> None:
    base = Path("/base")
    try:
        store = open_store(location, base)
    except StorageError:
        return
    assert isinstance(store, DirectoryStore)
    root = store._files.root
    assert root.parent == base
    assert root.name == location.removeprefix("dir:")
    assert not root.name.startswith(".")


def test_memory_buckets_are_memory_stores() -> None:
    assert isinstance(MemoryBuckets().bucket("mem:a"), MemoryStore)
