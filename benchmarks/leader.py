"""What does leading a round cost: memory for a crowd's payloads, and requests to the stores of everybody in it?

    python benchmarks/leader.py [--peers 150] [--csv benchmarks/leader.csv]
                                [--before CHECKOUT]      (a checkout of commit 5c6907b, to compare with; it needs a
                                                          folder muster-0.1.0.dist-info with a METADATA file that
                                                          says "Name: muster" and "Version: 0.1.0")

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
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module as part
from pathlib import Path
from typing import Any

from store_requests import PARTICIPANTS, ROUNDS, requests
from two_builds import BEFORE, ROOT, of, roster_of

READS_TARGET = 1 / 3
"""Of the reads of seals and records of the build before."""

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


def laid_out(folder: Path, peers: int, layers: int) -> Any:
    """The run in a folder, made on first use: one operator, and peers that A_0 lists."""
    builders, roster = part("run_builders"), of("muster.testnet.roster:Roster").of(0, peers, 1, {})
    made = builders.template(
        model=MODEL | {"layers": layers},
        gauntlet={"seats": SEATS, "score_wait": 0},
        clock={"deadline": 400, "reveal": 200, "grace": 200},
        data={"slots": 256},
    )
    return builders.lay_out(folder / "run", builders.write_text(folder / "text"), made, roster)


async def stand(stage: Any) -> tuple[Any, Any, Any]:
    """The chain with everybody registered, the history, and the tip round 0 begins with."""
    chain = of("muster.protocol.chain.virtual:VirtualChain")(roster_of(stage).chain_genesis(256))
    for member in roster_of(stage).members:
        await chain.register(member.identity)
        await chain.commit(member.identity, f"dir:{member.name}")
    history = of("muster.protocol.spec.history:SpecHistory").of(stage.spec)
    return chain, history, await of("muster.node.ledger.reader:genesis_tip")(history, chain)


def forge(folder: Path, peers: int, layers: int) -> None:
    """Every peer's submission in its bucket; what its key is, is known to `show_keys`."""
    kernels, genesis = of("muster.kernels"), of("muster.node.replica.genesis")
    stage = laid_out(folder, peers, layers)
    _, history, tip = asyncio.run(stand(stage))
    spec, replica = stage.spec, of("muster.node.replica:Replica").genesis(stage.spec, history.run_id)
    small = [tensor * 0.01 for tensor in genesis.genesis_parameters(spec.model, spec.genesis.seed)]
    how = (tip.codec,) if hasattr(tip, "codec") else (spec.sparse.k, tip.layout.grid)
    update = kernels.compress(small, *how)
    for uid, member in enumerate(roster_of(stage).members):
        if member not in roster_of(stage).operators:
            submit(folder, spec, tip, replica, (uid, member), update)


def submit(folder: Path, spec: Any, tip: Any, replica: Any, by: tuple[int, Any], update: Any) -> None:
    """One peer's submission of round 0, `by` its slot and who it is, in its bucket below `folder`."""
    wire, paths = of("muster.protocol.wire"), of("muster.protocol.paths")
    uid, member = by
    key = uid.to_bytes(wire.KEY_BYTES, "little")
    encrypt = wire.encrypt_payload if hasattr(wire, "encrypt_payload") else wire.seal
    ciphertext = encrypt(update, key, tip.run_id, 0, member.identity.public)
    header = header_of(spec, tip, replica, by, ciphertext, spec.inner.batch)
    bucket = folder / "buckets" / member.name
    (bucket / paths.key(tip.run_id, 0)).parent.mkdir(parents=True)
    if hasattr(paths, "head"):
        (bucket / paths.head(tip.run_id, 0)).write_bytes(wire.encode_head(header, member.identity))
        (bucket / paths.payload(tip.run_id, 0)).write_bytes(ciphertext)
    else:  # the build before had one object for both
        whole = wire.encode(header, member.identity, ciphertext)
        (bucket / paths.submission(tip.run_id, 0)).write_bytes(whole)


def header_of(spec: Any, tip: Any, replica: Any, by: tuple[int, Any], ciphertext: bytes, count: int) -> Any:
    """The header of a peer that has trained on its first `count` windows of round 0."""
    wire, assignment = of("muster.protocol.wire"), of("muster.protocol.rules.assignment")
    uid, member = by
    public, key = member.identity.public, uid.to_bytes(wire.KEY_BYTES, "little")
    windows = assignment.assigned(tip.opening.assign.value, uid, spec.data, count)
    return wire.Header(
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


def show_keys(folder: Path, stage: Any, tip: Any, seal: bytes) -> None:
    """Every peer's key, for the seal (in the build before, for any)."""
    wire, paths = of("muster.protocol.wire"), of("muster.protocol.paths")
    answered = (wire.digest_of(seal),) if hasattr(paths, "head") else ()
    for uid, member in enumerate(roster_of(stage).members):
        if member not in roster_of(stage).operators:
            key = uid.to_bytes(wire.KEY_BYTES, "little")
            data = wire.encode_key(member.identity, tip.run_id, 0, key, *answered)
            (folder / "buckets" / member.name / paths.key(tip.run_id, 0)).write_bytes(data)


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
    counted(of("muster.protocol.rules.admission"), "admit", calls)
    counted(of("muster.protocol.wire"), "open_payload", calls)
    paths = of("muster.protocol.paths")
    stage = laid_out(folder / "again", peers, layers)
    chain, history, _ = await stand(stage)
    buckets = of("muster.protocol.storage.locations:DirectoryBuckets")(folder / "buckets")
    (operator,) = roster_of(stage).operators
    journal = of("muster.node.telemetry.journal:Journal")(None)
    context = of("muster.node.context:Context")(operator.identity, chain, buckets, f"dir:{operator.name}", journal)
    tip, replica = await of("muster.node.ledger.bootstrap:bootstrap")(history, context)
    leader = of("muster.validator.aggregator.aggregator:Aggregator")(context, tip, replica, 1)
    leader.apply = for_ever  # the step of θ comes after what is measured
    session = of("muster.node.ledger.session:Session")(leader, chain, getattr(context, "directory", buckets))
    seals = (folder / "buckets" / operator.name / paths.key(tip.run_id, 0)).parents[1] / "seals"

    async def pass_time() -> None:
        shown = False
        while True:
            await asyncio.sleep(BLOCK_SECONDS)
            if not shown and (sealed := next(seals.glob("*.seal"), None)) is not None:
                shown = True
                show_keys(folder, stage, tip, sealed.read_bytes())
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
    return Memory(peers, layers, payload, *peak, opened=calls["open_payload"], judged=calls["admit"])


def measure(build: Path, what: str, folder: Path, peers: int = 0, layers: int = 0) -> Any:
    """Have a process of its own do one thing with a build; what it found."""
    places = (build, build / "tests/runs", ROOT / "benchmarks")
    environment = {**os.environ, **MALLOC, "PYTHONPATH": os.pathsep.join(map(str, places))}
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
