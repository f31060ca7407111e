"""The story of a run does not depend on which journal was read first, nor on who told a round twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import score_row

from muster.history.report import render_report
from muster.history.run_history import RunHistory, Setting
from muster.history.view import accepted_cell
from muster.node.telemetry import events
from muster.node.telemetry.journal import Noted
from muster.protocol.incentive.row import ScoreRow
from muster.testnet.roster import Roster

ROSTER = Roster.of(0, miners=2, validators=1, adversaries={"silent": 1})
ZERO, ONE, SILENT = (member.hotkey for member in ROSTER.miners)
ROUNDS = 3


def history() -> RunHistory:
    return RunHistory(
        Setting(
            run_id="ab" * 32,
            preset="tiny",
            directory="/runs/x",
            rounds_total=ROUNDS,
            unigram=3.0,
            parameters=1000,
            roster=ROSTER,
            started=100.0,
        )
    )


def applied(round_: int, kind: str = "round", **facts: Any) -> Noted:
    usual: dict[str, Any] = {
        "kind": kind,
        "root": f"{round_:064x}",
        "outer_step": round_ + 1,
        "accepted": (ZERO, ONE),
        "rejected": {},
        "bytes_up": 100 * (round_ + 1),
        "bytes_down": 10 * (round_ + 1),
    }
    return Noted(110.0 + 10 * round_, events.Applied(round_, **(usual | facts)))


def story() -> dict[str, list[Noted]]:
    """Three rounds; miner-1 misses round 1 and is rejected in round 2."""
    facts: list[dict[str, Any]] = [{}, {"accepted": (ZERO,)}, {"accepted": (ZERO,), "rejected": {ONE: "key_missing"}}]
    rounds = [applied(r, **facts[r]) for r in range(ROUNDS)]
    last = f"{ROUNDS - 1:064x}"
    close = applied(ROUNDS, kind="close", root=last, accepted=())
    told: dict[str, list[Noted]] = {
        label: [*rounds, close, Noted(150.0, events.Finished(root=last))]
        for label in ("aggregator-operator-0", "validator-operator-0", "miner-0", "miner-1", "silent-0")
    }
    for r in range(ROUNDS):
        began = 100.0 + 10 * r
        for miner in ("miner-0", "miner-1"):
            if (miner, r) != ("miner-1", 1):
                told[miner] += [
                    Noted(began, events.Training(r)),
                    Noted(began + 6, events.Trained(r, steps=2, seconds=5.0, loss=1.0)),
                    Noted(began + 7, events.Submitted(r, bytes=125, values=100)),
                ]
        told["aggregator-operator-0"] += [
            Noted(began + 8, events.Sealed(r, block=8, submissions=2)),
            Noted(began + 9, events.Recorded(r, record="ab", accepted=2)),
        ]
        told["validator-operator-0"] += [
            Noted(began + 9, events.Heldout(r, loss=3.0 - r)),
            Noted(began + 9, events.Scored(r, peers=(peer(ZERO, r), peer(ONE, r)))),
        ]
    return told


def peer(hotkey: str, round_: int) -> ScoreRow:
    return score_row("alice", hotkey=hotkey, rating_mu=25.0 + round_, rating_sigma=8.0)


def told(order: list[str], rounds: dict[str, list[Noted]]) -> RunHistory:
    made = history()
    for label in order:
        made.feed(label, rounds[label])
    return made


def test_the_summary_counts_what_happened() -> None:
    summary = told(sorted(story()), story()).summary(160.0, ())
    assert [row.loss for row in summary.rounds] == [3.0, 2.0, 1.0]
    assert summary.roots_agree
    assert summary.state_root == f"{ROUNDS - 1:064x}"
    assert summary.first_record_s == 9.0
    assert summary.wall_s == 60.0
    assert summary.bits_per_value == 10.0
    assert summary.compression_ratio == 4 * 1000 / 125
    # Two miners, 20 seconds between first and last record, three trainings of 5 s after the first record.
    assert summary.utilisation == pytest.approx(15 / 40)
    assert summary.events == ("miner-1 missed the deadline of round 1",)
    by_name = {row.name: row for row in summary.peers}
    assert (by_name["miner-0"].submitted, by_name["miner-0"].accepted) == (3, 3)
    assert (by_name["miner-1"].submitted, by_name["miner-1"].rejected) == (2, {"key_missing": 1})
    assert by_name["miner-1"].score == score_row("alice", hotkey=ONE, rating_mu=27.0, rating_sigma=8.0)
    assert by_name["silent-0"].score is None
    assert summary.ratings_history[ZERO] == ((0, 25.0, 8.0), (1, 26.0, 8.0), (2, 27.0, 8.0))


def test_what_later_rounds_took_in_is_counted_apart() -> None:
    """A restarted participant tells a round again; told twice counts once."""
    rounds = [
        applied(0, accepted=(ZERO,), rejected={ONE: "late"}),
        applied(1, late=(ONE,)),
        applied(2, late=(ZERO, ONE)),
    ]
    made = history()
    for _ in range(2):
        made.feed("aggregator-operator-0", rounds)
    status = made.status(160.0, ())
    assert [(row.accepted, row.late, row.sealed) for row in status.rounds] == [(1, 0, 2), (2, 1, 2), (2, 2, 2)]
    by_name = {row.name: row for row in status.peers}
    assert (by_name["miner-0"].accepted, by_name["miner-0"].late) == (3, 1)
    assert (by_name["miner-1"].accepted, by_name["miner-1"].late) == (2, 2)
    assert [accepted_cell(by_name[f"miner-{i}"]) for i in range(2)] == ["3+1/0", "2+2/0"]


def test_what_is_begun_in_the_closing_round_counts_nowhere() -> None:
    """While the leader waits for the last scores, miners may train and submit once more."""
    rounds = story()
    rounds["miner-0"] += [
        Noted(130.0, events.Training(ROUNDS)),
        Noted(140.0, events.Trained(ROUNDS, steps=2, seconds=50.0, loss=1.0)),
        Noted(141.0, events.Submitted(ROUNDS, bytes=125, values=100)),
    ]
    summary, usual = (told(sorted(one), one).summary(160.0, ()) for one in (rounds, story()))
    assert (summary.utilisation, summary.peers) == (usual.utilisation, usual.peers)


def test_the_order_of_reading_does_not_matter() -> None:
    forward, backward = sorted(story()), sorted(story(), reverse=True)
    assert told(forward, story()).summary(160.0, ()) == told(backward, story()).summary(160.0, ())


def test_what_a_restarted_participant_tells_again_counts_once() -> None:
    twice = {label: [*noted, *noted] for label, noted in story().items()}
    order = sorted(twice)
    assert told(order, twice).summary(160.0, ()) == told(order, story()).summary(160.0, ())


def test_a_record_that_is_taken_back_counts_by_what_came_instead() -> None:
    rounds = story()
    other, back = applied(1, root="f" * 64), events.Undone(1, record="cd" * 32, root=f"{0:064x}", outer_step=1)
    rounds["miner-1"][1:1] = [other, Noted(121.0, back)]
    summary, usual = (told(sorted(one), one).summary(160.0, ()) for one in (rounds, story()))
    assert summary.roots_agree
    assert summary.rounds == usual.rounds
    said = "miner-1 took the record cdcdcdcd of round 1 back: another goes first"
    assert set(summary.events) == {*usual.events, said}


@pytest.mark.parametrize("label", ["miner-1", "validator-operator-0", "aggregator-operator-0"])
def test_one_honest_replica_with_another_root_is_enough(label: str) -> None:
    rounds = story()
    rounds[label][1] = applied(1, root="f" * 64)
    assert not told(sorted(rounds), rounds).summary(160.0, ()).roots_agree


def test_a_participant_that_never_finished_is_noticed() -> None:
    rounds = story()
    rounds["miner-0"] = [noted for noted in rounds["miner-0"] if not isinstance(noted.event, events.Finished)]
    assert not told(sorted(rounds), rounds).summary(160.0, ()).roots_agree


def test_the_phase_follows_the_events() -> None:
    made = history()
    seen = [made.status(101.0, ()).phase]
    for label, noted in (
        ("miner-0", Noted(100.0, events.Training(0))),
        ("miner-0", Noted(107.0, events.Submitted(0, bytes=1, values=1))),
        ("aggregator-operator-0", Noted(108.0, events.Sealed(0, block=8, submissions=1))),
        ("aggregator-operator-0", Noted(109.0, events.Recorded(0, record="ab", accepted=2))),
    ):
        made.feed(label, [noted])
        seen.append(made.status(110.0, ()).phase)
    assert seen == ["starting", "train", "submit", "reveal", "record"]


class TestIdlers:
    """A miner that had nothing to submit says so itself: that is told, once, instead of a missed deadline."""

    def rounds(self, *idle: events.Lost | events.Unregistered) -> dict[str, list[Noted]]:
        rounds = story()
        rounds["miner-1"] += [Noted(111.0, event) for event in idle]
        return rounds

    @pytest.mark.parametrize(
        ("idle", "line"),
        [
            ((events.Lost(1, problem="no text"),), "1 round, the last of them 1: no text"),
            ((events.Unregistered(1),), "1 round, the last of them 1: its hotkey has no slot on the subnet"),
            ((events.Lost(1, problem="a"), events.Lost(0, problem="b")), "2 rounds, the last of them 1: a"),
        ],
    )
    def test_the_summary_has_one_line_a_miner(
        self, idle: tuple[events.Lost | events.Unregistered, ...], line: str
    ) -> None:
        rounds = self.rounds(*idle, *idle)
        for order in (sorted(rounds), sorted(rounds, reverse=True)):
            summary = told(order, rounds).summary(160.0, ())
            assert summary.events == (f"miner-1 had nothing to submit in {line}",)

    def test_the_report_shows_it(self) -> None:
        rounds = self.rounds(events.Lost(1, problem="no <text>"))
        page = render_report(told(sorted(rounds), rounds).summary(160.0, ()))
        line = "miner-1 had nothing to submit in 1 round, the last of them 1: no &lt;text&gt;"
        assert f"<li>{line}</li>" in page

    def test_the_status_says_it_until_the_miner_submits_again(self) -> None:
        made = history()
        assert made.status(110.0, ()).note == ""
        made.feed("miner-1", [Noted(100.0, events.Unregistered(0)), Noted(110.0, events.Lost(1, problem="no text"))])
        line = "miner-1 had nothing to submit in 2 rounds, the last of them 1: no text"
        assert made.status(110.0, ()).note == line
        assert made.status(110.0, (), "miner-0 crashed").note == "miner-0 crashed"
        made.feed("miner-1", [Noted(120.0, events.Submitted(2, bytes=1, values=1))])
        assert made.status(120.0, ()).note == ""


def test_the_status_says_what_somebody_cannot_write_until_it_can() -> None:
    made = history()
    full = "cannot write memory.safetensors: No space left on device"
    made.feed("miner-1", [Noted(1.0, events.Ailing(what="a", problem=full)), Noted(1.0, events.LinesLost(lines=2))])
    assert made.status(110.0, ()).note == f"miner-1: {full}"
    made.feed("miner-1", [Noted(2.0, events.Recovered(what="a"))])
    assert made.status(110.0, ()).note == ""
    assert made.summary(160.0, ()).events == ("miner-1 has lost 2 lines of its journal",)


def test_lines_that_could_not_be_read_are_told() -> None:
    made = history()
    for wrong in (0, 2, 1):
        made.feed("miner-0", [], wrong)
    made.feed("miner-1", [])
    assert made.summary(160.0, ()).events == ("3 lines of the journal of miner-0 could not be read",)


def test_whoever_closed_a_round_has_recorded_it() -> None:
    """Of two aggregators the second one leads rounds, too; and that the first one's journal ends changes no root."""
    told = story()
    seen = told["aggregator-operator-0"]
    second = [noted for noted in seen if isinstance(noted.event, events.Sealed | events.Recorded) and noted.time > 115]
    told["aggregator-operator-0"] = [noted for noted in seen if noted not in second]
    roster = Roster.of(0, miners=2, validators=2, adversaries={"silent": 1})
    made = RunHistory(replace(history()._setting, roster=roster))
    for label, lines in told.items():
        made.feed(label, lines)
    ends = [noted for noted in seen if isinstance(noted.event, events.Applied | events.Finished)]
    made.feed("aggregator-operator-1", [*second, *ends])
    made.feed("validator-operator-1", ends)
    alone = history()
    for label, lines in story().items():
        alone.feed(label, lines)
    both, one = made.summary(200.0, ()), alone.summary(200.0, ())
    assert [row.phases for row in both.rounds] == [row.phases for row in one.rounds]
    assert (both.first_record_s, both.utilisation) == (one.first_record_s, one.utilisation)
    assert (both.roots_agree, both.state_roots) == (True, one.state_roots)
