"""The checkers reach the rooms through the links: each finds what is planted there, and nothing where nothing is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import ROOMS, ROOT, hollow_tree, installed_names, plain

BIN = Path(sys.executable).parent
SECONDS = 900


def check(tool: str, *arguments: str, cwd: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of the checkers of `make lint`, in a folder."""
    return subprocess.run(
        [BIN / tool, *arguments],
        cwd=cwd, env=plain() | {"COLUMNS": "200"}, input=text, capture_output=True, text=True, check=False,
        timeout=SECONDS,
    )  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize(
    "line", ["import {}", "import {}.part", "from {} import part", "from {}.part import it", "def f():\n    import {}"]
)
def test_ruff_knows_the_old_names(room: str, line: str) -> None:
    snippet = line.format(room) + "\n"
    old = check("ruff", "check", "--select", "TID251", "--stdin-filename", "tests/x.py", "-", cwd=ROOT, text=snippet)
    assert (old.returncode, f"`{room}` is banned" in old.stdout) == (1, True), old.stdout
    snippet = line.format(f"muster.{room}") + "\n"
    new = check("ruff", "check", "--select", "TID251", "--stdin-filename", "tests/x.py", "-", cwd=ROOT, text=snippet)
    assert new.returncode == 0, new.stdout


def test_mypy_checks_every_module(tmp_path: Path) -> None:
    tree = hollow_tree(tmp_path, 'planted: int = ""\n')
    done = check("mypy", cwd=tree)
    found = set(re.findall(r"^(\S+\.py):1: error: Incompatible types", done.stdout, re.MULTILINE))
    assert found == {name for name in installed_names() if name.endswith(".py")}, done.stdout + done.stderr


PURE = "what all must agree on is pure: it knows no back end"

PLANTS = [
    ("kernels/planted.py", "muster.protocol", "rooms import one way"),
    ("protocol/planted.py", "muster.node", "rooms import one way"),
    ("node/planted.py", "muster.validator", "rooms import one way"),
    ("validator/planted.py", "muster.cli", "rooms import one way"),
    ("validator/planted.py", "muster.node.miner", "a validator never trains"),
    ("node/planted.py", "bittensor", "one package knows the real chain's SDK"),
    ("node/planted.py", "boto3", "one package knows boto3"),
    (
        "validator/gauntlet/planted.py",
        "muster.validator.aggregator",
        "gauntlet and aggregator meet only in signed files",
    ),
    ("kernels/planted.py", "asyncio", "kernels are alone"),
    ("protocol/rules/planted.py", "muster.protocol.storage", PURE),
    ("protocol/wire/planted.py", "muster.protocol.chain.base", PURE),
    ("protocol/spec/planted.py", "sqlite3", PURE),
    ("node/planted.py", "muster.protocol.storage.s3", "back ends are opened in one place"),
    ("muster/audit/planted.py", "muster.protocol.chain.sqlite", "back ends are opened in one place"),
]
"""(module, what it imports, the contract this breaks)."""


@pytest.mark.parametrize(("module", "imported", "contract"), PLANTS)
def test_import_linter_finds_what_breaks_a_contract(module: str, imported: str, contract: str, tmp_path: Path) -> None:
    tree = hollow_tree(tmp_path)
    good = check("lint-imports", "--no-cache", cwd=tree)
    assert (good.returncode, f"{contract} KEPT" in good.stdout) == (0, True), good.stdout + good.stderr
    (tree / module).write_text(f"import {imported}\n", encoding="utf-8")
    bad = check("lint-imports", "--no-cache", cwd=tree)
    assert (bad.returncode, f"{contract} BROKEN" in bad.stdout) == (1, True), bad.stdout + bad.stderr


def test_import_linter_finds_a_module_that_is_in_no_layer(tmp_path: Path) -> None:
    tree = hollow_tree(tmp_path)
    (tree / "muster" / "planted.py").touch()
    done = check("lint-imports", "--no-cache", cwd=tree)
    assert done.returncode == 1
    assert "planted" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_deptry_finds_an_import_that_is_not_declared(room: str, tmp_path: Path) -> None:
    tree = hollow_tree(tmp_path)
    (tree / room / "planted.py").write_text("import not_declared\n", encoding="utf-8")
    done = check("deptry", "--no-ansi", ".", cwd=tree)
    assert f"{room}/planted.py:1:8: DEP001 'not_declared' imported" in done.stderr, done.stdout + done.stderr
