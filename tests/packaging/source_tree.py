"""Copies of what git knows of this tree, to build from or to plant faults in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
ROOMS = ("kernels", "protocol", "node", "validator")
LINKS = {f"muster/{room}" for room in ROOMS}

BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2]))
"""
BUILD_SECONDS = 600


def known() -> list[str]:
    """The files that git knows or would add, as paths below the root; links are among them, never what is behind."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(name for name in names.split("\0") if name and os.path.lexists(ROOT / name))


def installed_names() -> dict[str, str]:
    """What is installed of the tree: the name in the wheel of each file below muster/ and the rooms → its path here."""
    names = {}
    for path in known():
        top = PurePosixPath(path).parts[0]
        if top == "muster" and path not in LINKS:
            names[path] = path
        elif top in ROOMS:
            names[f"muster/{path}"] = path
    return names


def copy_tree(target: Path) -> Path:
    """A copy of all that git knows, links as links."""
    for path in known():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target / path, follow_symlinks=False)
    return target


def hollow_tree(target: Path, content: str = "") -> Path:
    """The same modules, links and settings, and `content` in every module: checkers are done with it in seconds."""
    for path in (*installed_names().values(), *LINKS, "pyproject.toml"):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".py"):
            (target / path).write_text(content, encoding="utf-8")
        else:
            shutil.copy2(ROOT / path, target / path, follow_symlinks=False)
    return target


def build(kind: str, tree: Path, out: Path) -> Path:
    """A "wheel" or "sdist" of a tree, by the build back end that is installed here: no network, no isolation."""
    out.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(out)],
        cwd=tree, env=plain(), capture_output=True, text=True, check=False, timeout=BUILD_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def plain() -> dict[str, str]:
    """The environment without what points Python at this tree or configures a daemon."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MUSTER_"))}
