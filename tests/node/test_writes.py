"""One hotkey's processes write to the chain as one: nothing of the other's is lost, however they come between."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from hotkey_process import OPERATOR, digest, line, other_process
from hypothesis import given, settings
from hypothesis import strategies as st
from writes_world import Client, Ground, maker, until

from muster.lab.faults import Script
from muster.lab.faulty import FaultyChain
from muster.node.writes import QueuedWrites, Standing, Wish
from muster.protocol.chain.base import Chain
from muster.protocol.chain.commitments import CommitSpace
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.errors import ChainError, RateLimited
from muster.protocol.identity import Identity
from muster.protocol.types import Anchor, Block

BLOCK = Block(0, bytes(32))
COMMITS = 50
BLOCK_SECONDS = 0.05
SHORT = 0.05
"""Seconds after which a test does not wait any longer for what cannot come."""

anchors = st.builds(Anchor, st.integers(0, 3), st.sampled_from([digest(1), digest(2)]))
locations = st.sampled_from(["dir:a", "dir:b"])
wishes = st.builds(Wish, locations, st.none() | anchors)
standings = st.builds(Standing, st.none() | locations, st.none() | anchors, st.just(BLOCK))


@pytest.fixture
def daemon(tmp_path: Path) -> Callable[..., QueuedWrites]:
    """Makes one daemon's way to a chain; arrivals are counted and nobody sleeps."""
    return maker(tmp_path)


@pytest.fixture
def chain_file(tmp_path: Path) -> Path:
    """A chain in a file, on which the operator is registered."""
    path = tmp_path / "chain.sqlite"
    chain = SqliteChain.create(path, ChainGenesis(seed=5, stakes={OPERATOR.hotkey: 1}), block_seconds=BLOCK_SECONDS)

    async def prepare() -> None:
        await chain.register(OPERATOR)
        await chain.close()

    asyncio.run(prepare())
    return path


class TestMerge:
    """What becomes of a wish and what stands."""

    @given(wish=wishes, standing=standings)
    def test_laws(self, wish: Wish, standing: Standing) -> None:
        location, anchor = wish.merged(standing)
        after = Standing(location, anchor, BLOCK)
        assert wish.fulfilled(after)
        assert wish.merged(after) == (location, anchor), "once is enough"
        if standing.anchor is not None:
            assert anchor is not None, "no anchor is lost"
            assert anchor.round >= standing.anchor.round, "or replaced by an older one"
        if wish.anchor is not None:
            assert anchor is not None
            assert anchor == wish.anchor or anchor.round > wish.anchor.round
            assert location == standing.location or standing.location is None
        else:
            assert location == wish.location


class TestTwoProcesses:
    """Real ones, over a chain in a file."""

    def test_locations_and_anchors_between_each_other(self, chain_file: Path, tmp_path: Path) -> None:
        """Each process looks after each of its commits whether its own are still there."""
        arguments = (chain_file, tmp_path / "hotkey", COMMITS)
        with other_process("anchors", *arguments) as first, other_process("locations", *arguments) as second:
            assert [line(first), line(second)] == ["ready", "ready"]
            for each in (first, second):
                assert each.stdin is not None
                each.stdin.write("go\n")
                each.stdin.flush()
            assert [line(first), line(second)] == ["done", "done"]

        async def look() -> None:
            chain = SqliteChain(chain_file)
            peer = (await chain.snapshot()).by_hotkey()[OPERATOR.hotkey]
            assert peer.location == f"dir:{COMMITS - 1}"
            found = await chain.anchors(0)
            assert [seen.anchor for seen in found] == [Anchor(i, digest(i)) for i in range(COMMITS)]
            await chain.close()

        asyncio.run(look())

    async def test_a_process_killed_in_the_middle(
        self, chain_file: Path, tmp_path: Path, daemon: Callable[..., QueuedWrites]
    ) -> None:
        with other_process("turn", tmp_path) as first:
            assert line(first) == "writing"
            writes = daemon(SqliteChain(chain_file))
            committing = asyncio.create_task(writes.commit(OPERATOR, "dir:a", Anchor(0, digest(0))))
            await until(lambda: len(list(tmp_path.glob("*.ticket"))) == 2)
            assert await writes.anchors(0) == (), "reads do not wait"
            first.kill()
            await committing
        assert len(await writes.anchors(0)) == 1
        await writes.close()

    async def test_what_a_dead_process_had_written_is_found(
        self, chain_file: Path, tmp_path: Path, daemon: Callable[..., QueuedWrites]
    ) -> None:
        """Its next life asks for the same anchor and sees that it stands."""
        with other_process("half", chain_file, tmp_path) as first:
            assert line(first) == "written"
            first.kill()
            first.wait()
        writes = daemon(SqliteChain(chain_file))
        await writes.commit(OPERATOR, "dir:a", Anchor(0, digest(0)))
        assert [seen.anchor for seen in await writes.anchors(0)] == [Anchor(0, digest(0))]
        await writes.close()

    async def test_the_loop_is_not_blocked(
        self, chain_file: Path, tmp_path: Path, daemon: Callable[..., QueuedWrites]
    ) -> None:
        with other_process("turn", tmp_path) as first:
            assert await asyncio.to_thread(line, first) == "writing"
            with blockbuster_ctx(scanned_modules=["muster"]):
                writes = daemon(SqliteChain(chain_file))
                with pytest.raises(RateLimited):
                    await daemon(SqliteChain(chain_file), patience=SHORT).register(OPERATOR)
                first.kill()
                assert await writes.register(OPERATOR) == 0
                await writes.commit(OPERATOR, "dir:a", Anchor(0, digest(0)))
                await writes.set_weights(OPERATOR, {0: 1})
                await writes.close()


