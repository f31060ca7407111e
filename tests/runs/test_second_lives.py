"""A leader or validator that comes back, however late, goes on from what its first life made public."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from builders import LEADER, MINERS, NO_SEAL, SEED, Sent, identity, possession_of, run_spec, submission
from noted import rounds
from run_builders import MAX_BYTES, MakeStage, play

from muster.lab.simulator import SimulatedRun
from muster.node.context import Context, in_place
from muster.node.directory import Directory
from muster.node.ledger import reader
from muster.node.ledger.participant import Errands, judge
from muster.node.ledger.session import Session
from muster.node.replica import Replica
from muster.node.telemetry.journal import Journal
from muster.protocol import paths, wire
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.identity import Identity
from muster.protocol.ledger import Tip
from muster.protocol.ledger.round import Duty, Phase, RoundState, SubmissionSeen
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.wire import Kind, Record, Seal
from muster.validator.aggregator.aggregator import Aggregator
from muster.validator.gauntlet.score_store import ScoreStore
from muster.validator.gauntlet.validator import Validator


@dataclass(slots=True)
class World:
    """A chain and buckets with two miners and a leader on them, round 0 open."""

    chain: VirtualChain
    buckets: MemoryBuckets
    tip: Tip
    uids: dict[bytes, int]

    @classmethod
    async def begin(cls) -> World:
        """Everybody registered, nothing submitted."""
        spec = run_spec()
        chain = VirtualChain(
            ChainGenesis(seed=SEED, stakes={identity(LEADER).hotkey: 1}, slots=spec.data.slots, weights_rate_limit=1)
        )
        uids = {}
        for name in (LEADER, *MINERS):
            uids[identity(name).public] = await chain.register(identity(name))
            await chain.commit(identity(name), f"mem:{name}")
        tip = await reader.genesis_tip(SpecHistory.of(spec), chain)
        return cls(chain, MemoryBuckets(), tip, uids)

    @asynccontextmanager
    async def leading(self) -> AsyncIterator[Aggregator]:
        """One life of the leader, in the open round."""
        async with asyncio.TaskGroup() as tasks:
            leader, errands = self.leader(), Errands(tasks, self.chain)
            leader.begin(errands)
            yield leader
            errands.cancel()

    def leader(self) -> Aggregator:
        """One life of the leader."""
        context = Context(
            identity(LEADER), self.chain, self.buckets, f"mem:{LEADER}", Journal(None, lambda: 0.0), in_place
        )
        replica = Replica.genesis(self.tip.history.genesis, self.tip.run_id)
        return Aggregator(context, self.tip, replica, rounds=None)

    def state(self) -> RoundState:
        """The round as a leader finds it at first."""
        spec = self.tip.spec
        return RoundState(Duty.LEAD, identity(LEADER).public, self.tip.opening, spec.clock, 2)

    async def submit(self, miner: Identity, location: str, uid: int) -> Sent:
        """An honest submission in its bucket; returns it, for its key is for later."""
        facts = self.tip.facts(possession_of(self.tip.opening), self.uids)
        sent, bucket = submission(facts, miner, uid), self.buckets.bucket(location)
        await bucket.put(paths.payload(self.tip.run_id, 0), sent.payload)
        await bucket.put(paths.head(self.tip.run_id, 0), sent.head)
        return sent

    async def show(self, location: str, key: bytes) -> None:
        """Publish a key."""
        await self.buckets.bucket(location).put(paths.key(self.tip.run_id, 0), key)

    async def record(self) -> Record:
        """What the leader decided, as a follower verifies it."""
        replica = self.leader().replica
        read = reader.Reader(self.chain, Directory(self.chain, self.buckets))
        (pointer,) = await read.anchored(self.tip)
        return judge(await read.fetch(pointer, self.tip), self.tip, replica).record


async def sealed_world() -> World:
    """Both miners in and sealed by a first life of the leader; alice's key answers the seal, bob's answers none."""
    world = await World.begin()
    sent = {name: await world.submit(identity(name), f"mem:{name}", world.uids[identity(name).public])
            for name in MINERS}  # fmt: skip
    await world.show("mem:bob", sent["bob"].key())
    async with world.leading() as leader:
        seen = await leader.observe(world.state(), await world.chain.head())
        assert {event.peer for event in seen if isinstance(event, SubmissionSeen)} == {
            identity(name).public for name in MINERS
        }
        world.chain.advance()
        seal = (await leader.publish_seal(await world.chain.head())).digest
    await world.show("mem:alice", sent["alice"].key(seal))
    return world


@pytest.mark.parametrize("looked", [True, False])
async def test_a_leader_that_comes_back_when_all_is_due_decides_as_its_first_life_would(looked: bool) -> None:
    world = await sealed_world()
    world.chain.advance(100)
    async with world.leading() as second:
        if looked:
            await second.observe(replace(world.state(), phase=Phase.REVEAL), await world.chain.head())
        await second.publish_record(await world.chain.head())
    record = await world.record()
    assert record.kind is Kind.ROUND
    reasons = {entry.public: entry.reason for entry in record.entries}
    assert reasons == {identity("alice").public: "", identity("bob").public: "key_seal"}


async def test_two_lives_of_a_leader_seal_once() -> None:
    world = await sealed_world()
    store, prefix = world.buckets.bucket(f"mem:{LEADER}"), paths.seals(world.tip.run_id, 0)
    (first,) = await store.list(prefix)
    world.chain.advance()
    async with world.leading() as second:
        found = await second.publish_seal(await world.chain.head())
    assert [info.key for info in await store.list(prefix)] == [first.key]
    assert found.data == await store.get(first.key, max_bytes=MAX_BYTES)
    assert found.seal == wire.decode_seal(found.data, world.tip.run_id)[0]


async def test_a_slot_that_passes_on_before_the_record_counts_once() -> None:
    """Two peers, each the holder of slot 2 when its head was seen: a record with both would be applied by nobody."""
    world = await World.begin()
    alice, carol = identity("alice"), identity("carol")
    sent = [await world.submit(alice, "mem:alice", 1)]
    async with world.leading() as leader:
        head = await world.chain.head()
        await leader.observe(world.state(), head)
        intake = leader._open.leading.intake
        sent.append(await world.submit(carol, "mem:carol", 1))
        intake.facts = world.tip.facts(intake.facts.possession, {carol.public: 1})
        stores = {carol.public: world.buckets.bucket("mem:carol"), alice.public: world.buckets.bucket("mem:alice")}
        await intake.look(stores, head)
        assert {taken.head.reason for taken in intake.peers.values()} == {""}
        listed = tuple((peer, wire.head_digest(taken.head.data)) for peer, taken in sorted(intake.peers.items()))
        intake.close(Seal(world.tip.run_id, identity(LEADER).public, 0, world.tip.parent, 0, head, listed), NO_SEAL)
        for name, one in zip(("alice", "carol"), sent, strict=True):
            await world.show(f"mem:{name}", one.key())
        await intake.reveal(stores, sorted(stores), 20, head)
        assert intake.failures() == {}
        intake.recheck({carol.public: 1})
        assert intake.failures() == {alice.public: "unregistered"}
        assert intake.candidates() == [carol.public]


async def test_a_key_that_is_no_key_does_not_stall_the_round() -> None:
    """What is wrong with a key has a name of its own: everybody can see that the head is good."""
    world = await World.begin()
    uid = {name: world.uids[identity(name).public] for name in MINERS}
    good = await world.submit(identity("alice"), "mem:alice", uid["alice"])
    await world.submit(identity("bob"), "mem:bob", uid["bob"])
    async with world.leading() as leader:
        await leader.observe(world.state(), await world.chain.head())
        world.chain.advance()
        seal = (await leader.publish_seal(await world.chain.head())).digest
        await world.show("mem:alice", good.key(seal))
        await world.show("mem:bob", wire.encode_key(identity("bob"), world.tip.run_id, 0, b"short", seal))
        world.chain.advance()
        await leader.publish_record(await world.chain.head())
    reasons = {entry.public: entry.reason for entry in (await world.record()).entries}
    assert reasons == {identity("alice").public: "", identity("bob").public: "key_field_size"}


def _scores(run: SimulatedRun) -> dict[str, bytes]:
    store = run.buckets.bucket("mem:operator-0")
    found = asyncio.run(store.list(f"{run.spec.run_id().hex()}/scores/"))
    return {info.key: asyncio.run(store.get(info.key, max_bytes=MAX_BYTES)) for info in found}


def test_a_validator_that_lost_its_store_or_repeats_a_round_changes_nothing_it_has_published(
    stage: MakeStage, tmp_path: Path
) -> None:
    """The last round is judged anew where the score store is blank, and never twice with the same one."""
    made = stage(gauntlet={"lag": 2})
    run = play(made, 3)
    published, store = _scores(run), ScoreStore(tmp_path / "scores.sqlite")
    operator = made.member("operator-0").identity

    async def live() -> Journal:
        journal = Journal(None, lambda: 0.0)
        around = Context(operator, run.chain, run.buckets, "mem:operator-0", journal, in_place)
        tip = await reader.genesis_tip(made.run.history, run.chain)
        replica = Replica.genesis(made.spec, tip.run_id)
        await Session(Validator(around, tip, replica, made.text, store), run.chain, around.directory).run()
        return journal

    first = asyncio.run(live())
    assert rounds(first, "scored") == [0, 1, 2]
    standings = store.newest(3)
    assert standings is not None and standings.round == 2
    again = asyncio.run(live())
    assert not rounds(again, "scored")
    assert store.newest(3) == standings
    assert _scores(run) == published
