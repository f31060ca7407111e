"""The validator: scores published once and stored once, whatever fails meanwhile, and nobody's hanging is its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3
from builders import LEADER, MINERS, MODEL, hash32, identity
from leader_world import MAX_BYTES, World, play
from noted import rounds

from muster.lab.faults import Fault, Script
from muster.node.data.build import Manifest, Shard
from muster.node.data.dataset import TextReader
from muster.node.telemetry.health import longest_round
from muster.node.telemetry.journal import Journal
from muster.protocol import paths
from muster.protocol.errors import StorageError
from muster.protocol.incentive.pay import incentives
from muster.protocol.incentive.row import PeerState
from muster.protocol.incentive.score import peer_score
from muster.protocol.wire import ScoreFile, decode_scores
from muster.validator.gauntlet import validator as gauntlet
from muster.validator.gauntlet.evaluation import Candidate, Evaluation, evaluate
from muster.validator.gauntlet.score_store import ScoreStore
from muster.validator.gauntlet.validator import Validator

ALICE, BOB = (identity(name).hotkey for name in MINERS)


def text() -> TextReader:
    """As many windows as the spec has, of the small model's vocabulary."""
    train = (np.arange(50 * MODEL.context + 1) * 7 % MODEL.vocab).astype(np.uint8)
    shard = Shard(bytes=len(train), blake3=blake3(train.tobytes()).hexdigest())
    return TextReader(Manifest(window=MODEL.context, train=shard, heldout=shard, files=(), unigram=1.0), train, train)


class FailingStore(ScoreStore):
    """A score store on a disk that is full for a while; it counts what is written."""

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
    store: FailingStore
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
        made = Validator(around, self.world.tip, self.world.replica(), text(), self.store)
        await self.world.follow(made, around)
        assert made.tip.closed
        return made

    def events(self, name: str) -> list[int]:
        """The rounds of the journal's events of that name."""
        return rounds(self.journal, name)

    async def scores(self, round_: int = 0) -> ScoreFile:
        """What it has published of a round, of one record."""
        (name,) = self.world.named(paths.score_files(self.world.run_id, round_))
        data = await self.world.bucket().get(name, max_bytes=MAX_BYTES)
        return decode_scores(data, self.world.run_id, identity(LEADER).hotkey, round_)[0]

    def files(self, round_: int = 0) -> int:
        """How many files of a round were ever stored."""
        return sum(map(len, self.world.named(paths.score_files(self.world.run_id, round_)).values()))


async def run_of(rounds: int = 1, lag: int = 3, seats: int = 20) -> World:
    """A closed run in which both miners did their work; with one seat, one of them has none."""
    world = await World.begin(gauntlet={"lag": lag, "seats": seats, "score_wait": 2}, clock={"reveal": 3, "grace": 2})
    await world.lead(rounds=rounds)
    return world


@pytest.fixture
def store(tmp_path: Path) -> FailingStore:
    return FailingStore(tmp_path / "scores.sqlite")


