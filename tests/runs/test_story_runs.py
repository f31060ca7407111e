"""The story of a round with failures in it tells a person what happened, in order; that of a good one has none."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cut_runs import ROUNDS, cut, nano, simulator
from files_left_alone import picture
from folder_runs import write_run
from forked import Commands
from run_builders import Stage

from muster.history.story import Story, page, tell
from muster.history.story.facts import Names, Told
from muster.history.story.gather import read_round
from muster.history.story.outcome import waiting
from muster.lab import clock
from muster.lab.faults import Fault, Script
from muster.lab.simulator import SimulatedRun
from muster.node.directory import Directory
from muster.node.telemetry.journal import Noted, to_json
from muster.protocol import paths
from muster.protocol.chain.base import Chain
from muster.protocol.errors import UsageError
from muster.protocol.storage import Buckets
from muster.protocol.storage.locations import MemoryBuckets

BAD, GOOD = 2, 4
LATE = 3
FAULTS = (
    Fault("error", "store.put_if_absent", f"*/seals/{BAD:08d}.*.heads", who="aggregator-0", count=3),
    Fault("error", "store.put", f"*/{BAD:08d}.key", who="miner-1", count=2),
    Fault("error", "store.get", f"*/{BAD:08d}.key", who="aggregator-0", owner="miner-2"),
    Fault("damaged", "store.get", f"*/records/{BAD:08d}-*.rec", who="validator-0", count=1),
    Fault("error", "chain.commit", f"anchor/{BAD}", who="aggregator-0", count=1),
    Fault("error", "store.put", f"*/{LATE:08d}.head", who="miner-3"),
)
WIDTH = 120

Journals = Mapping[str, Sequence[Noted]]


def told_by(journals: Journals) -> list[Told]:
    entries = (Told(noted.time, name, noted.event) for name, journal in sorted(journals.items()) for noted in journal)
    return sorted(entries, key=lambda entry: entry.time)


def story_of(stage: Stage, chain: Chain, buckets: Buckets, journals: Journals, round_: int | None) -> Story:
    seen = asyncio.run(read_round(stage.run.history, chain, Directory(chain, buckets), round_))
    return tell(seen, told_by(journals))


@dataclass(frozen=True, slots=True)
class Case:
    """A finished run whose requests failed by script."""

    stage: Stage
    run: SimulatedRun

    def story(self, round_: int | None, journals: Journals | None = None) -> Story:
        told = self.run.journals if journals is None else journals
        return story_of(self.stage, self.run.chain, self.run.buckets, told, round_)

    def name(self, hotkey: str) -> str:
        return self.stage.name_of(hotkey)


@pytest.fixture(scope="module")
def case(texts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Case:
    stage, script = nano(tmp_path_factory.mktemp("story"), texts), Script(FAULTS)
    run = clock.run(simulator(stage, script, MemoryBuckets()).run(ROUNDS))
    assert not script.unfired()
    return Case(stage, run)


def said(story: Story, who: str, failed: bool | None = None) -> list[str]:
    """What one participant did, in order; with `failed` only what did, or did not, go wrong."""
    return [m.what for m in story.happened if who in m.who and failed in (None, m.failed)]


class TestRoundWithFailures:
    def test_each_failure_is_told_with_its_cause_when_it_was_given_again_and_when_it_was_done(self, case: Case) -> None:
        story = case.story(BAD)
        lines, record = said(story, "aggregator-0"), story.seen.record
        lines = [line for line in lines if line != "waits for no more scores"]  # which come when they come
        assert record is not None and record.opening is not None and story.seen.seal is not None
        decided, heads = record.opening.open.number, paths.heads(record.run_id, BAD, record.parent)
        sealed = story.seen.seal.block.number
        seal = f"store.put_if_absent {heads}: it was refused (scripted)"
        anchor = f"chain.commit anchor/{BAD}: it was refused (scripted)"
        assert lines[:6] == [
            "seals the round now: everybody expected is in, miner-3 last",
            f"could not publish the seal: {seal}",
            f"could not publish the seal, given again at blocks {sealed + 1} to {sealed + 2}, for the same reason",
            f"sealed 4 submissions as of block {sealed}",
            f"that was try 4, given again at block {sealed + 3}",
            "decides the round now: the time for keys and payloads is over",
        ]
        rest = lines[6:]
        assert f"published the record {story.seen.digest.hex()[:8]}, 3 accepted" in rest
        failed = rest.index(f"could not publish the record: {anchor}")
        assert rest.index(f"that was try 2, given again at block {decided + 1}") > failed
        assert rest[-1].startswith("applied the record; state root ")
        assert len(rest) == 4

    def test_a_miner_s_key_that_came_at_last(self, case: Case) -> None:
        story = case.story(BAD)
        lines, seal = said(story, "miner-1"), story.seen.seal
        assert seal is not None
        public = seal.block.number + 3
        assert lines[2].startswith("could not show its key: store.put ")
        assert lines[3:6] == [
            f"could not show its key, given again at block {public + 1}, for the same reason",
            "showed its key",
            f"that was try 3, given again at block {public + 2}",
        ]

    def test_a_look_that_failed_is_told_and_the_record_applied_after_it(self, case: Case) -> None:
        story = case.story(BAD)
        (problem,) = said(story, "validator-0", failed=True)
        assert problem.startswith(f"the record of round {BAD} is not to be had yet: its bytes were damaged on the way")
        assert any(one.startswith("applied the record; state root ") for one in said(story, "validator-0"))

    def test_who_was_waited_for_and_until_which_block(self, case: Case) -> None:
        story = case.story(BAD)
        assert story.seen.record is not None and story.seen.record.opening is not None
        decided = story.seen.record.opening.open.number
        assert [(one.name, one.what, one.block) for one in story.missed] == [("miner-2", "payload", decided)]
        (row,) = (row for row in story.submissions if row.name == "miner-2")
        ranked = story.seen.tip.order([e.public for e in story.seen.record.entries], story.seen.record.scores)
        place = ranked.index(case.stage.member("miner-2").identity.public) + 1
        assert (row.reason, row.place, row.weight) == ("unavailable", place, None)
        assert row.sentence == "The payload could not be read in time."

    def test_a_submission_that_never_came(self, case: Case) -> None:
        story = case.story(LATE)
        assert story.seen.seal is not None
        sealed = story.seen.seal.block.number
        assert sealed == story.seen.tip.opening.deadline + 1, "the round before was anchored a block late"
        assert [(one.name, one.what, one.block) for one in story.missed] == [("miner-3", "submission", sealed)]
        assert f"seals the round now: the deadline has come, block {sealed}" in said(story, "aggregator-0")
        (problem,) = said(story, "miner-3", failed=True)
        assert problem.startswith("the submission is not up yet: store.put ")

    def test_failures_stand_out_on_the_page_and_lines_are_short(self, case: Case) -> None:
        story = case.story(BAD)
        lines = page(story, WIDTH).splitlines()
        assert sum(line.startswith("!") for line in lines) == sum(moment.failed for moment in story.happened) == 7
        assert max(map(len, lines)) <= WIDTH
        assert case.run.spec.run_id().hex() not in page(story, WIDTH)

    def test_it_is_told_in_order(self, case: Case) -> None:
        for round_ in range(ROUNDS + 1):
            times = [moment.time for moment in case.story(round_).happened]
            assert times == sorted(time for time in times if time is not None)
            assert times[0] is not None and times[0] >= 0


def test_a_good_round_has_no_failure_and_names_everybody(case: Case) -> None:
    story = case.story(GOOD)
    assert not any(moment.failed for moment in story.happened)
    assert (story.missed, story.waiting) == ((), ())
    assert story.state == "closed: 4 of 4 submissions accepted, θ goes from outer step 4 to 5"
    assert [row.reason for row in story.submissions] == [""] * 4
    assert sorted(row.name for row in story.submissions) == ["miner-0", "miner-1", "miner-2", "miner-3"]
    assert {row.place for row in story.submissions} == {1, 2, 3, 4}


def test_weights_and_places_are_the_record_s(case: Case) -> None:
    story = case.story(GOOD)
    record = story.seen.record
    assert record is not None
    weights = {case.name(row.hotkey): row.weight for row in story.submissions}
    ranked = story.seen.tip.order([entry.public for entry in record.entries], record.scores)
    places = {row.place: row.hotkey for row in story.submissions}
    for place, public in enumerate(ranked, 1):
        row = next(i for i, entry in enumerate(record.accepted) if entry.public == public)
        assert weights[case.name(places[place])] == (record.weights[row].min(), record.weights[row].max())


def test_the_last_round_is_told_if_none_is_named(case: Case) -> None:
    story = case.story(None)
    assert story.seen.tip.round == ROUNDS
    assert story.state == "closed: the run ends with its record"
    assert story.missed == ()


def test_the_ledger_alone_tells_a_round_without_names_and_times(case: Case) -> None:
    story = case.story(BAD, {})
    text, record, seal = page(story, WIDTH), story.seen.record, story.seen.seal
    assert record is not None and record.opening is not None and seal is not None
    decided = record.opening.open.number
    assert [(moment.what, moment.time, moment.block) for moment in story.happened] == [
        ("sealed 4 submissions", None, seal.block.number),
        ("decided the round", None, decided),
        ("anchored the record", None, decided + 1),
    ]
    assert "miner-" not in text
    assert " s  " not in text.split("What happened")[1]
    missing = case.stage.member("miner-2").hotkey
    assert f"until block {decided}, in vain, for the payload of {missing[:8]}\n" in text
    assert story.to_json_object()["submissions"] == [
        {**row.to_json_object(), "name": row.hotkey[:8]} for row in case.story(BAD).submissions
    ]


def test_a_journal_of_one_participant_is_completed_by_the_ledger(case: Case) -> None:
    story = case.story(BAD, {"miner-1": case.run.journals["miner-1"]})
    leader = case.stage.member("operator-0").hotkey[:8]
    assert said(story, leader) == ["sealed 4 submissions", "decided the round", "anchored the record"]
    blocks = [moment.block for moment in story.happened]
    assert blocks == sorted(blocks)


@pytest.mark.parametrize("round_", [ROUNDS + 1, ROUNDS + 2, 10**6])
def test_a_round_beyond_the_last_is_a_sentence(case: Case, round_: int) -> None:
    with pytest.raises(UsageError, match=f"the run ended with round {ROUNDS}; there is no round {round_}"):
        case.story(round_)


class TestOpenRound:
    """A run is cut off while it waits, and looked at."""

    @pytest.fixture
    def stage_of_run(self, texts: list[Path], tmp_path: Path) -> Stage:
        return nano(tmp_path, texts)

    def cut(self, stage: Stage, seconds: float, *faults: Fault, round_: int = 1) -> Story:
        """The story of a round when a run in which these happen is that old."""
        left = cut(stage, seconds, *faults)
        return story_of(stage, left.chain, left.buckets, left.journals, round_)

    def test_before_the_seal(self, stage_of_run: Stage) -> None:
        story = self.cut(stage_of_run, 8.5, Fault("error", "store.put", "*/00000001.head", who="miner-2"))
        assert story.state == "open, and not sealed yet"
        deadline = story.seen.tip.opening.deadline
        assert story.waiting == (f"the submission of miner-2, until block {deadline} (now {story.seen.block})",)
        assert story.seen.block < deadline

    def test_a_leader_that_cannot_seal(self, stage_of_run: Stage) -> None:
        story = self.cut(stage_of_run, 8.5, Fault("error", "store.put_if_absent", "*/00000001.*.heads"))
        now, given = story.seen.block, story.seen.tip.opening.min_block
        waited, failed = story.waiting
        assert waited == f"aggregator-0 to publish the seal: everybody expected is in (now {now})"
        assert failed.startswith(f"aggregator-0 to publish the seal, which has failed {now - given + 1} times: ")
        lines = said(story, "aggregator-0", failed=True)
        again = f"could not publish the seal, given again at blocks {given + 1} to {now}, for the same reason"
        assert lines[1:] == [again]

    def test_between_seal_and_record(self, stage_of_run: Stage) -> None:
        story = self.cut(stage_of_run, 6.5, Fault("error", "store.put", "*/00000001.key", who="miner-2"))
        assert story.state == "open: sealed, and not decided yet"
        assert story.seen.seal is not None
        until = story.seen.seal.block.number + stage_of_run.spec.clock.reveal
        waited, failed = story.waiting
        assert waited == f"the key of miner-2, until block {until} (now {story.seen.block})"
        assert failed.startswith("miner-2 to show its key, which has failed ")

    @pytest.mark.parametrize("published", [True, False])
    def test_scores_that_steer_are_looked_for_by_the_record_they_judge(
        self, stage_of_run: Stage, published: bool
    ) -> None:
        key = Fault("error", "store.put", "*/00000002.key", who="miner-2")
        scores = Fault("error", "store.put_if_absent", "*/scores/00000000-*")
        story = self.cut(stage_of_run, 10.5, key, *(() if published else (scores,)), round_=2)
        assert story.seen.seal is not None and story.seen.record is None
        missing = any(line.startswith("the scores of validator-0 for round 0, until ") for line in story.waiting)
        assert missing is not published

    def test_a_record_that_is_not_anchored(self, stage_of_run: Stage) -> None:
        story = self.cut(stage_of_run, 9.5, Fault("error", "chain.commit", "anchor/1"))
        waited, failed = story.waiting
        assert waited == f"aggregator-0 to anchor the record, which lies in its bucket (now {story.seen.block})"
        assert failed.startswith("aggregator-0 to publish the record, which has failed ")
        assert "not anchored" in page(story, WIDTH)
        assert [row.reason for row in story.submissions] == [""] * 4

    def test_who_has_not_applied_the_record(self, stage_of_run: Stage) -> None:
        story = self.cut(stage_of_run, 9.5, Fault("error", "store.get", "*/00000001-*.rec", who="miner-0"))
        assert story.state.startswith("closed: 4 of 4")
        assert story.waiting == ("miner-0 to apply the record",), "a validator measures beside the run"
        (problem,) = said(story, "miner-0", failed=True)
        assert problem.startswith("the record of round 1 is not to be had yet: store.get ")

    def test_a_bucket_that_does_not_answer(self, stage_of_run: Stage) -> None:
        seen = self.cut(stage_of_run, 8.5, Fault("error", "store.put", "*/00000001.head", who="miner-2")).seen
        miner = stage_of_run.member("miner-2").identity.public
        (line,) = waiting(replace(seen, silent=frozenset((miner,))), Names())
        assert "(whose bucket does not answer), until block " in line


@pytest.fixture(scope="module")
def folder(case: Case) -> Path:
    write_run(case.stage, case.run)
    logs = case.stage.run.path / "logs"
    for name, journal in case.run.journals.items():
        (logs / f"{name}.jsonl").write_text("".join(to_json(noted) + "\n" for noted in journal))
    return case.stage.run.path


class TestFolder:
    """A run on disk, as `muster testnet` leaves it."""

    def test_the_command_tells_it_and_leaves_every_byte_as_it_was(
        self, case: Case, folder: Path, muster_command: Commands
    ) -> None:
        before = picture(folder)
        environment = os.environ | {"COLUMNS": str(WIDTH)}
        ended = muster_command("story", str(folder), "--round", str(BAD), environment=environment)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert picture(folder) == before
        ours = page(case.story(BAD), WIDTH)
        # The folder's chain has anchors at other blocks, and what is told after them has other blocks, too.
        anchors = ("decided", "anchored the record", "rank")
        kept = [line for line in ours.splitlines() if not any(word in line for word in anchors)]
        assert [line for line in ended.stdout.splitlines() if not any(word in line for word in anchors)] == kept

    def test_json_is_one_object(self, folder: Path, muster_command: Commands) -> None:
        ended = muster_command("story", str(folder), "--round", str(GOOD), "--json")
        (line,) = ended.stdout.splitlines()
        told = json.loads(line)
        assert (told["round"], told["open"], told["record"]["kind"]) == (GOOD, False, "round")
        assert [row["accepted"] for row in told["submissions"]] == [True] * 4
        assert all(set(moment) == {"time_s", "block", "who", "what", "failed"} for moment in told["happened"])

    def test_no_such_round_and_no_such_run_are_one_sentence_each(
        self, folder: Path, tmp_path: Path, muster_command: Commands
    ) -> None:
        ended = muster_command("story", str(folder), "--round", "99")
        sentence = f"error[usage]: the run ended with round {ROUNDS}; there is no round 99\n"
        assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", sentence)
        ended = muster_command("story", str(tmp_path / "nothing"), "--round", "0")
        assert (ended.returncode, ended.stdout) == (3, "")
        assert ended.stderr.startswith("error[config]: no run at ")
        assert ended.stderr.count("\n") == 1
