"""The one reader: what it takes for the ledger, what it calls unknown, what it refuses, and what each look costs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from builders import LEADER, OWNER, block, body_of, framed, hash32, identity, run_spec
from hypothesis import given
from hypothesis import strategies as st
from ledger_world import LEAD, ME, NewestOnly, World, Written

from muster.lab.faults import Fault
from muster.node.ledger.mirrors import Mirrors
from muster.node.ledger.objects import MAX_SEAL_BYTES
from muster.node.ledger.reader import STEPS_BACK, Pointer, genesis_tip
from muster.node.ledger.seals import MAX_SIBLINGS
from muster.protocol import paths, wire
from muster.protocol.errors import ChainError, LedgerError, ObjectDamaged, ObjectMissing, StorageError
from muster.protocol.identity import Identity
from muster.protocol.ledger import Tip
from muster.protocol.ledger.forkchoice import Claim
from muster.protocol.rules.admission import MAX_HEAD_BYTES, MAX_KEY_BYTES
from muster.protocol.spec.history import SpecHistory
from muster.protocol.spec.layout import AEAD_TAG_BYTES, max_payload_bytes
from muster.protocol.types import Anchor, Beacon
from muster.protocol.wire import Entry, Record, Seal


async def published(**how: object) -> tuple[World, Written]:
    """Round 0 as it lies in the leader's bucket, anchored; the world still stands before it."""
    world = await World.begin(**how)  # type: ignore[arg-type]
    written = await world.write()
    await world.put(written)
    await world.anchor(written)
    return world, written


async def only(world: World) -> Pointer:
    """The one record that the chain proves."""
    (pointer,) = await world.reader().anchored(world.tip)
    return pointer


def flipped(data: bytes, at: int) -> bytes:
    """The bytes with one bit changed."""
    at %= len(data)
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


class TestFetch:
    """A record counts only as the very bytes that are anchored, and so does what it names."""

    async def test_gives_what_is_anchored_and_what_it_names(self) -> None:
        world, written = await published()
        fetched = await world.reader().fetch(await only(world), world.tip)
        assert (fetched.record.round, fetched.digest, fetched.seal) == (0, written.digest, written.seal)
        assert fetched.record_data == written.object("rec")[1]
        assert fetched.seal_data == written.object("seal")[1]
        assert fetched.bundle == written.object("bin")[1]

    @given(kind=st.sampled_from(["rec", "seal", "bin"]), data=st.data())
    def test_bytes_damaged_in_any_place_are_a_fault_of_the_way_here(self, kind: str, data: st.DataObject) -> None:
        """Prefix, body or signature: nothing is concluded from them, and the next read is as good as the first."""

        async def read() -> None:
            world, written = await published()
            reader, pointer = world.reader(), await only(world)
            key, whole = written.object(kind)
            at = data.draw(st.one_of(st.integers(0, len(whole) - 1), st.sampled_from([0, 4, 5, 6, 8, 12, 19, -1])))
            cut = data.draw(st.sampled_from(["flip", "cut", "longer", "empty"]))
            change = {"flip": flipped(whole, at), "cut": whole[:at], "longer": whole + b"x", "empty": b""}
            await world.bucket.put(key, change[cut])
            with pytest.raises(StorageError) as caught:
                await reader.fetch(pointer, world.tip)
            assert caught.value.subject == key
            await world.bucket.put(key, whole)
            assert (await reader.fetch(pointer, world.tip)).digest == written.digest

        asyncio.run(read())

    @pytest.mark.parametrize("kind", ["rec", "seal", "bin"])
    async def test_an_object_that_is_missing_is_unknown(self, kind: str) -> None:
        world, written = await published()
        reader, pointer, (key, whole) = world.reader(), await only(world), written.object(kind)
        await world.bucket.delete(key)
        with pytest.raises(ObjectMissing) as caught:
            await reader.fetch(pointer, world.tip)
        assert caught.value.subject == key
        await world.bucket.put(key, whole)
        assert (await reader.fetch(pointer, world.tip)).digest == written.digest

    async def test_another_round_that_lies_in_its_place_is_not_it(self) -> None:
        """Well signed, by the leader, of this run: and not what is anchored."""
        world = await World.begin()
        first = await world.close(())
        second = await world.close(())
        tip = await genesis_tip(world.tip.history, world.chain)
        pointer = (await world.reader().anchored(tip))[0]
        for kind in ("rec", "seal"):
            await world.bucket.put(first.object(kind)[0], second.object(kind)[1])
            with pytest.raises(ObjectDamaged):
                await world.reader().fetch(pointer, tip)
            await world.bucket.put(*first.object(kind))
        assert (await world.reader().fetch(pointer, tip)).digest == first.digest

    async def test_what_is_anchored_and_no_record_is_the_leaders_fault(self) -> None:
        """The very bytes that the anchor names: reading them again would change nothing."""
        world = await World.begin()
        seal = wire.encode_seal((await world.write()).seal, LEAD)
        record = framed(wire.Type.RECORD, LEAD, world.tip.run_id, body_of(seal))
        await world.bucket.put(paths.record(world.tip.run_id, 0, wire.digest_of(record)), record)
        await world.chain.commit(LEAD, f"mem:{LEADER}", Anchor(0, wire.digest_of(record)))
        with pytest.raises(LedgerError, match="anchored and not valid"):
            await world.reader().fetch(await only(world), world.tip)

    async def test_the_record_is_read_once_however_often_the_rest_is(self) -> None:
        world, written = await published()
        reader, pointer = world.reader(), await only(world)
        await world.bucket.delete(written.object("bin")[0])
        for _ in range(3):
            with pytest.raises(ObjectMissing):
                await reader.fetch(pointer, world.tip)
        assert (world.script.asked(sort="records.rec"), world.script.asked(sort="bundles.bin")) == (1, 3)

    async def test_a_null_record_needs_no_bundle(self) -> None:
        world = await World.begin()
        await world.close(())
        tip = await genesis_tip(world.tip.history, world.chain)
        assert (await world.reader().fetch(await only_of(world, tip), tip)).bundle == b""
        assert world.script.asked(sort="bundles.*") == 0


