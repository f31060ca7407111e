"""A room has one name, in strings and comments too, where no linter looks.

`monkeypatch.setattr("protocol.x", …)`, a program in a string or a list of modules to watch would go on under the old
name, on a second copy of the module, and test nothing.
"""

from __future__ import annotations

import re

import pytest
from source_tree import ROOMS, ROOT, known

_ANY = "|".join(ROOMS)
OLD = re.compile(
    rf"""(^|["';])\s*import\ ([\w.]+,\ )*({_ANY})\b        # import kernels, or import sys, kernels.grid
    | \bfrom\ ({_ANY})(\.\w+)*\ import\b                  # from kernels.grid import Grid
    | \ -m\ ({_ANY})\b                                    # python -m protocol
    | (?<=["'`])({_ANY})\.(?!(md|toml|py|example)\b)[a-z_]   # "kernels.grid", but no file or host
    """,
    re.VERBOSE,
)
WRITTEN = (".py", ".md", ".toml", ".yml", ".sh", "Makefile", "Dockerfile", ".ci/run")
HERE = "tests/packaging/"
"""These files have the old names as examples."""


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize(
    "line",
    ["import {}", "x; import {}.part", "import sys, muster.cli, {}.x; f()", "from {} import part",
     "from {}.a.b import c", "python -m {}.part", "python -P -m {}", 'setattr("{}.part.name", 1)', "see `{}.part`"],
)  # fmt: skip
def test_an_old_name_is_found(line: str, room: str) -> None:
    assert OLD.search(line.format(room))
    assert not OLD.search(line.format(f"muster.{room}"))
    assert not OLD.search(f"from muster import {room}; `{room}/part.py`; docs/{room}.md; '{room}.toml'")


def test_nothing_has_an_old_name() -> None:
    files = [path for path in known() if path.endswith(WRITTEN) and not path.startswith(HERE)]
    assert {"README.md", "Makefile", "docker/Dockerfile", ".ci/run", "muster/cli/main.py", "kernels/grid.py"} <= set(
        files
    )
    found = [
        f"{path}:{number}: {line}"
        for path in files
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        if OLD.search(line)
    ]
    assert found == []
