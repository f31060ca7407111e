"""A peer's pay is explained from the ledger alone, with arithmetic that anybody can do again."""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from files_left_alone import picture
from folder_runs import write_run
from forked import Commands
from run_builders import Stage, lay_out, play
from sums import sum_in

from muster.history.explain import Explanation, explain, page
from muster.history.explain.facts import Case
from muster.history.explain.gather import find_case
from muster.history.explain.working import Working
from muster.history.explain.working import lines as working_lines
from muster.lab.nano import nano_template
from muster.lab.simulator import SimulatedRun
from muster.node.directory import Directory
from muster.node.telemetry import events
from muster.protocol.errors import UsageError
from muster.protocol.identity import public_of
from muster.protocol.incentive.pay import chain_weights
from muster.protocol.incentive.words import last_reason
from muster.protocol.reasons import REASONS
from muster.protocol.rules.selection import standings
from muster.protocol.spec import Template
from muster.testnet.roster import Roster

ROUNDS = 6
ABSENT = 4
WIDTH = 120
GAUNTLET = {
    "mu_floor": 0.0, "mu_full": 0.01, "mu_warmup": 3, "clone_ratio": 0.0, "copy_ratio": 0.0, "mixer_ratio": 0.0,
    "eval_windows": 4, "lag": 1,
}  # fmt: skip
"""A model too small to learn shows little of whose work is whose: here a trace of it is paid."""


@dataclass(frozen=True)
class Told:
    """A finished run, and how its peers' pay is explained."""

    stage: Stage
    run: SimulatedRun

    def case(self, peer: str, round_: int | None = None, validator: str | None = None) -> Case:
        """By a miner's name, or a slot's number, or whatever else."""
        known = {member.name: member.hotkey for member in self.stage.roster.members}
        directory = Directory(self.run.chain, self.run.buckets)
        history = self.stage.run.history
        return asyncio.run(find_case(history, self.run.chain, directory, known.get(peer, peer), round_, validator))

    def explain(self, peer: str, round_: int | None = None, validator: str | None = None) -> Explanation:
        return explain(self.case(peer, round_, validator), validator)