class TestOneCommitment:
    """A chain that keeps one commitment a hotkey and shows it late."""

    @settings(max_examples=30)
    @given(
        plans=st.tuples(*[st.lists(wishes, min_size=1, max_size=4)] * 2),
        behind=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    )
    def test_nothing_is_lost(self, plans: tuple[list[Wish], ...], behind: tuple[int, ...]) -> None:
        done: list[Wish] = []

        async def live(writes: QueuedWrites, plan: list[Wish]) -> None:
            for wish in plan:
                await writes.commit(OPERATOR, wish.location, wish.anchor)
                done.append(wish)

        async def both(folder: Path) -> Ground:
            ground, make = Ground(), maker(folder)
            async with asyncio.TaskGroup() as tasks:
                for lag, plan in zip(behind, plans, strict=True):
                    tasks.create_task(live(make(Client(ground, lag)), plan))
            return ground

        with tempfile.TemporaryDirectory() as folder:
            ground = asyncio.run(both(Path(folder)))
        _, location, anchor = ground.commitments[-1]
        moves = [wish.location for wish in done if wish.anchor is None]
        assert location in (moves[-1:] or [wish.location for wish in done])
        rounds = [wish.anchor.round for wish in done if wish.anchor is not None]
        assert (anchor.round if anchor else None) == max(rounds, default=None)
        kept = [each.round for _, _, each in ground.commitments if each is not None]
        assert kept == sorted(kept)

    async def test_what_stands_is_not_written_again(self, daemon: Callable[..., QueuedWrites]) -> None:
        ground = Ground()
        for _ in range(3):
            await daemon(Client(ground)).commit(OPERATOR, "dir:a", Anchor(1, digest(1)))
            await daemon(Client(ground)).commit(OPERATOR, "dir:a")
        assert ground.calls == ["commit dir:a 1"]

    async def test_an_older_anchor_is_not_written(
        self, daemon: Callable[..., QueuedWrites], caplog: pytest.LogCaptureFixture
    ) -> None:
        ground = Ground()
        await daemon(Client(ground)).commit(OPERATOR, "dir:a", Anchor(2, digest(2)))
        await daemon(Client(ground)).commit(OPERATOR, "dir:b", Anchor(1, digest(1)))
        assert ground.calls == ["commit dir:a 2"]
        assert "the anchor of round 1 is not written" in caplog.text

    async def test_a_node_that_is_behind_is_waited_for(self, daemon: Callable[..., QueuedWrites]) -> None:
        """It would show the location of before, and the anchor would bring that back."""
        ground = Ground()
        await daemon(Client(ground)).commit(OPERATOR, "dir:old")
        await daemon(Client(ground)).commit(OPERATOR, "dir:new")
        await daemon(Client(ground, behind=1)).commit(OPERATOR, "dir:old", Anchor(1, digest(1)))
        assert ground.commitments[-1][1:] == ("dir:new", Anchor(1, digest(1)))

    async def test_a_chain_begun_anew_is_not_waited_for(self, daemon: Callable[..., QueuedWrites]) -> None:
        long, anew = Ground(height=1000), Ground()
        await daemon(Client(long)).commit(OPERATOR, "dir:a")
        await daemon(Client(anew)).commit(OPERATOR, "dir:a")
        assert anew.height < 1000

    async def test_what_the_chain_does_not_show_is_to_be_tried_again(self, daemon: Callable[..., QueuedWrites]) -> None:
        class Stalled(Client):
            async def next_block(self, after: int) -> Block:
                return await asyncio.Event().wait() and BLOCK

        ground = Ground()
        with pytest.raises(RateLimited, match=r"does not show this commitment.*tried again"):
            await daemon(Stalled(ground, behind=1), show_seconds=SHORT).commit(OPERATOR, "dir:a")
        await daemon(Client(ground, behind=1)).commit(OPERATOR, "dir:a")
        assert len(ground.calls) == 2


