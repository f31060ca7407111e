"""A validator that lies in its files harms its own say: no record grows, nobody waits, and the run can be audited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from run_builders import MAX_BYTES, Ledger, Stage, lay_out, play

from muster.audit import Auditor, FaultClass
from muster.lab.nano import counting_miner, nano_template
from muster.lab.simulator import SimulatedRun
from muster.protocol.errors import ScoresFault
from muster.protocol.identity import Identity, hotkey_of, public_of
from muster.protocol.wire import ScoreFile, encode_scores, max_scores_bytes
from muster.testnet.roster import Roster
from muster.validator.gauntlet import scoring

ROUNDS = 5
MINERS = 2
FITS, FAR_TOO_MANY = 12, 800
"""Invented peers that the cap of a score file leaves room for, and many times as many."""

Change = Callable[[ScoreFile], ScoreFile]


def invent(count: int) -> Change:
    """Rows of peers that do not exist, all of them better than any that does."""
    hotkeys = [hotkey_of(i.to_bytes(32, "big")) for i in range(1, count + 1)]

    def change(file: ScoreFile) -> ScoreFile:
        if not file.rows:
            return file
        best = replace(file.rows[0], peer_score=1e6, positive=True)
        rows = (*file.rows, *(replace(best, hotkey=hotkey) for hotkey in hotkeys))
        return replace(file, rows=tuple(sorted(rows, key=lambda row: public_of(row.hotkey))))

    return change


def wrong_record(file: ScoreFile) -> ScoreFile:
    """A record that nobody made."""
    return replace(file, record=b"\xab" * 32)


@pytest.fixture(scope="module")
def nano(texts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Two miners that train nothing, and an operator."""
    return lay_out(tmp_path_factory.mktemp("nano") / "run", texts, nano_template(), Roster.of(3, MINERS, 1, {}))


@pytest.fixture(scope="module")
def honest(nano: Stage) -> SimulatedRun:
    """The run whose validator does not lie."""
    return play(nano, ROUNDS, makers=lambda _: counting_miner)


@pytest.fixture
def lied(nano: Stage, monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], SimulatedRun]:
    """Plays the run with a validator that signs something else than it found."""

    def lie(change: Change) -> SimulatedRun:
        def encode(file: ScoreFile, identity: Identity) -> bytes:
            return encode_scores(change(file), identity)

        monkeypatch.setattr(scoring, "encode_scores", encode)
        return play(nano, ROUNDS, makers=lambda _: counting_miner)

    return lie


def record_sizes(run: SimulatedRun) -> list[int]:
    keys = (Ledger(run).key("records", round_) for round_ in range(ROUNDS + 1))
    return [len(asyncio.run(Ledger(run).leader.get(key, max_bytes=MAX_BYTES))) for key in keys]


def audit_faults(stage: Stage, run: SimulatedRun) -> list[tuple[FaultClass, int | None]]:
    """What an audit finds; whatever it is, the run is replayed whole and closed."""
    report = asyncio.run(Auditor(stage.run, run.chain, run.buckets, lambda _line: None).audit(None))
    assert (report.state_roots, report.not_replayed, report.closed) == (run.state_roots, [], True)
    if report.faults:
        with pytest.raises(ScoresFault):
            report.raise_fault()
    return [(fault.kind, fault.round) for fault in report.faults]


def test_invented_peers_have_no_row_in_any_record(
    nano: Stage, honest: SimulatedRun, lied: Callable[[Change], SimulatedRun]
) -> None:
    run = lied(invent(FITS))
    assert len(Ledger(run).scores(2).rows) == MINERS + FITS, "they were in the file that was used"
    used = [scores for round_ in range(ROUNDS) for scores in Ledger(run).record(round_).scores]
    assert {scores.round for scores in used} == {0, 1, 2}
    known = {member.identity.public for member in nano.roster.members}
    assert {row.public for scores in used for row in scores.rows} <= known
    assert record_sizes(run) == record_sizes(honest)
    assert run.state_roots == honest.state_roots
    assert run.chain.height <= honest.chain.height + 1, "its own looking for them is not waited for"
    assert set(audit_faults(nano, run)) == {(FaultClass.SCORES, round_) for round_ in range(ROUNDS)}


def test_a_file_beyond_the_cap_is_no_file(
    nano: Stage, honest: SimulatedRun, lied: Callable[[Change], SimulatedRun]
) -> None:
    """It is not read any further than the cap, steers nothing, and is waited for once."""
    run = lied(invent(FAR_TOO_MANY))
    size = asyncio.run(Ledger(run).leader.head(Ledger(run).key("scores", 2)))
    assert size is not None
    assert size.size > 10 * max_scores_bytes(nano.spec.data.slots)
    assert all(not scores.rows for round_ in range(ROUNDS) for scores in Ledger(run).record(round_).scores)
    assert max(record_sizes(run)) <= max(record_sizes(honest))
    assert run.state_roots == honest.state_roots
    clock, gauntlet = nano.spec.clock, nano.spec.gauntlet
    assert run.chain.height <= honest.chain.height + 2 * (clock.reveal + gauntlet.score_wait)
    assert {kind for kind, _ in audit_faults(nano, run)} == {FaultClass.SCORES}


def test_a_file_of_a_wrong_record_is_a_fault_of_its_own_and_the_run_is_right(
    nano: Stage, honest: SimulatedRun, lied: Callable[[Change], SimulatedRun]
) -> None:
    run = lied(wrong_record)
    assert all(not Ledger(run).record(round_).scores for round_ in range(ROUNDS)), "nothing it says steers"
    assert run.state_roots == honest.state_roots
    assert run.chain.height <= honest.chain.height + 2 * (nano.spec.clock.reveal + nano.spec.gauntlet.score_wait)
    assert audit_faults(nano, run) == [(FaultClass.SCORES, round_) for round_ in range(ROUNDS)]
