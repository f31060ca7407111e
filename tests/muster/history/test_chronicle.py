"""The story of a run does not depend on which journal was read first, nor on who told a round twice."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from builders import score_row

from muster.history.chronicle import Chronicle, Setting
from muster.testnet.cast import Cast

CAST = Cast.of(0, miners=2, validators=1, adversaries={"silent": 1})
ZERO, ONE, SILENT = (member.hotkey for member in CAST.miners)
ROUNDS = 3


def chronicle() -> Chronicle:
    return Chronicle(
        Setting(
            run_id="ab" * 32,
            preset="tiny",
            directory="/runs/x",
            rounds_total=ROUNDS,
            unigram=3.0,
            parameters=1000,
            cast=CAST,
            started=100.0,
        )
    )


def applied(round_: int, kind: str = "round", root: str | None = None, **facts: Any) -> dict[str, Any]:
    return {
        "event": "applied",
        "time": 110.0 + 10 * round_,
        "round": round_,
        "kind": kind,
        "root": root or f"{round_:064x}",
        "outer_step": round_ + 1,
        "accepted": [ZERO, ONE],
        "rejected": {},
        "bytes_up": 100 * (round_ + 1),
        "bytes_down": 10 * (round_ + 1),
    } | facts


def story() -> dict[str, list[dict[str, Any]]]:
    """Three rounds; miner-1 misses round 1 and is rejected in round 2."""
    facts: list[dict[str, Any]] = [{}, {"accepted": [ZERO]}, {"accepted": [ZERO], "rejected": {ONE: "key_missing"}}]
    rounds = [applied(r, **facts[r]) for r in range(ROUNDS)]
    last = rounds[-1]["root"]
    close = applied(ROUNDS, kind="close", root=last, accepted=[])
    end = {"event": "finished", "time": 150.0, "root": last}
    told: dict[str, list[dict[str, Any]]] = {
        label: [*rounds, close, end]
        for label in ("aggregator-operator-0", "validator-operator-0", "miner-0", "miner-1", "silent-0")
    }
    for r in range(ROUNDS):
        began = 100.0 + 10 * r
        for miner in ("miner-0", "miner-1"):
            if (miner, r) != ("miner-1", 1):
                told[miner] += [
                    {"event": "training", "time": began, "round": r},
                    {"event": "trained", "time": began + 6, "round": r, "seconds": 5.0, "steps": 2, "loss": 1.0},
                    {"event": "submitted", "time": began + 7, "round": r, "bytes": 125, "values": 100},
                ]
        told["aggregator-operator-0"] += [
            {"event": "sealed", "time": began + 8, "round": r},
            {"event": "recorded", "time": began + 9, "round": r, "kind": "round", "accepted": 2},
        ]
        told["validator-operator-0"] += [
            {"event": "heldout", "time": began + 9, "round": r, "loss": 3.0 - r},
            {"event": "scored", "time": began + 9, "round": r, "peers": [peer(ZERO, r), peer(ONE, r)]},
        ]
    return told


def peer(hotkey: str, round_: int) -> dict[str, Any]:
    return asdict(score_row("alice", hotkey=hotkey, rating_mu=25.0 + round_, rating_sigma=8.0))


def told(order: list[str], rounds: dict[str, list[dict[str, Any]]]) -> Chronicle:
    made = chronicle()
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


def test_the_order_of_reading_does_not_matter() -> None:
    forward, backward = sorted(story()), sorted(story(), reverse=True)
    assert told(forward, story()).summary(160.0, ()) == told(backward, story()).summary(160.0, ())


def test_what_a_restarted_participant_tells_again_counts_once() -> None:
    twice = {label: [*events, *events] for label, events in story().items()}
    order = sorted(twice)
    assert told(order, twice).summary(160.0, ()) == told(order, story()).summary(160.0, ())


@pytest.mark.parametrize("label", ["miner-1", "validator-operator-0", "aggregator-operator-0"])
def test_one_honest_replica_with_another_root_is_enough(label: str) -> None:
    rounds = story()
    rounds[label][1] = applied(1, root="f" * 64)
    assert not told(sorted(rounds), rounds).summary(160.0, ()).roots_agree


def test_a_participant_that_never_finished_is_noticed() -> None:
    rounds = story()
    rounds["miner-0"] = [event for event in rounds["miner-0"] if event["event"] != "finished"]
    assert not told(sorted(rounds), rounds).summary(160.0, ()).roots_agree


def test_the_phase_follows_the_events() -> None:
    made = chronicle()
    seen = [made.status(101.0, ()).phase]
    for label, event in (
        ("miner-0", {"event": "training", "time": 100.0, "round": 0}),
        ("miner-0", {"event": "submitted", "time": 107.0, "round": 0, "bytes": 1, "values": 1}),
        ("aggregator-operator-0", {"event": "sealed", "time": 108.0, "round": 0}),
        ("aggregator-operator-0", {"event": "recorded", "time": 109.0, "round": 0, "kind": "round", "accepted": 2}),
    ):
        made.feed(label, [event])
        seen.append(made.status(110.0, ()).phase)
    assert seen == ["starting", "train", "submit", "reveal", "record"]
