"""What an audit says of a run with faults: all of them, each with its class, and what it could still check."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from run_builders import MAX_BYTES, Ledger, MakeStage, Stage, play

from muster.audit import Auditor, AuditReport, Fault, FaultClass, standing
from muster.audit.evidence import Evidence, genesis
from muster.audit.report import FaultLog
from muster.audit.scores import ScoreFiles
from muster.lab.simulator import SimulatedRun
from muster.protocol import paths, wire
from muster.protocol.chain.base import AnchorSeen
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.errors import AuditError, ScoresFault, UsageError, WireError
from muster.protocol.storage import Store
from muster.protocol.types import Anchor, Block
from muster.protocol.wire import Record, encode_record, encode_scores

ROUNDS = 8
CLOSE = ROUNDS
"""Of the closing record; checkpoints are before every second one, this one too."""

LEADER = "operator-0"


@dataclass(frozen=True, slots=True)
class Case:
    """A finished run, and the means to spoil it."""

    stage: Stage
    run: SimulatedRun

    @property
    def run_id(self) -> bytes:
        return self.stage.run.history.run_id

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.run)

    @property
    def bucket(self) -> Store:
        return self.ledger.leader

    @property
    def hotkey(self) -> str:
        """The one operator's, leader and validator."""
        return self.stage.member(LEADER).hotkey

    def audit(self, chain: VirtualChain | None = None, first_round: int | None = None) -> AuditReport:
        auditor = Auditor(self.stage.run, chain or self.run.chain, self.run.buckets, lambda _line: None)
        return asyncio.run(auditor.audit(first_round))

    def named(self, kind: str, round_: int) -> str:
        """The name of a round's object that has a digest in it."""
        return self.ledger.key(kind, round_)

    @contextmanager
    def changed(self, key: str, data: bytes | None) -> Iterator[None]:
        """Inside, an object has other bytes (None: it is gone)."""
        before = self.read(key)
        self._set(key, data)
        try:
            yield
        finally:
            self._set(key, before)

    def read(self, key: str) -> bytes | None:
        if asyncio.run(self.bucket.head(key)) is None:
            return None
        return asyncio.run(self.bucket.get(key, max_bytes=MAX_BYTES))

    def _set(self, key: str, data: bytes | None) -> None:
        asyncio.run(self.bucket.delete(key) if data is None else self.bucket.put(key, data))

    def showing(self, anchors: Sequence[AnchorSeen]) -> VirtualChain:
        """The chain with other anchors."""
        chain = copy.copy(self.run.chain)
        chain._anchors = list(anchors)
        return chain

    @property
    def anchors(self) -> tuple[AnchorSeen, ...]:
        return asyncio.run(self.run.chain.anchors(0))

    @contextmanager
    def led(self, record: Record) -> Iterator[VirtualChain]:
        """Inside, the leader has signed, stored and anchored another record of a round."""
        data = encode_record(record, self.stage.member(LEADER).identity)
        shown = [seen for seen in self.anchors if seen.anchor.round != record.round]
        anchor = Anchor(record.round, wire.decode_record(data, self.run_id, record.weights.shape[1])[1])
        shown.append(replace(self.anchors[record.round], anchor=anchor))
        bundle = paths.bundle(self.run_id, record.round, anchor.digest)
        with (
            self.changed(paths.record(self.run_id, record.round, anchor.digest), data),
            self.changed(bundle, self.read(self.named("bundles", record.round))),
        ):
            yield self.showing(sorted(shown, key=lambda seen: (seen.block, seen.index)))


@pytest.fixture(scope="module")
def case(stage: MakeStage) -> Case:
    made = stage(miners=2)
    return Case(made, play(made, ROUNDS))


def rounds_of(report: AuditReport, kind: FaultClass) -> dict[str, int | None]:
    """The faults of a class: name and round."""
    return {fault.name: fault.round for fault in report.of(kind)}


def test_a_right_run_has_no_fault(case: Case) -> None:
    report = case.audit()
    assert (report.faults, report.not_replayed, report.closed) == ([], [], True)
    report.raise_fault()
    assert report.to_json_object()["faults"] == []
    assert report.summary().startswith(f"ok; {ROUNDS} rounds from round 0, ")


