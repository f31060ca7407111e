"""The audit finds any wrong byte of a run, and says in which object and which round."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pytest
from builders import split_fields
from hypothesis import given, settings
from hypothesis import strategies as st
from run_builders import MAX_BYTES, Ledger, MakeStage, Stage, play

from muster.audit import Auditor, AuditReport, FaultClass
from muster.lab import clock
from muster.lab.faults import Fault, Script
from muster.lab.faulty import FaultyBuckets
from muster.lab.simulator import SimulatedRun
from muster.protocol.errors import AuditError, ConfigError, ScoresFault, UsageError
from muster.protocol.identity import SIGNATURE_BYTES
from muster.protocol.storage import Store
from muster.protocol.wire import PREFIX_BYTES
from muster.run.folder import RunDirectory

ROUNDS = 4
CHECKPOINTS = (2, ROUNDS)
"""Rounds before whose record θ is kept: every second one, and the closing one."""

AUDITED = ("/seals/", "/records/", "/bundles/", "/checkpoints/", "/scores/")


@dataclass(frozen=True, slots=True)
class Case:
    """A finished run and where it lies."""

    stage: Stage
    run: SimulatedRun

    @property
    def bucket(self) -> Store:
        """The leader's bucket."""
        return self.run.buckets.bucket("mem:operator-0")

    def audit(self, first_round: int | None = None, folder: RunDirectory | None = None) -> AuditReport:
        """Replay it."""
        auditor = Auditor(folder or self.stage.run, self.run.chain, self.run.buckets, lambda _line: None)
        return asyncio.run(auditor.audit(first_round))

    def objects(self) -> list[str]:
        """Every object of the leader's bucket that belongs to the ledger."""
        found = asyncio.run(self.bucket.list())
        return [i.key for i in found if any(part in i.key for part in AUDITED) and not i.key.endswith(".made")]

    def named(self, kind: str, round_: int) -> str:
        """The name of a round's object that has a digest in it."""
        return Ledger(self.run).key(kind, round_)

    def read(self, key: str) -> bytes:
        """The bytes of an object."""
        return asyncio.run(self.bucket.get(key, max_bytes=MAX_BYTES))

    @contextmanager
    def changed(self, key: str, data: bytes | None) -> Iterator[None]:
        """Inside, an object has other bytes (None: it is gone)."""
        before = self.read(key)
        asyncio.run(self.bucket.delete(key) if data is None else self.bucket.put(key, data))
        try:
            yield
        finally:
            asyncio.run(self.bucket.put(key, before))


@pytest.fixture(scope="module")
def case(stage: MakeStage) -> Case:
    """Four rounds in which every kind of object and of rejection occurs, a null round among them."""
    made = stage(adversaries={"no_key": 1, "garbage": 1}, clock={"min_submissions": 2})
    return Case(made, play(made, ROUNDS, absent=lambda name, round_: round_ == 1 and name != "miner-0"))


def round_of(key: str) -> int:
    """The round in the name of an object."""
    parts = key.split("/")
    return int(parts[2] if parts[1] == "checkpoints" else parts[2][:8])


def sections(key: str, data: bytes) -> list[int]:
    """Where the parts of an object begin, its end included."""
    if key.endswith((".seal", ".rec")):
        body = data[PREFIX_BYTES:-SIGNATURE_BYTES]
        fields = list(accumulate((6 + len(value) for _, value in split_fields(body)), initial=PREFIX_BYTES))
        return [0, 4, 5, 6, 8, 12, *fields, len(data)]
    if key.endswith(".safetensors"):
        return [0, 8, 8 + int.from_bytes(data[:8], "little"), len(data)]
    return [0, len(data)]


def flipped(data: bytes, offset: int, bit: int = 0) -> bytes:
    """The bytes with one wrong bit."""
    changed = bytearray(data)
    changed[offset] ^= 1 << bit
    return bytes(changed)


