"""Environments in which something is installed, as at a user's, without installing torch again each time."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

from source_tree import plain

PIP_SECONDS = 1200


def make_environment(folder: Path, *installs: Sequence[str | Path]) -> Path:
    """An environment with nothing in it but what each `pip install` brings; its `bin` folder.

    Requirements come from the environment the tests run in, by a .pth file: installing torch again would take minutes.
    It is written last, so that pip sees an empty environment, and stands behind all that pip installs. A .pth file in
    there is not followed, so this tree's own editable installation is out of sight.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    for arguments in installs:
        done = pip("--python", python, "install", *arguments)
        assert done.returncode == 0, done.stderr
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    (packages / "requirements.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return python.parent


def pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run pip."""
    return subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)],
        env=plain(), capture_output=True, text=True, check=False, timeout=PIP_SECONDS,
    )  # fmt: skip
