"""A story is told from journals in any state, escapes what peers wrote, and fits the terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from builders import beacon, identity, opening, run_spec
from hypothesis import given
from hypothesis import strategies as st

from muster.history.story import page, tell
from muster.history.story.facts import LedgerRound, Names, Told
from muster.history.story.journals import MAX_LINE, read_journals
from muster.history.story.outcome import waiting
from muster.node.telemetry import events
from muster.node.telemetry.events import Event
from muster.node.telemetry.journal import Noted, to_json
from muster.protocol.errors import StorageError
from muster.protocol.ledger import Tip, genesis_tip
from muster.protocol.ledger import round as round_machine
from muster.protocol.ledger.round import Instruction, Phase
from muster.protocol.spec.history import SpecHistory
from muster.protocol.types import Block
from muster.protocol.wire import Seal

ROUND = 3
LEADER, ALICE, BOB = (identity(name) for name in ("leader", "alice", "bob"))
OPENED = 1000.0
TRAIN, APPLY = Instruction.TRAIN, Instruction.APPLY
PUBLISH_SEAL, PUBLISH_KEY = Instruction.PUBLISH_SEAL, Instruction.PUBLISH_KEY
NAMES = Names({LEADER.hotkey: ("aggregator-o", "validator-o"), ALICE.hotkey: ("alice",), BOB.hotkey: ("bob",)})


def tip() -> Tip:
    """A ledger whose round 3 is open: from block 100, due at 110, the seal possible from 101."""
    start = genesis_tip(SpecHistory.of(run_spec()), beacon("assign"), beacon("possess"))
    return replace(start, opening=opening())


def sealed(block: int, *peers: bytes) -> Seal:
    headers = tuple((peer, bytes(32)) for peer in sorted(peers))
    return Seal(tip().run_id, LEADER.public, ROUND, tip().parent, 0, Block(block, bytes(32)), headers)


def told(label: str, seconds: float, event: Event) -> Told:
    return Told(OPENED + seconds, label, event)


def transition(label: str, seconds: float, what: str, block: int, *given: Instruction, **facts: Any) -> Told:
    return told(label, seconds, events.Transition(ROUND, block, what, Phase.SUBMIT, given, **facts))


def joined() -> list[Told]:
    return [
        told(label, -50, events.Joined(0, hotkey=hotkey)) for hotkey, labels in NAMES.labels.items() for label in labels
    ]


def lines(*entries: Told, seen: LedgerRound | None = None) -> list[str]:
    """What is told of these journal lines, without who and when."""
    story = tell(seen or LedgerRound(tip(), 105), sorted([*joined(), *entries], key=lambda entry: entry.time))
    return [("! " if moment.failed else "") + moment.what for moment in story.happened]


class TestMoments:
    def test_a_failure_that_changes_is_told_each_time(self) -> None:
        entries = [transition("alice", 1, "SealSeen", 101, PUBLISH_KEY, peers=(ALICE.hotkey,), sealed_block=101)]
        for i, problem in enumerate(["no space", "no space", "no space", "no route"]):
            if i:
                entries.append(transition("alice", 1 + i, "Tick", 101 + i, PUBLISH_KEY))
            failure = {"instruction": PUBLISH_KEY, "problem": problem}
            entries.append(transition("alice", 1.5 + i, "Failed", 101 + i, **failure))
        assert lines(*entries) == [
            "! could not show its key: no space",
            "! could not show its key, given again at blocks 102 to 103, for the same reason",
            "! could not show its key, given again at block 104: no route",
        ]

    def test_two_participants_failures_are_told_apart(self) -> None:
        failure = {"instruction": APPLY, "problem": "no space"}
        entries = [transition(label, at, "Failed", 101, **failure) for at, label in ((1, "alice"), (2, "bob"))]
        entries += [transition(label, 3, "Tick", 102, APPLY) for label in ("alice", "bob")]
        entries += [transition("alice", 4, "Done", 102, instruction=APPLY)]
        story = tell(LedgerRound(tip(), 105), entries)
        assert [(moment.who, moment.what) for moment in story.happened] == [
            (("alice", "bob"), "could not apply the record: no space"),
            (("alice",), "that was try 2, given again at block 102"),
        ]
        assert story.waiting[-1] == "bob to apply the record, which has failed 1 time: no space"

    @pytest.mark.parametrize("ending", ["RecordSeen", "joined"])
    def test_what_became_pointless_is_not_waited_for(self, ending: str) -> None:
        failed = transition("alice", 1, "Failed", 101, instruction=PUBLISH_KEY, problem="no space")
        end = {
            "RecordSeen": transition("alice", 2, "RecordSeen", 102, APPLY, record="ab"),
            "joined": told("alice", 2, events.Joined(ROUND, hotkey=ALICE.hotkey)),
        }[ending]
        waited = "alice to show its key, which has failed 1 time: no space"
        assert waited in tell(LedgerRound(tip(), 105), [failed]).waiting
        assert waited not in tell(LedgerRound(tip(), 105), [failed, end]).waiting

    def test_an_instruction_that_goes_well_is_told_by_its_event_alone(self) -> None:
        entries = [
            transition("aggregator-o", 1, "SubmissionSeen", 101, PUBLISH_SEAL, peers=(BOB.hotkey,)),
            told("aggregator-o", 2, events.Sealed(ROUND, block=101, submissions=2)),
            transition("aggregator-o", 3, "Done", 101, instruction=PUBLISH_SEAL),
            transition("aggregator-o", 3, "SealSeen", 101, peers=(ALICE.hotkey, BOB.hotkey), sealed_block=101),
        ]
        assert lines(*entries) == [
            "seals the round now: everybody expected is in, bob last",
            "sealed 2 submissions as of block 101",
        ]

    @pytest.mark.parametrize(
        ("block", "why"), [(109, "everybody expected is in"), (110, "the deadline has come, block 110")]
    )
    def test_why_the_round_was_sealed(self, block: int, why: str) -> None:
        assert lines(transition("aggregator-o", 1, "Tick", block, PUBLISH_SEAL)) == [f"seals the round now: {why}"]

    def test_a_restart_is_told_and_the_first_start_is_no_failure(self) -> None:
        back = told("alice", 1, events.Joined(ROUND, hotkey=ALICE.hotkey))
        assert lines(back) == ["! came back after a restart"]
        carol = told("carol", 1, events.Joined(ROUND, hotkey=identity("carol").hotkey))
        assert lines(carol) == ["joined"]

    def test_a_restarted_leader_goes_on_from_its_seal_and_a_miner_learns_that_it_is_not_in_it(self) -> None:
        seal: dict[str, Any] = {"peers": (BOB.hotkey,), "sealed_block": 102}
        entries = [
            transition("aggregator-o", 1, "SealSeen", 103, **seal),
            told("alice", 2, events.Submitted(ROUND, bytes=5, values=1)),
            transition("alice", 3, "SealSeen", 103, **seal),
        ]
        assert lines(*entries) == [
            "goes on from the seal of an earlier life, block 102",
            "sent its submission, 5 B",
            "! sees the seal, and is not in it",
        ]

    def test_what_several_do_alike_is_one_line(self) -> None:
        entries = [told(label, 1, events.Key(ROUND)) for label in ("bob", "alice")]
        (moment,) = tell(LedgerRound(tip(), 105), entries).happened
        assert (moment.who, moment.what) == (("alice", "bob"), "showed its key")

    def test_time_is_counted_from_the_record_before(self) -> None:
        before = told("aggregator-o", 0, events.Recorded(ROUND - 1, record="ab"))
        (moment,) = tell(LedgerRound(tip(), 105), [before, told("alice", 7.5, events.Key(ROUND))]).happened
        assert moment.time == 7.5

    def test_a_block_is_shown_only_where_it_is_sure(self) -> None:
        entries = [
            transition("alice", 0, "Opened", 100, TRAIN),
            told("alice", 5, events.Submitted(ROUND, bytes=5, values=1)),
            transition("alice", 6, "Done", 104, instruction=TRAIN),
            told("alice", 7, events.Key(ROUND)),
            transition("alice", 8, "Done", 104, instruction=PUBLISH_KEY),
        ]
        assert [moment.block for moment in tell(LedgerRound(tip(), 105), entries).happened] == [None, 104]


class TestWaiting:
    """By what is in the buckets, and by blocks alone."""

    @pytest.mark.parametrize(
        ("there", "block", "said"),
        [
            ((ALICE,), 105, "the submission of bob, until block 110 (now 105)"),
            ((), 105, "the submission of alice, bob, until block 110 (now 105)"),
            ((ALICE, BOB), 100, "block 101 (now 100): everybody expected is in"),
            ((ALICE, BOB), 101, "aggregator-o to publish the seal: everybody expected is in (now 101)"),
            ((ALICE,), 110, "aggregator-o to publish the seal, due since block 110 (now 110)"),
        ],
    )
    def test_before_the_seal(self, there: tuple[Any, ...], block: int, said: str) -> None:
        seen = LedgerRound(tip(), block, there=frozenset(one.public for one in there))
        assert waiting(seen, NAMES) == [said]

    def test_where_nobody_is_expected(self) -> None:
        seen = LedgerRound(replace(tip(), opening=opening(expected=())), 105)
        assert waiting(seen, NAMES) == ["the deadline, block 110 (now 105): nobody is expected"]

    def test_where_the_expected_are_too_few_for_a_round(self) -> None:
        spec = run_spec(clock={"min_submissions": 2})
        few = replace(tip(), history=SpecHistory.of(spec), opening=opening(expected=(ALICE.public,)))
        seen = LedgerRound(few, 105, there=frozenset((ALICE.public,)))
        assert waiting(seen, NAMES) == ["2 submissions in all, until block 110 (now 105): everybody expected is in"]

    @pytest.mark.parametrize(
        ("there", "block", "said"),
        [
            ((LEADER, ALICE), 105, ["the key of bob, until block 107 (now 105)"]),
            ((LEADER, ALICE, BOB), 105, ["aggregator-o to publish the record (now 105)"]),
            ((LEADER,), 107, ["aggregator-o to publish the record (now 107)"]),
            ((LEADER,), 120, ["aggregator-o to publish the record, due since block 120 (now 120)"]),
            ((ALICE, BOB), 108, ["the scores of validator-o for round 2, until block 109 at most (now 108)"]),
        ],
    )
    def test_after_the_seal(self, there: tuple[Any, ...], block: int, said: list[str]) -> None:
        seal = sealed(104, ALICE.public, BOB.public)  # reveal 3, score_wait 2
        shown = frozenset(one.public for one in there)
        seen = LedgerRound(tip(), block, seal=seal, there=shown, scored=shown & {LEADER.public})
        assert waiting(seen, NAMES) == said

    def test_the_time_for_keys_counts_from_when_the_leader_s_seal_was_public(self) -> None:
        there, scored = frozenset((ALICE.public,)), frozenset((LEADER.public,))
        seen = LedgerRound(tip(), 107, seal=sealed(104, ALICE.public, BOB.public), there=there, scored=scored)
        late = transition("aggregator-o", 1, "SealSeen", 106, sealed_block=104)
        assert tell(seen, [*joined(), late]).waiting[0] == "the key of bob, until block 109 (now 107)"

    def test_who_is_not_expected_has_the_grace_period(self) -> None:
        carol = identity("carol").public
        there, scored = frozenset((ALICE.public,)), frozenset((LEADER.public,))
        seen = LedgerRound(tip(), 104, seal=sealed(104, ALICE.public, carol), there=there, scored=scored)
        assert waiting(seen, NAMES) == [f"the key of {identity('carol').hotkey[:8]}, until block 105 (now 104)"]


def any_event(kind: type[Event]) -> st.SearchStrategy[Event]:
    """An event with any facts, most often of the round that is told."""
    made = st.from_type(kind)
    return made | made.map(lambda e: replace(e, round=ROUND)) if issubclass(kind, events.RoundEvent) else made


def any_transition() -> st.SearchStrategy[Event]:
    """A transition that means something."""
    what = st.sampled_from([kind.__name__ for kind in get_args(round_machine.Event)])
    return st.builds(events.Transition, st.just(ROUND), st.integers(100, 120), what)


ANY = st.sampled_from(sorted(events.EVENTS.values(), key=lambda kind: kind.name)).flatmap(any_event) | any_transition()


class TestPage:
    @given(st.lists(ANY, max_size=8), st.integers(20, 200))
    def test_any_journal_makes_a_page_without_control_characters(self, found: list[Event], width: int) -> None:
        entries = [told(f"label-{i % 3}", i, event) for i, event in enumerate(found)]
        story = tell(LedgerRound(tip(), 105), entries)
        text = page(story, width)
        assert all(character.isprintable() or character == "\n" for character in text)
        assert max(map(len, text.splitlines())) <= max(width, 90)
        json.dumps(story.to_json_object())

    def test_a_peer_s_escape_sequences_do_not_reach_the_terminal(self) -> None:
        entry = told("alice\x1b[31m", 1, events.Trouble(ROUND, problem="\x1b[2Jgone\nand more"))
        text = page(tell(LedgerRound(tip(), 105, problems=("\x07",)), [entry]), 120)
        assert "?[2Jgone?and more" in text
        assert "alice?[31m" in text
        assert "\x1b" not in text

    def test_the_run_s_id_is_shortened_in_what_failed(self) -> None:
        run = tip().run_id.hex()
        entry = told("alice", 1, events.Trouble(ROUND, problem=f"no {run}/x"))
        text = page(tell(LedgerRound(tip(), 105), [entry]), 120)
        assert f"no {run[:8]}/x" in text


class TestJournals:
    def test_only_lines_of_the_round_and_of_who_is_who_are_kept_by_time(self, tmp_path: Path) -> None:
        other = events.Applied(0, "round", "", 1, accepted=(), rejected={}, bytes_up=0, bytes_down=0)
        written = {
            "b": [Noted(3, events.Key(ROUND)), Noted(4, events.Key(ROUND + 1)), Noted(4.5, other)],
            "a": [Noted(1, events.Joined(0, hotkey="5A")), Noted(5.5, events.Training(ROUND))],
            "c": [Noted(2, events.Recorded(ROUND - 1, record="ab")), Noted(2, events.Key(ROUND - 1))],
            "d": [Noted(2, events.Recorded(ROUND - 2, record="ab")), Noted(0, events.Started(role="miner", pid=1))],
        }
        for label, noted in written.items():
            (tmp_path / f"{label}.jsonl").write_text("".join(to_json(one) + "\n" for one in noted))
        (tmp_path / "a.log").write_text("no journal\n")
        found = [(entry.time, entry.label, entry.event.name) for entry in read_journals(tmp_path, ROUND)]
        assert found == [(1, "a", "joined"), (2, "c", "recorded"), (3, "b", "key"), (5.5, "a", "training")]

    def test_lines_that_are_none_are_passed_over(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        good = json.dumps({"time": 1, "event": "key", "round": ROUND}).encode()
        long = json.dumps({"time": 1, "event": "key", "round": ROUND, "x": "y" * 2 * MAX_LINE}).encode()
        bad = [b"{", b"[]", b"7", b"\xff\xfe", b'{"event": "key", "round": 3}', b'{"time": "x", "round": 3}', long]
        (tmp_path / "a.jsonl").write_bytes(b"\n".join([*bad, good, b""]) + good)
        assert [entry.time for entry in read_journals(tmp_path, ROUND)] == [1]
        (record,) = caplog.records
        assert record.getMessage().startswith(f"2 lines of {tmp_path}/a.jsonl could not be read")

    def test_no_folder_is_no_journal(self, tmp_path: Path) -> None:
        assert read_journals(tmp_path / "nothing", ROUND) == []

    def test_a_journal_that_cannot_be_read_is_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").mkdir()
        with pytest.raises(StorageError, match="cannot be read"):
            read_journals(tmp_path, ROUND)


def test_an_operator_is_called_by_the_role_that_is_meant() -> None:
    assert NAMES.peer(LEADER.public, "aggregator") == "aggregator-o"
    assert NAMES.peer(LEADER.public, "validator") == "validator-o"
    assert Names().peer(LEADER.public) == LEADER.hotkey[:8]