def fails(case: Case, key: str, first_round: int | None = None) -> AuditReport:
    """The audit names the object and its round, and whether it is the ledger that is wrong; its report."""
    report = case.audit(first_round)
    kind = FaultClass.SCORES if "/scores/" in key else FaultClass.LEDGER
    (fault,) = [fault for fault in report.faults if fault.name == key]
    assert (fault.kind, fault.round) == (kind, round_of(key))
    with pytest.raises(ScoresFault if kind is FaultClass.SCORES else AuditError, match=f"round {fault.round}: "):
        report.raise_fault()
    return report


def test_it_reproduces_every_root_from_genesis(case: Case) -> None:
    report = case.audit()
    assert report.state_roots == case.run.state_roots
    assert (report.rounds, report.first_round, report.checkpoints, report.closed) == (ROUNDS, 0, 2, True)
    assert report.accepted == 3 + 0 + 3 + 3
    assert report.state_root == case.run.state_roots[-1]


@pytest.mark.parametrize("first_round", CHECKPOINTS)
def test_it_reproduces_the_rest_from_every_checkpoint(case: Case, first_round: int) -> None:
    report = case.audit(first_round)
    assert (report.first_round, report.closed) == (first_round, True)
    assert report.state_roots == case.run.state_roots[first_round:]


def test_scores_of_rounds_before_its_start_are_compared_too(case: Case) -> None:
    """The first record it replays used them; which record they are of, those before it say."""
    start = CHECKPOINTS[0]
    key = case.named("scores", start - case.stage.spec.gauntlet.lag)
    with case.changed(key, None):
        fails(case, key, start)
    assert case.audit(start).faults == []


@pytest.mark.parametrize("first_round", [1, 3, ROUNDS + 1, 99])
def test_it_starts_at_checkpoints_only(case: Case, first_round: int) -> None:
    with pytest.raises(UsageError, match=f"round {first_round}"):
        case.audit(first_round)


def test_every_kind_of_object_is_among_those_that_are_tried(case: Case) -> None:
    objects = case.objects()
    for kind, count in (("seals", ROUNDS + 1), ("records", ROUNDS + 1), ("scores", ROUNDS)):
        rounds = [round_of(key) for key in objects if f"/{kind}/" in key and not key.endswith(".heads")]
        assert rounds == list(range(count))
    assert Ledger(case.run).heads(0) in objects
    rounds = [round_of(key) for key in objects if "/bundles/" in key]
    assert rounds == [0, 2, 3], "a null record has nothing to apply"
    assert sum(key.endswith(".safetensors") for key in objects) == len(CHECKPOINTS)


@pytest.mark.slow
def test_the_first_and_last_byte_of_every_section_of_every_object(case: Case) -> None:
    for key in case.objects():
        data, starts = case.read(key), sections(key, case.read(key))
        offsets = {o for start in starts for o in (start - 1, start) if 0 <= o < len(data)}
        for offset in sorted(offsets):
            with case.changed(key, flipped(data, offset)):
                fails(case, key)
    assert case.audit().closed, "the run itself is as it was"


@settings(max_examples=50, deadline=None)  # each is an audit of the whole run
@given(data=st.data())
def test_any_byte_of_any_object(case: Case, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(case.objects()))
    whole = case.read(key)
    offset, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    with case.changed(key, flipped(whole, offset, bit)):
        fails(case, key)


def test_any_missing_truncated_or_longer_object(case: Case) -> None:
    used = ROUNDS - case.stage.spec.gauntlet.lag
    for key in case.objects():
        whole = case.read(key)
        changes: list[bytes | None] = [whole[:-1], whole + b"\0"]
        # A validator may be away; only scores that a record says it used have to be there.
        # So may a bundle be gone before which there is none; tests/runs/test_kept.py has more of these.
        gone = ("/scores/" not in key or round_of(key) < used) and "/bundles/00000000-" not in key
        changes += [None] if gone else []
        for change in changes:
            with case.changed(key, change):
                fails(case, key)