@pytest.fixture(scope="module")
def told(texts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Told:
    document = nano_template().model_dump()
    document["gauntlet"] |= GAUNTLET
    folder = tmp_path_factory.mktemp("explain") / "run"
    stage = lay_out(folder, texts, Template.model_validate(document), Roster.of(0, 4, 2, {"garbage": 1}))
    return Told(stage, play(stage, ROUNDS, absent=lambda name, round_: (name, round_) == ("miner-1", ABSENT)))


def test_the_newest_round_with_a_score_file_is_told_if_none_is_named(told: Told) -> None:
    assert told.case("miner-0").round == ROUNDS - 1


def test_slot_and_hotkey_name_the_same_peer(told: Told) -> None:
    by_hotkey = told.explain("miner-2")
    assert by_hotkey.case.uid is not None
    assert page(told.explain(str(by_hotkey.case.uid)), WIDTH) == page(by_hotkey, WIDTH)


@pytest.mark.parametrize("round_", range(ROUNDS))
@pytest.mark.parametrize("miner", ["miner-0", "miner-1", "miner-2", "miner-3", "garbage-0"])
def test_every_sum_of_every_line_comes_out_to_the_last_digit(told: Told, miner: str, round_: int) -> None:
    for section in told.explain(miner, round_).sections:
        sums = [(line.word, *done) for line in section.lines if (done := sum_in(line.text))]
        for word, right, said in sums:
            assert right == said, word
        (row,) = (one.row for one in section.table if one.sent.round == round_)
        if row is not None and row.outcome == "evaluated":
            worked = {"ratio", "work"} if row.ratio is not None else set()
            assert {"s_a", "s_r", "t", "mu_slow", "mu_fast", "PeerScore", *worked} <= {word for word, *_ in sums}


def test_what_it_comes_to_is_what_the_file_says_and_the_chain_is_given(told: Told) -> None:
    paid = 0
    for miner in ("miner-0", "miner-1", "miner-2", "miner-3"):
        case = told.case(miner)
        for judged, section in zip(case.judged, explain(case).sections, strict=True):
            file, row = judged.files[case.round], judged.row(case.round, case.hotkey)
            assert row is not None
            steps = {line.word: line.text for line in section.lines}
            assert steps["PeerScore"].endswith(f" = {row.peer_score!r}")
            assert steps["checked"] == "every score and share of the file follows from what it says was measured"
            shares, uids = ({r.hotkey: getattr(r, name) for r in file.rows} for name in ("incentive", "uid"))
            assert section.weight == chain_weights(shares, uids).get(row.uid, 0)
            paid += row.incentive > 0
    assert paid, "somebody is paid, or nothing was shown"


def test_a_file_that_says_otherwise_is_told_from_one_that_follows(told: Told) -> None:
    case = told.case("miner-0")
    judged, spec = case.judged[0], case.spec
    rows, before = judged.files[case.round].rows, judged.before(case.round)
    sent = explain(case).sections[0].table[-1].sent
    changes: list[dict[str, Any]] = [{"peer_score": 9.0}, {"incentive": 0.9}, {"gate": 0.123}]
    for change in changes:
        lied = [replace(row, **change) if row.hotkey == case.hotkey else row for row in rows]
        row = next(row for row in lied if row.hotkey == case.hotkey)
        (last,) = (line for line in working_lines(Working(row, lied, before, sent, spec)) if line.word == "checked")
        assert "does NOT follow" in last.text


def test_an_absent_round_is_told_and_what_would_change_it(told: Told) -> None:
    explained = told.explain("miner-1", ABSENT)
    assert explained.sent == "Nothing of it is in the round's record."
    for section in explained.sections:
        assert section.verdict == "No rank, share 0.000; It submitted nothing, and nothing is paid for such a round."
        assert section.changes[0].startswith(f"Absent in round {ABSENT}: nothing is paid for it.")
        assert section.table[-1].became == "it sent nothing"


def test_a_rejected_submission_has_its_sentence_everywhere(told: Told) -> None:
    explained = told.explain("garbage-0")
    reason = next(e.reason for e in explained.case.shown.record.entries if e.public == public_of(explained.case.hotkey))
    sentence = REASONS[reason].sentence
    assert explained.sent.endswith(f"not applied: {sentence}")
    section = explained.sections[0]
    assert sentence in section.verdict
    assert sentence in section.table[-1].became
    assert sentence in section.changes[0]
    assert reason not in page(explained, WIDTH)


def test_what_steers_is_the_median_that_the_later_record_used(told: Told) -> None:
    explained = told.explain("miner-3", 2)
    used = next(one.record.scores for one in explained.case.passed if one.round == 3)
    assert len(used) == 2
    agreed = standings(used)[public_of(explained.case.hotkey)]
    assert f"{agreed.score!r} for this peer" in explained.selection
    assert "(used: " in explained.selection
    assert "no record has used them yet" in told.explain("miner-3").selection


def test_a_miner_sees_what_the_files_say_once_a_round(told: Told) -> None:
    for miner in ("miner-0", "garbage-0"):
        seen = told.run.events(miner, events.Judged)
        assert len({one.round for one in seen}) == len(seen) >= ROUNDS - 1
        judged = told.case(miner).judged[0]
        for one in seen:
            row = judged.row(one.round, told.case(miner).hotkey)
            assert row is not None
            assert one.validator == judged.validator
            assert (one.rank, one.share, one.reason) == (row.rank, row.incentive, last_reason(row))


def test_one_validator_may_be_named(told: Told) -> None:
    first, second = told.stage.spec.genesis.leaders
    assert [section.validator for section in told.explain("miner-0").sections] == [first, second]
    assert [section.validator for section in told.explain("miner-0", validator=second).sections] == [second]


@pytest.mark.parametrize(
    ("peer", "round_", "validator", "sentence"),
    [
        ("miner-0", 99, None, "the run ended before round 99"),
        ("miner-0", ROUNDS, None, "the run ended before round 6"),
        ("99", None, None, "nobody holds slot 99; the slots are 0, 1, 2, 3, 4, 5, 6"),
        ("nobody", None, None, "--peer is a slot's number or a hotkey's address"),
        ("miner-0", None, "me", "me is no validator of this run"),
    ],
)
def test_what_is_not_there_is_a_sentence(
    told: Told, peer: str, round_: int | None, validator: str | None, sentence: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        told.explain(peer, round_, validator)


def test_lines_fit_the_terminal(told: Told) -> None:
    for width in (80, 120):
        assert max(map(len, page(told.explain("miner-0"), width).splitlines())) <= max(width, 120)


def test_the_command_explains_a_folder_and_leaves_every_byte_as_it_was(told: Told, muster_command: Commands) -> None:
    write_run(told.stage, told.run)
    folder, explained = told.stage.run.path, told.explain("miner-0")
    before = picture(folder)
    words = ("explain", str(folder), "--peer", explained.case.hotkey)
    ended = muster_command(*words, environment=os.environ | {"COLUMNS": str(WIDTH)})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == page(explained, WIDTH) + "\n"
    ended = muster_command(*words, "--json")
    assert json.loads(ended.stdout) == json.loads(json.dumps(explained.to_json_object()))
    assert picture(folder) == before