class Other(Client):
    """A chain that differs from what `Chain` says where a back end says nothing."""

    remembers = False

    async def news(self, after: int) -> Block:
        return Block(after + 7, bytes(32))

    async def announce(self) -> None:
        self.ground.calls.append("announced")

    async def weights(self, hotkey: str) -> dict[int, int]:
        return {0: len(hotkey)}

    async def commit_space(self) -> CommitSpace:
        return CommitSpace(3100, 360)

    async def close(self) -> None:
        self.ground.calls.append("closed")


class TestWhatIsBehind:
    """Who stands in front of a chain answers as it does, also where another chain would have an answer ready."""

    def test_none_of_it_is_left_to_the_interface(self) -> None:
        """Or a chain that shows newest anchors only would be taken for one with a history, and nobody would wait."""
        optional = {
            name for name, what in vars(Chain).items()
            if not name.startswith("_") and not getattr(what, "__isabstractmethod__", False)
        }  # fmt: skip
        assert optional == {name for name in vars(Other) if not name.startswith("_")}

    @pytest.mark.parametrize("front", ["queue", "faults"])
    async def test_all_of_it_is_the_other_chains(self, daemon: Callable[..., QueuedWrites], front: str) -> None:
        ground = Ground()
        behind = Other(ground)
        chain: Chain = daemon(behind) if front == "queue" else FaultyChain(behind, Script(), lambda: 0, "me")
        assert chain.remembers is False
        assert (await chain.news(3)).number == 10
        await chain.announce()
        assert await chain.weights("abc") == {0: 3}
        assert await chain.commit_space() == CommitSpace(3100, 360)
        await chain.close()
        assert ground.calls == ["announced", "closed"]


class TestTurns:
    """Who writes when."""

    async def test_one_at_a_time_and_the_anchor_first(
        self, daemon: Callable[..., QueuedWrites], tmp_path: Path
    ) -> None:
        ground = Ground()
        ground.gate.clear()
        writes = [
            lambda chain: chain.register(OPERATOR),
            lambda chain: chain.set_weights(OPERATOR, {0: 1}),
            lambda chain: chain.commit(OPERATOR, "dir:a"),
            lambda chain: chain.commit(OPERATOR, "dir:b", Anchor(0, digest(0))),
        ]
        async with asyncio.TaskGroup() as tasks:
            for count, write in enumerate(writes, start=1):
                tasks.create_task(write(daemon(Client(ground))))
                await until(lambda count=count: len(list(tmp_path.glob("*.ticket"))) == count)  # type: ignore[misc]
            await until(lambda: len(ground.calls) == 1)
            ground.gate.set()
        assert ground.calls == ["register", "commit dir:b 0", "weights", "commit dir:a"]

    async def test_a_cancelled_write_keeps_its_turn_until_it_has_ended(
        self, daemon: Callable[..., QueuedWrites]
    ) -> None:
        ground = Ground()
        ground.gate.clear()
        first = asyncio.create_task(daemon(Client(ground)).commit(OPERATOR, "dir:a"))
        await until(lambda: ground.calls == ["commit dir:a"])
        first.cancel()
        second = asyncio.create_task(daemon(Client(ground)).commit(OPERATOR, "dir:b"))
        for _ in range(100):
            await asyncio.sleep(0)
        assert ground.calls == ["commit dir:a"]
        ground.gate.set()
        await asyncio.wait({first, second})
        assert first.cancelled()
        assert [location for _, location, _ in ground.commitments] == ["dir:a", "dir:b"]

    async def test_a_write_that_does_not_end_loses_its_turn(
        self, daemon: Callable[..., QueuedWrites], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("muster.node.writes.FINISH_SECONDS", SHORT)
        ground = Ground()
        ground.gate.clear()
        first = asyncio.create_task(daemon(Client(ground)).commit(OPERATOR, "dir:a"))
        await until(lambda: ground.calls == ["commit dir:a"])
        first.cancel()
        await asyncio.wait({first})
        ground.gate.set()
        await daemon(Client(ground)).commit(OPERATOR, "dir:b")
        assert [location for _, location, _ in ground.commitments] == ["dir:b"]

    async def test_a_refusal_frees_the_turn(self, chain_file: Path, daemon: Callable[..., QueuedWrites]) -> None:
        chain, stranger = SqliteChain(chain_file), Identity.derive(5, "stranger")
        with pytest.raises(ChainError, match="is not registered"):
            await daemon(chain).commit(stranger, "dir:a", Anchor(0, digest(0)))
        with pytest.raises(ChainError, match="from 0 to"):
            await daemon(chain).set_weights(OPERATOR, {0: -1})
        await daemon(chain).commit(OPERATOR, "dir:a")
        await chain.close()
