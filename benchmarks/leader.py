"""What does leading a round cost: memory for a crowd's payloads, and requests to the stores of everybody in it?

    python benchmarks/leader.py [--peers 150] [--csv benchmarks/leader.csv]
                                [--before CHECKOUT]      (a checkout of commit 5c6907b, to compare with)

Memory: a leader with 20 seats takes in payloads of 1.5 MB, and then of 3 MB, every one of them good, from folders, by
its own session, up to its anchored record. What counts is anonymous memory (`RssAnon`) over what the process had
before; pages of files it has mapped (`RssFile`) are the kernel's to take back and are shown beside it, as is how often
a payload was opened and a head judged. Requests: a simulated run of four
miners and one operator, whose training lasts 25 blocks; every request to a store is counted by the kind of object.
Exits with 1 where a target is missed. Builds are measured by a process each.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module as part
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "5c6907b"
ROOMS = ("kernels", "protocol", "node", "validator")

SEATS = 20
MODEL = {
    "vocab": 4096, "hidden": 768, "heads": 12, "kv_heads": 12, "head_dim": 64, "ffn": 2304, "context": 32
}  # fmt: skip
LAYERS = (10, 20)
"""80 and 157 million parameters: payloads of 1.5 and 2.9 MB."""
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
"""What is freed goes back to the kernel at once, so that live memory is measured and not what an allocator keeps."""
BLOCK_SECONDS = 0.5
SAMPLE_SECONDS = 0.002
PAYLOADS_TARGET = 4
CONSTANT = (min(32, (os.cpu_count() or 1) + 4) + 2) << 20
"""Memory may grow by so many payloads, and so many bytes: a block of a MiB in each thread that reads, and the heads."""

MINERS, ROUNDS, TRAINING = 4, 6, 25
PARTICIPANTS = MINERS + 2
READS_TARGET = 1 / 3
"""Of the reads of seals and records of the build before."""


def room(name: str, before: str | None = None) -> Any:
    """A module of a room; the build before installed rooms by themselves, and some modules had other names."""
    if Path("muster/protocol").exists():  # the working directory is the build's
        return part(name)
    return part(re.sub(rf"^muster\.({'|'.join(ROOMS)})\b", r"\1", before or name))


@dataclass(frozen=True)
class Memory:
    """What one leader took: payloads of so many bytes each, and the most memory over its start."""

    peers: int
    layers: int
    payload: int
    anon: int
    file: int
    opened: int
    judged: int


# Memory.


def laid_out(folder: Path, peers: int, layers: int) -> Any:
    """The run in a folder, made on first use: one operator, and peers that A_0 lists."""
    builders, cast = part("run_builders"), part("muster.testnet.cast").Cast.of(0, peers, 1, {})
    made = builders.template(
        model=MODEL | {"layers": layers},
        gauntlet={"seats": SEATS, "score_wait": 0},
        clock={"deadline": 400, "reveal": 200, "grace": 200},
        data={"slots": 256},
    )
    return builders.lay_out(folder / "run", builders.write_text(folder / "text"), made, cast)


async def stand(stage: Any) -> tuple[Any, Any, Any]:
    """The chain with everybody registered, the history, and the tip round 0 begins with."""
    chain = room("muster.protocol.chain.virtual").VirtualChain(stage.cast.chain_genesis(256))
    for member in stage.cast.members:
        await chain.register(member.identity)
        await chain.commit(member.identity, f"dir:{member.name}")
    history = room("muster.protocol.spec.history").SpecHistory.of(stage.spec)
    reader = room("muster.node.ledger.reader", "muster.node.follow")
    genesis = getattr(reader, "genesis_tip", None) or reader.genesis
    return chain, history, await genesis(history, chain)


def forge(folder: Path, peers: int, layers: int) -> None:
    """Every peer's submission in its bucket, and its key beside it, to be shown after the seal."""
    kernels, wire, paths = room("muster.kernels"), room("muster.protocol.wire"), room("muster.protocol.paths")
    assignment, replicas = room("muster.protocol.rules.assignment"), room("muster.node.replica")
    genesis = room("muster.node.replica.genesis", "muster.node.genesis")
    stage = laid_out(folder, peers, layers)
    _, history, tip = asyncio.run(stand(stage))
    spec, replica = stage.spec, replicas.Replica.genesis(stage.spec, history.run_id)
    delta = [tensor * 0.01 for tensor in genesis.genesis_parameters(spec.model, spec.genesis.seed)]
    how = (tip.codec,) if hasattr(tip, "codec") else (spec.sparse.k, tip.layout.grid)  # the build before
    update = kernels.compress(delta, *how)
    for uid, member in enumerate(stage.cast.members):
        if member in stage.cast.operators:
            continue
        public, key = member.identity.public, uid.to_bytes(wire.KEY_BYTES, "little")
        ciphertext = wire.seal(update, key, tip.run_id, 0, public)
        windows = assignment.assigned(tip.opening.assign.value, uid, spec.data, spec.inner.batch)
        header = wire.Header(
            run_id=tip.run_id,
            public=public,
            round=0,
            base_round=0,
            uid=uid,
            layout=tip.layout.digest,
            possession=replica.possession(tip.opening.possess.value, public, 0),
            data_digest=assignment.data_digest(windows),
            windows=len(windows),
            tokens=len(windows) * spec.data.window,
            payload_bytes=len(ciphertext) - 16,
            ciphertext_digest=part("blake3").blake3(ciphertext).digest(),
            key_commitment=wire.key_commitment(key),
        )
        target = folder / "buckets" / member.name / paths.submission(tip.run_id, 0)
        target.parent.mkdir(parents=True)
        target.write_bytes(wire.encode(header, member.identity, ciphertext))
        (folder / f"{member.name}.key").write_bytes(wire.encode_key(member.identity, tip.run_id, 0, key))