def test_two_records_that_changed_places(case: Case) -> None:
    one, two = (case.named("records", round_) for round_ in (2, 3))
    with case.changed(one, case.read(two)), case.changed(two, case.read(one)):
        fails(case, one)


@pytest.mark.parametrize("kind", ["seals", "heads", "bundles", "scores"])
def test_two_objects_of_another_kind_that_changed_places(case: Case, kind: str) -> None:
    one, two = (Ledger(case.run).heads(r) if kind == "heads" else case.named(kind, r) for r in (0, 2))
    with case.changed(one, case.read(two)), case.changed(two, case.read(one)):
        fails(case, one)


def test_a_checkpoint_with_another_theta_is_not_a_start(case: Case) -> None:
    (shard,) = [key for key in case.objects() if key.endswith(".safetensors") and round_of(key) == 2]
    with case.changed(shard, flipped(case.read(shard), -1)):
        with pytest.raises(AuditError, match=r"round 2: .*checkpoints/00000002/.*model-\d+-of-\d+\.safetensors"):
            case.audit(2).raise_fault()
        assert case.audit(ROUNDS).closed, "another checkpoint is"


@pytest.fixture
def copy(case: Case, tmp_path: Path) -> Path:
    """The run's folder, to be spoiled."""
    folder = tmp_path / "copy"
    shutil.copytree(case.stage.run.path, folder)
    return folder


@pytest.mark.parametrize("name", ["train.bin", "heldout.bin", "manifest.json"])
@pytest.mark.parametrize("offset", [0, -1, 100])
def test_changed_text(case: Case, copy: Path, name: str, offset: int) -> None:
    path = copy / "data" / name
    path.write_bytes(flipped(path.read_bytes(), offset))
    with pytest.raises(AuditError, match=f"the training text: .*{name}"):
        case.audit(folder=RunDirectory.open(str(copy))).raise_fault()


def test_missing_text(case: Case, copy: Path) -> None:
    (copy / "data" / "train.bin").unlink()
    with pytest.raises(AuditError, match=r"the training text: .*train\.bin"):
        case.audit(folder=RunDirectory.open(str(copy))).raise_fault()


def test_a_changed_spec_is_another_run(case: Case, copy: Path) -> None:
    path = copy / "spec.json"
    path.write_bytes(path.read_bytes().replace(b'"reveal":5', b'"reveal":6'))
    with pytest.raises(ConfigError, match=r"spec\.json is the spec of another run"):
        RunDirectory.open(str(copy))


def test_any_changed_byte_of_the_spec(case: Case, copy: Path) -> None:
    path = copy / "spec.json"
    whole = path.read_bytes()
    for offset in range(0, len(whole), 37):
        path.write_bytes(flipped(whole, offset))
        with pytest.raises(ConfigError):
            RunDirectory.open(str(copy))


def test_bundles_come_while_rounds_are_replayed_and_each_object_once(case: Case) -> None:
    """However slow the bucket is, it is waited for once and not in every round."""
    slow = Fault("slow", "store.get", "*.bin", seconds=10.0)
    script = Script([slow])
    buckets = FaultyBuckets(case.run.buckets, script, lambda: 0, "auditor")

    async def audit() -> tuple[AuditReport, float]:
        report = await Auditor(case.stage.run, case.run.chain, buckets, lambda _line: None).audit(None)
        return report, asyncio.get_running_loop().time()

    report, took = clock.run(audit())
    assert (report.faults, report.closed) == ([], True)
    assert took < 3 * 10.0 <= script.fired[slow] * 10.0, "the first, and those after it together"
    objects = [key for key in case.objects() if key.endswith((".rec", ".seal", ".bin"))]
    assert script.asked("auditor", "store.get", "*s.rec") == sum(key.endswith(".rec") for key in objects)
    assert script.asked("auditor", "store.get", "seals.seal") == sum(key.endswith(".seal") for key in objects)
    assert script.asked("auditor", "store.get", "bundles.bin") == sum(key.endswith(".bin") for key in objects)
