"""Judgements are functions of facts: each threshold, and that no failure is without a fix and a status."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from builders import run_spec
from hypothesis import given
from hypothesis import strategies as st

from muster.doctor import checks
from muster.doctor.facts import (
    BucketFacts,
    ChainFacts,
    ClockFacts,
    GpuFacts,
    KeyFacts,
    LeaderFacts,
    MemberFacts,
    SoftwareFacts,
    SpaceFacts,
    SpeedFacts,
    TransferFacts,
)
from muster.doctor.finding import MACHINE_STATUS, Finding, Status, exit_status
from muster.doctor.fit import USABLE, Fit, fit_of
from muster.doctor.needs import Needs, needs
from muster.doctor.report import conclusion, json_object, line
from muster.doctor.software import PYTHON_OLDEST, TORCH_BEFORE, TORCH_OLDEST, judge_software
from muster.node.compute import CPU, Card, Machine, choose
from muster.node.wished import Device
from muster.plan.memory import Item, Phase, Place, Plan
from muster.protocol.chain.commitments import CommitSpace
from muster.protocol.errors import ChainError, ConfigError, NotRegistered, StorageError
from muster.protocol.spec import ChainSpec, load_template, preset_names
from muster.protocol.spec.layout import layout_of
from muster.protocol.storage.pointer import committed_text
from muster.protocol.types import Origin, Role

GIB = 1 << 30
ORIGIN = Origin("bittensor", bytes(32), 3, 500)
LOCATION = "s3://reader:secret-of-reader@example.org/bucket"
SHORTER = "a shorter host, bucket or prefix, a public bucket, or a bootstrap (the setting) that is short"
SPEC = run_spec(clock={"min_blocks": 100, "deadline": 150})
"""At 12 s a block a round of 1,800 s, 600 s of them for transfers."""

SOFTWARE = SoftwareFacts((3, 12), "2.13.0+cpu", "", "0.61.0", "", "3.7.1", "")
CARD = Card("NVIDIA B200", 180 * GIB, (10, 0))
GPU = GpuFacts(Machine(CARD, "", "", bf16=True), 1, "570.86.10", "12.8")
NO_CARD = Machine(
    None, "torch 2.13.0+cpu is built for CPUs only", "install torch's build for your CUDA version", bf16=False
)
NO_GPU = GpuFacts(NO_CARD, 0, "", "")
SPACE = SpaceFacts(16 * GIB, 12 * GIB, "state", 50 * GIB)
ITEMS = tuple(
    Item("all", place, count * GIB, frozenset(Phase), "planted") for place, count in ((Place.HOST, 8), (Place.DISK, 20))
)
PLAN = Plan(Role.MINER, 0, ITEMS)
NEEDS = Needs(PLAN, 10**9, 10**10)
MEMBER = MemberFacts("5Hot", 3, 10**12, permit=True, location=LOCATION, registers_itself=False)
BUCKET = BucketFacts(LOCATION, False, "", "", "", True)


class TestSoftware:
    """Versions."""

    def test_the_limits_are_those_of_pyproject(self) -> None:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
        oldest, before = (".".join(map(str, pair)) for pair in (TORCH_OLDEST, TORCH_BEFORE))
        assert f"torch>={oldest},<{before}" in project["dependencies"]
        assert project["requires-python"] == f">={PYTHON_OLDEST[0]}.{PYTHON_OLDEST[1]}"

    @pytest.mark.parametrize(
        ("changed", "status", "said"),
        [
            ({}, Status.OK, "numba 0.61.0"),
            ({"triton": "", "triton_problem": "it is not installed"}, Status.OK, "no triton"),
            ({"numba_problem": "No module named 'llvmlite'"}, Status.WARN, "llvmlite"),
            ({"python": (3, 10)}, Status.FAIL, "too old"),
            ({"torch": "2.3.1"}, Status.FAIL, "not made for this torch"),
            ({"torch": "2.15.0+cu128"}, Status.FAIL, "not made for this torch"),
            ({"torch": "", "torch_problem": "libcudart.so.12: cannot open"}, Status.FAIL, "libcudart"),
        ],
    )
    def test_versions(self, changed: dict[str, object], status: Status, said: str) -> None:
        finding = judge_software(replace(SOFTWARE, **changed))  # type: ignore[arg-type]
        assert finding.status is status
        assert said in finding.text
        assert finding.exit_status == (MACHINE_STATUS if status is Status.FAIL else 0)

    def test_a_gpu(self) -> None:
        found = checks.judge_gpu(GPU, SOFTWARE, "auto")
        assert found.status is Status.OK
        assert "180 GiB, compute capability 10.0" in found.text
        assert "first one is used" in checks.judge_gpu(replace(GPU, count=8), SOFTWARE, "auto").text
        assert checks.judge_gpu(GPU, replace(SOFTWARE, triton_problem="broken"), "auto").status is Status.WARN

    def test_no_gpu(self) -> None:
        assert checks.judge_gpu(NO_GPU, SOFTWARE, "auto").text == "no GPU: this machine computes on its CPU"
        wanted = checks.judge_gpu(NO_GPU, SOFTWARE, "cuda")
        assert (wanted.status, wanted.exit_status) == (Status.FAIL, ConfigError.exit_status)
        assert wanted.fix.endswith("set device to cpu")

    @pytest.mark.parametrize(
        ("problem", "cure"),
        [
            (NO_CARD.problem, NO_CARD.cure),
            ("torch finds no GPU with a driver (the driver is too old)", "install NVIDIA's"),
            ("the first GPU fails (no kernel image is available)", "install a torch build that knows this card"),
        ],
    )
    @pytest.mark.parametrize(("wished", "status"), [("auto", Status.WARN), ("cuda", Status.FAIL), ("cpu", Status.OK)])
    def test_a_gpu_that_cannot_be_used(self, problem: str, cure: str, wished: Device, status: Status) -> None:
        facts = GpuFacts(Machine(None, problem, cure, bf16=False), 0, "570.86.10", "")
        found = checks.judge_gpu(facts, SOFTWARE, wished)
        assert found.status is status
        assert wished == "cpu" or (problem in found.text and cure in found.fix)


class TestSpeed:
    """Inner steps against the round."""

    def test_a_round_must_be_trained_before_it_is_sealed(self) -> None:
        deadline = 1800 / SPEC.inner.steps
        assert checks.judge_speed(SpeedFacts(deadline * 0.99, estimated=True), SPEC, 12.0).status is Status.OK
        slow = checks.judge_speed(SpeedFacts(deadline * 1.01, estimated=True), SPEC, 12.0)
        assert slow.status is Status.FAIL
        assert "30 min" in slow.text
        assert "estimated" in slow.text

    def test_what_is_estimated_of_a_gpu_refuses_nothing(self) -> None:
        slow = checks.judge_speed(SpeedFacts(1e9, True, "card"), SPEC, 12.0)
        assert slow.status is Status.WARN
        assert checks.judge_speed(SpeedFacts(1e9, False, "card"), SPEC, 12.0).status is Status.FAIL

    def test_without_a_chain_nobody_knows(self) -> None:
        assert checks.judge_speed(SpeedFacts(1e9, estimated=True), SPEC, None).status is Status.OK


class TestSpace:
    """Memory and disk against what the spec needs."""

    @pytest.mark.parametrize(
        ("memory", "available", "status"),
        [(9, 9, Status.OK), (9, 7, Status.WARN), (7, 7, Status.FAIL)],
    )
    def test_memory(self, memory: int, available: int, status: Status) -> None:
        finding = checks.judge_memory(
            replace(SPACE, memory_bytes=memory * GIB, memory_available=available * GIB),
            Fit(PLAN, 0),
            Role.MINER,
        )
        assert finding.status is status
        assert "8 GiB" in finding.text

    @pytest.mark.parametrize(("free", "status"), [(41, Status.OK), (30, Status.WARN), (19, Status.FAIL)])
    def test_disk(self, free: int, status: Status) -> None:
        finding = checks.judge_disk(replace(SPACE, disk_available=free * GIB), PLAN, Role.MINER)
        assert finding.status is status

    # The layout of the largest takes seconds.
    @pytest.mark.parametrize("preset", sorted(set(preset_names()) - {"72b"}))
    def test_a_miner_needs_more_than_what_it_holds(self, preset: str) -> None:
        template = load_template(preset)
        parameters = layout_of(template.model).parameters
        miner, validator, aggregator = (needs(template, role) for role in Role)
        assert miner.plan.host > 24 * parameters  # θ, working copy, gradients, moments, error feedback
        assert min(miner.plan.host, validator.plan.host) > aggregator.plan.host > 4 * parameters
        assert miner.plan.disk == pytest.approx(24 * parameters + 2 * miner.up, rel=1e-3)
        assert validator.plan.disk < 10 * validator.down
        assert needs(template, Role.AGGREGATOR, local_bucket=True).plan.disk > 8 * parameters
        assert needs(template, Role.MINER, text_bytes=5).plan.disk == miner.plan.disk + 5
        assert miner.down == miner.up * template.gauntlet.seats

    def test_a_miner_that_fits_otherwise_is_told_how(self) -> None:
        template = load_template("150m")
        fit = fit_of(template, Role.MINER, CPU, None, 12 * GIB)
        finding = checks.judge_memory(replace(SPACE, memory_bytes=12 * GIB), fit, Role.MINER)
        assert (finding.status, finding.exit_status) == (Status.FAIL, MACHINE_STATUS)
        assert "this machine has only 12 GiB" in finding.text
        assert finding.fix == "set micro_batch to 4; that fits"
        assert fit_of(template, Role.MINER, replace(CPU, micro_batch=4), None, 12 * GIB).way == ""

    def test_what_fits_in_no_way(self) -> None:
        fit = fit_of(load_template("1b"), Role.MINER, CPU, None, 8 * GIB)
        finding = checks.judge_memory(replace(SPACE, memory_bytes=8 * GIB), fit, Role.MINER)
        assert finding.status is Status.FAIL
        assert finding.fix.startswith("use a machine (or a container limit) with at least")

    @pytest.mark.parametrize(
        ("preset", "card", "status", "said"),
        [
            ("150m", 180, Status.OK, "of the GPU's memory"),
            ("1b", 80, Status.OK, "make do by itself: bf16 products, 4 windows at a time"),
            ("1b", 32, Status.FAIL, "moments to 8bit; that fits"),
            ("8b", 80, Status.FAIL, "and the most sparing settings"),
        ],
    )
    def test_a_gpu(self, preset: str, card: int, status: Status, said: str) -> None:
        template, found = load_template(preset), Card("card", card * GIB, (9, 0))
        compute, _ = choose(Machine(found, "", "", bf16=True))
        fit = fit_of(template, Role.MINER, compute, found, 900 * GIB)
        finding = checks.judge_memory(SpaceFacts(900 * GIB, 800 * GIB, "state", 0), fit, Role.MINER)
        assert finding.status is status
        assert said in finding.text + finding.fix
        assert fit.card == int(USABLE * card * GIB)


class TestClock:
    """Seconds apart."""

    @pytest.mark.parametrize(
        ("ahead", "status"),
        [(0.2, Status.OK), (-29, Status.OK), (30, Status.WARN), (-899, Status.WARN), (900, Status.FAIL)],
    )
    def test_thresholds(self, ahead: float, status: Status) -> None:
        finding = checks.judge_clock(ClockFacts("example.org", ahead))
        assert finding.status is status
        assert ("ahead of" if ahead > 0 else "behind") in finding.text


class TestBucket:
    """What came of writing, reading and deleting."""

    @pytest.mark.parametrize(
        ("changed", "status"),
        [
            ({}, Status.OK),
            ({"shared_folder": True}, Status.OK),
            ({"delete": "refused"}, Status.WARN),
            ({"write": "refused"}, Status.FAIL),
            ({"read": "refused"}, Status.FAIL),
            ({"public_write_refused": False}, Status.FAIL),
        ],
    )
    def test_outcomes(self, changed: dict[str, object], status: Status) -> None:
        finding = checks.judge_bucket(replace(BUCKET, **changed))  # type: ignore[arg-type]
        assert finding.status is status
        assert "secret-of-reader" not in repr(finding)
        assert finding.exit_status == (StorageError.exit_status if status is Status.FAIL else 0)

    @pytest.mark.parametrize(
        ("seconds", "status"),
        [(50.0, Status.OK), (60.0, Status.WARN), (170.0, Status.FAIL)],
    )
    def test_transfers_are_scaled_to_a_round(self, seconds: float, status: Status) -> None:
        # A tenth of the submission and a hundredth of the bundle were timed: together 11 times as long as told.
        facts = TransferFacts(10**8, up_seconds=seconds, down_seconds=seconds / 100)
        finding = checks.judge_bandwidth(facts, NEEDS, SPEC, 12.0)
        assert finding.status is status
        assert f"{seconds / 6:.3g} min" in finding.text

    def test_a_bucket_without_a_round_length(self) -> None:
        assert checks.judge_bandwidth(TransferFacts(1, 1e9, 1e9), NEEDS, SPEC, None).status is Status.OK


class TestChain:
    """Its time, registration and the committed location."""

    def test_a_chain_tells_its_time(self) -> None:
        finding = checks.judge_chain(ChainFacts("subnet 3", 1000, 12.0, ORIGIN), ChainSpec.of(ORIGIN))
        assert finding.status is Status.OK
        assert "block 1000" in finding.text
        assert "12 s" in finding.text

    def test_another_chain_than_the_runs(self) -> None:
        """For one, a subnet that was dissolved and whose number somebody else has now."""
        other = ChainFacts("subnet 3", 1000, 12.0, replace(ORIGIN, registered=501))
        finding = checks.judge_chain(other, ChainSpec.of(ORIGIN))
        assert finding.status is Status.FAIL
        assert "registered in block 501" in finding.text
        assert "registered in block 500" in finding.text
        assert finding.exit_status == ConfigError.exit_status

    @pytest.mark.parametrize(
        ("length", "shortest", "fix"),
        [
            (59, 12, ""),
            (59, 11, "have the run's owner raise clock.min_blocks to at least 11: no location is short enough"),
            (60, 12, f"use a location of at most 59 bytes: {SHORTER}"),
            (60, 13, ""),
            (60, 11, "have the run's owner raise clock.min_blocks to at least 11: no location is short enough"),
            (140, 22, f"use a location of at most 131 bytes: {SHORTER}"),
            (140, 23, ""),
        ],
    )
    def test_a_leaders_anchors_fit_the_chain(self, length: int, shortest: int, fix: str) -> None:
        clock = SPEC.clock.model_copy(update={"min_blocks": shortest - 1})
        finding = checks.judge_anchors("x" * length, CommitSpace(3100, 360), clock)
        assert (finding.status, finding.fix) == (Status.FAIL if fix else Status.OK, fix)
        assert f"the shortest round lasts {shortest} blocks" in finding.text

    def test_a_location_that_no_epoch_has_room_for(self) -> None:
        finding = checks.judge_anchors("x" * 300, CommitSpace(200, 360), SPEC.clock)
        assert (finding.status, finding.exit_status) == (Status.FAIL, ChainError.exit_status)

    def test_a_pointer_is_as_long_as_it_is(self) -> None:
        """Two hundred bytes of location in the hello cost what their 31 bytes on chain cost."""
        clock = SPEC.clock.model_copy(update={"min_blocks": 11})
        whole, bootstrap = f"s3://reader:{'s' * 128}@example.org/bucket", "s3://example.org/bucket"
        assert checks.judge_anchors(whole, CommitSpace(3100, 360), clock).status is Status.FAIL
        assert checks.judge_anchors(committed_text(whole, bootstrap), CommitSpace(3100, 360), clock).status is Status.OK

    def test_a_pointer_stands_for_its_location(self) -> None:
        bootstrap = "s3://example.org/bucket"
        member = replace(MEMBER, location=committed_text(LOCATION, bootstrap))
        assert checks.judge_location(member, LOCATION, "", bootstrap).status is Status.OK
        assert checks.judge_location(member, f"{LOCATION}/moved", "", bootstrap).exit_status == ConfigError.exit_status
        whole = checks.judge_location(member, LOCATION, "")
        assert whole.exit_status == ConfigError.exit_status, "a bootstrap that is not set any more"
        assert "secret-of-reader" not in whole.text
        lost = checks.judge_location(member, LOCATION, "there is no hello", bootstrap)
        assert lost.exit_status == StorageError.exit_status

    def test_an_unregistered_hotkey(self) -> None:
        finding = checks.judge_registration(replace(MEMBER, uid=None), Role.MINER, (), 3)
        assert finding.status is Status.FAIL
        assert finding.exit_status == NotRegistered.exit_status
        assert finding.fix.endswith("btcli subnets register --netuid 3")
        local = replace(MEMBER, uid=None, registers_itself=True)
        assert checks.judge_registration(local, Role.MINER, (), None).status is Status.OK
        assert checks.judge_registration(local, Role.VALIDATOR, (), None).status is Status.WARN

    def test_operators_need_permit_and_place(self) -> None:
        assert checks.judge_registration(MEMBER, Role.VALIDATOR, (), 3).status is Status.OK
        assert checks.judge_registration(MEMBER, Role.AGGREGATOR, ("5Hot",), 3).status is Status.OK
        unlisted = checks.judge_registration(MEMBER, Role.AGGREGATOR, ("5Other",), 3)
        assert unlisted.status is Status.WARN, "an amendment may list it"
        assert "muster spec show" in unlisted.fix
        poor = checks.judge_registration(replace(MEMBER, permit=False, stake=5 * 10**8), Role.VALIDATOR, (), 3)
        assert poor.status is Status.FAIL
        assert "stake of 0.5" in poor.text
        assert "btcli stake add" in poor.fix
        assert checks.judge_registration(replace(MEMBER, permit=False), Role.MINER, (), 3).status is Status.OK

    def test_location(self) -> None:
        assert checks.judge_location(MEMBER, LOCATION, "").status is Status.OK
        assert checks.judge_location(replace(MEMBER, location=None), LOCATION, "").status is Status.OK
        hidden = checks.judge_location(MEMBER, LOCATION, "the key may not do this")
        assert hidden.exit_status == StorageError.exit_status
        rotated = checks.judge_location(MEMBER, LOCATION.replace("reader:", "reader2:"), "")
        assert rotated.exit_status == ConfigError.exit_status
        assert "another read credential" in rotated.text
        assert "secret-of-reader" not in repr((hidden, rotated))

    def test_the_one_leader(self) -> None:
        assert checks.judge_leaders([LeaderFacts("5Hot", "muster 0.1.0")]).status is Status.OK
        conflict = LeaderFacts("5Hot", "muster 9.0.0", "it reads the codecs [2], not 1")
        assert checks.judge_leaders([conflict]).status is Status.WARN
        assert checks.judge_leaders([LeaderFacts("5Hot")]).status is Status.WARN
        gone = checks.judge_leaders([LeaderFacts("5Hot", unreadable="no such bucket")])
        assert gone.exit_status == StorageError.exit_status

    @pytest.mark.parametrize(
        ("there", "gone", "status"),
        [(2, 0, Status.OK), (1, 1, Status.WARN), (1, 2, Status.WARN), (0, 2, Status.FAIL), (0, 3, Status.FAIL)],
    )
    def test_a_list_goes_on_while_one_of_it_is_there(self, there: int, gone: int, status: Status) -> None:
        known = [LeaderFacts(f"5There{i}", "muster 0.1.0") for i in range(there)]
        lost = [LeaderFacts(f"5Gone{i}", unreadable="no such bucket") for i in range(gone)]
        found = checks.judge_leaders([*lost, *known])
        assert found.status is status
        assert found.text.startswith(f"{there + gone} aggregators close the rounds in turn: ")
        assert all(f"5Gone{i} has a bucket that cannot be read: no such bucket" in found.text for i in range(gone))
        assert bool(found.fix) == (status is not Status.OK)

    def test_one_of_a_list_without_a_hello_is_told(self) -> None:
        found = checks.judge_leaders([LeaderFacts("5Hot", "muster 0.1.0"), LeaderFacts("5New")])
        assert found.status is Status.WARN
        assert "5New has not written its hello yet" in found.text


class TestReport:
    """What people and programs are told."""

    def test_key_modes(self) -> None:
        assert checks.judge_key(KeyFacts("k", "5Hot", 0o600)).status is Status.OK
        for mode in (0o640, 0o604, 0o644):
            assert checks.judge_key(KeyFacts("k", "5Hot", mode)).fix == "chmod 600 k"

    @given(st.lists(st.sampled_from(Status)), st.integers(1, 20))
    def test_the_first_failure_decides(self, statuses: list[Status], first: int) -> None:
        findings = [
            Finding(f"c{i}", status, "text", "fix", first + i if status is Status.FAIL else 0)
            for i, status in enumerate(statuses)
        ]
        failed = [first + i for i, status in enumerate(statuses) if status is Status.FAIL]
        assert exit_status(findings) == (failed[0] if failed else 0)
        assert json_object(findings)["exit_status"] == exit_status(findings)
        assert conclusion(findings).startswith("ready") is not bool(failed)

    @given(st.text("abc /", max_size=300), st.integers(40, 200))
    def test_lines_keep_to_the_width_but_for_long_words(self, text: str, width: int) -> None:
        longest = max((len(word) for word in text.split()), default=0)
        for told in line(Finding.warn("location", text, text), width).splitlines():
            assert len(told) <= max(width, 27 + longest)
