"""Hellos are written on start, read with suspicion, and decide nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from builders import identity, run_spec

from muster.node.context import Context
from muster.node.greeting import publish_hello, watch_hellos
from muster.node.hello import incompatibility, make_hello, read_hello
from muster.node.telemetry.journal import Journal
from muster.protocol import paths, wire
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.errors import ObjectMissing, WireError
from muster.protocol.storage.locations import DirectoryBuckets, MemoryBuckets
from muster.protocol.wire import Hello

SPEC = run_spec()
RUN = SPEC.run_id()


def hello_of(name: str) -> Hello:
    return make_hello(RUN, identity(name).public, 0, ["miner"])


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """Alice's, in this process."""
    chain = SqliteChain.create(tmp_path / "chain.sqlite", ChainGenesis(seed=0), block_seconds=0.05)
    return Context(identity("alice"), chain, MemoryBuckets(), "mem:alice", Journal(tmp_path / "alice.jsonl"))


async def test_a_hello_is_written_and_read(context: Context) -> None:
    store, public = context.bucket, context.identity.public
    with pytest.raises(ObjectMissing):
        await read_hello(store, RUN, public)
    await publish_hello(context, RUN, 4, ["validator", "aggregator"])
    hello = await read_hello(store, RUN, public)
    assert (hello.round, hello.roles, hello.runs) == (4, ("aggregator", "validator"), (RUN,))
    assert paths.head(RUN, 0).startswith(f"{RUN.hex()}/{dict(hello.prefixes)['submissions']}")
    with pytest.raises(WireError, match="hello_signer"):
        await read_hello(store, RUN, identity("bob").public)


def test_the_prefixes_are_where_things_are() -> None:
    named = {place(RUN, 0, bytes(32)) for place in (paths.seal, paths.record, paths.bundle, paths.scores)}
    found = named | {paths.head(RUN, 0), paths.checkpoint(RUN, 0, paths.MANIFEST)}
    assert {prefix for _, prefix in wire.PREFIXES} == {key.split("/")[1] + "/" for key in found}


async def test_a_bucket_that_refuses_does_not_stop_anybody(
    context: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "buckets").write_text("a file where the folder should be")
    refusing = replace(context, buckets=DirectoryBuckets(tmp_path / "buckets"), location="dir:alice")
    await publish_hello(refusing, RUN, 0, ["miner"])
    assert "could not be written" in caplog.text


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        (hello_of("alice"), None),
        (replace(hello_of("alice"), formats=(2, 3), codecs=(1, 2)), None),
        (replace(hello_of("alice"), formats=(1,)), "wire formats [1]"),
        (replace(hello_of("alice"), codecs=()), "codecs []"),
    ],
)
def test_who_is_compatible(hello: Hello, words: str | None) -> None:
    complaint = incompatibility(hello, SPEC)
    assert complaint is None if words is None else words in str(complaint)


async def test_who_cannot_follow_is_named_once(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    chain, buckets = context.chain, context.buckets
    hellos = {
        "old": replace(hello_of("old"), codecs=(7,)),
        "good": hello_of("good"),
        "other": hello_of("good"),
        "silent": None,
        "new": replace(hello_of("new"), formats=(3,)),
    }
    for name, hello in hellos.items():
        await chain.register(identity(name))
        await chain.commit(identity(name), f"mem:{name}")
        if hello is not None:
            signer = identity("good" if name == "other" else name)
            await buckets.bucket(f"mem:{name}").put(paths.hello(RUN), wire.encode_hello(hello, signer))
    await chain.register(identity("liar"))
    await chain.commit(identity("liar"), "dir:../elsewhere")
    watching = asyncio.create_task(watch_hellos(chain, context.directory, RUN, SPEC, context.identity.hotkey))
    async with asyncio.timeout(20):
        while len(caplog.records) < 4:  # and one of the directory, about the liar's location
            await chain.next_block((await chain.head()).number)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    said = [record.getMessage() for record in caplog.records if record.name == "muster.node.greeting"]
    assert [line.split()[0] for line in said] == [identity(name).hotkey for name in ("old", "other", "new")]
    assert "hello_signer" in said[1]