@pytest.mark.parametrize("kind", ["bundles", "seals"])
def test_what_a_round_needs_is_lost_and_the_replay_goes_on_at_the_next_checkpoint(case: Case, kind: str) -> None:
    lost = case.named(kind, 2)
    later = case.ledger.heads(7)
    with case.changed(lost, None), case.changed(later, b"else"):
        report = case.audit()
    assert rounds_of(report, FaultClass.LEDGER) == {lost: 2, later: 7}
    assert len(report.faults) == 2
    assert report.not_replayed == [2, 3]
    assert report.state_roots == case.run.state_roots[:2] + case.run.state_roots[4:]
    assert (report.rounds, report.closed) == (ROUNDS - 2, True)
    assert f"{ROUNDS - 2} rounds from round 0, 2 not replayed" in report.summary()
    with pytest.raises(AuditError, match=rf"round 2: {lost}: there is no object .* \(and 1 more"):
        report.raise_fault()


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules look back on three records instead of sixteen, so that a short run shows what follows a gap."""
    monkeypatch.setattr(standing, "MEMORY", 3)


@pytest.mark.usefixtures("short_memory")
def test_a_record_is_lost_and_the_rules_are_known_again_when_they_look_back_on_no_gap(case: Case) -> None:
    """Records 1, 2 and 3 are taken at their word; 4 can be judged, and pins θ."""
    lost, later = case.named("records", 0), case.named("bundles", 3)
    with case.changed(lost, None), case.changed(later, b"else"):
        report = case.audit()
    # The run remembers sixteen records, in its manifests too, so from the next checkpoint on these are not the audit's.
    told = {name: round_ for name, round_ in rounds_of(report, FaultClass.LEDGER).items() if round_ < 6}
    assert told == {lost: 0, later: 3}
    assert report.not_replayed == [0, 1, 2, 3]
    assert report.state_roots == case.run.state_roots[4:]
    assert report.closed


def test_a_lost_checkpoint_is_a_fault_of_its_own(case: Case) -> None:
    bundle = case.named("bundles", 2)
    manifest = paths.checkpoint(case.run_id, 4, paths.MANIFEST)
    with case.changed(manifest, None):
        report = case.audit()
        assert rounds_of(report, FaultClass.LEDGER) == {manifest: 4}
        assert report.state_roots == case.run.state_roots
        with case.changed(bundle, None):
            report = case.audit()
    assert rounds_of(report, FaultClass.LEDGER) == {bundle: 2, manifest: 4}
    assert report.not_replayed == [2, 3, 4, 5]
    assert report.state_roots == case.run.state_roots[:2] + case.run.state_roots[6:]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r: replace(r, weights=r.weights * 2), "the weights are not what the accepted submissions give"),
        (
            lambda r: replace(r, unmoved=(0,)),
            "the tensors it leaves alone are not what the accepted submissions give",
        ),
    ],
)
def test_a_record_that_breaks_a_rule_is_named_and_so_is_the_one_that_does_not_follow_it(
    case: Case, change: Callable[[Record], Record], problem: str
) -> None:
    with case.led(change(case.ledger.record(3))) as chain:
        report = case.audit(chain)
    assert [(fault.round, fault.problem) for fault in report.faults if fault.kind is FaultClass.LEDGER] == [
        (3, problem),
        (4, "its parent is another record"),
    ]
    assert report.not_replayed == [3, 4, 5]
    assert report.state_roots == case.run.state_roots[:3] + case.run.state_roots[6:]


def test_a_block_that_the_chain_does_not_have_yet(case: Case) -> None:
    record = case.ledger.record(3)
    assert record.opening is not None
    possess = replace(record.opening.possess, block=Block(10**9, record.opening.possess.block.hash))
    with case.led(replace(record, opening=replace(record.opening, possess=possess))) as chain:
        report = case.audit(chain)
    assert any(f.round == 3 and "it names block 1000000000, and the chain is at" in f.problem for f in report.faults)
    assert report.closed


class TestScores:
    """Faults that are not the ledger's."""

    def published(self, case: Case, round_: int, **changes: Any) -> bytes:
        return encode_scores(replace(case.ledger.scores(round_), **changes), case.stage.member(LEADER).identity)

    @pytest.mark.parametrize("used", [True, False])
    def test_a_file_that_names_a_wrong_record(self, case: Case, *, used: bool) -> None:
        round_ = 2 if used else ROUNDS - 1
        key = case.named("scores", round_)
        with case.changed(key, self.published(case, round_, record=b"\xab" * 32)):
            report = case.audit()
        problems = ["it judges another record than the one anchored on chain"]
        problems += ["the record of round 3 used other scores than these"] * used
        assert report.faults == [Fault(FaultClass.SCORES, round_, key, said, case.hotkey) for said in problems]
        assert (report.state_roots, report.not_replayed, report.closed) == (case.run.state_roots, [], True)
        with pytest.raises(ScoresFault, match=f"round {round_}: {key} of {case.hotkey}: it judges another record"):
            report.raise_fault()

    def test_what_a_validator_says_of_a_sibling_stands_beside_and_is_no_fault(self, case: Case) -> None:
        sibling = b"\xab" * 32
        key = paths.scores(case.run_id, 2, sibling)
        with case.changed(key, self.published(case, 2, record=sibling)):
            assert case.audit().faults == []

    def test_a_file_of_the_ledger_s_record_under_a_sibling_s_name_is_not_there(self, case: Case) -> None:
        key = case.named("scores", 2)
        data = case.read(key)
        with case.changed(key, None), case.changed(paths.scores(case.run_id, 2, b"\xab" * 32), data):
            report = case.audit()
        (fault,) = report.faults
        assert (fault.kind, fault.round, fault.name, fault.hotkey) == (FaultClass.SCORES, 2, key, case.hotkey)

    @pytest.mark.parametrize("anchors", ["all", "the newest"])
    def test_a_lost_record_is_named_by_the_next_one_and_so_is_what_judges_it(self, case: Case, anchors: str) -> None:
        lost, key = case.named("records", 2), case.named("scores", 2)
        chain = case.run.chain if anchors == "all" else case.showing(case.anchors[-1:])
        with case.changed(lost, None), case.changed(key, self.published(case, 2, record=b"\xab" * 32)):
            report = case.audit(chain)
        problem = "the record of round 3 used other scores than these"
        assert report.of(FaultClass.SCORES) == [Fault(FaultClass.SCORES, 2, key, problem, case.hotkey)]
        assert rounds_of(report, FaultClass.LEDGER)[lost] == 2

    @pytest.mark.parametrize("data", [None, b"", b"{}", b"\xff" * 100])
    def test_a_file_that_is_gone_or_no_file(self, case: Case, data: bytes | None) -> None:
        key = case.named("scores", 2)
        with case.changed(key, data):
            report = case.audit()
        (fault,) = report.faults
        assert (fault.kind, fault.round, fault.name, fault.hotkey) == (FaultClass.SCORES, 2, key, case.hotkey)
        assert report.state_roots == case.run.state_roots
        assert report.to_json_object()["faults"] == [
            {"class": "scores", "round": 2, "object": key, "problem": fault.problem, "hotkey": case.hotkey}
        ]

    def test_a_fault_of_the_ledger_counts_for_more(self, case: Case) -> None:
        scores, heads = case.named("scores", 0), case.ledger.heads(5)
        with case.changed(scores, None), case.changed(heads, None):
            report = case.audit()
        assert [fault.kind for fault in report.faults] == [FaultClass.SCORES, FaultClass.LEDGER]
        with pytest.raises(AuditError, match=heads):
            report.raise_fault()

    def test_a_strangers_text_is_bounded_and_printable(self) -> None:
        told: list[str] = []
        report = AuditReport("ab" * 32, 0)
        with FaultLog(report, told.append).noting("an object", 0):
            raise WireError("text", "\x1b[31m" + "x" * 10_000)
        (fault,) = report.faults
        assert told == [f"fault [ledger] {fault}"]
        assert told[0].isprintable()
        assert len(fault.problem) <= 300

    def test_a_record_that_misquotes_the_file_it_names(self, case: Case) -> None:
        """Here it is the leader who lied."""
        record = case.ledger.record(2)
        (taken,) = record.scores
        row = replace(taken.rows[0], score=taken.rows[0].score + 1)
        lie = replace(record, scores=(replace(taken, rows=(row, *taken.rows[1:])),))
        assert self.checked(case, record, case.run.chain, 0) == []
        problem = f"it misquotes the scores of {case.hotkey} that it names"
        name = paths.record(case.run_id, 2, bytes(32))
        assert self.checked(case, lie, case.run.chain, 0) == [Fault(FaultClass.LEDGER, 2, name, problem)]

    def test_a_file_of_a_record_that_nothing_names_is_not_looked_for(self, case: Case) -> None:
        """That the records which would name it are not to be had is told of them."""
        record, key = case.ledger.record(2), case.named("scores", 1)
        newest = case.showing(case.anchors[-1:])
        with case.changed(key, None):
            assert [fault.name for fault in self.checked(case, record, newest, 0)] == [key]
            assert self.checked(case, record, newest, CLOSE) == []

    def checked(self, case: Case, record: Record, chain: VirtualChain, first: int) -> list[Fault]:
        """What is wrong with the scores a record used, by what the chain proves from a round on."""
        report = AuditReport(case.run_id.hex(), 0)

        async def check() -> None:
            tip = await genesis(case.stage.run.history, chain)
            evidence, faults = Evidence(tip, chain, case.run.buckets), FaultLog(report, lambda _line: None)
            await evidence.look(first)
            await ScoreFiles(evidence, report, faults).check_used(record, bytes(32), tip.remembered)

        asyncio.run(check())
        return report.faults


