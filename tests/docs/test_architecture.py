"""Somebody who has to change a thing finds its place on the page, and every place the page names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
MAX_ROUND_LINES = 80
ROOMS = ("kernels", "protocol", "node", "validator", "muster", "benchmarks", "tests", "docs", "docker")

CHANGES = {
    "close a round earlier when most of its peers are in": ("protocol/ledger/round.py", "def ready_to_seal"),
    "give newcomers more seats": ("protocol/rules/selection.py", "def seat"),
    "wait longer for a peer that was missing once": ("protocol/rules/attendance.py", "def expected"),
    "let a slot train on more text": ("protocol/rules/assignment.py", "def share"),
    "clip norms at another quantile than the median": ("protocol/rules/weighing.py", "def weigh"),
    "refuse a submission that declares no tokens": ("protocol/rules/admission.py", "def admit"),
    "make a wrong key harm its sender": ("protocol/reasons.py", "REASONS"),
    "pay in proportion to another power of the score": ("protocol/incentive/pay.py", "def incentives"),
    "measure on twice as many windows": ("validator/gauntlet/evaluation.py", "def "),
    "train with another optimizer": ("node/miner/optimizers.py", "class InnerOptimizer"),
    "train a model with experts": ("protocol/spec/families.py", "FAMILIES"),
    "give a daemon a setting for the deadline of its requests": ("muster/run/settings.py", "class NodeConfig"),
    "add a command that exports a model": ("muster/cli/table.py", "COMMANDS"),
    "keep buckets on another kind of service": ("muster/run/backends.py", "def open_buckets"),
    "alarm when no round has closed for an hour": ("node/telemetry/health.py", "def "),
    "check the driver's version before a run": ("muster/doctor/checks.py", "def judge_gpu"),
}
"""What an issue could ask for, the file that the page must send one to, and what must be found there."""


def section(title: str) -> str:
    """A section of the page without its title."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_page_tells_a_round_in_few_lines_and_with_links() -> None:
    told = section("One round, top to bottom")
    assert 20 < len(told.splitlines()) <= MAX_ROUND_LINES
    assert len(re.findall(r"\]\(\.\./[a-z/_]+\.py\)", told)) >= 5


@pytest.mark.parametrize(("change", "place"), CHANGES.items())
def test_the_page_names_the_file_of_a_change(change: str, place: tuple[str, str]) -> None:
    path, found_there = place
    rows = [row for row in section("To change …, look in …").splitlines() if f"(../{path})" in row]
    assert rows, f"to {change}, one has to look in {path}"
    assert found_there in (ROOT / path).read_text()


def test_every_path_on_the_page_is_there() -> None:
    named = re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w./-]*)`", PAGE)
    assert len(named) > 60
    assert [path for path in named if not (ROOT / path).exists()] == []