async def only_of(world: World, tip: Tip) -> Pointer:
    """The one record of that tip's round."""
    (pointer,) = await world.reader().anchored(tip)
    return pointer


class TestSizes:
    """What a record may make a reader allocate is known before it does."""

    @pytest.mark.parametrize("claimed", [None, 2**40])
    async def test_heads_that_add_up_to_more_than_all_seats_are_refused_unread(self, claimed: int | None) -> None:
        """Whether the record owns up to it or not."""
        world = await World.begin()
        written = await world.write()
        entry = written.record.accepted[0]
        header = wire.decode_head(entry.head, world.tip.run_id).header
        huge = replace(header, payload_bytes=2**40)
        head = huge_head(world, huge)
        others = [e.head for e in written.record.accepted[1:]]
        size = sum(map(len, [head, *others])) + 2 * MAX_KEY_BYTES + 2**40 + AEAD_TAG_BYTES + tails(world, others)
        entries = (Entry(entry.public, 0, head, ""), *written.record.entries[1:])
        record = replace(written.record, entries=entries, bundle_bytes=claimed or size)
        await world.put(bad := resigned(world, written, record))
        await world.anchor(bad)
        with pytest.raises(LedgerError, match="more than 20 seats" if claimed is None else "its heads allow"):
            await world.reader().fetch(await only(world), world.tip)
        assert world.script.asked(sort="bundles.*") == world.script.asked(sort="seals.*") == 0

    async def test_the_cap_is_what_the_seats_may_send_and_no_byte_less(self) -> None:
        """Honest submissions of the largest payloads fill it to what a head leaves of its room."""
        world = await World.begin(spec=run_spec(gauntlet={"seats": 1}))
        written = await world.write()
        entry = written.record.entries[0]
        header = wire.decode_head(entry.head, world.tip.run_id).header
        most = MAX_HEAD_BYTES - len(entry.head) + max_payload_bytes(world.tip.codec) - AEAD_TAG_BYTES
        for extra, refused in ((0, False), (1, True)):
            head = huge_head(world, replace(header, payload_bytes=most + extra))
            size = len(head) + MAX_KEY_BYTES + most + extra + AEAD_TAG_BYTES
            record = replace(
                written.record,
                entries=(Entry(entry.public, 0, head, ""),),
                weights=written.record.weights[:1],
                bundle_bytes=size,
            )
            await world.put(made := resigned(world, written, record))
            problem = "more than 1 seats" if refused else "exactly the sealed submissions"  # which is looked at next
            with pytest.raises(LedgerError, match=problem):
                await world.reader().fetch(Pointer(Claim(made.digest, True), Mirrors((world.bucket,))), world.tip)

    @pytest.mark.parametrize(("kind", "cap"), [("rec", wire.MAX_BODY_BYTES), ("seal", 8 * 2**20)])
    async def test_an_object_beyond_its_cap_is_not_kept(self, kind: str, cap: int) -> None:
        world, written = await published()
        pointer = await only(world)
        await world.bucket.put(written.object(kind)[0], bytes(cap + 1))
        with pytest.raises(StorageError, match="more than the"):
            await world.reader().fetch(pointer, world.tip)

    async def test_a_bundle_is_read_to_the_byte_that_its_heads_make(self) -> None:
        world, written = await published()
        key, whole = written.object("bin")
        await world.bucket.put(key, whole + b"x")
        with pytest.raises(StorageError, match=f"more than the {len(whole)} allowed"):
            await world.reader().fetch(await only(world), world.tip)


