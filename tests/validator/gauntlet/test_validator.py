"""The validator: scores published once and stored once, whatever fails meanwhile, and nobody's hanging is its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3
from builders import LEADER, MINERS, MODEL, body_of, hash32, identity
from leader_world import MAX_BYTES, World, play
from noted import rounds

from muster.lab.faults import Fault, Script
from muster.node.data.build import Manifest, Shard
from muster.node.data.dataset import TextReader
from muster.node.ledger.reader import EVALUATE
from muster.node.replica import Replica
from muster.node.telemetry.health import longest_round
from muster.node.telemetry.journal import Journal
from muster.protocol import faults as scripted
from muster.protocol import paths
from muster.protocol.errors import StorageError
from muster.protocol.faults import Faults
from muster.protocol.incentive.row import PeerState
from muster.protocol.incentive.sheet import recomputed, state_of
from muster.protocol.wire import ScoreFile, decode_scores, decode_seal
from muster.validator.gauntlet import judging, scoring
from muster.validator.gauntlet.evaluation import Candidate, RoundEvaluation, own_beacon
from muster.validator.gauntlet.judging import Judging
from muster.validator.gauntlet.score_store import Committed, ScoreStore
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

    def commit(self, round_: int, record: bytes, file: bytes) -> Committed:
        if self.failures:
            self.failures -= 1
            raise StorageError("the disk is full")
        committed = super().commit(round_, record, file)
        self.commits += 1
        return committed


@dataclass
class Life:
    """One life of the leader's operator's validator, over a run that is closed, and what it left."""

    world: World
    store: FailingStore
    script: Script = field(default_factory=Script)
    journal: Journal = field(default_factory=lambda: Journal(None, lambda: 0.0))
    measured: list[list[str]] = field(default_factory=list)
    rounds: int = 2
    faults: Faults = field(default_factory=Faults)

    async def live(self, monkeypatch: pytest.MonkeyPatch) -> Validator:
        """Follow the run to its end."""

        def counted(evaluator: Any, candidates: Sequence[Candidate], *rest: Any) -> RoundEvaluation:
            self.measured.append([candidate.hotkey for candidate in candidates])
            return RoundEvaluation(evaluator, candidates, *rest)

        monkeypatch.setattr(judging, "RoundEvaluation", counted)
        around = self.world.context(LEADER, self.script, self.journal)
        around.faults = self.faults
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

    async def drawn(self, round_: int) -> bytes:
        """What it drew its windows of a round by."""
        record = (await self.world.followed(self.rounds))[round_]
        data = await self.world.bucket().get(paths.seal(self.world.run_id, round_, record.seal), max_bytes=MAX_BYTES)
        block = decode_seal(data, self.world.run_id)[0].block.number + self.world.tip.spec.clock.evaluate
        return own_beacon(await self.world.chain.beacon(EVALUATE, round_, block), identity(LEADER).public)

    def newest(self) -> int | None:
        """The newest round in its store."""
        found = self.store.newest(99)
        return None if found is None else found.round

    def files(self, round_: int = 0) -> int:
        """How many files of a round were ever stored."""
        return sum(map(len, self.world.named(paths.score_files(self.world.run_id, round_)).values()))


async def run_of(rounds: int = 1, lag: int = 3, seats: int = 20) -> World:
    """A closed run in which both miners did their work; with one seat, one of them has none."""
    # Scripted miners all send one update, which is nobody's here.
    gauntlet = {"lag": lag, "seats": seats, "score_wait": 2, "clone_ratio": 0.0, "copy_ratio": 0.0, "mixer_ratio": 0.0}
    world = await World.begin(gauntlet=gauntlet, clock={"reveal": 3, "grace": 2})
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
            before: dict[str, PeerState] = {}
            for round_ in range(2):
                record = (await life.world.followed(2))[round_]
                assert len(record.accepted) == min(seats, 2)
                file = await life.scores(round_)
                rows = {row.hotkey: row for row in file.rows}
                assert rows.keys() == {ALICE, BOB}
                assert all(row.measured for row in rows.values())
                drawn = await life.drawn(round_)
                assert recomputed(before, file.rows, drawn, life.world.tip.spec) == file.rows, "anybody can"
                before = {row.hotkey: state_of(row) for row in file.rows}
            assert (await life.scores()).record == (await life.world.fetched()).digest
            assert [sorted(names) for names in life.measured] == [sorted((ALICE, BOB))] * 2
            assert life.events("scored") == [0, 1]
            told = [*life.events("weights"), *life.events("no_weights")]
            assert told == [1], "of several rounds that wait only the last one's matter"
            assert life.newest() == 1
            assert before[ALICE].evaluated == 2

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
            assert rows.keys() == {ALICE, BOB} - {identity(name).hotkey}, "nothing is held against it"

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
            monkeypatch.setattr(scoring, "own_beacon", lambda value, me: seen.append((world.chain.height, me)) or value)
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
            assert (life.files(), life.events("unpublished"), life.newest()) == (0, [0], None)

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
            assert life.events("no_weights") == [0], "nobody is paid after one round of these"

        play(main())

    def test_a_store_that_cannot_be_written_is_tried_again_and_nothing_else(
        self, store: FailingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            store.failures = 3
            life = Life(await run_of(), store)
            await life.live(monkeypatch)
            assert (store.failures, store.commits, len(life.measured), life.files()) == (0, 1, 1, 1)
            assert life.events("scored") == life.events("no_weights") == life.events("applied")[:1] == [0]

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
        """With its store it does nothing at all, without it it goes by what it finds in its bucket."""

        async def main() -> None:
            world = await run_of()
            await Life(world, store).live(monkeypatch)
            second = Life(world, store)
            await second.live(monkeypatch)
            assert (second.measured, second.events("scored")) == ([], [])
            without = Life(world, FailingStore(tmp_path / "blank.sqlite"))
            await without.live(monkeypatch)
            assert (without.measured, without.files()) == ([], 1)
            (data,) = world.stored(next(iter(world.named(paths.score_files(world.run_id, 0)))))
            committed = without.store.newest(1)
            assert committed is not None
            assert committed.file == data

        play(main())

    def test_standings_go_on_from_what_was_published(
        self, store: FailingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A validator whose disk is lost after round 0 says the same of round 1 as one whose disk is not."""

        async def main() -> None:
            world = await run_of(rounds=2)
            await Life(world, store).live(monkeypatch)
            ((kept, (data,)),) = world.named(paths.score_files(world.run_id, 1)).items()
            await world.bucket().delete(kept)
            world.bucket().stored.pop(kept)
            blank = Life(world, FailingStore(tmp_path / "blank.sqlite"))
            await blank.live(monkeypatch)
            assert len(blank.measured) == 1, "round 0 stands"
            assert body_of(world.stored(kept)[0]) == body_of(data)

        play(main())


