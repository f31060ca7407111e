"""What do our S3 stores cost beside the bare client: digests, caps, whole files and retries, for how much speed?

    python benchmarks/s3.py [--objects 20] [--megabytes 50] [--rounds 7] [--csv benchmarks/s3.csv]
                            [--endpoint http://HOST:PORT --bucket NAME]      (keys: AWS_ACCESS_KEY_ID, …_SECRET_…)

`Store.download` and `Store.upload` take turns with obstore alone streaming to and from files, all objects at once;
the median of the turns' ratios is judged, and by how much memory a fresh process grows. Exits with 1 where one misses
its target. Without an endpoint it starts the real server of the tests on loopback, where the processor is the limit:
on a real network both wait for the line.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import uvloop
from obstore.store import S3Store as S3Client

from muster.protocol.storage import Credentials, S3Location, Store
from muster.protocol.storage.network import NetworkBuckets

SPEED_TARGET = 0.9
"""Of the bare client's."""
MEMORY_TARGET = 2
"""Objects in memory while all of them are on their way."""
DEADLINE = 600.0
MB = 1_000_000
KIB = 1 << 10


@dataclass(frozen=True)
class Turn:
    """One transfer of all objects: what moved them and how long it took."""

    direction: str
    client: str
    seconds: float


@dataclass(frozen=True)
class Work:
    """Where objects are and where their files are."""

    store: Store
    bare: S3Client
    folder: Path
    keys: list[str]
    size: int


async def our_download(work: Work, key: str) -> None:
    """One object to one file."""
    await work.store.download(key, work.folder / f"{key}.in", max_bytes=work.size, deadline=DEADLINE)


async def bare_download(work: Work, key: str) -> None:
    """The same with nothing but the client."""
    answer = await obstore.get_async(work.bare, key)
    with (work.folder / f"{key}.in").open("wb") as file:
        async for block in answer.stream():
            file.write(block)


async def our_upload(work: Work, key: str) -> None:
    """One file to one object."""
    await work.store.upload(key, work.folder / f"{key}.out", deadline=DEADLINE)


async def bare_upload(work: Work, key: str) -> None:
    """The same with nothing but the client."""
    await obstore.put_async(work.bare, key, work.folder / f"{key}.out")


TRANSFERS: dict[str, dict[str, Callable[[Work, str], Awaitable[None]]]] = {
    "upload": {"ours": our_upload, "bare": bare_upload},
    "download": {"ours": our_download, "bare": bare_download},
}


async def take_turn(work: Work, direction: str, client: str) -> Turn:
    """Move every object once."""
    transfer = TRANSFERS[direction][client]
    for path in work.folder.glob("*.in"):
        path.unlink()
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for key in work.keys:
            group.create_task(transfer(work, key))  # type: ignore[arg-type]
    return Turn(direction, client, time.perf_counter() - begin)


def peak() -> int:
    """The most bytes this process had in memory so far."""
    # Not getrusage: its figure begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * KIB