def huge_head(world: World, header: wire.Header) -> bytes:
    """A head by its own peer, well signed, that announces what it likes."""
    name = next(name for name in ("alice", "bob") if identity(name).public == header.public)
    return wire.encode_head(header, identity(name))


def tails(world: World, heads: list[bytes]) -> int:
    """The bytes of ciphertext that these heads announce."""
    return sum(wire.decode_head(head, world.tip.run_id).ciphertext_bytes for head in heads)


def resigned(world: World, written: Written, record: Record) -> Written:
    """Another record in the place of one."""
    bundle = next((data for key, data in written.objects.items() if key.endswith(".bin")), b"")
    return world.sign(record, written.seal, written.object("seal")[1], bundle)


class TestBeacons:
    """Blocks and beacons of a record are the chain's own; one that is not there yet says nothing."""

    async def test_a_record_of_a_future_block_is_unknown_and_its_bundle_waits(self) -> None:
        world = await World.begin()
        written = await world.write()
        ahead = world.chain.height + 5
        future = Beacon(world.chain.genesis.block(ahead), world.chain.genesis.beacon("possess", 1))
        assert written.record.opening is not None
        opening = replace(written.record.opening, possess=future)
        await world.put(early := resigned(world, written, replace(written.record, opening=opening)))
        await world.anchor(early)
        with pytest.raises(ChainError):
            await world.reader().fetch(await only(world), world.tip)
        assert world.script.asked(sort="bundles.*") == 0
        await world.reach(ahead)
        assert (await world.reader().fetch(await only(world), world.tip)).digest == early.digest

    @pytest.mark.parametrize("field", ["assign", "possess"])
    @pytest.mark.parametrize("what", ["hash", "value"])
    async def test_a_beacon_that_is_not_the_chains_is_refused(self, field: str, what: str) -> None:
        world = await World.begin()
        written = await world.write()
        record, opening = written.record, written.record.opening
        assert opening is not None
        true = getattr(opening, field)
        lie = hash32("a lie")
        false = replace(true, block=replace(true.block, hash=lie)) if what == "hash" else replace(true, value=lie)
        record = replace(record, opening=replace(opening, **{field: false}))
        await world.put(bad := resigned(world, written, record))
        await world.anchor(bad)
        with pytest.raises(LedgerError, match=f"the {field} beacon"):
            await world.reader().fetch(await only(world), world.tip)

    async def test_a_seal_of_a_block_that_never_was_is_refused(self) -> None:
        world = await World.begin()
        written = await world.write()
        seal = replace(written.seal, block=block(written.seal.block.number))
        data = wire.encode_seal(seal, LEAD)
        record = replace(written.record, seal=wire.digest_of(data))
        await world.put(bad := world.sign(record, seal, data, written.object("bin")[1]))
        await world.anchor(bad)
        with pytest.raises(LedgerError, match="a block the chain does not have"):
            await world.reader().fetch(await only(world), world.tip)


