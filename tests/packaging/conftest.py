"""What is built of this tree."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_tree import build, copy_tree


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy: what an earlier build has left behind is not in it."""
    base = tmp_path_factory.mktemp("wheel")
    return build("wheel", copy_tree(base / "tree"), base / "out")
