"""The validator: scores published once and booked once, whatever fails meanwhile, and nobody's hanging is its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3
from builders import LEADER, MINERS, MODEL, identity
from leader_world import MAX_BYTES, World, play

from muster.lab.faults import Fault, Script
from muster.node.data.build import Manifest, Shard
from muster.node.data.dataset import TextReader
from muster.node.telemetry.health import longest_round
from muster.node.telemetry.journal import Journal
from muster.protocol import paths
from muster.protocol.errors import StorageError
from muster.protocol.incentive.score import PeerState
from muster.protocol.scores import ScoresBody, decode_scores
from muster.validator.gauntlet import validator as gauntlet
from muster.validator.gauntlet.book import Book
from muster.validator.gauntlet.evaluation import Candidate, Evaluation, evaluate
from muster.validator.gauntlet.validator import Validator

ALICE, BOB = (identity(name).hotkey for name in MINERS)


def text() -> TextReader:
    """As many windows as the spec has, of the small model's vocabulary."""
    train = (np.arange(50 * MODEL.context + 1) * 7 % MODEL.vocab).astype(np.uint8)
    shard = Shard(bytes=len(train), blake3=blake3(train.tobytes()).hexdigest())
    return TextReader(Manifest(window=MODEL.context, train=shard, heldout=shard, files=(), unigram=1.0), train, train)


class FailingBook(Book):
    """A book on a disk that is full for a while; it counts what is written."""

    def __init__(self, path: Path, failures: int = 0) -> None:
        super().__init__(path)
        self.failures = failures
        self.commits = 0

    def commit(self, round_: int, states: Mapping[str, PeerState]) -> None:
        if self.failures:
            self.failures -= 1
            raise StorageError("the disk is full")
        super().commit(round_, states)
        self.commits += 1


@dataclass
class Life:
    """One life of the leader's operator's validator, over a run that is closed, and what it left."""

    world: World
    book: FailingBook
    script: Script = field(default_factory=Script)
    journal: Journal = field(default_factory=lambda: Journal(None, lambda: 0.0))
    measured: list[list[str]] = field(default_factory=list)

    async def live(self, monkeypatch: pytest.MonkeyPatch) -> Validator:
        """Follow the run to its end."""

        def counted(evaluator: Any, candidates: Sequence[Candidate], *rest: Any) -> dict[str, Evaluation]:
            self.measured.append([candidate.hotkey for candidate in candidates])
            return evaluate(evaluator, candidates, *rest)

        monkeypatch.setattr(gauntlet, "evaluate", counted)
        around = self.world.context(LEADER, self.script, self.journal)
        made = Validator(around, self.world.tip, self.world.replica(), text(), self.book)
        await self.world.follow(made, around)
        assert made.tip.closed
        return made

    def events(self, name: str) -> list[int]:
        """The rounds of the journal's events of that name."""
        return [event["round"] for event in self.journal.events if event["event"] == name]

    async def scores(self, round_: int = 0) -> ScoresBody:
        """What it has published of a round."""
        data = await self.world.bucket().get(paths.scores(self.world.run_id, round_), max_bytes=MAX_BYTES)
        return decode_scores(data, self.world.run_id, identity(LEADER).hotkey, round_)[0]

    def files(self, round_: int = 0) -> int:
        """How many files of a round were ever stored."""
        return len(self.world.stored(paths.scores(self.world.run_id, round_)))


async def run_of(rounds: int = 1, lag: int = 3, seats: int = 20) -> World:
    """A closed run in which both miners did their work; with one seat, one of them has none."""
    world = await World.begin(gauntlet={"lag": lag, "seats": seats, "score_wait": 2}, clock={"reveal": 3, "grace": 2})
    await world.lead(rounds=rounds)
    return world


@pytest.fixture
def book(tmp_path: Path) -> FailingBook:
    return FailingBook(tmp_path / "book.sqlite")