class TestAnchored:
    """Which records the chain proves, whoever looks and from wherever."""

    async def test_without_an_anchor_there_is_none_and_no_bucket_is_asked(self) -> None:
        world = await World.begin()
        await world.put(await world.write())
        assert await world.reader().anchored(world.tip) == []
        assert world.script.asked("*", "store.*") == world.script.asked("*", "chain.snapshot") == 0

    async def test_anothers_anchor_is_not_the_leaders(self) -> None:
        world = await World.begin()
        written = await world.write()
        await world.put(written)
        await world.chain.commit(identity("alice"), "mem:alice", Anchor(0, written.digest))
        assert await world.reader().anchored(world.tip) == []

    async def test_a_leader_whose_bucket_cannot_be_opened_has_nothing_at_hand(self) -> None:
        world, written = await published()
        await world.chain.commit(LEAD, "ftp://not-a-bucket")
        assert await world.reader().anchored(world.tip) == []
        assert await world.reader().seals(world.tip) == []
        await world.chain.commit(LEAD, f"mem:{LEADER}")
        assert (await only(world)).digest == written.digest

    async def test_a_leader_that_is_not_registered_has_nothing_at_hand(self) -> None:
        world, _ = await published()
        for name in ("carol", "dave", "erin"):  # four slots: those of the miners go first
            await world.chain.register(identity(name))
        assert LEAD.hotkey not in (await world.chain.snapshot()).by_hotkey()
        assert await world.reader().anchored(world.tip) == []
        assert await world.reader().seals(world.tip) == []

    async def test_each_record_is_named_once_in_chain_order(self) -> None:
        world, written = await published()
        world.chain.advance(1)
        await world.put(other := await world.write(("alice",)))
        await world.anchor(other)
        for _ in range(2):
            await world.anchor(written)
            await world.anchor(other)
        assert [pointer.digest for pointer in await world.reader().anchored(world.tip)] == [
            written.digest,
            other.digest,
        ]

    @pytest.mark.parametrize("make", [NewestOnly, None])
    async def test_where_the_chain_forgets_the_records_prove_each_other(self, make: type[NewestOnly] | None) -> None:
        world = await World.begin(**({"make": make} if make else {}))
        tip = world.tip
        first = await world.close(())
        await world.null_rounds(4)
        (pointer,) = await world.reader().anchored(tip)
        assert pointer.digest == first.digest
        assert world.script.asked(sort="records.rec") == (4 if make else 0)

    async def test_a_look_goes_back_so_far_and_the_next_one_goes_on(self) -> None:
        world = await World.begin(make=NewestOnly)
        tip = world.tip
        first = await world.close(())
        await world.null_rounds(2 * STEPS_BACK)
        reader, reads = world.reader(), []
        while not (found := await reader.anchored(tip)):
            reads.append(world.script.asked(sort="records.rec"))
        assert reads == [STEPS_BACK]
        assert found[0].digest == first.digest
        assert world.script.asked(sort="records.rec") == 2 * STEPS_BACK, "each of them was read once"

    async def test_a_read_that_fails_on_the_way_back_is_made_again_and_none_before_it(self) -> None:
        world = await World.begin(Fault("damaged", "store.get", "*00000003-*.rec", count=1), make=NewestOnly)
        tip = world.tip
        first = await world.close(())
        await world.null_rounds(2)
        third = await world.close(())
        await world.null_rounds(3)
        reader = world.reader()
        with pytest.raises(ObjectDamaged) as caught:
            await reader.anchored(tip)
        assert caught.value.subject == third.object("rec")[0]
        assert world.script.unfired() == []
        assert [pointer.digest for pointer in await reader.anchored(tip)] == [first.digest]
        assert world.script.asked(sort="records.rec") == 6 + 1

    async def test_an_anchor_of_a_round_that_nobody_has_is_unknown(self) -> None:
        """A leader that anchors what does not exist stalls the run; it does not end its followers."""
        world, _ = await published(make=NewestOnly)
        await world.chain.commit(LEAD, f"mem:{LEADER}", Anchor(2**40, hash32("nothing")))
        with pytest.raises(ObjectMissing):
            await world.reader().anchored(world.tip)


