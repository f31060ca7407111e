"""The page about pay says what the code does, and its share is computed by hand, by anybody, to the last digit."""

from __future__ import annotations

import importlib
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from sums import sum_in

from muster.history.explain.working import Working, rejudged
from muster.protocol.incentive.pay import incentives
from muster.protocol.spec import GauntletSpec, load_template

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "incentive.md").read_text(encoding="utf-8")


@cache
def page() -> ModuleType:
    """The script that writes the page; it imports from its own folder, as scripts do."""
    sys.path.append(str(DOCS))
    try:
        return importlib.import_module("make_incentive")
    finally:
        sys.path.remove(str(DOCS))


def block(name: str) -> str:
    """What stands between a block's marks."""
    return PAGE.partition(f"<!-- {name} -->\n")[2].partition("\n<!-- end -->")[0]


@pytest.mark.parametrize("name", ["constants", "share", "earns", "newcomer", "as gauntlet"])
def test_the_page_says_what_the_code_says(name: str) -> None:
    """After a change run `make vectors`, which writes the page again."""
    assert block(name) == page().BLOCKS[name]()


def test_every_sum_on_the_page_comes_out() -> None:
    found = [(line, done) for line in block("share").splitlines() if (done := sum_in(line))]
    for line, (right, said) in found:
        assert right == said, line
    words = {line.split()[0] for line, _ in found}
    assert words >= {"s_a", "s_r", "ratio", "work", "t", "mu_slow", "mu_fast", "gate", "PeerScore", "share"}


def test_what_is_no_plain_sum_comes_out_too() -> None:
    example = page().example()
    row = example.row
    assert 0.0 < row.gate < 1.0, "an example that shows the gate"
    steps = {line.word: line.text for line in page().steps()}
    s_r, c_r = example.gain, row.control_unassigned
    assert steps["b"].endswith(f"= {s_r / c_r!r}")
    t = float(steps["t"].rpartition(" = ")[2])
    assert steps["x"].endswith(f": {t / 3.0!r}")
    assert steps["μ"].endswith(f": {min(row.mu_slow, row.mu_fast)!r}")
    largest = max(one.incentive for one in example.rows)
    weights = [round(one.incentive / largest * 65535) for one in example.rows]
    mine = weights[list(example.rows).index(row)]
    assert steps["weight"] == f"{mine} on the chain, of {sum(weights)} that this validator gives"


def test_the_published_rows_follow_from_what_was_measured() -> None:
    example: Working = page().example()
    judged = rejudged(example)
    for row in example.rows:
        one = judged[row.hotkey]
        assert (one.score, one.gate, one.rank, one.ratio, one.own_data) == (
            row.peer_score, row.gate, row.rank, row.ratio, row.own_data,
        )  # fmt: skip
        assert (one.state.mu, one.state.work, one.state.rating_mu) == (row.mu, row.work, row.rating_mu)
    shares = incentives({row.hotkey: row.peer_score for row in example.rows}, example.spec.gauntlet.power)
    assert shares == {row.hotkey: row.incentive for row in example.rows}
    assert page().steps()[-1].text == "every score and share of the file follows from what it says was measured"


def test_every_field_has_its_reason() -> None:
    said = page().reasons(GauntletSpec)
    assert set(GauntletSpec.model_fields) <= said.keys()


def test_the_fields_that_make_it_gauntlet_s_are_fields() -> None:
    fields = re.findall(r"^\| `(\w+)` \|", block("as gauntlet"), re.MULTILINE)
    assert len(fields) > 5
    assert set(fields) <= set(GauntletSpec.model_fields)
    changed = load_template("tiny").gauntlet.model_dump() | page().GAUNTLETS
    assert GauntletSpec.model_validate(changed).rating == "ordinal"


def test_equal_miners_earn_the_fair_part() -> None:
    for peers in (2, 4):
        parts = page().earned(peers)[60]
        assert sum(parts) / len(parts) == pytest.approx(1 / peers)
        assert parts[0] > 0.6 / peers, "nobody is left behind"
