"""The benchmark of leading a round drives two builds by a table of names: those of this build are there."""

from __future__ import annotations

import pytest

from benchmarks.two_builds import NAMES, ROOT, of


@pytest.mark.parametrize("where", NAMES)
def test_a_name_of_the_table_is_there(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert of(where)


def test_a_name_that_is_in_no_build_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(AttributeError):
        of("muster.node.context:Surroundings")