class TestScores:
    """What it says of a round."""

    @pytest.mark.parametrize("seats", [1, 20])
    def test_everybody_is_measured_with_a_seat_or_without(
        self, seats: int, store: FailingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            life = Life(await run_of(rounds=2, seats=seats), store)
            await life.live(monkeypatch)
            for round_ in range(2):
                record = (await life.world.followed(2))[round_]
                assert len(record.accepted) == min(seats, 2)
                file = await life.scores(round_)
                rows = {row.hotkey: row for row in file.rows}
                assert rows.keys() == {ALICE, BOB}
                assert all(row.measured for row in rows.values())
                gauntlet = life.world.tip.spec.gauntlet
                assert all(peer_score(row, gauntlet) == row.peer_score for row in file.rows), "anybody can recompute it"
                shares = incentives({row.hotkey: row.peer_score for row in file.rows}, gauntlet.power)
                assert {row.hotkey: row.incentive for row in file.rows} == shares
            assert (await life.scores()).record == (await life.world.fetched()).digest
            assert [sorted(names) for names in life.measured] == [sorted((ALICE, BOB))] * 2
            assert life.events("scored") == [0, 1]
            assert life.events("weights") == [0, 1], "each after the evaluation block of its own round"
            assert store.newest_round() == 1
            assert store.states(1)[ALICE].evaluated == 2

        play(main())

    def test_they_stand_beside_what_was_said_of_a_sibling_of_the_record(
        self, store: FailingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            world = await run_of()
            judged = {"a sibling's": hash32("a sibling"), "the ledger's": (await world.fetched()).digest}
            names = {whose: paths.scores(world.run_id, 0, digest) for whose, digest in judged.items()}
            await world.bucket().put(names["a sibling's"], b"by an earlier life")
            life = Life(world, store)
            await life.live(monkeypatch)
            assert life.events("scored") == [0]
            assert world.named(paths.score_files(world.run_id, 0)).keys() == set(names.values())
            assert world.stored(names["a sibling's"]) == [b"by an earlier life"]
            (data,) = world.stored(names["the ledger's"])
            file, _ = decode_scores(data, world.run_id, identity(LEADER).hotkey, 0)
            assert file.record == judged["the ledger's"]

        play(main())

    @pytest.mark.parametrize("part", ["*.key", "*.sub"])
    def test_a_peer_that_hangs_is_not_evaluated_and_delays_nobody(
        self, part: str, store: FailingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            world = await run_of(seats=1)
            (seated,) = (await world.followed(1))[0].accepted
            name = next(name for name in MINERS if identity(name).public != seated.public)
            life = Life(world, store, Script([Fault("hang", "store.get", part, owner=name)]))
            before = world.chain.height
            await life.live(monkeypatch)
            assert not life.script.unfired()
            assert world.chain.height - before <= 3 + 3, "reveal blocks for it, and the run's own few"
            rows = {row.hotkey: row for row in (await life.scores()).rows}
            assert rows.keys() == {hotkey for hotkey in (ALICE, BOB) if hotkey != identity(name).hotkey}
            assert identity(name).hotkey not in store.states(0), "nothing is held against it"

        play(main())

    def test_a_late_validator_measures_nobody_and_says_so(
        self, store: FailingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the scores could have steered is decided: round 0's, with a lag of 1; nobody's standing changes."""

        async def main() -> None:
            life = Life(await run_of(rounds=2, lag=2, seats=1), store)
            await life.live(monkeypatch)
            assert life.measured == [life.measured[0]]
            assert len(life.measured[0]) == 2, "round 1: nothing of round 3 is decided"
            assert (await life.scores(0)).rows == ()
            assert {row.hotkey for row in (await life.scores(1)).rows} == {ALICE, BOB}
            assert life.files(0) == life.files(1) == 1
            assert life.script.asked(sort="submissions.*") == 2, "key and payload of round 1's peer without a seat"

        play(main())

    def test_nothing_is_measured_before_the_evaluation_block(
        self, store: FailingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It comes so many blocks after the one that the round's seal names, and windows are drawn by it alone."""

        async def main() -> None:
            world = await run_of()
            sealed, height = (await world.fetched()).seal.block.number, world.chain.height
            due = sealed + world.tip.spec.clock.evaluate
            assert height < due
            life, seen = Life(world, store), []
            monkeypatch.setattr(
                gauntlet, "own_beacon", lambda value, me: seen.append((world.chain.height, me)) or value
            )
            await life.live(monkeypatch)
            assert seen == [(due, identity(LEADER).public)]
            assert len(life.measured) == 1

        play(main())

    def test_a_loss_that_is_no_number_is_published_by_nobody(
        self, store: FailingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """θ is lost to everybody then; a validator that ends for it would only end again."""

        async def main() -> None:
            life = Life(await run_of(), store)
            monkeypatch.setattr(Validator, "heldout_loss", lambda self: float("nan"))
            await life.live(monkeypatch)
            assert (life.files(), life.events("unpublished"), store.newest_round()) == (0, [0], 0)

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
    def test_scores_are_published_once_and_stored_once(
        self, faults: list[Fault], store: FailingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            life = Life(await run_of(), store, Script(faults))
            await life.live(monkeypatch)
            assert not life.script.unfired()
            assert life.files() == store.commits == len(life.measured) == 1
            assert life.events("scored") == [0]
            assert life.events("unpublished") == []
            assert life.events("weights") == ([] if faults[0].operation == "chain.set_weights" else [0])

        play(main())

    def test_a_store_that_cannot_be_written_is_tried_again_and_nothing_else(
        self, store: FailingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            store.failures = 3
            life = Life(await run_of(), store)
            await life.live(monkeypatch)
            assert (store.failures, store.commits, len(life.measured), life.files()) == (0, 1, 1, 1)
            assert life.events("scored") == life.events("weights") == life.events("applied")[:1] == [0]

        play(main())

    def test_a_bucket_that_never_takes_them_costs_the_scores_and_not_the_run(
        self, store: FailingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            world = await run_of()
            life, before = (
                Life(world, store, Script([Fault("error", "store.put_if_absent", "*/scores/*")])),
                world.chain.height,
            )
            await life.live(monkeypatch)
            assert (life.files(), life.events("unpublished"), life.events("scored")) == (0, [0], [])
            assert len(life.measured) == store.commits == 1
            assert world.chain.height - before < longest_round(world.tip.spec) + 6, "as long as a round may take"

        play(main())

    def test_a_second_life_replaces_nothing_that_was_published(
        self, store: FailingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With its store it does nothing at all, without it it measures anew, for itself."""

        async def main() -> None:
            world = await run_of()
            await Life(world, store).live(monkeypatch)
            second = Life(world, store)
            await second.live(monkeypatch)
            assert (second.measured, second.events("scored")) == ([], [])
            without = Life(world, FailingStore(tmp_path / "blank.sqlite"))
            await without.live(monkeypatch)
            assert len(without.measured) == without.files() == 1
            assert without.store.states(0) == store.states(0)

        play(main())


def test_theta_is_where_it_was_while_scoring_fails(store: FailingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt must measure from the θ that the submissions were made from."""

    async def main() -> None:
        world = await run_of()
        roots: list[bytes] = []
        life = Life(world, store, Script([Fault("error", "store.put_if_absent", "*/scores/*", count=3)]))
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