def status() -> tuple[int, int]:
    """Bytes of anonymous memory and of mapped files that this process has now."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    anon, file = (int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
    return anon, file


@contextmanager
def sampled(peak: list[int]) -> Iterator[None]:
    """Within, `peak` is by how much both kinds of memory have grown at most."""
    begin, ended = status(), threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            peak[:] = [max(most, now - before) for most, now, before in zip(peak, status(), begin, strict=True)]

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def counted(module: Any, name: str, calls: Counter[str]) -> None:
    """Count the calls of a function that other modules have not imported yet, or reach by its module."""
    function = getattr(module, name)

    def counting(*arguments: Any, **named: Any) -> Any:
        calls[name] += 1
        return function(*arguments, **named)

    setattr(module, name, counting)


async def for_ever(*_: Any) -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


async def lead(folder: Path, peers: int, layers: int) -> Memory:
    """One leader's round 0 over what `forge` made, from joining to having anchored its record."""
    calls: Counter[str] = Counter()
    counted(room("muster.protocol.rules.admission"), "admit", calls)
    counted(room("muster.protocol.wire"), "open", calls)
    participants, storage = (
        room("muster.node.ledger.participant", "muster.node.participant"),
        room("muster.protocol.storage"),
    )
    sessions = room("muster.node.ledger.session", "muster.protocol.session")
    aggregators, paths = room("muster.validator.aggregator.aggregator"), room("muster.protocol.paths")
    stage = laid_out(folder / "again", peers, layers)
    chain, history, _ = await stand(stage)
    buckets = storage.DirectoryBuckets(folder / "buckets")
    (operator,) = stage.cast.operators
    context = participants.Context(
        operator.identity, chain, buckets, f"dir:{operator.name}", room("muster.node.telemetry.journal").Journal(None)
    )
    tip, replica = await participants.join(history, context)
    leader = aggregators.Aggregator(context, tip, replica, 1)
    leader.apply = for_ever  # the step of θ comes after what is measured
    session = sessions.Session(leader, chain, getattr(context, "directory", buckets))
    sealed = folder / "buckets" / operator.name / paths.seal(tip.run_id, 0)

    async def pass_time() -> None:
        shown = False
        while True:
            await asyncio.sleep(BLOCK_SECONDS)
            if not shown and sealed.exists():
                shown = True
                for miner in stage.cast.miners:
                    key = folder / "buckets" / miner.name / paths.key(tip.run_id, 0)
                    (folder / f"{miner.name}.key").rename(key)
            chain.advance()
            if await chain.anchors(0):
                return

    gc.collect()
    peak = [0, 0]
    with sampled(peak):
        async with asyncio.TaskGroup() as tasks:
            live = tasks.create_task(session.run())
            await tasks.create_task(pass_time())
            live.cancel()
    payload = min(path.stat().st_size for path in (folder / "buckets").rglob("*.sub"))
    return Memory(peers, layers, payload, *peak, opened=calls["open"], judged=calls["admit"])


# Requests.


class Counting:
    """A bucket that counts what is asked of it, by operation and kind of object."""

    def __init__(self, store: Any, counts: Counter[str]) -> None:
        self._store = store
        self._counts = counts

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(key: str = "", *arguments: Any, **named: Any) -> Any:
            folder, _, rest = key.partition("/")[2].partition("/")
            self._counts[f"{name} {folder}.{rest.rpartition('.')[2]}"] += 1
            return await getattr(self._store, name)(key, *arguments, **named)

        return call


class CountingBuckets:
    """Everybody's buckets, counted."""

    def __init__(self, counts: Counter[str]) -> None:
        self._behind = room("muster.protocol.storage").MemoryBuckets()
        self._counts = counts

    def bucket(self, location: str) -> Any:
        """The bucket at a location."""
        return Counting(self._behind.bucket(location), self._counts)

    async def close(self) -> None:
        """Close what is behind."""
        await self._behind.close()


