"""What comes late is fetched beside the round: the very work that was sealed, each peer alone, nobody in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from builders import LEADER, identity, payload_key, possession_of, update
from intake_world import BLOCK, Crowd, names, play, public

from muster.lab.faults import Fault, Kind, Script
from muster.node.ledger.participant import Errands
from muster.node.submission import PLACE_SECONDS, Submissions
from muster.protocol import wire
from muster.protocol.ledger import Tip
from muster.protocol.rules.attendance import Attendance
from muster.protocol.rules.late import Late
from muster.protocol.wire import ScoresUsed, UsedScore
from muster.validator.aggregator.intake import BEYOND_SEATS
from muster.validator.aggregator.late import LateIntake, in_order

A, B, C = names(3)
AGES = {"age_weights": (0.5, 0.25)}


@dataclass
class Later:
    """The round after that of a crowd, in which nothing of it was in time."""

    crowd: Crowd
    tip: Tip
    order: list[Late]

    @classmethod
    async def begin(cls, peers: tuple[str, ...], script: Script | None = None) -> Later:
        """Everybody's submission is sealed and its key shown; script befalls what the leader reads of it."""
        crowd = await Crowd.begin(peers, script, outer=AGES)
        await crowd.submit()
        heads = {public(name): await crowd.bucket(name).get(crowd.head_key, max_bytes=4096) for name in peers}
        await crowd.show()
        order = [
            Late(0, peer, crowd.uids[peer], wire.head_digest(head), crowd.sealed_by) for peer, head in heads.items()
        ]
        past = (Attendance(frozenset(heads), frozenset(heads)),)
        opening = replace(crowd.tip.opening, round=1, base_round=1)
        return cls(crowd, replace(crowd.tip, opening=opening, late=tuple(sorted(order)), past=past), order)

    @asynccontextmanager
    async def intake(self) -> AsyncIterator[LateIntake]:
        """For as long as the block lasts; blocks come by the clock."""
        crowd, tip = self.crowd, self.tip
        async with asyncio.TaskGroup() as tasks:
            errands = Errands(tasks, crowd.chain)
            ticking = tasks.create_task(self._tick())
            submissions = Submissions(tip, crowd.opening)
            yield LateIntake(tip, tip.facts(possession_of(tip.opening)), submissions, errands, crowd.judging)
            ticking.cancel()
            errands.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(BLOCK)
            self.crowd.chain.advance()

    async def look(self, late: LateIntake, wanted: int = 20, blocks: int = 1) -> set[bytes]:
        """Look at each of so many blocks; who is in at the end."""
        for _ in range(blocks):
            late.look(self.crowd.stores(), self.order, wanted, await self.crowd.head())
            await self.crowd.next_block()
        return {one.public for one, _ in late.opened(self.order)}


def test_what_was_sealed_is_taken_in_and_its_head_is_not_judged() -> None:
    async def main() -> None:
        later = await Later.begin((A, B))
        async with later.intake() as late:
            assert await later.look(late, blocks=3) == {public(A), public(B)}
            found = late.payload((0, public(A)))
            assert found is not None
            assert found.opened.signed.header.round == 0
            assert late.payload((0, public(C))) is late.payload((1, public(A))) is None

    play(main())


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_no_more_are_kept_than_are_wanted(wanted: int) -> None:
    async def main() -> None:
        later = await Later.begin((A, B, C))
        async with later.intake() as late:
            assert len(await later.look(late, wanted, blocks=4)) == wanted

    play(main())


def test_a_neighbours_readable_update_sent_late_gets_nothing() -> None:
    """What is sealed is a digest: whatever else is put there later is not the work."""

    async def main() -> None:
        later = await Later.begin((A, B))
        crowd, thief = later.crowd, identity(A)
        stolen = wire.encrypt_payload(update(), payload_key(), crowd.tip.run_id, 0, thief.public)
        sealed = await crowd.bucket(A).get(crowd.payload, max_bytes=2**20)
        assert stolen == sealed, "the key is the crowd's: what differs below is the work alone"
        other = wire.encrypt_payload(update(5), payload_key(), crowd.tip.run_id, 0, thief.public)
        await crowd.bucket(A).put(crowd.payload, other)
        async with later.intake() as late:
            assert await later.look(late, blocks=9) == {public(B)}
            await crowd.bucket(A).put(crowd.head_key, b"another head")
            assert await later.look(late, blocks=9) == {public(B)}

    play(main())


def test_another_head_than_the_sealed_one_is_none() -> None:
    async def main() -> None:
        later = await Later.begin((A,))
        await later.crowd.submit(A, uid=3)
        async with later.intake() as late:
            assert await later.look(late, blocks=4) == set()

    play(main())


def test_a_key_for_another_seal_ends_it() -> None:
    async def main() -> None:
        later = await Later.begin((A, B))
        later.crowd.sealed_by = bytes(32)
        await later.crowd.show(A)
        async with later.intake() as late:
            assert await later.look(late, blocks=4) == {public(B)}

    play(main())


@pytest.mark.parametrize("kind", ["error", "damaged", "missing"])
@pytest.mark.parametrize("key", ["*.head", "*.key", "*.sub"])
def test_what_fails_is_looked_at_again(kind: Kind, key: str) -> None:
    async def main() -> None:
        later = await Later.begin((A,), Script([Fault(kind, "store.get*", key, count=2)]))
        async with later.intake() as late:
            assert await later.look(late, blocks=9) == {public(A)}
        assert not later.crowd.script.unfired()

    play(main())


def test_who_hangs_keeps_nobody_waiting() -> None:
    """More of them than there are places: each loses its own when a slow line would have been done."""

    async def main() -> None:
        peers = names(BEYOND_SEATS + 4)
        hang = [Fault("hang", "store.get*", "*.sub", owner=name) for name in peers[:-1]]
        later = await Later.begin(peers, Script(hang))
        async with later.intake() as late:
            assert await later.look(late, wanted=2, blocks=2 + int(2 * PLACE_SECONDS / BLOCK)) == {public(peers[-1])}

    play(main())


def test_what_is_let_go_of_is_begun_again() -> None:
    async def main() -> None:
        later = await Later.begin((A,), Script([Fault("hang", "store.get*", "*.sub", count=1)]))
        async with later.intake() as late:
            assert await later.look(late) == set()
            assert not later.crowd.script.unfired()
            late.pause()
            assert await later.look(late) == {public(A)}

    play(main())


def test_the_youngest_comes_first_then_whoever_has_the_first_claim_to_a_seat() -> None:
    async def main() -> None:
        later = await Later.begin((A, B, C))
        tip = later.tip
        tip = replace(tip, opening=replace(tip.opening, round=2))
        tip = replace(tip, late=tuple(sorted((*tip.late, *(replace(one, round=1) for one in tip.late)))))
        rows = tuple(UsedScore(public(name), score, True) for name, score in ((A, 1.0), (B, 3.0), (C, 2.0)))
        scores = ScoresUsed(identity(LEADER).public, 1, 1, bytes(32), tuple(sorted(rows, key=lambda row: row.public)))
        assert [one.place for one in in_order(tip, (scores,))] == [
            (round_, public(name)) for round_ in (1, 0) for name in (B, C, A)
        ]

    play(main())


def test_of_two_for_one_slots_work_the_first_counts() -> None:
    async def main() -> None:
        later = await Later.begin((A, B))
        later.order = [replace(one, uid=0) for one in later.order]
        async with later.intake() as late:
            assert await later.look(late, blocks=3) == {public(A)}
            later.order.reverse()
            assert await later.look(late) == {public(B)}

    play(main())
