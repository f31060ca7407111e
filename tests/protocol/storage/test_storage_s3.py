"""What a real S3 service and a real network add: keys, policies, races, cut connections, liars."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import resource
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from blake3 import blake3
from s3_proxies import CuttingProxy, http_server, pass_on, tcp_server
from s3_server import RadosGateway

from muster.protocol.errors import ObjectMissing, ObjectTooLarge, StorageError, StoreUnreachable
from muster.protocol.storage import Credentials, S3Location, Store, parse_location
from muster.protocol.storage.admin import uploads
from muster.protocol.storage.admin.uploads import PARTS_AT_ONCE
from muster.protocol.storage.network import NetworkBuckets
from muster.protocol.storage.s3 import PART, S3Store

CAP = 1 << 20
MB = 1_000_000


@pytest.fixture(scope="module")
def s3(s3_server: RadosGateway) -> Any:
    return s3_server.client()


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"b-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture(autouse=True)
def no_help_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test here also shows that AWS_* variables of some other program change nothing."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "OTHER",
        "AWS_SECRET_ACCESS_KEY": "other",
        "AWS_SESSION_TOKEN": "other",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_REGION": "mars-1",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_CONDITIONAL_PUT": "disabled",
    }.items():
        monkeypatch.setenv(name, value)
    yield


def place(address: str, bucket: str, read: Credentials | None = None) -> S3Location:
    return S3Location("127.0.0.1", int(address.rpartition(":")[2]), bucket, "", "us-east-1", False, False, read)


def keys_of(server: RadosGateway, uid: str = "admin") -> Credentials:
    return Credentials(*server.user(uid))


def store_at(address: str, bucket: str, server: RadosGateway) -> S3Store:
    return S3Store(place(address, bucket), keys_of(server))


def port(server: RadosGateway) -> int:
    return int(server.address.rpartition(":")[2])


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def any_file(folder: Path) -> bool:
    return any(folder.iterdir())


def policy(uid: str, bucket: str, *actions: str) -> str:
    principal = "*" if uid == "*" else {"AWS": [f"arn:aws:iam:::user/{uid}"]}
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Principal": principal, "Action": list(actions), "Resource": resources}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


class TestKeys:
    async def test_a_read_only_pair_reads_and_cannot_write(self, s3_server: RadosGateway, s3: Any, bucket: str) -> None:
        reader = keys_of(s3_server, "reader")
        s3.put_bucket_policy(Bucket=bucket, Policy=policy("reader", bucket, "s3:GetObject", "s3:ListBucket"))
        own = str(place(s3_server.address, bucket, reader))
        writing = NetworkBuckets(own, keys_of(s3_server))
        reading = NetworkBuckets(str(place(s3_server.address, "elsewhere")))
        await writing.bucket(own).put("a/b", b"x")
        theirs = reading.bucket(own)
        assert await theirs.get("a/b", max_bytes=1) == b"x"
        assert [info.key for info in await theirs.list("a/")] == ["a/b"]
        assert await theirs.head("gone") is None
        for refused in (
            theirs.put("a/b", b"y"),
            theirs.put_if_absent("c", b"y"),
            theirs.delete("a/b"),
        ):
            with pytest.raises(StorageError, match="policy"):
                await refused
        assert await writing.bucket(own).get("a/b", max_bytes=1) == b"x"
        await writing.close()
        await reading.close()

    async def test_a_public_bucket_needs_no_pair(self, s3_server: RadosGateway, s3: Any, bucket: str) -> None:
        await store_at(s3_server.address, bucket, s3_server).put("a", b"x")
        public = S3Store(place(s3_server.address, bucket))
        with pytest.raises(StorageError, match="policy"):
            await public.get("a", max_bytes=1)
        s3.put_bucket_policy(Bucket=bucket, Policy=policy("*", bucket, "s3:GetObject"))
        assert await public.get("a", max_bytes=1) == b"x"
        s3.delete_bucket_policy(Bucket=bucket)

    async def test_a_wrong_key_and_a_wrong_secret_are_told_apart(self, s3_server: RadosGateway, bucket: str) -> None:
        access, secret = s3_server.user("admin")
        for pair, says in (
            (Credentials(access, "hush-hush"), "the secret does not belong"),
            (Credentials("NOBODY", secret), "does not know the access key"),
        ):
            store = S3Store(place(s3_server.address, bucket), pair)
            for call in (
                store.get("a", max_bytes=1),
                store.put("a", b"x"),
                store.list(),
                store.put_if_absent("a", b""),
            ):
                with pytest.raises(StorageError, match=says) as caught:
                    await call
                assert "hush" not in str(caught.value)
                assert secret not in str(caught.value)
            # An answer to HEAD has no body and so no reason.
            with pytest.raises(StorageError, match="check the key"):
                await store.head("a")
            assert "hush" not in repr(store)

    async def test_a_bucket_that_does_not_exist(self, s3_server: RadosGateway) -> None:
        store = store_at(s3_server.address, "no-such-bucket", s3_server)
        for call in (store.get("a", max_bytes=1), store.put("a", b"x"), store.list(), store.put_if_absent("a", b"")):
            with pytest.raises(StorageError, match="no such bucket") as caught:
                await call
            assert not isinstance(caught.value, ObjectMissing)

    async def test_a_clock_that_is_wrong(self, s3_server: RadosGateway, bucket: str) -> None:
        async def an_hour_ago(request: web.Request) -> web.Response:
            day, _, time = request.headers["x-amz-date"].partition("T")
            other = f"{day}T{(int(time[:2]) + 12) % 24:02}{time[2:]}"
            return await pass_on(request, s3_server.endpoint, **{"x-amz-date": other})

        async with http_server(an_hour_ago) as address:
            store = store_at(address, bucket, s3_server)
            with pytest.raises(StorageError, match="clock"):
                await store.get("a", max_bytes=1)

    @pytest.mark.parametrize(
        ("status", "code", "says"),
        [
            (400, "ExpiredToken", "expired"),
            (403, "QuotaExceeded", "quota"),
            (301, "PermanentRedirect", "region"),
            (400, "SomethingElse", "SomethingElse"),
            (418, "", "418"),
        ],
    )
    async def test_what_a_service_refuses_is_said(self, status: int, code: str, says: str) -> None:
        async def refuse(_: web.Request) -> web.Response:
            return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>" if code else "")

        async with http_server(refuse) as address:
            with pytest.raises(StorageError, match=says):
                await S3Store(place(address, "bkt")).get("a", max_bytes=1)

    async def test_nobody_listens(self) -> None:
        with pytest.raises(StoreUnreachable, match="nothing listens"):
            await S3Store(place("127.0.0.1:1", "bkt")).get("a", max_bytes=1)


class TestUploads:
    """What a large upload leaves behind when it fails, and what the next one makes of it."""

    SIZE = 6 * PART + MB

    @pytest.fixture
    def data(self) -> bytes:
        return random.Random(7).randbytes(self.SIZE)

    def unfinished(self, s3: Any, bucket: str) -> list[str]:
        return [one["Key"] for one in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]

    async def fails(self, server: RadosGateway, bucket: str, data: bytes) -> int:
        """Send the most of it in vain; the bytes that were sent."""
        proxy = CuttingProxy(port(server), most=self.SIZE - PART)
        async with proxy.running() as address:
            with pytest.raises(StoreUnreachable, match="cannot store big"):
                await store_at(address, bucket, server).put("big", data, deadline=60)
        return proxy.bytes_up

    @pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "file"])
    async def test_the_next_life_sends_what_is_missing(
        self, s3_server: RadosGateway, s3: Any, bucket: str, data: bytes, tmp_path: Path, as_file: bool
    ) -> None:
        sent = await self.fails(s3_server, bucket, data)
        assert self.unfinished(s3, bucket) == ["big"]
        proxy, source = CuttingProxy(port(s3_server)), tmp_path / "source"
        source.write_bytes(data)
        async with proxy.running() as address:
            store = store_at(address, bucket, s3_server)
            await (store.upload("big", source, deadline=60) if as_file else store.put("big", data, deadline=60))
        # All connections were cut at once: each has lost the part that it carried, at most.
        assert sent + proxy.bytes_up < self.SIZE + PARTS_AT_ONCE * PART + MB // 10
        assert proxy.bytes_up < self.SIZE - PART + MB // 10, "some of it was there"
        assert await store_at(s3_server.address, bucket, s3_server).get("big", max_bytes=self.SIZE) == data
        assert self.unfinished(s3, bucket) == []

    async def test_one_connection_at_a_time_loses_one_part_at_most(
        self, s3_server: RadosGateway, bucket: str, data: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(uploads, "PARTS_AT_ONCE", 1)
        sent = await self.fails(s3_server, bucket, data)
        proxy = CuttingProxy(port(s3_server))
        async with proxy.running() as address:
            await store_at(address, bucket, s3_server).put("big", data, deadline=60)
        assert sent + proxy.bytes_up < self.SIZE + PART + MB // 10

    async def test_other_bytes_are_not_mixed_with_those_that_are_there(
        self, s3_server: RadosGateway, s3: Any, bucket: str, data: bytes
    ) -> None:
        await self.fails(s3_server, bucket, data)
        other = data[:PART] + data[PART:].swapcase()
        store = store_at(s3_server.address, bucket, s3_server)
        await store.put("big", other, deadline=60)
        assert await store.get("big", max_bytes=self.SIZE) == other
        assert self.unfinished(s3, bucket) == []

    async def test_what_is_abandoned_is_aborted(
        self, s3_server: RadosGateway, s3: Any, bucket: str, data: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self.fails(s3_server, bucket, data)
        store = store_at(s3_server.address, bucket, s3_server)
        await store.put("later", data, deadline=60)
        assert self.unfinished(s3, bucket) == ["big"], "it is not old"
        monkeypatch.setattr(uploads, "ABANDONED", timedelta(hours=-1))
        await store.put("later-still", data, deadline=60)
        assert self.unfinished(s3, bucket) == []

    async def test_where_nothing_is_listed_all_of_it_is_sent(
        self, s3_server: RadosGateway, s3: Any, bucket: str, data: bytes
    ) -> None:
        uid = f"blind-{uuid.uuid4().hex[:8]}"
        s3_server.user(uid)
        rights = ("s3:PutObject", "s3:GetObject", "s3:AbortMultipartUpload")
        s3.put_bucket_policy(Bucket=bucket, Policy=policy(uid, bucket, *rights))
        store = S3Store(place(s3_server.address, bucket), keys_of(s3_server, uid))
        await store.put("big", data, deadline=60)
        assert await store.get("big", max_bytes=self.SIZE) == data

    async def test_an_answer_that_is_lost_is_no_failure(
        self, s3_server: RadosGateway, bucket: str, data: bytes
    ) -> None:
        lost = 0

        async def handler(request: web.Request) -> web.StreamResponse:
            nonlocal lost
            answer = await pass_on(request, s3_server.endpoint)
            if request.method == "POST" and "uploadId" in request.query and not lost:
                lost += 1
                assert request.transport is not None
                request.transport.abort()
            return answer

        async with http_server(handler) as address:
            await store_at(address, bucket, s3_server).put("big", data, deadline=60)
        assert lost == 1
        assert await store_at(s3_server.address, bucket, s3_server).get("big", max_bytes=self.SIZE) == data

    async def test_a_network_that_swallows_it_ends_by_the_deadline(self, s3_server: RadosGateway, data: bytes) -> None:
        async def swallow(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with tcp_server(swallow) as address:
            store = S3Store(place(address, "bkt"), keys_of(s3_server))
            with pytest.raises(StoreUnreachable, match=r"deadline of 2 s"):
                await store.put("big", data, deadline=2.0)


class TestConditionalPut:
    async def test_of_eight_racing_stores_one_wins(self, s3_server: RadosGateway, bucket: str) -> None:
        stores = [store_at(s3_server.address, bucket, s3_server) for _ in range(8)]
        for attempt in range(10):
            won = await asyncio.gather(*(s.put_if_absent(f"race/{attempt}", b"%d" % i) for i, s in enumerate(stores)))
            assert won.count(True) == 1
            assert await stores[0].get(f"race/{attempt}", max_bytes=1) == b"%d" % won.index(True)

    async def test_a_service_without_it_is_looked_at_first_and_that_is_said_once(
        self, s3_server: RadosGateway, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def old_service(request: web.Request) -> web.Response:
            if request.method == "PUT" and request.headers.get("If-None-Match") == "*":
                return web.Response(status=501, text="<Error><Code>NotImplemented</Code></Error>")
            return await pass_on(request, s3_server.endpoint)

        async with http_server(old_service) as address:
            store = store_at(address, bucket, s3_server)
            with caplog.at_level(logging.WARNING):
                assert await store.put_if_absent("a", b"first") is True
                assert await store.put_if_absent("a", b"second") is False
                assert await store.put_if_absent("b", b"third") is True
        assert await store_at(s3_server.address, bucket, s3_server).get("a", max_bytes=9) == b"first"
        assert [record.levelname for record in caplog.records if "conditional put" in record.message] == ["WARNING"]


class TestBrokenConnections:
    async def test_an_upload_that_is_cut_sends_only_the_broken_part_again(
        self, s3_server: RadosGateway, bucket: str, tmp_path: Path
    ) -> None:
        size = 300 * MB
        source, target = tmp_path / "source", tmp_path / "target"
        generator = random.Random(0)
        with source.open("wb") as file:
            for _ in range(300):
                file.write(generator.randbytes(MB))
        before = peak_memory()
        proxy = CuttingProxy(port(s3_server), up=60 * MB, cuts=2)
        async with proxy.running() as address:
            await store_at(address, bucket, s3_server).upload("big", source, deadline=60)
        assert proxy.cuts == 2
        assert proxy.bytes_up < size + 2 * PART + MB
        store = store_at(s3_server.address, bucket, s3_server)
        digest = await store.download("big", target, max_bytes=size, deadline=60)
        assert peak_memory() - before < 150 * MB
        with source.open("rb") as file:
            assert digest == blake3(file.read()).digest()
        assert target.stat().st_size == size

    async def test_a_download_that_is_cut_goes_on_where_it_stopped(
        self, s3_server: RadosGateway, bucket: str, tmp_path: Path
    ) -> None:
        data = random.Random(1).randbytes(40 * MB)
        await store_at(s3_server.address, bucket, s3_server).put("big", data)
        # More cuts than the client itself makes up for.
        proxy = CuttingProxy(port(s3_server), down=6 * MB, cuts=6)
        async with proxy.running() as address:
            store = store_at(address, bucket, s3_server)
            digest = await store.download("big", tmp_path / "target", max_bytes=len(data))
        assert digest == blake3(data).digest()
        assert (tmp_path / "target").read_bytes() == data
        assert proxy.cuts == 6
        assert proxy.bytes_down < len(data) + 10 * MB

    async def test_a_download_that_is_cut_for_good_fails_and_leaves_nothing(
        self, s3_server: RadosGateway, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("muster.protocol.storage.remote._RESUME_WAIT", 0.001)
        await store_at(s3_server.address, bucket, s3_server).put("big", bytes(40 * MB))
        proxy = CuttingProxy(port(s3_server), down=200_000, cuts=10**9)
        async with proxy.running() as address:
            with pytest.raises(StorageError, match="connection broke"):
                await store_at(address, bucket, s3_server).download("big", tmp_path / "target", max_bytes=40 * MB)
        assert not any_file(tmp_path)

    async def test_an_object_replaced_between_two_requests_is_not_mixed(
        self, s3_server: RadosGateway, bucket: str, tmp_path: Path
    ) -> None:
        store = store_at(s3_server.address, bucket, s3_server)
        await store.put("a", bytes(8 * MB))
        replaced = asyncio.Event()

        async def half(request: web.Request) -> web.StreamResponse:
            if "Range" in request.headers:
                return await pass_on(request, s3_server.endpoint)
            whole = await pass_on(request, s3_server.endpoint)
            assert isinstance(whole.body, bytes)
            answer = web.StreamResponse(headers=whole.headers)
            await answer.prepare(request)
            await answer.write(whole.body[: 4 * MB])
            await store.put("a", b"\1" * (8 * MB))
            replaced.set()
            assert request.transport is not None
            request.transport.abort()
            return answer

        async with http_server(half) as address:
            with pytest.raises(StorageError, match=r"replaced|connection broke"):
                await store_at(address, bucket, s3_server).download("a", tmp_path / "target", max_bytes=8 * MB)
        assert replaced.is_set()
        assert not any_file(tmp_path)


class TestLiars:
    async def test_a_size_that_is_a_lie_does_not_get_past_the_cap(self, tmp_path: Path) -> None:
        sent = 0

        async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b'HTTP/1.1 200 OK\r\nlast-modified: Sat, 21 Nov 2026 04:00:00 GMT\r\netag: "x"\r\n'
                b"content-length: 1000\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            try:
                while True:
                    writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
                    await writer.drain()
                    sent += 65536
            except OSError:
                writer.close()

        async with tcp_server(lie) as address:
            store = S3Store(place(address, "bkt"))
            with pytest.raises(StorageError):
                await store.get("a", max_bytes=CAP, deadline=10)
            with pytest.raises(StorageError):
                await store.download("a", tmp_path / "target", max_bytes=CAP, deadline=10)
        assert sent < 64 * MB
        assert not any_file(tmp_path)

    async def test_a_body_longer_than_its_size_is_cut_there(self) -> None:
        async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 200 OK\r\nlast-modified: Sat, 21 Nov 2026 04:00:00 GMT\r\ncontent-length: 5\r\n\r\n123456789"
            )
            await writer.drain()
            writer.close()

        async with tcp_server(lie) as address:
            store = S3Store(place(address, "bkt"))
            assert await store.get("a", max_bytes=5) == b"12345"
            with pytest.raises(ObjectTooLarge):
                await store.get("a", max_bytes=4)

    async def test_a_server_that_stalls_is_left_at_the_deadline(self, tmp_path: Path) -> None:
        connected, waiting, nobody = 0, 0, asyncio.Event()
        nobody.set()

        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connected, waiting
            connected, waiting = connected + 1, waiting + 1
            nobody.clear()
            await reader.read()
            waiting -= 1
            if not waiting:
                nobody.set()
            writer.close()

        async with tcp_server(stall) as address:
            store = S3Store(place(address, "bkt"))
            for call in (
                store.get("a", max_bytes=1, deadline=0.5),
                store.put("a", b"x", deadline=0.5),
                store.head("a", deadline=0.5),
                store.list(deadline=0.5),
                store.download("a", tmp_path / "target", max_bytes=1, deadline=0.5),
            ):
                with pytest.raises(StoreUnreachable, match=r"deadline of 0\.5 s"):
                    await call
                async with asyncio.timeout(10):
                    # On a busy machine a deadline may pass before there is a connection at all.
                    await nobody.wait()
        assert connected

    async def test_names_that_are_no_keys_are_not_listed(self, s3_server: RadosGateway, s3: Any, bucket: str) -> None:
        for key in ("a/ok", "a/not ok", "a/.hidden", "a/ü"):
            s3.put_object(Bucket=bucket, Key=key, Body=b"x")
        store: Store = store_at(s3_server.address, bucket, s3_server)
        assert [info.key for info in await store.list()] == ["a/ok"]
        assert [info.key for info in await store.list("a/")] == ["a/ok"]
        s3.put_object(Bucket=bucket, Key="c/../x", Body=b"x")
        assert [info.key for info in await store.list("a/")] == ["a/ok"]
        with pytest.raises(StorageError, match="name that no store of ours gives"):
            await store.list()


def test_the_location_says_all_that_opens_a_bucket(s3_server: RadosGateway) -> None:
    text = f"s3://READER:se%2Fcret@{s3_server.address}/bkt/prefix?region=auto"
    location = parse_location(text)
    assert isinstance(location, S3Location)
    assert location.read == Credentials("READER", "se/cret")
    assert "cret" not in repr(S3Store(location))
