"""What a node counts is exactly what its journal says, its labels are bounded, and two nodes never mix."""

from __future__ import annotations

import pytest
from builders import score_row
from prometheus_client.parser import text_string_to_metric_families

from muster.node.telemetry import events
from muster.node.telemetry.events import Event
from muster.node.telemetry.facts import MAX_PEERS, Facts
from muster.node.telemetry.journal import Noted
from muster.node.telemetry.metrics import exposition, registry_of
from muster.protocol.columns import Kind, columns_of
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.reasons import REASONS

ME, OTHER = "5Me", "5Other"


def applied(round_: int, rejected: dict[str, str], kind: str = "round", accepted: tuple[str, ...] = (ME,)) -> Noted:
    """The event of an applied record that accepted this node and rejected others."""
    event = events.Applied(
        round_,
        kind=kind,
        root=f"{round_:064x}",
        outer_step=round_ + 1,
        accepted=accepted,
        rejected=rejected,
        bytes_up=10 * round_,
        bytes_down=20 * round_,
    )
    return Noted(100.0 + round_, event)


def samples(facts: Facts, healthy: bool = True) -> dict[tuple[str, tuple[str, ...]], float]:
    """What a scraper reads: (name, label values) → value."""
    text = exposition(registry_of(facts, {"name": "miner-0"}, lambda: healthy)).decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def told(*told: Noted | Event) -> Facts:
    """The facts after these events."""
    facts = Facts()
    for one in told:
        facts.note(one if isinstance(one, Noted) else Noted(0.0, one))
    return facts


JOINED = events.Joined(0, hotkey=ME)


def test_a_miners_round_is_counted() -> None:
    facts = told(
        events.Started(role="miner", pid=1),
        JOINED,
        events.Training(0),
        events.Trained(0, steps=3, seconds=1.5, loss=2.5),
        events.Submitted(0, bytes=9, values=4),
        events.Key(0),
        applied(0, {OTHER: "possession"}),
        events.Trained(1, steps=3, seconds=2.0, loss=2.25),
        applied(1, {ME: "key_missing"}, accepted=(OTHER,)),
    )
    facts.saw_block(7, 50.0)
    facts.store_failed()
    facts.chain_failed()
    found = samples(facts)
    expected = {
        ("muster_round", ()): 2,
        ("muster_outer_step", ()): 2,
        ("muster_block", ()): 7,
        ("muster_block_seen_timestamp_seconds", ()): 50,
        ("muster_applied_timestamp_seconds", ()): 101,
        ("muster_records_total", ("round",)): 2,
        ("muster_records_total", ("null",)): 0,
        ("muster_submissions_total", ("", "accepted")): 2,
        ("muster_submissions_total", ("possession", "rejected")): 1,
        ("muster_submissions_total", ("key_missing", "rejected")): 1,
        ("muster_own_submissions_total", ("", "accepted")): 1,
        ("muster_own_submissions_total", ("key_missing", "rejected")): 1,
        ("muster_submitted_total", ()): 1,
        ("muster_inner_loss", ()): 2.25,
        ("muster_inner_seconds_total", ()): 3.5,
        ("muster_bytes_total", ("up",)): 10,
        ("muster_bytes_total", ("down",)): 20,
        ("muster_store_errors_total", ()): 1,
        ("muster_chain_errors_total", ()): 1,
        ("muster_healthy", ()): 1,
        ("muster_info", (ME, "miner-0", "miner")): 1,
    }
    assert {key: found[key] for key in expected} == expected
    assert ("muster_heldout_loss", ()) not in found, "nobody told"
    assert found["process_resident_memory_bytes", ()] > 0


@pytest.mark.parametrize(
    ("event", "phase"),
    [
        (events.Training(4), "train"),
        (events.Submitted(4, bytes=1, values=1), "submit"),
        (events.Lost(4, problem="no text"), "submit"),
        (events.Sealed(4, block=1, submissions=1), "reveal"),
        (events.Key(4), "reveal"),
        (applied(4, {}), "submit"),
        (events.Finished(root=""), "closed"),
    ],
)
def test_the_phase_follows_the_events(event: Noted | Event, phase: str) -> None:
    assert told(JOINED, event).phase == phase


def test_the_closing_record_opens_no_round() -> None:
    facts = told(JOINED, applied(3, {}), applied(4, {}, kind="close"))
    assert facts.round == 4
    assert samples(facts)["muster_records_total", ("close",)] == 1


def test_a_record_that_is_taken_back_opens_its_round_again() -> None:
    facts = told(JOINED, applied(3, {}), events.Undone(3, record="cd", root="ef", outer_step=3))
    assert (facts.round, facts.phase, facts.root, facts.outer_step) == (3, "submit", "ef", 3)


def test_refusals_and_weights_are_told() -> None:
    found = samples(
        told(
            events.Refused(1, record="ab", problem="the root is another"),
            events.Weights(1, weights={1: 65535}),
            events.Heldout(1, loss=3.5),
        )
    )
    assert found["muster_refused_total", ()] == found["muster_weights_round", ()] == 1
    assert found["muster_heldout_loss", ()] == 3.5


def peer(uid: int, score: float) -> ScoreRow:
    """A row of a score file."""
    return score_row("alice", hotkey=f"5P{uid}", uid=uid, peer_score=score, incentive=0.25, last_score=None)


def test_peers_are_those_of_the_newest_scores_and_not_too_many() -> None:
    facts = told(events.Scored(0, peers=tuple(peer(uid, float(uid)) for uid in range(MAX_PEERS + 10))))
    assert [p.uid for p in facts.peers] == list(range(10, MAX_PEERS + 10)), "the worst ten are left out"
    facts.note(Noted(0.0, events.Scored(1, peers=(peer(3, 0.25),))))
    found = {key: value for key, value in samples(facts).items() if key[0].startswith("muster_peer_")}
    assert set(found) == {
        (f"muster_peer_{column.name.removeprefix('peer_')}", ("3",))
        for column in columns_of(ScoreRow)
        if column.name != "uid"
        and getattr(peer(3, 0.25), column.name) is not None
        and column.kind not in (Kind.KEY, Kind.SLUG)
    }
    assert found["muster_peer_unassigned_after", ("3",)] == 2.375
    assert found["muster_peer_positive", ("3",)] == 1
    assert found["muster_peer_score", ("3",)] == found["muster_peer_incentive", ("3",)] == 0.25


def test_every_reason_has_its_label() -> None:
    facts = told(JOINED, applied(0, {f"5{reason}": reason for reason in REASONS}))
    rejected = {labels[0] for name, labels in samples(facts) if name == "muster_submissions_total" and labels[0]}
    assert rejected == set(REASONS)


def test_an_older_block_changes_nothing() -> None:
    facts = Facts()
    facts.saw_block(5, 1.0)
    facts.saw_block(5, 2.0)
    facts.saw_block(4, 3.0)
    assert (facts.block, facts.block_seen) == (5, 1.0)


def test_two_nodes_of_one_process_do_not_mix() -> None:
    first, second = told(JOINED, applied(0, {})), told(JOINED)
    assert samples(first)["muster_records_total", ("round",)] == 1
    assert samples(second)["muster_records_total", ("round",)] == 0