def requests(folder: Path) -> dict[str, int]:
    """Requests of a whole run, by operation and kind."""
    builders, cast = part("run_builders"), part("muster.testnet.cast").Cast.of(0, MINERS, 1, {})
    made = builders.template(clock={"deadline": 2 * TRAINING, "min_blocks": 1})
    stage = builders.lay_out(folder / "run", builders.write_text(folder / "text"), made, cast)
    miners, counts = room("muster.node.miner.miner"), Counter[str]()

    class Slow(miners.Miner):  # type: ignore[misc]  # whichever build's
        async def train(self) -> None:
            """Training that lasts so many blocks."""
            head = await self.context.chain.head()
            for _ in range(TRAINING):
                head = await self.context.chain.next_block(head.number)
            await super().train()

    simulator = room("muster.lab.simulator", "muster.simulator").Simulator(
        stage.cast, stage.spec, stage.text, buckets=CountingBuckets(counts), classes=lambda _: Slow
    )
    run = asyncio.run(simulator.run(ROUNDS))
    assert len(run.state_roots) == ROUNDS
    return dict(counts)


# Both builds.


def measure(build: Path, what: str, folder: Path, peers: int = 0, layers: int = 0) -> Any:
    """Have a process of its own do one thing with a build; what it found."""
    environment = {**os.environ, **MALLOC, "PYTHONPATH": os.pathsep.join(map(str, (build, build / "tests/runs")))}
    command = [sys.executable, "-P", __file__, "--do", what, "--folder", str(folder)]
    command += ["--peers", str(peers), "--layers", str(layers)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, cwd=build)
    return json.loads(done.stdout or "null")


def memory_of(build: Path, peers: int, layers: int) -> Memory:
    """Forge a crowd's submissions, then lead the round."""
    with tempfile.TemporaryDirectory() as name:
        measure(build, "forge", Path(name), peers, layers)
        return Memory(**measure(build, "lead", Path(name), peers, layers))


def requests_of(build: Path) -> dict[str, int]:
    """Requests of a run, by operation and kind."""
    with tempfile.TemporaryDirectory() as name:
        found: dict[str, int] = measure(build, "requests", Path(name))
        return found


def report_memory(name: str, build: Path, peers: int) -> list[Memory]:
    """Measure both sizes of payload."""
    found = [memory_of(build, peers, layers) for layers in LAYERS]
    for one in found:
        print(
            f"{name}: {peers} payloads of {one.payload / 1e6:.1f} MB: memory grows by {one.anon / one.payload:.1f} "
            f"payloads ({one.anon / 1e6:.0f} MB), mapped files by {one.file / one.payload:.1f}; {one.opened} opened, "
            f"{one.judged} heads judged"
        )
    return found


def report_requests(name: str, build: Path) -> tuple[dict[str, int], int]:
    """Measure requests; how many of them read a seal or a record."""
    counts = requests_of(build)
    reads = sum(counts.get(f"get {kind}", 0) for kind in ("seals.seal", "records.rec"))
    each = ROUNDS * PARTICIPANTS
    print(
        f"{name}: {sum(counts.values()) / each:.1f} requests a round and participant, {reads / each:.1f} of them reads "
        f"of seals and records"
    )
    return counts, reads


def main() -> int:
    """Measure every build, print, judge."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=int, default=150)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--do", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do:
        do(options.do, options.folder, options.peers, options.layers)
        return 0
    builds = {"this": ROOT} | ({BEFORE: options.before.resolve()} if options.before else {})
    rows = list[tuple[str, str, str, int]]()
    memory, reads = dict[str, list[Memory]](), dict[str, int]()
    for name, build in builds.items():
        memory[name] = report_memory(name, build, options.peers)
        rows += [(name, f"{m.payload} bytes", kind, value) for m in memory[name] for kind, value in asdict(m).items()]
        counts, reads[name] = report_requests(name, build)
        rows += [(name, f"{ROUNDS} rounds", kind, count) for kind, count in sorted(counts.items())]
    if options.csv:
        with options.csv.open("w", newline="", encoding="ascii") as file:
            csv.writer(file, lineterminator="\n").writerows([("build", "run", "what", "value"), *rows])
    good = all(one.anon <= PAYLOADS_TARGET * one.payload + CONSTANT for one in memory["this"])
    good &= all(one.opened <= SEATS + 8 and one.judged == one.peers for one in memory["this"])
    good &= reads["this"] <= READS_TARGET * reads.get(BEFORE, float("inf"))
    print("targets met" if good else "a target is MISSED")
    return 0 if good else 1


def do(what: str, folder: Path, peers: int, layers: int) -> None:
    """What one process does for another; its answer is JSON."""
    part("torch").set_num_threads(1)
    if what == "forge":
        forge(folder, peers, layers)
    elif what == "lead":
        print(json.dumps(asdict(asyncio.run(lead(folder, peers, layers)))))
    else:
        print(json.dumps(requests(folder)))


if __name__ == "__main__":
    sys.exit(main())