def test_theta_moves_on_while_scores_cannot_be_published(store: FailingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round is measured on the θ that its submissions were made from, wherever the ledger is by then."""

    async def main() -> None:
        world = await run_of(rounds=3)
        measured: dict[bytes, bytes] = {}
        life = Life(world, store, Script([Fault("error", "store.put_if_absent", "*/scores/*", count=3)]), rounds=3)
        go_on = Judging.go_on

        def watched(self: Judging, replica: Replica) -> bool:
            root = self._case.applied.record.root
            measured[root] = replica.root()
            return go_on(self, replica)

        monkeypatch.setattr(Judging, "go_on", watched)
        made = await life.live(monkeypatch)
        assert len(measured) == 3
        assert all(root == found for root, found in measured.items())
        assert made.tip.closed
        assert torch.isfinite(torch.tensor(made.heldout_loss()))

    play(main())


POINTS = ["score.before_commit", "score.before_put", "score.before_weights", "score.before_done"]


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize(
    ("point", "passes"),
    [(point, passes) for point in POINTS for passes in (1, 2) if passes == 1 or "weights" not in point],
)
def test_whatever_it_dies_at_the_next_life_says_the_same(
    point: str, passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        world = await run_of(rounds=3)
        prefix = paths.score_files(world.run_id, 0)[: -len("00000000-")]

        def die(_status: int) -> None:
            raise Killed

        store = FailingStore(tmp_path / "killed.sqlite")
        first = Life(world, store, faults=Faults([scripted.Fault(point, "crash", first=passes)], crash=die))
        with pytest.raises(BaseExceptionGroup) as died:
            await first.live(monkeypatch)
        assert died.group_contains(Killed)
        await Life(world, store).live(monkeypatch)
        said = world.named(prefix)
        assert len(said) == 3
        assert all(len(stored) == 1 for stored in said.values()), "published once"
        weights = store.unfinished()
        for name in said:
            await world.bucket().delete(name)
            world.bucket().stored.pop(name)
        await Life(world, FailingStore(tmp_path / "never.sqlite")).live(monkeypatch)
        again = world.named(prefix)
        assert {name: body_of(data[0]) for name, data in again.items()} == {
            name: body_of(data[0]) for name, data in said.items()
        }
        assert weights == []

    play(main())
