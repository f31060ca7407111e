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


@pytest.fixture(scope="module")
def linted(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What import-linter says of a tree where nothing is planted, and of one where all of that is."""
    tree = hollow_tree(tmp_path_factory.mktemp("linted"))
    good = check("lint-imports", "--no-cache", cwd=tree)
    assert good.returncode == 0, good.stdout + good.stderr
    for i, (module, imported, _) in enumerate(PLANTS):
        (tree / planted(module, i)).write_text(f"import {imported}\n", encoding="utf-8")
    bad = check("lint-imports", "--no-cache", cwd=tree)
    assert bad.returncode == 1, bad.stdout + bad.stderr
    return good.stdout, bad.stdout


def planted(module: str, i: int) -> str:
    """The file of the i-th fault; two of one folder are two modules."""
    return module.replace("planted.py", f"planted_{i}.py")


@pytest.mark.parametrize("i", range(len(PLANTS)), ids=[f"{module}-{imported}" for module, imported, _ in PLANTS])
def test_import_linter_finds_what_breaks_a_contract(i: int, linted: tuple[str, str]) -> None:
    module, imported, contract = PLANTS[i]
    good, bad = linted
    assert f"{contract} KEPT" in good
    assert f"{contract} BROKEN" in bad
    name = "muster." + planted(module, i).removeprefix("muster/").removesuffix(".py").replace("/", ".")
    # Under its contract's heading, up to the next one.
    _, *parts = re.split(r"^(.+)\n-+\n", bad.partition("Broken contracts")[2], flags=re.MULTILINE)
    said = dict(zip(parts[::2], parts[1::2], strict=True))[contract]
    assert re.search(rf"{re.escape(name)} -> {re.escape(imported)}\b.* \(l\.1\)", said), bad


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
