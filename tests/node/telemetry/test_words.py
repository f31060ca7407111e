"""Sizes are short and counts have their nouns, whatever the number."""

from __future__ import annotations

import pytest

from muster.node.telemetry.words import blocks, size, some


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (6491, "6.5 kB"), (10**6, "1.0 MB"), (10**16, "10000.0 TB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_blocks_are_told_as_a_range_only_where_none_is_left_out() -> None:
    assert [blocks(b) for b in ([4], [4, 5, 6], [4, 6, 9])] == ["block 4", "blocks 4 to 6", "3 blocks from 4 to 9"]


def test_one_is_singular() -> None:
    assert [some(count, "round") for count in (0, 1, 2)] == ["0 rounds", "1 round", "2 rounds"]
