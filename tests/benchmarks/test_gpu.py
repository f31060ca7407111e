"""The GPU benchmark runs where there is none, section by section, and says what went wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from select import select

import pytest

from benchmarks.gpu import plan, runner, training
from benchmarks.gpu.__main__ import DIFFERS, INCOMPLETE, play
from benchmarks.gpu.card import PEAKS, peak_of
from benchmarks.gpu.network import LEADER, judged
from benchmarks.gpu.section import Found, Section, Setting
from muster.protocol.spec import load_template

ROOT = Path(__file__).parents[2]
DRY = Setting(dry=True)


def dry_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, as a user starts it."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))


def titles(output: str) -> list[str]:
    return [line.strip("*") for line in output.splitlines() if line.startswith("**")]


def test_every_section_but_the_network_finds_something_without_a_gpu() -> None:
    # At toy sizes the second preset is the first one.
    done = dry_run("--skip", "network", "1b", "1b-compiled")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Found nothing" not in done.stdout
    _, *found = titles(done.stdout)
    assert [title.split(",")[0] for title in found] == [
        "Bits that are not the reference's", "Kernels", "Training", "A round of nano"
    ]  # fmt: skip
    assert "| k = 64 | nothing |" in done.stdout
    assert done.stdout.count("| nano, compiled |") == 1
    assert done.stdout.splitlines()[-1].endswith("no bit differs.")


@pytest.mark.processes
def test_a_network_of_processes_agrees_with_its_aggregator() -> None:
    done = dry_run("--only", "network")
    assert done.returncode == 0, done.stdout + done.stderr
    for label in (LEADER, "miner-0", "validator-operator-0"):
        assert f"| {label} | cpu | equal |" in done.stdout


def test_the_whole_takes_six_minutes_at_most() -> None:
    assert plan.LOOK.budget + sum(section.budget for section in plan.SECTIONS) <= 360
    trained = [section.work.keywords for section in plan.SECTIONS if isinstance(section.work, partial)]
    assert {(how["preset"], how["compiled"]) for how in trained} == {
        (preset, compiled) for preset in training.PASS_WINDOWS for compiled in (False, True)
    }


def found(_setting: Setting, differs: bool = False) -> Found:
    return Found("a table", ("of",), (("this",),), differs=differs)


def fail(_setting: Setting) -> Found:
    raise ValueError("this did not work\nfor a reason")


def die(_setting: Setting) -> Found:
    os._exit(7)


def hang(_setting: Setting, told: Path = Path(os.devnull)) -> Found:
    with subprocess.Popen(["sleep", "600"]) as child:
        told.write_text(str(child.pid))
    raise AssertionError


def test_who_fails_dies_or_hangs_says_so_and_the_next_has_its_turn(capsys: pytest.CaptureFixture[str]) -> None:
    sections = [
        Section("failing", 60, fail),
        Section("dying", 60, die),
        Section("hanging", 0.25, hang),
        Section("good", 60, found),
    ]
    assert play(sections, Setting(dry=True)) == INCOMPLETE
    shown = capsys.readouterr().out
    for words in (
        "ValueError: this did not work.", "its process ended with status 7.", "not done within its 1 s.", "| this |"
    ):  # fmt: skip
        assert words in shown


def test_bits_that_differ_are_worse_than_a_section_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = Section("wrong", 60, partial(found, differs=True))
    assert play([wrong, Section("good", 60, found), Section("failing", 60, fail)], DRY) == DIFFERS
    shown = capsys.readouterr().out
    assert shown.count("**a table**") == 1, "tables of one title are one"
    assert shown.count("| this |") == 2
    assert "BITS DIFFER" in shown


def test_nothing_of_a_section_that_hangs_runs_on(tmp_path: Path) -> None:
    """Its child was of its group. (The first section waits for the server that forks them off.)"""
    told = tmp_path / "child"
    assert isinstance(runner.within_budget(Section("good", 60, found), DRY), Found)
    assert isinstance(runner.within_budget(Section("hanging", 2, partial(hang, told=told)), DRY), str)
    try:
        ended = os.pidfd_open(int(told.read_text()))
    except ProcessLookupError:
        return  # and its parent has taken note
    assert select([ended], [], [], 60)[0], "it runs on"
    os.close(ended)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_a_cards_peak_is_its_own_or_none(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def test_no_card_of_the_table_hides_a_longer_name() -> None:
    assert [peak_of(name) for name, _ in PEAKS] == [peak for _, peak in PEAKS]


def test_a_tokens_operations_are_six_a_parameter_and_those_of_attention() -> None:
    model = load_template("1b").model
    assert training.operations(model, 2048) == 6 * 1_235_814_400 + 12 * 16 * 32 * 64 * 2048
    untied = model.model_copy(update={"tied": False})
    assert training.operations(untied, 2048) == training.operations(model, 2048), "a second embedding is looked up"


def test_one_other_root_differs_and_a_missing_one_is_told() -> None:
    right = {0: "aa", 1: "bb"}
    roots = {LEADER: right, "miner-0": right, "miner-1": {0: "aa", 1: "cc"}, "miner-2": {0: "aa"}}
    table = judged(roots, dict.fromkeys(roots, "cuda:0"), 2)
    assert table.differs
    assert [row[2] for row in table.rows] == ["equal", "equal", "other bits in round 1", "nothing of round 1"]
    assert not judged({LEADER: right, "miner-0": right}, {LEADER: "cpu", "miner-0": "cuda:0"}, 2).differs
