"""The index's own package `kernels` and ours live in one environment, whichever came first.

An installed top-level `kernels` of ours would overwrite files of it, or be overwritten.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from environments import make_environment, pip
from source_tree import plain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

WHERE = """
import importlib, sys
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
"""
IMPORT_SECONDS = 200


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index's `kernels` and all it requires, as wheels in a folder."""
    folder = tmp_path_factory.mktemp("kernels")
    done = pip("download", "--dest", folder, "kernels")
    if done.returncode:
        pytest.skip(f"the package index does not give us `kernels`: {(done.stderr.splitlines() or ['?'])[-1]}")
    return folder


@pytest.mark.parametrize("ours_first", [True, False])
def test_both_are_imported(ours_first: bool, theirs: Path, wheel: Path, tmp_path: Path) -> None:
    installs = [("--no-deps", "--no-index", wheel), ("--no-index", "--find-links", theirs, "kernels")]
    bin_ = make_environment(tmp_path / "environment", *(installs if ours_first else installs[::-1]))
    names = ["kernels", "muster.kernels", "muster.protocol.wire", "muster.node.miner", "muster.cli"]
    for order in (names, names[::-1]):
        done = subprocess.run(
            [bin_ / "python", "-P", "-c", WHERE, *order],
            env=plain(), capture_output=True, text=True, check=False, timeout=IMPORT_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        where = {name: Path(path) for name, path in zip(order, done.stdout.splitlines(), strict=True)}
        (packages,) = {path.parents[1] for name, path in where.items() if name == "kernels"}
        assert packages.is_relative_to(bin_.parent)
        assert all(path.is_relative_to(packages / "muster") for name, path in where.items() if name != "kernels")