def memory_of(arguments: argparse.Namespace, endpoint: str, keys: Credentials, turn: str) -> int:
    """Bytes by which a process of its own grows in one turn: this one keeps what earlier turns left."""
    command = [sys.executable, __file__, "--turn", turn, "--endpoint", endpoint, "--bucket", arguments.bucket]
    command += ["--objects", str(arguments.objects), "--megabytes", str(arguments.megabytes)]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": keys.access, "AWS_SECRET_ACCESS_KEY": keys.secret}
    return int(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


async def measure(work: Work, rounds: int) -> list[Turn]:
    """Turns of both clients in both directions, after one of each that does not count."""
    turns: list[Turn] = []
    for number in range(rounds + 1):
        for direction, clients in TRANSFERS.items():
            # Who goes first changes, so that neither profits from the other's warm caches.
            for client in sorted(clients, reverse=bool(number % 2)):
                turn = await take_turn(work, direction, client)
                turns += [turn] if number else []
    return turns


def judge(turns: list[Turn], peaks: dict[str, int], objects: int, size: int) -> bool:
    """Print what was found; whether every target is met."""
    good = True
    for direction in TRANSFERS:
        ours = [turn for turn in turns if (turn.direction, turn.client) == (direction, "ours")]
        bare = [turn for turn in turns if (turn.direction, turn.client) == (direction, "bare")]
        ratio = statistics.median(b.seconds / o.seconds for o, b in zip(ours, bare, strict=True))
        speed = objects * size / statistics.median(turn.seconds for turn in ours) / MB
        our_peak, bare_peak = (peaks[f"{direction}-{client}"] for client in ("ours", "bare"))
        met = ratio >= SPEED_TARGET and our_peak <= MEMORY_TARGET * size
        good &= met
        print(
            f"{direction}: {speed:.0f} MB/s, {ratio:.0%} of the bare client (target {SPEED_TARGET:.0%}); peak memory "
            f"{our_peak / MB:.0f} MB (target {MEMORY_TARGET * size / MB:.0f}), bare {bare_peak / MB:.0f} MB"
            f"{'' if met else '  MISSED'}"
        )
    return good


@asynccontextmanager
async def working(arguments: argparse.Namespace, endpoint: str, keys: Credentials, bucket: str) -> AsyncIterator[Work]:
    """Both clients at one bucket, and files to upload."""
    parts = urlsplit(endpoint)
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    location = str(S3Location(parts.hostname or "", port, bucket, "", "us-east-1", False, tls))
    buckets = NetworkBuckets(location, keys)
    bare = S3Client(
        bucket,
        endpoint=endpoint,
        region="us-east-1",
        client_options={"allow_http": not tls, "timeout": "10m"},
        access_key_id=keys.access,
        secret_access_key=keys.secret,
    )
    with tempfile.TemporaryDirectory() as name:
        names = [f"benchmark-{number}" for number in range(arguments.objects)]
        work = Work(buckets.bucket(location), bare, Path(name), names, arguments.megabytes * MB)
        block = os.urandom(MB)
        for key in names:
            with (work.folder / f"{key}.out").open("wb") as file:
                for _ in range(arguments.megabytes):
                    file.write(block)
        yield work
    await buckets.close()


async def run(arguments: argparse.Namespace, endpoint: str, keys: Credentials) -> list[Turn]:
    """Measure against one bucket, or take the one turn that was asked for and print how memory grew."""
    async with working(arguments, endpoint, keys, arguments.bucket) as work:
        if arguments.turn:
            before = peak()
            await take_turn(work, *arguments.turn.split("-"))
            print(peak() - before)
            return []
        return await measure(work, arguments.rounds)


def report(arguments: argparse.Namespace, endpoint: str, keys: Credentials) -> int:
    """Measure everything; the exit status."""
    turns = uvloop.run(run(arguments, endpoint, keys))
    names = [f"{direction}-{client}" for direction, clients in TRANSFERS.items() for client in clients]
    peaks = {name: memory_of(arguments, endpoint, keys, name) for name in names}
    if arguments.csv:
        with arguments.csv.open("w", newline="", encoding="ascii") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["direction", "client", "seconds", "peak_bytes"])
            for turn in turns:
                writer.writerow([*astuple(turn), peaks[f"{turn.direction}-{turn.client}"]])
    return 0 if judge(turns, peaks, arguments.objects, arguments.megabytes * MB) else 1


def main() -> int:
    """Parse, start a server if none is given, measure."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--endpoint")
    parser.add_argument("--bucket", default="benchmark")
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        if arguments.endpoint is None:
            sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
            from s3_server import RadosGateway

            server = stack.enter_context(RadosGateway())
            server.client().create_bucket(Bucket=arguments.bucket)
            endpoint, keys = server.endpoint, Credentials(server.access, server.secret)
        else:
            endpoint = arguments.endpoint
            keys = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        if arguments.turn:
            uvloop.run(run(arguments, endpoint, keys))
            return 0
        return report(arguments, endpoint, keys)


if __name__ == "__main__":
    sys.exit(main())
