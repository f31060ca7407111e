"""The one shell: whatever a look or a deed meets, it goes on, at the cost of time alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import LEADER, body_of, framed, hash32
from ledger_world import LEAD, ME, Life, NewestOnly, Watcher, World, Written, nothing, run_with

from muster.lab import clock
from muster.lab.faults import CHAIN_READS, Fault, Kind
from muster.node.ledger.participant import Errands
from muster.node.telemetry.events import Refused
from muster.protocol import paths, wire
from muster.protocol.errors import LedgerError
from muster.protocol.ledger.round import Duty, RoundState
from muster.protocol.types import Anchor

KINDS = ("rec", "seal", "bin")
SORTS = {"rec": "records.rec", "seal": "seals.seal", "bin": "bundles.bin"}


class TestFaultsOnce:
    """One failed look, of whatever kind, costs blocks and nothing else."""

    @pytest.mark.parametrize("kind", ["error", "damaged", "truncated", "missing", "slow", "hang"])
    @pytest.mark.parametrize("object_", KINDS)
    def test_of_the_store(self, kind: Kind, object_: str) -> None:
        seconds = 1000.0 if kind == "slow" else 0.0
        fault = Fault(kind, "store.get", f"*00000000-*.{object_}", who=ME, count=1, seconds=seconds)

        async def follow() -> None:
            world = await run_with(fault)
            life = await Life.of(world)
            await life.live()
            assert world.script.unfired() == []
            assert (life.rounds, life.events(Refused), life.agrees) == ([0, 1, 2], [], True)
            assert world.script.asked(sort=SORTS[object_]) == (2 if object_ == "bin" else 4)

        clock.run(follow())

    @pytest.mark.parametrize("kind", ["error", "slow"])
    @pytest.mark.parametrize("operation", [read for read in CHAIN_READS if read != "chain.origin"])  # asked before it
    @pytest.mark.parametrize("make", [None, NewestOnly])
    def test_of_the_chain(self, kind: Kind, operation: str, make: type[NewestOnly] | None) -> None:
        fault = Fault(kind, operation, who=ME, count=2, seconds=30.0 if kind == "slow" else 0.0)

        async def follow() -> None:
            world = await run_with(fault, ended=False, **({"make": make} if make else {}))
            life = await Life.of(world)
            await life.live(*[nothing] * 5, lambda: world.close(closing=True))
            assert world.script.fired[fault] == 2
            assert (life.rounds, life.events(Refused), life.agrees) == ([0, 1, 2], [], True)

        clock.run(follow())

    @pytest.mark.parametrize("at", [0, 4, 5, 8, 12, 30, -1])
    @pytest.mark.parametrize("object_", KINDS)
    def test_of_any_part_of_an_object(self, object_: str, at: int) -> None:
        """Prefix, body or signature: the same bytes are there for blocks, and then the right ones."""

        async def follow() -> None:
            world = await World.begin()
            first = await world.close()
            await world.close(closing=True)
            key, whole = first.object(object_)
            place = at % len(whole)
            bad = whole[:place] + bytes((whole[place] ^ 0x40,)) + whole[place + 1 :]
            await world.bucket.put(key, bad)
            life, applied = await Life.of(world), []

            async def restore() -> None:
                applied.extend(life.rounds)
                await world.bucket.put(key, whole)

            await life.live(nothing, nothing, restore)
            assert applied == []
            assert (life.rounds, life.events(Refused), life.agrees) == ([0, 1], [], True)

        clock.run(follow())


class TestUnknown:
    """What cannot be seen now is looked for again; nothing is concluded from it."""

    @pytest.mark.parametrize("object_", KINDS)
    def test_missing_bytes_are_not_an_invalid_record(self, object_: str) -> None:
        async def follow() -> None:
            world = await World.begin()
            first = await world.close()
            await world.close(closing=True)
            key, whole = first.object(object_)
            await world.bucket.delete(key)
            life = await Life.of(world)
            await life.live(nothing, nothing, lambda: world.bucket.put(key, whole))
            assert (life.rounds, life.events(Refused), life.agrees) == ([0, 1], [], True)
            assert world.script.asked(sort=SORTS[object_]) >= 4, "it was looked for at every block"

        clock.run(follow())

    @pytest.mark.parametrize("location", ["ftp://nowhere", "mem:another"])
    def test_a_leader_whose_bucket_cannot_be_used(self, location: str) -> None:
        """One that cannot be opened, or in which there is nothing."""

        async def follow() -> None:
            world = await run_with()
            await world.chain.commit(LEAD, location)
            life = await Life.of(world)
            await life.live(nothing, nothing, lambda: world.chain.commit(LEAD, f"mem:{LEADER}"))
            assert (life.rounds, life.agrees) == ([0, 1, 2], True)

        clock.run(follow())

    def test_a_leader_without_a_location(self) -> None:
        async def follow() -> None:
            world = await World.begin(located=False)
            life = await Life.of(world)
            await life.live(nothing, nothing, world.close, lambda: world.close(closing=True))
            assert (life.rounds, life.agrees) == ([0, 1], True)

        clock.run(follow())

    def test_a_record_that_names_a_block_to_come(self) -> None:
        """It is applied when the block is there, and its bundle is read once."""

        async def follow() -> None:
            world = await World.begin()
            early = await world.write(ahead=6)
            await world.put(early)
            await world.anchor(early)
            due = world.chain.height + 6
            life, seen = await Life.of(world), []

            async def look() -> None:
                seen.append((world.chain.height < due, life.rounds == []))

            async def end() -> None:
                world.go_on(early)
                await world.close(closing=True)

            await life.live(*[look] * 9, end)
            assert seen == [(True, True)] * 6 + [(False, False)] * 3
            assert (life.events(Refused), world.script.asked(sort="bundles.bin"), life.agrees) == ([], 1, True)

        clock.run(follow())

    def test_a_follower_that_is_far_behind_goes_back_in_steps(self) -> None:
        async def follow() -> None:
            world = await World.begin(make=NewestOnly)
            await world.null_rounds(150)
            await world.close(closing=True)
            life = await Life.of(world)
            await life.live(blocks=20)
            assert life.agrees
            assert world.script.asked(sort="records.rec") == 2 * 151 - 1, "each once on the way back, once forth"

        clock.run(follow())


class TestRefused:
    """What is really invalid is refused by its digest, once, and stands in nobody's way."""

    def test_it_is_judged_once_and_a_later_valid_one_is_applied(self) -> None:
        async def follow() -> None:
            world = await World.begin()
            valid = await world.write()
            weights = valid.record.weights * 2
            bad = world.sign(
                replace(valid.record, weights=weights), valid.seal, valid.object("seal")[1], valid.object("bin")[1]
            )
            await world.put(bad)
            await world.anchor(bad)
            life, asked = await Life.of(world), []

            async def count() -> None:
                asked.append([world.script.asked(ME, "store.*", sort) for sort in SORTS.values()])

            async def mend() -> None:
                await world.put(valid)
                await world.anchor(valid)
                world.go_on(valid)
                await world.close(closing=True)

            await life.live(nothing, count, nothing, count, mend)
            assert asked == [[1, 1, 1]] * 2, "it is not fetched again at every look"
            assert [event.record for event in life.events(Refused)] == [bad.digest.hex()]
            assert "weights" in life.events(Refused)[0].problem
            assert (life.rounds, life.agrees) == ([0, 1], True)

        clock.run(follow())

    def test_what_is_refused_in_one_round_is_applied_in_its_own(self) -> None:
        """A leader may anchor a record a round early, and serve it under that name: who saw that stays with the run."""

        async def follow() -> None:
            world = await World.begin()
            run_id, first = world.tip.run_id, await world.write()
            life = await Life.of(world)
            world.go_on(first)
            second = await world.write()
            await world.bucket.put(paths.record(run_id, 0, second.digest), second.object("rec")[1])
            await world.chain.commit(LEAD, f"mem:{LEADER}", Anchor(0, second.digest))

            async def mend() -> None:
                await world.put(first)
                await world.chain.commit(LEAD, f"mem:{LEADER}", Anchor(0, first.digest))
                await world.put(second)
                await world.anchor(second)
                world.go_on(second)
                await world.close(closing=True)

            await life.live(nothing, nothing, mend)
            assert [(event.round, event.record) for event in life.events(Refused)] == [(0, second.digest.hex())]
            assert (life.rounds, life.agrees) == ([0, 1, 2], True)

        clock.run(follow())

    @pytest.mark.parametrize("spoil", ["parent", "bundle_bytes", "seal", "beacon", "kind of object"])
    def test_whatever_makes_it_invalid(self, spoil: str) -> None:
        async def follow() -> None:
            world = await World.begin()
            valid = await world.write()
            bad = spoiled(world, valid, spoil)
            await world.put(bad)
            await world.anchor(bad)
            life = await Life.of(world)

            async def mend() -> None:
                await world.put(valid)
                await world.anchor(valid)
                world.go_on(valid)
                await world.close(closing=True)

            await life.live(nothing, nothing, nothing, mend)
            assert [event.record for event in life.events(Refused)] == [bad.digest.hex()]
            assert (life.rounds, life.agrees) == ([0, 1], True)

        clock.run(follow())


