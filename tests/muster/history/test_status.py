"""The `--json` object is a contract; derived figures are small laws."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
from builders import score_row

from muster.history.status import PeerRow, ProcessRow, RoundRow, RunStatus, RunSummary, printable

ROOTS = ("aa" * 32, "bb" * 32)

SCORE = score_row("alice", rating_sigma=8.0, peer_score=0.1)


def round_row(number: int, loss: float | None = 2.5, seconds: float = 4.0) -> RoundRow:
    return RoundRow(number, "round", 3, 4, loss, seconds, {"train": 3.0}, 1000, ROOTS[number % 2])


def summary(**changes: object) -> RunSummary:
    rated = PeerRow(0, "5Fa", "m0", "honest", 2, 1, {"z": 1, "a": 2}, SCORE)
    fresh = PeerRow(1, "5Fb", "m1", "copier", 0, 0, {})
    values: dict[str, object] = {
        "run_id": "ab" * 32,
        "preset": "tiny",
        "directory": "/runs/x/",
        "round": 2,
        "rounds_total": 2,
        "phase": "closed",
        "peers": (fresh, rated),
        "rounds": (round_row(0, 3.0), round_row(1, None)),
        "processes": (ProcessRow("miner-0", 12, True, 0),),
        "unigram": 3.3,
        "elapsed_s": 9.0,
        "note": "",
        "first_record_s": 4.5,
        "wall_s": 9.5,
        "state_roots": ROOTS,
        "roots_agree": True,
        "bits_per_value": 9.5,
        "compression_ratio": 200.0,
        "bytes_up": 10,
        "bytes_down": 20,
        "utilisation": 0.9,
        "events": (),
        "ratings_history": {"5Fa": ((0, 25.0, 8.3),)},
    }
    return RunSummary(**(values | changes))  # type: ignore[arg-type]


def test_json_object_is_exactly_the_contract() -> None:
    assert summary().to_json_object() == {
        "rounds": 2,
        "wall_s": 9.5,
        "first_record_s": 4.5,
        "loss": [3.0, None],
        "unigram": 3.3,
        "state_roots": list(ROOTS),
        "state_root": ROOTS[1],
        "roots_agree": True,
        "bits_per_value": 9.5,
        "compression_ratio": 200.0,
        "bytes_up": 10,
        "bytes_down": 20,
        "utilisation": 0.9,
        "peers": [
            {
                "uid": 0,
                "hotkey": "5Fa",
                "behaviour": "honest",
                "submitted": 2,
                "accepted": 1,
                "late": 0,
                "rejected": {"a": 2, "z": 1},
                "mu": 0.05,
                "rating": {"mu": 26.0, "sigma": 8.0, "ordinal": 2.0},
                "peer_score": 0.1,
                "weight": 0.5,
                "score": asdict(SCORE),
            },
            {
                "uid": 1,
                "hotkey": "5Fb",
                "behaviour": "copier",
                "submitted": 0,
                "accepted": 0,
                "late": 0,
                "rejected": {},
                "mu": None,
                "rating": {"mu": None, "sigma": None, "ordinal": None},
                "peer_score": None,
                "weight": None,
                "score": None,
            },
        ],
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_object_stays_strict_json(bad: float) -> None:
    strange = summary(utilisation=bad, bits_per_value=bad, rounds=(round_row(0, bad),))
    again = json.loads(json.dumps(strange.to_json_object(), allow_nan=False))
    assert again["utilisation"] is None
    assert again["loss"] == [None]


def test_a_run_without_rounds_has_no_root() -> None:
    empty = summary(rounds=(), state_roots=())
    assert empty.state_root == ""
    assert empty.to_json_object()["rounds"] == 0


def test_report_lies_in_the_run_directory() -> None:
    assert summary().report == "/runs/x/report.html"


def test_losses_skip_what_was_not_measured() -> None:
    rounds = (round_row(0, 3.0), round_row(1, None), round_row(2, math.nan), round_row(3, 2.0))
    assert summary(rounds=rounds).losses == (3.0, 2.0)


def test_time_left_follows_the_usual_recent_round() -> None:
    slow_start = [round_row(0, seconds=900.0), *(round_row(i, seconds=4.0) for i in range(1, 6))]
    one_deadline = [*slow_start, round_row(6, seconds=90.0)]
    status: RunStatus = summary(rounds=tuple(one_deadline), rounds_total=10)
    assert status.eta_s == 12.0
    assert summary(rounds=(), rounds_total=10).eta_s is None
    assert summary(rounds_total=1).eta_s == 0.0


def test_a_nameless_peer_is_called_by_its_hotkey() -> None:
    peer = PeerRow(0, "5FabcdefghijK", "", "honest", 0, 0, {})
    assert peer.label == "5Fabcdef"


def test_printable_disarms_terminals_and_keeps_letters() -> None:
    assert printable("θ \x1b[2Jx\r\n\u202e") == "θ ?[2Jx???"
