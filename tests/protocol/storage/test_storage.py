"""What every backend promises: one behavioural class over all of them."""

from __future__ import annotations

import asyncio
import functools
import random
import re
import uuid
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from s3_server import RadosGateway

from muster.protocol.errors import ObjectMissing, ObjectTooLarge, StorageError
from muster.protocol.storage import Credentials, Store, check_key, parse_location
from muster.protocol.storage.directory import DirectoryStore
from muster.protocol.storage.memory import MemoryStore
from muster.protocol.storage.s3 import S3Store
from muster.protocol.storage.s3_location import S3Location

CAP = 1 << 20
SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@pytest.fixture(params=["memory", "directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    match request.param:
        case "memory":
            return MemoryStore()
        case "directory":
            return DirectoryStore(tmp_path / "not" / "yet" / "there", fsync=False)
        case "s3":
            server: RadosGateway = request.getfixturevalue("s3_server")
            # A prefix for each test is as good as a bucket, and shows that prefixes are.
            location = parse_location(f"s3://{server.address}/{one_bucket(server)}/{uuid.uuid4().hex}/deep")
            assert isinstance(location, S3Location)
            return S3Store(location, Credentials(server.access, server.secret))
        case other:
            raise AssertionError(other)


@functools.cache
def one_bucket(server: RadosGateway) -> str:
    server.client().create_bucket(Bucket="behaviour")
    return "behaviour"


async def keys(store: Store, prefix: str = "", limit: int = 10_000) -> list[str]:
    return [info.key for info in await store.list(prefix, limit=limit)]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


class TestStore:
    @pytest.mark.parametrize("data", [b"", b"\0", b"some bytes", bytes(range(256)) * 1000])
    async def test_round_trip(self, store: Store, data: bytes) -> None:
        await store.put("run/submissions/7.sub", data)
        assert await store.get("run/submissions/7.sub", max_bytes=CAP) == data
        info = await store.head("run/submissions/7.sub")
        assert info is not None
        assert (info.key, info.size) == ("run/submissions/7.sub", len(data))
        assert await store.list() == [info]

    async def test_replace(self, store: Store) -> None:
        await store.put("a", b"old and longer")
        await store.put("a", b"new")
        assert await store.get("a", max_bytes=CAP) == b"new"

    async def test_missing(self, store: Store) -> None:
        await store.put("there/one", b"x")
        for key in ("gone", "there/two", "gone/deeper", "there", "there/one/below"):
            with pytest.raises(ObjectMissing, match=key):
                await store.get(key, max_bytes=CAP)
            with pytest.raises(ObjectMissing):
                await store.get_range(key, 0, 0)
            assert await store.head(key) is None

    async def test_an_empty_bucket_reads_as_empty(self, store: Store) -> None:
        assert await store.list() == []
        assert await store.head("a") is None
        await store.delete("a")
        with pytest.raises(ObjectMissing):
            await store.get("a", max_bytes=CAP)

    async def test_cap(self, store: Store) -> None:
        await store.put("a", b"12345")
        assert await store.get("a", max_bytes=5) == b"12345"
        with pytest.raises(ObjectTooLarge, match=r"a .*4"):
            await store.get("a", max_bytes=4)
        with pytest.raises(ObjectTooLarge):
            await store.get("a", max_bytes=0)

    async def test_a_huge_cap_allocates_nothing(self, store: Store) -> None:
        await store.put("a", b"small")
        assert await store.get("a", max_bytes=1 << 60) == b"small"
        assert await store.get_range("a", 1, 1 << 60) == b"mall"

    @pytest.mark.parametrize("start", [0, 1, 9, 10, 11, 1 << 70])
    @pytest.mark.parametrize("length", [0, 1, 4, 10, 100])
    async def test_ranges(self, store: Store, start: int, length: int) -> None:
        await store.put("a", b"0123456789")
        assert await store.get_range("a", start, length) == b"0123456789"[start : start + length]

    @pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, -1)])
    async def test_a_negative_range_is_a_mistake(self, store: Store, start: int, length: int) -> None:
        await store.put("a", b"0123456789")
        with pytest.raises(ValueError, match="negative"):
            await store.get_range("a", start, length)

    async def test_listing_is_in_key_order(self, store: Store) -> None:
        # "-" and "." sort before "/", digits and letters after it; capitals sort before small letters.
        written = ["b", "a/b", "a-b", "a.b", "a0", "a/b0", "a/B", "Z", "a/c/d", "a/c-d", "a/c.d/e", "10", "9"]
        for key in written:
            await store.put(key, b"x")
        assert await keys(store) == sorted(written)

    async def test_listing_by_prefix(self, store: Store) -> None:
        for key in ("run/seals/1", "run/seals/10", "run/seals/2", "run/sealed", "runs/x", "other"):
            await store.put(key, b"x")
        assert await keys(store, "run/seals/") == ["run/seals/1", "run/seals/10", "run/seals/2"]
        assert await keys(store, "run/seals/1") == ["run/seals/1", "run/seals/10"]
        assert await keys(store, "run/seal") == [
            "run/sealed",
            "run/seals/1",
            "run/seals/10",
            "run/seals/2",
        ]
        assert await keys(store, "run") == [*await keys(store, "run/"), "runs/x"]
        assert await keys(store, "run/seals/2") == ["run/seals/2"]

    @pytest.mark.parametrize("prefix", ["nothing", "a/", "b/", "../", "/", "//", ".", "a/../", "\0", "x" * 999])
    async def test_a_prefix_that_no_key_has(self, store: Store, prefix: str) -> None:
        await store.put("a", b"x")
        assert await store.list(prefix) == []

    async def test_listing_limit(self, store: Store) -> None:
        for key in ("c", "a/2", "b", "a/1"):
            await store.put(key, b"x")
        assert await keys(store, limit=3) == ["a/1", "a/2", "b"]
        assert await keys(store, limit=1) == ["a/1"]
        assert await keys(store, limit=0) == []

    async def test_more_objects_than_two_pages_of_a_listing_hold(self, store: Store) -> None:
        """A service lists a thousand at a time."""
        names = [f"run/records/{number}" for number in range(2_100)]
        await asyncio.gather(*(store.put(name, b"x", deadline=60) for name in names))
        assert await keys(store, "run/") == sorted(names)
        assert await keys(store, "run/", limit=1_001) == sorted(names)[:1_001]
        assert await keys(store, "run/records/199") == sorted(n for n in names if n.startswith("run/records/199"))

    async def test_delete(self, store: Store) -> None:
        await store.put("a/b", b"x")
        await store.put("a/c", b"y")
        for _ in range(2):
            await store.delete("a/b")
            assert await keys(store) == ["a/c"]
        await store.delete("a/c/deeper")
        await store.delete("a")
        assert await keys(store) == ["a/c"]

    async def test_put_if_absent(self, store: Store) -> None:
        assert await store.put_if_absent("a", b"first") is True
        assert await store.put_if_absent("a", b"second") is False
        assert await store.get("a", max_bytes=CAP) == b"first"
        await store.delete("a")
        assert await store.put_if_absent("a", b"third") is True

    async def test_of_eight_racing_tasks_one_wins(self, store: Store) -> None:
        for attempt in range(10):
            key = f"race/{attempt}"
            won = await asyncio.gather(*(store.put_if_absent(key, b"%d" % i) for i in range(8)))
            assert won.count(True) == 1
            assert await store.get(key, max_bytes=CAP) == b"%d" % won.index(True)

    async def test_a_reader_never_sees_a_mixture(self, store: Store) -> None:
        contents = [bytes([i]) * 50_000 for i in range(8)]
        await store.put("a", contents[0])

        async def read() -> bytes:
            return await store.get("a", max_bytes=CAP)

        *_, first, second = await asyncio.gather(*(store.put("a", data) for data in contents), read(), read())
        assert first in contents
        assert second in contents
        assert await read() in contents

    @pytest.mark.parametrize(("first", "second"), [("a", "a/b"), ("a/b", "a"), ("x/y/z", "x/y")])
    async def test_a_key_that_begins_another_works_or_is_refused(self, store: Store, first: str, second: str) -> None:
        await store.put(first, b"first")
        stored = [first]
        try:
            await store.put(second, b"second")
            stored.append(second)
        except StorageError as error:
            assert "cannot store" in str(error)
            with pytest.raises(StorageError, match="cannot store"):
                await store.put_if_absent(second, b"second")
        assert await store.get(first, max_bytes=CAP) == b"first"
        assert await keys(store) == sorted(stored)

    @pytest.mark.parametrize("deadline", [0, -1.5])
    async def test_nothing_is_done_after_the_deadline(self, store: Store, deadline: float) -> None:
        await store.put("a", b"x")
        for call in (
            store.put("b", b"x", deadline=deadline),
            store.put_if_absent("b", b"x", deadline=deadline),
            store.get("a", max_bytes=CAP, deadline=deadline),
            store.get_range("a", 0, 1, deadline=deadline),
            store.head("a", deadline=deadline),
            store.list(deadline=deadline),
            store.delete("a", deadline=deadline),
        ):
            with pytest.raises(StorageError, match="deadline"):
                await call
        assert await keys(store) == ["a"]

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "../a",
            "a/../b",
            ".",
            ".tmp/x",
            "a/.b",
            "a b",
            "a\n",
            "a\\b",
            "ä",
            "a\0",
            "x" * 129,
            "x/" * 300 + "x",
        ],
    )
    async def test_illegal_keys(self, store: Store, key: str) -> None:
        for call in (
            store.put(key, b"x"),
            store.put_if_absent(key, b"x"),
            store.get(key, max_bytes=CAP),
            store.get_range(key, 0, 1),
            store.head(key),
            store.delete(key),
        ):
            with pytest.raises(StorageError, match="not a legal object key"):
                await call
        assert await store.list() == []

    async def test_the_longest_legal_key(self, store: Store) -> None:
        key = "/".join(["x" * 127] * 4)
        assert len(key) == 511
        await store.put(key, b"x")
        assert await keys(store) == [key]
        assert await store.get(key, max_bytes=1) == b"x"

    @pytest.mark.parametrize("size", [0, 1, 4 << 20, (20 << 20) + 7])
    async def test_files_go_up_and_come_down(self, store: Store, tmp_path: Path, size: int) -> None:
        data = random.Random(size).randbytes(size)
        (tmp_path / "source").write_bytes(data)
        (tmp_path / "target").write_bytes(b"replaced in one step")
        await store.upload("a/b", tmp_path / "source")
        info = await store.head("a/b")
        assert info is not None
        assert info.size == size
        assert await store.download("a/b", tmp_path / "target", max_bytes=size) == blake3(data).digest()
        assert (tmp_path / "target").read_bytes() == data
        assert await store.get("a/b", max_bytes=size) == data
        assert files_in(tmp_path) == ["source", "target"]

    async def test_a_download_that_fails_leaves_nothing(self, store: Store, tmp_path: Path) -> None:
        await store.put("a", b"12345")
        target = tmp_path / "target"
        with pytest.raises(ObjectTooLarge):
            await store.download("a", target, max_bytes=4)
        with pytest.raises(ObjectMissing):
            await store.download("b", target, max_bytes=4)
        with pytest.raises(StorageError, match="deadline"):
            await store.download("a", target, max_bytes=5, deadline=0)
        with pytest.raises(StorageError, match="No such file"):
            await store.download("a", tmp_path / "no folder" / "target", max_bytes=5)
        assert files_in(tmp_path) == []

    async def test_a_file_that_cannot_be_read_is_not_uploaded(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"cannot store .*gone"):
            await store.upload("a", tmp_path / "gone")
        with pytest.raises(StorageError, match="legal"):
            await store.upload("../a", tmp_path)
        assert await store.list() == []

    async def test_close(self, store: Store) -> None:
        await store.put("a", b"x")
        await store.close()