class TestAnchors:
    """What the chain shows, and what the bucket holds."""

    def test_records_that_no_anchor_names_are_told(self, case: Case) -> None:
        report = case.audit(case.showing([seen for seen in case.anchors if seen.anchor.round < 5]))
        assert report.state_roots == case.run.state_roots[:5]
        (fault,) = report.faults
        assert (fault.kind, fault.round) == (FaultClass.UNANCHORED, 5)
        assert fault.name == case.named("records", 5)
        assert "nor the 3 after it" in fault.problem
        assert not report.closed
        report.raise_fault()

    def test_a_record_after_the_end_is_told(self, case: Case) -> None:
        key = paths.record(case.run_id, CLOSE + 1, bytes(32))
        with case.changed(key, b"anything"):
            report = case.audit()
        assert rounds_of(report, FaultClass.UNANCHORED) == {key: CLOSE + 1}
        assert report.closed

    def test_what_is_anchored_while_the_audit_goes_on_is_audited_too(self, case: Case) -> None:
        chain = case.showing([seen for seen in case.anchors if seen.anchor.round < 5])
        asked: list[int] = []
        plain, whole = chain.anchors, list(case.anchors)

        async def anchors(round_: int) -> tuple[AnchorSeen, ...]:
            asked.append(round_)
            if len(asked) == 2:
                chain._anchors = whole
            return await plain(round_)

        chain.anchors = anchors  # type: ignore[method-assign]
        report = case.audit(chain)
        assert (report.faults, report.state_roots) == ([], case.run.state_roots)
        assert len(asked) == 2

    @pytest.mark.usefixtures("short_memory")
    @pytest.mark.parametrize(("round_", "not_replayed"), [(3, [3, 4, 5, 6, 7]), (CLOSE, [CLOSE])])
    def test_a_record_that_is_anchored_and_not_there(self, case: Case, round_: int, not_replayed: list[int]) -> None:
        key = case.named("records", round_)
        with case.changed(key, None):
            report = case.audit()
        assert rounds_of(report, FaultClass.LEDGER) == {key: round_}
        assert report.not_replayed == not_replayed
        with pytest.raises(AuditError, match=key):
            report.raise_fault()

    def test_an_anchor_of_a_round_that_never_was(self, case: Case) -> None:
        """It must not send the audit through a million millions of rounds."""
        far = replace(case.anchors[-1], anchor=Anchor(10**12, bytes(32)), block=10**6)
        name, last = paths.record(case.run_id, 10**12, bytes(32)), case.named("records", CLOSE)
        with case.changed(last, None):
            report = case.audit(case.showing([*case.anchors[:CLOSE], far]))
        unknown = paths.records(case.run_id, CLOSE)  # nothing says what its digest was
        assert rounds_of(report, FaultClass.LEDGER) == {unknown: CLOSE, name: 10**12}
        assert report.not_replayed == [CLOSE, 10**12]
        assert report.state_roots == case.run.state_roots

    def test_records_that_no_anchor_leads_back_to_are_told(self, case: Case) -> None:
        """A chain without its memory of anchors, and a record that is gone: those before it are proven by nothing."""
        gone, first = case.named("records", 5), case.named("records", 0)
        with case.changed(gone, None):
            report = case.audit(case.showing(case.anchors[-1:]))
        assert rounds_of(report, FaultClass.LEDGER) == {gone: 5}
        assert rounds_of(report, FaultClass.UNANCHORED) == {first: 0}
        assert report.state_roots == case.run.state_roots[:5]

    def test_anchors_of_others_decide_nothing(self, case: Case) -> None:
        stranger = case.stage.member("miner-0").hotkey
        shown = [replace(seen, hotkey=stranger, anchor=Anchor(seen.anchor.round, bytes(32))) for seen in case.anchors]
        assert case.audit(case.showing([*shown, *case.anchors])) == case.audit()

    def test_nothing_is_anchored(self, case: Case) -> None:
        with pytest.raises(AuditError, match="no records yet"):
            case.audit(case.showing([]))
        with pytest.raises(UsageError, match="no record of round 2 is anchored"):
            case.audit(case.showing([]), first_round=2)
