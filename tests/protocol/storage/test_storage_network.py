"""What a stranger's location can and cannot make us do: the relay, redirects, read-only web addresses."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import ipaddress
import ssl
import threading
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from blake3 import blake3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from s3_proxies import http_server, pass_on, tcp_server
from s3_server import RadosGateway

from muster.protocol.errors import ObjectMissing, ObjectTooLarge, StorageError, StoreUnreachable
from muster.protocol.storage import AllowList, Credentials, MeteredBuckets, Store
from muster.protocol.storage.network import NetworkBuckets
from muster.protocol.storage.relay import Relay
from muster.protocol.storage.s3 import S3Store
from muster.protocol.storage.web import WebStore

MB = 1_000_000
LOOPBACK = AllowList.parse("127.0.0.1")


@dataclass
class Authority:
    """A certificate for some hosts of .test and 127.0.0.1, and what trusts it."""

    server: ssl.SSLContext
    roots: bytes


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("peer.test"), x509.DNSName("bkt.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return Authority(context, pem)


@dataclass
class Names:
    """A resolver whose answers a test sets."""

    answer: list[str]
    asked: int = 0

    async def resolve(self, host: str, port: int) -> list[str]:
        self.asked += 1
        if not self.answer:
            raise OSError("no such host")
        return self.answer


@pytest.fixture
def names() -> Names:
    return Names(["127.0.0.1"])


@pytest.fixture
async def strangers(authority: Authority, names: Names) -> AsyncIterator[NetworkBuckets]:
    """Buckets that reach hosts of .test through the relay, which may connect to 127.0.0.1."""
    buckets = NetworkBuckets(allow=LOOPBACK, roots=authority.roots, resolve=names.resolve)
    yield buckets
    await buckets.close()


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


async def hello(_: web.Request) -> web.Response:
    return web.Response(body=b"hello", headers={"Last-Modified": "Sat, 21 Nov 2026 04:00:00 GMT"})


class TestStrangers:
    async def test_a_whole_bucket_works_through_the_relay(
        self, s3_server: RadosGateway, authority: Authority, strangers: NetworkBuckets, tmp_path: Path
    ) -> None:
        bucket = f"b-{uuid.uuid4().hex}"
        s3_server.client().create_bucket(Bucket=bucket)

        async def front(request: web.Request) -> web.Response:
            return await pass_on(request, s3_server.endpoint)

        async with http_server(front, authority.server) as address:
            access, secret = s3_server.user("admin")
            store = strangers.bucket(f"s3://{access}:{secret}@peer.test:{port(address)}/{bucket}/deep")
            data = bytes(range(256)) * 80_000
            await store.put("a/b", data)
            assert await store.put_if_absent("a/b", b"x") is False
            assert await store.get("a/b", max_bytes=len(data)) == data
            assert await store.get_range("a/b", 255, 2) == b"\xff\0"
            assert await store.download("a/b", tmp_path / "x", max_bytes=len(data)) == blake3(data).digest()
            assert [info.key for info in await store.list("a/")] == ["a/b"]
            await store.delete("a/b")
            with pytest.raises(ObjectMissing):
                await store.get("a/b", max_bytes=1)

    async def test_the_virtual_style_puts_the_bucket_into_the_host(
        self, authority: Authority, strangers: NetworkBuckets
    ) -> None:
        seen: list[tuple[str, str]] = []

        async def note(request: web.Request) -> web.Response:
            seen.append((request.host, request.path))
            return await hello(request)

        async with http_server(note, authority.server) as address:
            store = strangers.bucket(f"s3://test:{port(address)}/bkt/p?style=virtual")
            assert await store.get("a", max_bytes=5) == b"hello"
            assert seen == [(f"bkt.test:{port(address)}", "/p/a")]

    @pytest.mark.parametrize("found", [["127.0.0.2"], ["127.0.0.1", "10.0.0.1"], ["::ffff:192.168.0.1"], ["fe80::1"]])
    async def test_a_name_that_leads_inside_is_refused(
        self, authority: Authority, strangers: NetworkBuckets, names: Names, found: list[str]
    ) -> None:
        hits: list[str] = []

        async def note(request: web.Request) -> web.Response:
            hits.append(request.path)
            return await hello(request)

        names.answer = found
        async with http_server(note, authority.server) as address:
            store = strangers.bucket(f"s3://peer.test:{port(address)}/bkt")
            with pytest.raises(StorageError, match="not a public address"):
                await store.get("a", max_bytes=5)
        assert hits == []

    async def test_a_name_is_checked_again_for_every_connection(
        self, authority: Authority, strangers: NetworkBuckets, names: Names
    ) -> None:
        async def once(request: web.Request) -> web.Response:
            answer = await hello(request)
            answer.force_close()
            return answer

        async with http_server(once, authority.server) as address:
            store = strangers.bucket(f"s3://peer.test:{port(address)}/bkt")
            assert await store.get("a", max_bytes=5) == b"hello"
            assert names.asked == 1
            names.answer = ["169.254.169.254"]
            with pytest.raises(StorageError, match=r"169\.254\.169\.254"):
                await store.get("a", max_bytes=5)

    @pytest.mark.parametrize("scheme", ["http", "https"])
    async def test_a_redirect_leads_nowhere(self, authority: Authority, strangers: NetworkBuckets, scheme: str) -> None:
        hits: list[str] = []
        redirected: list[str] = []

        async def inside(request: web.Request) -> web.Response:
            hits.append(request.path)
            return await hello(request)

        async with http_server(inside, authority.server if scheme == "https" else None) as target:

            async def elsewhere(_: web.Request) -> web.Response:
                redirected.append(target)
                raise web.HTTPTemporaryRedirect(f"{scheme}://{target}/secret")

            async with http_server(elsewhere, authority.server) as address:
                for location in (f"s3://peer.test:{port(address)}/bkt", f"https://peer.test:{port(address)}/x"):
                    with pytest.raises(StorageError):
                        await strangers.bucket(location).get("a", max_bytes=5)
        assert hits == []
        assert redirected

    @pytest.mark.parametrize("status", [200, 403])
    async def test_endless_answers_are_cut(self, authority: Authority, strangers: NetworkBuckets, status: int) -> None:
        sent = 0

        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 %d ?\r\ntransfer-encoding: chunked\r\n\r\n" % status)
                while sent < 100 * MB and not writer.is_closing():
                    writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
                    await writer.drain()
                    # `drain` alone gives the loop no turn to notice that the other side has gone.
                    await asyncio.sleep(0)
                    sent += 65536
            writer.close()

        async with tcp_server(endless, authority.server) as address:
            store = strangers.bucket(f"s3://peer.test:{port(address)}/bkt")
            with pytest.raises(StorageError):
                await store.list(limit=10, deadline=20)
            with pytest.raises(StorageError):
                await store.get("a", max_bytes=5, deadline=20)
        assert 0 < sent < 100 * MB

    async def test_a_host_that_is_not_known_or_not_there(self, strangers: NetworkBuckets, names: Names) -> None:
        with pytest.raises(StoreUnreachable, match="does not answer"):
            await strangers.bucket("s3://peer.test:1/bkt").get("a", max_bytes=1)
        names.answer = []
        with pytest.raises(StorageError, match="not known"):
            await strangers.bucket("s3://other.test/bkt").get("a", max_bytes=1)

    async def test_a_certificate_nobody_vouches_for(self, authority: Authority, names: Names) -> None:
        buckets = NetworkBuckets(allow=LOOPBACK, resolve=names.resolve)
        async with http_server(hello, authority.server) as address:
            with pytest.raises(StorageError, match="certificate"):
                await buckets.bucket(f"s3://peer.test:{port(address)}/bkt").get("a", max_bytes=5)
        await buckets.close()

    @pytest.mark.parametrize(
        "location",
        ["s3://peer.test/bkt?tls=off", "http://peer.test/x", "s3://10.0.0.1/bkt?tls=off", "http://[::1]:80/x"],
    )
    def test_without_tls_only_what_is_allowed_by_name(self, location: str) -> None:
        with pytest.raises(StorageError, match="allow"):
            NetworkBuckets().bucket(location)

    @pytest.mark.parametrize("location", ["dir:x", "mem:x", "ftp://x", "s3://h.test"])
    def test_what_is_no_location(self, location: str) -> None:
        with pytest.raises(StorageError):
            NetworkBuckets().bucket(location)


class TestOwn:
    async def test_the_own_bucket_is_written_and_others_are_not(self, s3_server: RadosGateway) -> None:
        client = s3_server.client()
        own, other = (f"b-{uuid.uuid4().hex}" for _ in range(2))
        for name in (own, other):
            client.create_bucket(Bucket=name)
        pair = Credentials(*s3_server.user("admin"))
        before = threading.active_count()
        location = f"s3://{s3_server.address}/{own}"
        metered = MeteredBuckets(NetworkBuckets(location, pair))
        await metered.bucket(location).put("a", b"12345")
        # A committed spelling of the same place, with what reads it.
        assert await metered.bucket(f"s3://READ:ONLY@{s3_server.address}/{own}/?tls=off").get("a", max_bytes=5)
        assert metered.meter.up == metered.meter.down == 5
        # The own bucket's server is trusted: everybody's buckets may be there, and no relay runs.
        with pytest.raises(StorageError, match="policy"):
            await metered.bucket(f"s3://{s3_server.address}/{other}").put("a", b"x")
        assert threading.active_count() - before == 0
        await metered.close()

    async def test_files_are_metered(self, s3_server: RadosGateway, tmp_path: Path) -> None:
        name = f"b-{uuid.uuid4().hex}"
        s3_server.client().create_bucket(Bucket=name)
        location = f"s3://{s3_server.address}/{name}"
        metered = MeteredBuckets(NetworkBuckets(location, Credentials(*s3_server.user("admin"))))
        (tmp_path / "source").write_bytes(b"12345")
        await metered.bucket(location).upload("a", tmp_path / "source")
        await metered.bucket(location).download("a", tmp_path / "target", max_bytes=5)
        assert metered.meter.up == metered.meter.down == 5
        await metered.close()


class TestRelay:
    async def ask(self, proxy_url: str, text: str) -> bytes:
        address = proxy_url.rpartition("@")[2]
        reader, writer = await asyncio.open_connection("127.0.0.1", port(address))
        writer.write(text.encode())
        answer = await reader.read()
        writer.close()
        return answer

    async def test_it_opens_its_doors_only(self, names: Names) -> None:
        relay = Relay(LOOPBACK, resolve=names.resolve)
        door = relay.door("peer.test", 443)
        url = door.proxy_url
        pair = base64.b64encode(url.removeprefix("http://").partition("@")[0].encode()).decode()
        wrong = base64.b64encode(b"door:guess").decode()
        good = f"proxy-authorization: Basic {pair}\r\n\r\n"
        for request in (
            "CONNECT peer.test:443 HTTP/1.1\r\n\r\n",
            f"CONNECT peer.test:443 HTTP/1.1\r\nproxy-authorization: Basic {wrong}\r\n\r\n",
            f"CONNECT peer.test:22 HTTP/1.1\r\n{good}",
            f"CONNECT other.test:443 HTTP/1.1\r\n{good}",
            f"GET http://peer.test:443/ HTTP/1.1\r\n{good}",
        ):
            assert (await self.ask(url, request)).startswith(b"HTTP/1.1 403 ")
        assert names.asked == 0
        await relay.close()

    async def test_closing_cuts_what_is_open(self, names: Names) -> None:
        async with http_server(hello) as address:
            relay = Relay(LOOPBACK, resolve=names.resolve)
            door = relay.door("peer.test", port(address))
            url = door.proxy_url
            pair = base64.b64encode(url.removeprefix("http://").partition("@")[0].encode()).decode()
            reader, writer = await asyncio.open_connection("127.0.0.1", port(url))
            writer.write(
                f"CONNECT peer.test:{port(address)} HTTP/1.1\r\nProxy-Authorization: Basic {pair}\r\n\r\n".encode()
            )
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\n\r\n"
            before = threading.active_count()
            await relay.close()
            assert threading.active_count() < before + 1
            with pytest.raises(ConnectionResetError):
                assert await reader.read() == b""
                raise ConnectionResetError
            writer.close()


class TestWeb:
    @pytest.fixture
    async def site(self) -> AsyncIterator[tuple[Store, str]]:
        objects = {"/runs/a/b": b"0123456789"}

        async def serve(request: web.Request) -> web.StreamResponse:
            data = objects.get(request.path)
            if data is None:
                return web.Response(status=404)
            headers = {"Last-Modified": "Sat, 21 Nov 2026 04:00:00 GMT", "Accept-Ranges": "bytes"}
            span = request.http_range
            if span.start is None:
                return web.Response(body=data, headers=headers)
            if span.start >= len(data):
                return web.Response(status=416)
            part = data[span]
            headers["Content-Range"] = f"bytes {span.start}-{span.start + len(part) - 1}/{len(data)}"
            return web.Response(status=206, body=part, headers=headers)

        async with http_server(serve) as address:
            buckets = NetworkBuckets(allow=LOOPBACK)
            yield buckets.bucket(f"http://{address}/runs"), address
            await buckets.close()

    async def test_objects_are_read(self, site: tuple[Store, str], tmp_path: Path) -> None:
        store, _ = site
        assert isinstance(store, WebStore)
        assert await store.get("a/b", max_bytes=10) == b"0123456789"
        assert await store.get_range("a/b", 3, 4) == b"3456"
        assert await store.get_range("a/b", 8, 4) == b"89"
        assert await store.get_range("a/b", 10, 4) == b""
        info = await store.head("a/b")
        assert info is not None
        assert (info.size, await store.head("a/c")) == (10, None)
        digest = await store.download("a/b", tmp_path / "x", max_bytes=10)
        assert digest == blake3(b"0123456789").digest()
        with pytest.raises(ObjectTooLarge):
            await store.get("a/b", max_bytes=9)
        with pytest.raises(ObjectMissing):
            await store.get("a/c", max_bytes=9)

    async def test_nothing_is_written_or_listed(self, site: tuple[Store, str], tmp_path: Path) -> None:
        store, _ = site
        for call in (
            store.put("a", b"x"),
            store.put_if_absent("a", b"x"),
            store.upload("a", tmp_path),
            store.delete("a/b"),
            store.list(),
        ):
            with pytest.raises(StorageError, match="read-only"):
                await call


def test_a_store_shows_no_secret() -> None:
    buckets = NetworkBuckets("s3://127.0.0.1:9000/bkt", Credentials("ACCESS", "hush-hush"))
    store = buckets.bucket("s3://127.0.0.1:9000/bkt")
    assert isinstance(store, S3Store)
    assert "hush" not in f"{store!r} {vars(store)} {vars(buckets)}"