@given(st.text(alphabet=st.sampled_from("aZ0._-/ \\\n\0é"), max_size=12))
def test_a_key_is_legal_if_every_segment_is(key: str) -> None:
    if all(SEGMENT.fullmatch(part) for part in key.split("/")):
        assert check_key(key) == key
    else:
        with pytest.raises(StorageError):
            check_key(key)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put_if_absent", "delete", "list"]),
        st.sampled_from(["a/1", "a/2", "a-b", "a.b/c", "B", "a/c/d"]),
        st.binary(max_size=3),
    ),
    max_size=20,
)


@given(operations=OPERATIONS)
async def test_a_directory_behaves_like_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, str, bytes]]
) -> None:
    store = DirectoryStore(tmp_path_factory.mktemp("bucket"), fsync=False)
    model: dict[str, bytes] = {}
    for action, key, data in operations:
        match action:
            case "put":
                await store.put(key, data)
                model[key] = data
            case "put_if_absent":
                assert await store.put_if_absent(key, data) is (key not in model)
                model.setdefault(key, data)
            case "delete":
                await store.delete(key)
                model.pop(key, None)
            case _:
                assert await keys(store, key[:2]) == sorted(k for k in model if k.startswith(key[:2]))
    assert [(info.key, info.size) for info in await store.list()] == sorted((k, len(v)) for k, v in model.items())