class TestScores:
    """What it says of a round."""

    @pytest.mark.parametrize("seats", [1, 20])
    def test_everybody_is_measured_with_a_seat_or_without(
        self, seats: int, book: FailingBook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            life = Life(await run_of(rounds=2, seats=seats), book)
            await life.live(monkeypatch)
            for round_ in range(2):
                record = (await life.world.followed(2))[round_]
                assert len(record.accepted) == min(seats, 2)
                body = await life.scores(round_)
                rows = {row.hotkey: row for row in body.peers}
                assert rows.keys() == {ALICE, BOB}
                assert all(row.assigned is not None and row.unassigned is not None for row in rows.values())
            assert (await life.scores()).record == (await life.world.fetched()).digest.hex()
            assert [sorted(names) for names in life.measured] == [sorted((ALICE, BOB))] * 2
            assert life.events("scored") == [0, 1]
            assert life.events("weights") == [0], "the second came in the same block, and the chain takes one"
            assert book.newest_round() == 1
            assert book.states(1)[ALICE].evaluated == 2

        play(main())

    @pytest.mark.parametrize("part", ["*.key", "*.sub"])
    def test_a_peer_that_hangs_is_not_evaluated_and_delays_nobody(
        self, part: str, book: FailingBook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            world = await run_of(seats=1)
            (seated,) = (await world.followed(1))[0].accepted
            name = next(name for name in MINERS if identity(name).public != seated.public)
            life = Life(world, book, Script([Fault("hang", "store.get", part, owner=name)]))
            before = world.chain.height
            await life.live(monkeypatch)
            assert not life.script.unfired()
            assert world.chain.height - before <= 3 + 3, "reveal blocks for it, and the run's own few"
            rows = {row.hotkey: row for row in (await life.scores()).peers}
            assert rows.keys() == {hotkey for hotkey in (ALICE, BOB) if hotkey != identity(name).hotkey}
            assert identity(name).hotkey not in book.states(0), "nothing is held against it"

        play(main())

    def test_a_late_validator_measures_nobody_and_says_so(
        self, book: FailingBook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the scores could have steered is decided: round 0's, with a lag of 1; nobody's standing changes."""

        async def main() -> None:
            life = Life(await run_of(rounds=2, lag=2, seats=1), book)
            await life.live(monkeypatch)
            assert life.measured == [life.measured[0]]
            assert len(life.measured[0]) == 2, "round 1: nothing of round 3 is decided"
            assert (await life.scores(0)).peers == ()
            assert {row.hotkey for row in (await life.scores(1)).peers} == {ALICE, BOB}
            assert life.files(0) == life.files(1) == 1
            assert life.script.asked(sort="submissions.*") == 2, "key and payload of round 1's peer without a seat"

        play(main())

    def test_nothing_is_measured_before_the_evaluation_block(
        self, book: FailingBook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It comes so many blocks after the one that the round's seal names, and windows are drawn by it alone."""

        async def main() -> None:
            world = await run_of()
            sealed, height = (await world.fetched()).seal.block.number, world.chain.height
            due = sealed + world.tip.spec.clock.evaluate
            assert height < due
            life, seen = Life(world, book), []
            monkeypatch.setattr(
                gauntlet, "own_beacon", lambda value, me: seen.append((world.chain.height, me)) or value
            )
            await life.live(monkeypatch)
            assert seen == [(due, identity(LEADER).public)]
            assert len(life.measured) == 1

        play(main())

    def test_a_loss_that_is_no_number_is_published_by_nobody(
        self, book: FailingBook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """θ is lost to everybody then; a validator that ends for it would only end again."""

        async def main() -> None:
            life = Life(await run_of(), book)
            monkeypatch.setattr(Validator, "heldout_loss", lambda self: float("nan"))
            await life.live(monkeypatch)
            assert (life.files(), life.events("unpublished"), book.newest_round()) == (0, [0], 0)

        play(main())


class TestTwice:
    """What fails is done again, and what is done is not."""

    @pytest.mark.parametrize(
        "faults",
        [
            [Fault("error", "store.put_if_absent", "*/scores/*", count=1)],
            [Fault("error", "store.put_if_absent", "*/scores/*", count=4)],
            [Fault("lost", "store.put_if_absent", "*/scores/*", count=1)],
            [Fault("hang", "store.put_if_absent", "*/scores/*", count=1)],
            [Fault("error", "chain.snapshot", count=2)],
            [Fault("error", "chain.anchors", "3", count=2)],
            [Fault("error", "chain.set_weights", count=1)],
        ],
        ids=lambda faults: f"{faults[0].kind} {faults[0].operation} {faults[0].count}",
    )
    def test_scores_are_published_once_and_booked_once(
        self, faults: list[Fault], book: FailingBook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            life = Life(await run_of(), book, Script(faults))
            await life.live(monkeypatch)
            assert not life.script.unfired()
            assert life.files() == book.commits == len(life.measured) == 1
            assert life.events("scored") == [0]
            assert life.events("unpublished") == []
            assert life.events("weights") == ([] if faults[0].operation == "chain.set_weights" else [0])

        play(main())

    def test_a_book_that_cannot_be_written_is_tried_again_and_nothing_else(
        self, book: FailingBook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            book.failures = 3
            life = Life(await run_of(), book)
            await life.live(monkeypatch)
            assert (book.failures, book.commits, len(life.measured), life.files()) == (0, 1, 1, 1)
            assert life.events("scored") == life.events("weights") == life.events("applied")[:1] == [0]

        play(main())

    def test_a_bucket_that_never_takes_them_costs_the_scores_and_not_the_run(
        self, book: FailingBook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            world = await run_of()
            life, before = (
                Life(world, book, Script([Fault("error", "store.put_if_absent", "*/scores/*")])),
                world.chain.height,
            )
            await life.live(monkeypatch)
            assert (life.files(), life.events("unpublished"), life.events("scored")) == (0, [0], [])
            assert len(life.measured) == book.commits == 1
            assert world.chain.height - before < longest_round(world.tip.spec) + 6, "as long as a round may take"

        play(main())

    def test_a_second_life_replaces_nothing_that_was_published(
        self, book: FailingBook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the book it does nothing at all, without it it measures anew, for itself."""

        async def main() -> None:
            world = await run_of()
            await Life(world, book).live(monkeypatch)
            second = Life(world, book)
            await second.live(monkeypatch)
            assert (second.measured, second.events("scored")) == ([], [])
            without = Life(world, FailingBook(tmp_path / "blank.sqlite"))
            await without.live(monkeypatch)
            assert len(without.measured) == without.files() == 1
            assert without.book.states(0) == book.states(0)

        play(main())


def test_theta_is_where_it_was_while_scoring_fails(book: FailingBook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt must measure from the θ that the submissions were made from."""

    async def main() -> None:
        world = await run_of()
        roots: list[bytes] = []
        life = Life(world, book, Script([Fault("error", "store.put_if_absent", "*/scores/*", count=3)]))
        publish = Validator._publish

        async def watched(self: Validator, *args: Any) -> None:
            roots.append(self.replica.root())
            await publish(self, *args)

        monkeypatch.setattr(Validator, "_publish", watched)
        made = await life.live(monkeypatch)
        assert len(roots) == 4
        assert set(roots) == {world.replica().root()}
        assert made.replica.root() != world.replica().root()
        assert torch.isfinite(torch.tensor(made.heldout_loss()))

    play(main())
