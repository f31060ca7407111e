"""What must be right before anything else of Muster can even be imported: Python, torch, and the two compilers.

Nothing here imports torch before it is asked to, so a broken torch is a finding and no traceback.
"""

from __future__ import annotations

import importlib
import re
import sys
from importlib.metadata import PackageNotFoundError, version

from muster.doctor.facts import SoftwareFacts
from muster.doctor.finding import MACHINE_STATUS, Finding

PYTHON_OLDEST = (3, 11)
TORCH_OLDEST, TORCH_BEFORE = (2, 4), (2, 14)
"""As pyproject.toml requires; a test holds the two equal."""

_IMPORT_FAILURES = (ImportError, OSError, RuntimeError, AttributeError)
"""What a broken installation raises: a missing module, a library that cannot be loaded, parts that do not fit."""


def find_software() -> SoftwareFacts:
    """Import each of them. Blocks for seconds: call it in a thread."""
    torch, torch_problem = _imported("torch")
    numba, numba_problem = _imported("numba")
    triton, triton_problem = _imported("triton")
    return SoftwareFacts(
        python=(sys.version_info.major, sys.version_info.minor),
        torch=torch,
        torch_problem=torch_problem,
        numba=numba,
        numba_problem=numba_problem,
        triton=triton,
        triton_problem=triton_problem,
    )


def judge_software(facts: SoftwareFacts) -> Finding:
    """Whether Muster can run here at all."""
    name, text = "software", f"Python {_major(facts.python)}, torch {facts.torch}"
    if facts.python < PYTHON_OLDEST:
        fix = f"make the environment with Python {_major(PYTHON_OLDEST)} or newer and install Muster in it"
        return Finding.fail(name, f"{text}: this Python is too old", fix, MACHINE_STATUS)
    install = f"pip install 'torch>={_major(TORCH_OLDEST)},<{_major(TORCH_BEFORE)}'"
    if facts.torch_problem:
        return Finding.fail(name, f"torch cannot be imported: {facts.torch_problem}", install, MACHINE_STATUS)
    if not TORCH_OLDEST <= _pair(facts.torch) < TORCH_BEFORE:
        return Finding.fail(name, f"{text}: Muster is not made for this torch", install, MACHINE_STATUS)
    if facts.numba_problem:
        text = f"{text}; numba cannot be imported, so large models are slow: {facts.numba_problem}"
        return Finding.warn(name, text, "pip install --force-reinstall numba")
    triton = f"triton {facts.triton}" if not facts.triton_problem else "no triton (only GPUs use it)"
    return Finding.ok(name, f"{text}, numba {facts.numba}, {triton}")


def _imported(package: str) -> tuple[str, str]:
    """A package's version, and why it cannot be imported ("" where it can)."""
    try:
        importlib.import_module(package)
        return version(package), ""
    except PackageNotFoundError:
        return "", "it is not installed"
    except _IMPORT_FAILURES as error:
        return "", str(error) or type(error).__name__


def _pair(text: str) -> tuple[int, int]:
    """Major and minor of a version such as 2.13.0+cpu; (0, 0) for anything else."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _major(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"
