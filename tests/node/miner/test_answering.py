"""Which seal a miner shows its key for, and that there is one a round, whatever its lives are shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import block, hash32, identity
from miner_world import ME, SPEC, World, answer, seal_of

from muster.node.miner import Miner
from muster.node.telemetry.events import SealRefused
from muster.protocol import paths, wire
from muster.protocol.errors import StorageError
from muster.protocol.faults import Faults, parse_faults
from muster.protocol.wire import Key


class TestKey:
    """The key answers one seal, one that lists the very submission; showing it twice does no harm."""

    async def test_showing_it_fails_aloud_and_can_be_repeated(self) -> None:
        world = await World.begin()
        miner = world.miner()
        await miner.train()
        seal = seal_of(miner, world.signed().digest)
        for _ in range(2):
            world.bucket.errors = [StorageError("refused")]
            with pytest.raises(StorageError):
                await answer(miner, seal)
        assert not world.events("key")
        for _ in range(2):
            assert await answer(miner, seal) == seal
        assert miner.made is not None
        assert {(key.payload_key, key.seal) for key in shown(world, miner)} == {(miner.made.key, seal.digest)}
        assert world.bucket.put_under(paths.answered(miner.tip.run_id, 0)) == [seal.data], "for anybody to read"

    async def test_without_a_submission_there_is_no_key(self) -> None:
        world = await World.begin()
        miner = world.miner()
        assert await answer(miner, seal_of(miner, bytes(32))) is None
        assert world.bucket.puts == []

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"headers": ((ME.public, bytes(32)),)}, "does not list this submission"),
            ({"headers": ((ME.public, hash32("flipped")), (bytes(32), bytes(32)))}, "does not list"),
            ({"round": 1}, "is not of this ledger's open round"),
            ({"parent": hash32("another record")}, "is not of this ledger's open round"),
            ({"turn": 1, "leader": identity("bob").public}, "by the leader in turn"),
        ],
    )
    async def test_a_seal_that_is_not_for_it_gets_no_key(self, changes: dict[str, Any], problem: str) -> None:
        world = await World.begin()
        miner = world.miner()
        await miner.train()
        bad = seal_of(miner, world.signed().digest, **changes)
        for _ in range(3):
            assert await answer(miner, bad) is None
        (told,) = [noted.event for noted in world.journal.noted if isinstance(noted.event, SealRefused)]
        assert (told.round, told.seal) == (0, bad.digest.hex())
        assert problem in told.problem
        assert shown(world, miner) == []
        good = seal_of(miner, world.signed().digest)
        assert await answer(miner, bad, good) == good

    async def test_a_seal_that_it_came_too_late_for_is_nobodys_fault(self) -> None:
        world = await World.begin()
        miner = world.miner()
        await miner.train()
        assert await answer(miner, seal_of(miner, world.signed().digest, headers=())) is None
        assert (shown(world, miner), world.events("seal_refused")) == ([], [])

    async def test_of_two_seals_of_a_round_it_answers_the_first_alone(self) -> None:
        """The second one has an accomplice's work in it, which was made after the keys of the first were seen."""
        world = await World.begin()
        miner = world.miner()
        await miner.train()
        digest = world.signed().digest
        first = seal_of(miner, digest)
        second = seal_of(miner, digest, headers=tuple(sorted(((ME.public, digest), (hash32("late"), hash32("head"))))))
        assert await answer(miner, first) == first
        await miner.publish_key(second)
        again = world.miner()  # a life that sees the other one only
        await again.train()
        await again.publish_key(second)
        assert {key.seal for key in shown(world, miner)} == {first.digest}

    async def test_a_seal_made_late_that_names_an_early_block_gets_no_key(self) -> None:
        """What its work will be measured on may be known by then."""
        world = await World.begin()
        miner = world.miner()
        await miner.train()
        seal = seal_of(miner, world.signed().digest)
        oldest = seal.seal.block.number + SPEC.clock.seal_age
        world.chain.advance(oldest + 1 - world.chain.height)
        assert await answer(miner, seal) is None
        assert world.events("seal_refused") == [0]
        other = seal_of(miner, world.signed().digest, block=block(seal.seal.block.number + 1))
        assert await answer(miner, other) == other

    async def test_what_an_earlier_life_has_answered_is_answered_however_late(self) -> None:
        world = await World.begin()
        first = world.miner()
        await first.train()
        seal = seal_of(first, world.signed().digest)
        first.context.faults = Faults(parse_faults("submit.before_key:error"))
        with pytest.raises(StorageError):
            await answer(first, seal)
        world.chain.advance(100)
        second = world.miner()
        second._state = first._state
        assert await answer(second, seal) == seal
        assert {key.seal for key in shown(world, second)} == {seal.digest}

    async def test_after_a_record_was_taken_back_the_round_that_comes_instead_has_an_answer_of_its_own(self) -> None:
        world = await World.begin()
        miner = world.miner()
        await miner.train()
        left = seal_of(miner, world.signed().digest)
        assert await answer(miner, left) == left
        miner._tip = replace(miner.tip, parent=hash32("the other record"))
        await miner.train()
        assert miner.made is not None
        signed, _ = wire.decode_submission(miner.made.submission, miner.tip.run_id)
        seal = seal_of(miner, signed.digest)
        for _ in range(2):
            assert await answer(miner, seal) == seal
        await miner.publish_key(left)
        assert [key.seal for key in shown(world, miner)] == [left.digest, *[seal.digest] * 3]
        assert world.bucket.put_under(paths.answered(miner.tip.run_id, 0))[-1] == seal.data

    async def test_a_payload_that_an_earlier_life_did_not_get_up_follows_the_key(self) -> None:
        world = await World.begin()
        first = world.miner()
        await first.train()
        second = world.miner()
        second._state = first._state
        await world.bucket.delete(paths.payload(first.tip.run_id, 0))
        await answer(second, seal_of(second, world.signed().digest))
        assert first.made is not None
        assert world.submissions()[-1] == first.made.submission
        assert [key.rpartition(".")[2] for key, _ in world.bucket.puts] == ["head", "sub", "seal", "key", "head", "sub"]


def shown(world: World, miner: Miner) -> list[Key]:
    """Every key that was ever public, in order."""
    run_id = miner.tip.run_id
    return [wire.decode_key(data, run_id, 0, ME.public) for data in world.bucket.put_under(paths.key(run_id, 0))]