def spoiled(world: World, valid: Written, how: str) -> Written:
    """A record that its leader has signed and nobody may apply."""
    seal, seal_data, bundle = valid.seal, valid.object("seal")[1], valid.object("bin")[1]
    record = valid.record
    match how:
        case "parent":
            record = replace(record, parent=hash32("another"))
        case "bundle_bytes":
            record = replace(record, bundle_bytes=1)
        case "seal":
            seal = replace(seal, headers=seal.headers[:1])
            seal_data = wire.encode_seal(seal, LEAD)
            record = replace(record, seal=wire.digest_of(seal_data))
        case "beacon":
            assert record.opening is not None
            possess = replace(record.opening.possess, value=hash32("another"))
            record = replace(record, opening=replace(record.opening, possess=possess))
        case "kind of object":
            made = world.sign(record, seal, seal_data, bundle)
            other = framed(wire.Type.RECORD, LEAD, world.tip.run_id, body_of(seal_data))
            digest = wire.digest_of(other)
            objects = {**made.objects, paths.record(world.tip.run_id, 0, digest): other}
            return replace(made, digest=digest, objects=objects)
    return world.sign(record, seal, seal_data, bundle)


class Broken(Watcher):
    """A leader with a fault of its own, or whose background work has one."""

    fault: Exception = LedgerError("its own record is not valid")
    where = "look"

    def duty(self) -> Duty:
        return Duty.LEAD

    def begin(self, errands: Errands) -> None:
        self.errands = errands

    async def observe(self, state: RoundState, head: Any) -> list[Any]:
        if self.where == "errand":
            self.errands.start(self.fail())
            return []
        raise self.fault

    async def fail(self) -> None:
        raise self.fault


