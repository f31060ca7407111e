"""What a leader signed is on its disk first: without its bucket it signs the very same, and not another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from builders import LEADER, MINERS, Sent, hash32, identity, possession_of, submission
from leader_world import Counting, Died, Mortal, World, play

from muster.lab.faults import Fault, Script
from muster.node.context import in_place
from muster.node.ledger.participant import possession
from muster.node.ledger.session import Session
from muster.node.replica import Replica
from muster.protocol import paths, wire
from muster.protocol.errors import StorageError
from muster.protocol.ledger import Tip
from muster.validator.aggregator.aggregator import Aggregator
from muster.validator.aggregator.signed import KEPT_ROUNDS, RECORD, SEAL, Signed

PARENT = hash32("parent")


def test_what_was_kept_is_read_again_and_the_first_stays(tmp_path: Path) -> None:
    async def main() -> None:
        signed = Signed(tmp_path / "signed", in_place)
        assert await signed.kept(SEAL, 3, PARENT) is None
        await signed.keep(SEAL, 3, PARENT, b"one")
        await signed.keep(SEAL, 3, PARENT, b"another")
        await signed.keep(RECORD, 3, PARENT, b"a record")
        again = Signed(tmp_path / "signed", in_place)
        assert await again.kept(SEAL, 3, PARENT) == b"one"
        assert await again.kept(RECORD, 3, PARENT) == b"a record"
        assert await again.kept(SEAL, 3, hash32("another parent")) is None

    asyncio.run(main())
    assert not list((tmp_path / "signed").glob("*.new"))


def test_it_does_not_grow(tmp_path: Path) -> None:
    async def main() -> None:
        signed = Signed(tmp_path, in_place)
        for round_ in range(3 * KEPT_ROUNDS):
            await signed.keep(SEAL, round_, hash32(round_), b"x")
        assert await signed.kept(SEAL, 2 * KEPT_ROUNDS, hash32(2 * KEPT_ROUNDS)) == b"x"

    asyncio.run(main())
    assert len(list(tmp_path.iterdir())) == KEPT_ROUNDS + 1


def test_a_disk_that_takes_nothing_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    async def main() -> None:
        signed = Signed(tmp_path / "file", in_place)
        with pytest.raises(StorageError, match="what is to be signed cannot be kept in"):
            await signed.keep(SEAL, 3, PARENT, b"one")
        with pytest.raises(StorageError, match="what was signed cannot be read from"):
            await signed.kept(SEAL, 3, PARENT)

    asyncio.run(main())


@dataclass
class Disk(World):
    """A world whose leader has a disk, which outlives it; its miners sign everything once."""

    folder: Path = Path()
    shown: dict[str, Sent] = field(default_factory=dict)

    def life(
        self,
        script: Script | None = None,
        rounds: int | None = None,
        name: str = LEADER,
        start: tuple[Tip, Replica] | None = None,
    ) -> tuple[Counting, Session]:
        around = self.context(name, script or Script(), self.journal)
        leader = Counting(around, *(start or (self.tip, self.replica())), rounds, signed=self.folder)
        return leader, Session(leader, around.chain, around.directory)

    async def mine(self, leader: Aggregator) -> None:
        """Both miners in round 0, and nothing after it."""
        for uid, name in enumerate(MINERS):
            bucket, names = self.bucket(name), (paths.payload, paths.head)
            if not self.stored(paths.head(self.run_id, 0), name):
                sent = submission(self.tip.facts(possession_of(self.tip.opening)), identity(name), uid)
                for named, data in zip(names, (sent.payload, sent.head), strict=True):
                    await bucket.put(named(self.run_id, 0), data)
                self.shown[name] = sent
        while (seal := self.seal_of(0)) is None:
            await self.chain.next_block(self.chain.height)
        for name in MINERS:
            if not self.stored(paths.key(self.run_id, 0), name):
                await self.bucket(name).put(paths.key(self.run_id, 0), self.shown[name].key(seal))


def on(disk: Path) -> dict[str, bytes]:
    """What has been written down."""
    return {path.name: path.read_bytes() for path in disk.iterdir()}


@pytest.mark.parametrize(
    ("operation", "key", "kind"),
    [
        ("store.put_if_absent", "*.heads", "error"),
        ("store.put_if_absent", "*.heads", "lost"),
        ("store.put", "*.seal", "lost"),
        ("store.put_if_absent", "*.made", "error"),
        ("store.put_if_absent", "*.made", "lost"),
        ("store.put", "*.rec", "lost"),
    ],
)
def test_a_second_life_without_its_bucket_signs_the_very_same(
    operation: str, key: str, kind: str, tmp_path: Path
) -> None:
    """It dies where something is signed, and all that it had in its bucket is gone."""

    async def main() -> None:
        world = await Disk.begin()
        world.folder = tmp_path
        with pytest.raises(Died):
            await world.lead(Mortal(Fault(kind, operation, key)))  # type: ignore[arg-type]
        kept = on(tmp_path)
        assert kept, "it was on the disk before it was anywhere else"
        bucket = world.bucket()
        for info in await bucket.list(""):
            await bucket.delete(info.key)
        world.chain.advance(2)  # what is made now is another
        await world.lead()
        for name, data in kept.items():
            shown = paths.heads if name.endswith(SEAL) else paths.made
            assert set(world.stored(shown(world.run_id, 0, world.tip.parent))) == {data}
        for prefix in (paths.seals(world.run_id, 0), paths.records(world.run_id, 0)):
            assert len({data for stored in world.named(prefix).values() for data in stored}) == 1
        first, _last = await world.followed(1)
        assert len(first.accepted) == 2

    play(main())


@dataclass
class LateDisk(Disk):
    """One in which Bob's payload of round 0 comes in round 1, in which he does nothing else."""

    sent: dict[tuple[int, str], Sent] = field(default_factory=dict)

    async def mine(self, leader: Aggregator) -> None:
        while leader.tip.round < 2:
            round_ = leader.tip.round
            facts = leader.tip.facts(possession(leader.tip, leader.replica))
            for uid, name in enumerate(MINERS[: 2 - round_]):
                if (round_, name) not in self.sent:
                    self.sent[round_, name] = sent = submission(facts, identity(name), uid)
                    await self.bucket(name).put(paths.head(self.run_id, round_), sent.head)
                    if (round_, name) != (0, "bob"):
                        await self.bucket(name).put(paths.payload(self.run_id, round_), sent.payload)
            if round_ == 1:
                await self.bucket("bob").put(paths.payload(self.run_id, 0), self.sent[0, "bob"].payload)
            seal = self.seal_of(round_)
            for (of, name), sent in self.sent.items():
                key = paths.key(self.run_id, round_)
                if of == round_ and seal is not None and not self.stored(key, name):
                    await self.bucket(name).put(key, sent.key(seal))
            await self.chain.next_block(self.chain.height)


def test_a_second_life_has_the_late_work_again_that_its_signed_record_takes_in(tmp_path: Path) -> None:
    async def main() -> None:
        world = await LateDisk.begin(outer={"age_weights": (0.5,)})
        world.folder = tmp_path
        with pytest.raises(Died):
            await world.lead(Mortal(Fault("error", "store.put_if_absent", "*/00000001.*.made")), rounds=2)
        bucket = world.bucket()
        for info in await bucket.list(""):
            if "/00000001" in info.key:
                await bucket.delete(info.key)
        world.chain.advance(2)
        await world.lead(rounds=2)
        records = await world.followed(2)
        assert [[entry.round for entry in record.accepted] for record in records] == [[0], [1, 0], []]
        kept = [data for name, data in on(tmp_path).items() if name.endswith(RECORD) and "00000001" in name]
        assert [world.stored(paths.record(world.run_id, 1, wire.digest_of(data))) for data in kept] == [kept]

    play(main())
