"""What the interpreter cannot show of the GPU programs: that they compile, and what they compile to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("gpu_code.py")
ROOT = SCRIPT.parents[2]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> dict[str, str]:
    """PTX by program and variant.

    Triton compiles a program again when its text, what it calls, its options or Triton itself have changed: that is how
    it names what it keeps. It is kept from one run of the tests to the next, because the compiler takes half a minute.
    """
    folder = tmp_path_factory.mktemp("ptx")
    assert pytestconfig.cache is not None
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(SCRIPT.parent)]),
        "TRITON_CACHE_DIR": str(pytestconfig.cache.mkdir("triton")),
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.ptx"))}


def test_every_program_compiles_for_every_kind_of_tensor(code: dict[str, str]) -> None:
    names = ("compress_tiles", "step_tiles", "subtract_tiles", "put_tiles", "put_listed_tiles")
    counts = [sum(each.startswith(name) for each in code) for name in names]
    # By tile shape, for a tensor of one entry, and with 64-bit sizes; by the one flag of two.
    assert counts == [12, 6, 12, 6, 6]


def test_no_product_is_fused_with_a_sum(code: dict[str, str]) -> None:
    for name, text in code.items():
        assert not re.search(r"\b(fma|mad)\.[\w.]*f(32|64)\b", text), name
        # A plain mul.f32 may still be fused by the assembler; one that says how it rounds may not.
        assert not re.search(r"\b(mul|add|sub)\.f(32|64)\b", text), name
    for name in ("compress", "step", "subtract"):
        assert all("mul.rn.f32" in text for each, text in code.items() if each.startswith(name)), name


def test_no_subnormal_number_is_flushed(code: dict[str, str]) -> None:
    for name, text in code.items():
        assert ".ftz" not in text, name


def test_a_sum_is_divided_with_one_rounding(code: dict[str, str]) -> None:
    for name, text in code.items():
        divisions = set(re.findall(r"\bdiv\.[\w.]*f(?:32|64)\b", text))
        assert divisions == ({"div.rn.f32"} if name.startswith("step") else set()), name
