"""A run's rules change only as its owner says, only where that is safe, and never overnight."""

from __future__ import annotations

from typing import Any

import pytest
from builders import OWNER, hash32, identity, run_spec

from muster.protocol.errors import LedgerError
from muster.protocol.ledger import adopt_amendments
from muster.protocol.spec.history import AMENDABLE, SpecHistory
from muster.protocol.wire import Amendment, encode_amendment

DELAY = run_spec().clock.amend_delay
HISTORY = SpecHistory.of(run_spec())


def amendment(round_: int = 10, path: str = "sparse.k", value: str = "32", by: str = OWNER) -> Amendment:
    return Amendment(round_, path, value, identity(by).public)


def test_nothing_amended_is_genesis_for_ever() -> None:
    assert HISTORY.at(0) == HISTORY.at(10**9) == run_spec()
    assert HISTORY.run_id == run_spec().run_id()


def test_takes_effect_at_its_round_and_not_before() -> None:
    history = HISTORY.adopt(amendment(10), recorded_in=3)
    assert [history.at(round_).sparse.k for round_ in (0, 9, 10, 11, 10**9)] == [64, 64, 32, 32, 32]
    assert HISTORY.at(10).sparse.k == 64
    assert history.run_id == HISTORY.run_id != history.at(10).run_id()


def test_of_two_the_one_recorded_later_wins() -> None:
    history = HISTORY.adopt(amendment(10, value="32"), 3).adopt(amendment(10, value="16"), 4)
    assert history.at(10).sparse.k == 16


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("outer.alpha", "[[0,1],[100,0.65]]", ((0, 1.0), (100, 0.65))),
        ("inner.lr", "1e-4", 1e-4),
        ("clock.deadline", "99", 99),
    ],
)
def test_values_of_every_kind(path: str, value: str, expected: Any) -> None:
    section, key = path.split(".")
    spec = HISTORY.adopt(amendment(path=path, value=value), 3).at(10)
    assert getattr(getattr(spec, section), key) == expected


def test_only_the_owner_amends() -> None:
    with pytest.raises(LedgerError, match="signed by the run's owner"):
        HISTORY.adopt(amendment(by="alice"), 3)


def every_path() -> list[str]:
    document = run_spec().model_dump()
    return [f"{section}.{key}" for section, fields in document.items() if section != "name" for key in fields]


def test_the_whitelist_is_of_real_fields() -> None:
    assert set(every_path()) >= AMENDABLE


@pytest.mark.parametrize("path", sorted({*every_path(), "name", "", "genesis", "outer.alpha.0"} - AMENDABLE))
def test_no_other_field_can_be_amended(path: str) -> None:
    with pytest.raises(LedgerError, match="cannot be amended"):
        HISTORY.adopt(amendment(path=path), 3)


def test_delay() -> None:
    assert HISTORY.adopt(amendment(3 + DELAY), 3).at(3 + DELAY).sparse.k == 32
    with pytest.raises(LedgerError, match="too soon"):
        HISTORY.adopt(amendment(3 + DELAY - 1), 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "not JSON"),
        ("64 64", "not JSON"),
        ("NaN", "not JSON"),
        ("Infinity", "not JSON"),
        (str(2**60), "not JSON"),
        ("[" * 4000, "not JSON"),
        ("0", "sparse.k"),
        ("4097", "sparse.k"),
        ("null", "sparse.k"),
        ('"64"', "sparse.k"),
        ("64.5", "sparse.k"),
    ],
)
def test_a_value_that_makes_no_spec_is_refused(value: str, message: str) -> None:
    with pytest.raises(LedgerError, match=message):
        HISTORY.adopt(amendment(value=value), 3)


def test_an_amendment_that_breaks_a_later_one_is_refused() -> None:
    """Each is fine alone and when it takes effect; together they would leave round 20 without a spec."""
    history = HISTORY.adopt(amendment(20, "clock.deadline", "5"), 3)
    with pytest.raises(LedgerError, match="min_blocks must not exceed deadline"):
        history.adopt(amendment(10, "clock.min_blocks", "8"), 4)


def test_adopted_from_signed_bytes() -> None:
    run_id = HISTORY.run_id
    good = encode_amendment(identity(OWNER), run_id, 10, "sparse.k", "32")
    assert adopt_amendments(HISTORY, [good], 3).at(10).sparse.k == 32
    foreign = encode_amendment(identity(OWNER), hash32("another run"), 10, "sparse.k", "32")
    for data in (foreign, good[:-1], b"", good[:-1] + bytes([good[-1] ^ 1])):
        with pytest.raises(LedgerError, match="an amendment is not readable"):
            adopt_amendments(HISTORY, [data], 3)