class TestSeals:
    """The open round's seals, for who acts on one."""

    async def test_are_read_from_the_leaders_bucket(self) -> None:
        world, written = await published()
        (found,) = await world.reader().seals(world.tip)
        assert (found.seal, found.digest) == (written.seal, written.record.seal)
        assert found.data == written.object("seal")[1]

    async def test_there_is_none_before_it_is_put(self) -> None:
        world = await World.begin()
        assert await world.reader().seals(world.tip) == []

    async def test_each_is_read_once_while_the_round_is_open(self) -> None:
        world, _ = await published()
        reader = world.reader()
        for _ in range(3):
            assert len(await reader.seals(world.tip)) == 1
        assert world.script.asked(ME, "store.get", "seals.seal") == 1

    async def test_siblings_stand_beside_each_other_up_to_a_limit(self) -> None:
        """So many are read as can be of use, and one that is too large is not read at all."""
        world, written = await published()
        for number in range(MAX_SIBLINGS + 2):
            await put_seal(world, replace(written.seal, headers=((hash32(number), hash32("head")),)))
        found = await world.reader().seals(world.tip)
        assert len(found) == MAX_SIBLINGS
        assert [one.digest[:8].hex() for one in found] == sorted(one.digest[:8].hex() for one in found)
        world, written = await published()
        await world.bucket.put(paths.seal(world.tip.run_id, 0, bytes(32)), bytes(MAX_SEAL_BYTES + 1))
        assert [one.seal for one in await world.reader().seals(world.tip)] == [written.seal]

    @given(st.data())
    def test_one_that_is_damaged_is_read_again(self, data: st.DataObject) -> None:
        """Wherever the damage is, nobody answers what the leader has not signed."""

        async def read() -> None:
            world, written = await published()
            key, whole = written.object("seal")
            await world.bucket.put(key, flipped(whole, data.draw(st.integers(0, len(whole) - 1))))
            with pytest.raises(ObjectDamaged):
                await world.reader().seals(world.tip)

        asyncio.run(read())

    async def test_one_under_anothers_name_is_damaged(self) -> None:
        world, written = await published()
        other = wire.encode_seal(replace(written.seal, headers=()), LEAD)
        await world.bucket.put(written.object("seal")[0], other)
        with pytest.raises(ObjectDamaged, match="another seal than its name says"):
            await world.reader().seals(world.tip)

    @pytest.mark.parametrize("field", ["parent", "leader", "turn", "block"])
    async def test_one_of_another_ledger_is_none(self, field: str) -> None:
        world, written = await published()
        await world.bucket.delete(written.object("seal")[0])
        changes = {
            "parent": hash32("another"),
            "leader": identity(OWNER).public,
            "turn": 1,
            "block": block(written.seal.block.number),
        }
        tip = world.tip
        if field == "turn":  # of two aggregators it is not the second one's turn
            genesis = run_spec().genesis.model_dump() | {"leaders": (LEAD.hotkey, identity(OWNER).hotkey)}
            tip = replace(tip, history=replace(SpecHistory.of(run_spec(genesis=genesis)), run_id=tip.run_id))
        signer = identity(OWNER) if field == "leader" else LEAD
        await put_seal(world, replace(written.seal, **{field: changes[field]}), signer)
        assert await world.reader().seals(tip) == []


async def put_seal(world: World, seal: Seal, signer: Identity = LEAD) -> None:
    """A seal under its name."""
    data = wire.encode_seal(seal, signer)
    await world.bucket.put(paths.seal(world.tip.run_id, 0, wire.digest_of(data)), data)