class TestEnds:
    """What ends a session: the run, a cancellation, a fault of this participant's own; and nothing else."""

    @pytest.mark.parametrize("where", ["look", "errand"])
    def test_a_fault_of_its_own_is_not_hidden(self, where: str) -> None:
        async def follow() -> None:
            world = await World.begin()
            life = await Life.of(world, type("Here", (Broken,), {"where": where}))
            with pytest.raises(ExceptionGroup) as caught:
                await life.live()
            assert caught.value.subgroup(LedgerError) is not None

        clock.run(follow())

    def test_a_session_of_a_closed_run_is_over_at_once(self) -> None:
        async def follow() -> None:
            world = await run_with()
            life = await Life.of(world)
            await life.live()
            again = await Life.of(world, tip=world.tip)
            await again.session.run()
            assert again.rounds == []

        clock.run(follow())

    def test_an_anchor_that_leads_nowhere_stalls_and_does_not_end_it(self) -> None:
        """And once the leader anchors what it has, the follower is there."""

        async def follow() -> None:
            world = await run_with(make=NewestOnly)
            last = Anchor(2, (await world.chain.anchors(0))[-1].anchor.digest)
            await world.chain.commit(LEAD, f"mem:{LEADER}", Anchor(2**40, hash32("nothing")))
            life = await Life.of(world)
            await life.live(nothing, nothing, lambda: world.chain.commit(LEAD, f"mem:{LEADER}", last))
            assert (life.rounds, life.agrees) == ([0, 1, 2], True)

        clock.run(follow())
