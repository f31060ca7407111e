"""Where compiled loops are kept: levels of CPUs, and an install that was warmed and that nobody can write to."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.kernels.fast.places import LEVELS, level

ROOT = Path(__file__).resolve().parents[2]
V3, V4 = LEVELS["x86-64-v3"], LEVELS["x86-64-v4"]
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1


@given(st.sets(st.sampled_from(sorted(V3 | V4 | {"sse2", "amx-int8"}))))
def test_a_level_is_one_whose_every_feature_is_there(features: set[str]) -> None:
    found = level(features)
    assert (found is not None) == (features >= V3)
    assert (found == "x86-64-v4") == (features >= V3 | V4)


NO_PID = 1 << 30
"""More than the kernel gives (`PID_MAX_LIMIT` of 2²²)."""


def without_override() -> None:
    """In a child of root: permissions bind it as they do anybody."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


@pytest.mark.slow
def test_what_a_build_keeps_serves_where_nobody_can_write(tmp_path: Path) -> None:
    site, spare = tmp_path / "site", tmp_path / "spare"
    shutil.copytree(ROOT / "muster", site / "muster", ignore=shutil.ignore_patterns("__pycache__"))
    spare.mkdir()
    killed, other = spare / f"muster-loops-{NO_PID}-left", spare / f"muster-loops-{os.getpid()}-in-use"
    killed.mkdir()
    other.mkdir()
    environment = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "NUMBA_DEBUG_CACHE": "1", "TMPDIR": str(spare)}

    def run(*words: str) -> str:
        argv = [sys.executable, "-P", *words]
        env = {**os.environ, **environment}
        done = subprocess.run(argv, env=env, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=without_override)
        return done.stdout

    assert "data saved" in run("-m", "muster.kernels.fast.warm")
    beside = site / "muster/kernels/fast/__pycache__"
    beside.chmod(0o555)
    try:
        play = "import muster.kernels.fast.warm as warm; warm.play(); print(warm.__file__)"
        told = run("-c", play)
    finally:
        beside.chmod(0o755)
    assert told.splitlines()[-1].startswith(str(site))
    assert "data loaded" in told
    assert "saved" not in told, "it was compiled again"
    assert str(spare) in told
    assert list(spare.iterdir()) == [other], "the folder goes with its process, and what one left that was killed"
