"""A run's rules change only as its owner says, only where that is safe, and never overnight."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bittensor_core import ss58_encode
from builders import OWNER, hash32, identity, run_spec
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import LedgerError
from muster.protocol.spec import RunSpec, history
from muster.protocol.spec.history import AMENDABLE, NOT_YET, SpecHistory
from muster.protocol.spec.sections import MAX_LEADERS
from muster.protocol.wire import cosign_amendment, encode_amendment

DELAY = run_spec().clock.amend_delay
HISTORY = SpecHistory.of(run_spec())


def amendment(round_: int = 10, path: str = "sparse.k", value: str = "32", by: str = OWNER, number: int = 1) -> bytes:
    return encode_amendment(identity(by), HISTORY.run_id, number, round_, path, value)


SHOWN = {
    (number, by): amendment(10, "clock.deadline", str(50 + number), by=by, number=number)
    for number in range(5)
    for by in (OWNER, "alice")
}


def test_nothing_amended_is_genesis_for_ever() -> None:
    assert HISTORY.at(0) == HISTORY.at(10**9) == run_spec()
    assert HISTORY.run_id == run_spec().run_id()


def test_takes_effect_at_its_round_and_not_before() -> None:
    changed = HISTORY.adopt(amendment(10), recorded_in=3)
    assert [changed.at(round_).sparse.k for round_ in (0, 9, 10, 11, 10**9)] == [64, 64, 32, 32, 32]
    assert HISTORY.at(10).sparse.k == 64
    assert changed.run_id == HISTORY.run_id != changed.at(10).run_id()


def test_of_two_the_one_recorded_later_wins() -> None:
    changed = HISTORY.adopt(amendment(10, value="32"), 3).adopt(amendment(10, value="16", number=2), 4)
    assert changed.at(10).sparse.k == 16


def test_one_recorded_later_for_an_earlier_round_counts_from_there_on() -> None:
    """Applied in the order of the records, whatever rounds they name."""
    changed = HISTORY.adopt(amendment(20, value="32"), 3)
    changed = changed.adopt(amendment(10, "clock.deadline", "77", number=2), 4)
    changed = changed.adopt(amendment(12, value="16", number=3), 4)
    found = [(changed.at(round_).sparse.k, changed.at(round_).clock.deadline) for round_ in (9, 10, 11, 12, 20, 99)]
    assert found == [(64, 10), (64, 77), (64, 77), (16, 77), (16, 77), (16, 77)]


@pytest.mark.parametrize("number", [0, 1, 3, 2**64 - 1])
def test_after_the_first_amendment_comes_the_second(number: int) -> None:
    once = HISTORY.adopt(amendment(), 3)
    with pytest.raises(LedgerError, match=f"amendment {number} where number 2 is due"):
        once.adopt(amendment(number=number), 3)


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([OWNER, "alice"])), max_size=10))
def test_whatever_is_shown_in_whatever_order_each_number_is_adopted_once_and_in_turn(
    shown: list[tuple[int, str]],
) -> None:
    """Those of others never; and what is refused changes nothing."""
    grown, expected = HISTORY, 0
    for number, by in shown:
        data = SHOWN[number, by]
        if by == OWNER and number == expected + 1:
            grown, expected = grown.adopt(data, 3), number
            continue
        with pytest.raises(LedgerError):
            grown.adopt(data, 3)
    assert [each.amendment.number for each in grown.adopted] == list(range(1, expected + 1))
    assert grown.at(10).clock.deadline == (50 + expected if expected else HISTORY.genesis.clock.deadline)


def test_an_amendment_that_is_recorded_again_does_not_undo_a_later_one() -> None:
    first, second = amendment(10, value="32"), amendment(11, value="16", number=2)
    both = HISTORY.adopt(first, 3).adopt(second, 4)
    with pytest.raises(LedgerError, match="each is recorded once"):
        both.adopt(first, 5)
    assert both.at(11).sparse.k == 16


def test_asking_for_a_spec_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks gets the very object that was made when its amendment was adopted, one for each amendment."""
    made: list[str] = []
    amended = history._amended
    monkeypatch.setattr(history, "_amended", lambda spec, by: made.append(by.value) or amended(spec, by))
    grown = HISTORY
    for i in range(50):
        grown = grown.adopt(amendment(10 + i, "clock.deadline", str(100 + i), number=1 + i), 3)
    assert len(made) == 50
    monkeypatch.setattr(RunSpec, "model_validate_json", None)
    asked = {id(grown.at(round_)) for _ in range(26) for round_ in range(100)}
    assert len(asked) == 51
    assert len(made) == 50


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


def test_a_run_without_an_end_is_ended_by_amendments_and_goes_on_if_they_are_taken_back() -> None:
    run = SpecHistory.of(run_spec(inner={"schedule": "inverse_sqrt", "total": 0, "warmup": 5}))

    def amended(history_: SpecHistory, path: str, value: str) -> SpecHistory:
        number = len(history_.adopted) + 1
        return history_.adopt(encode_amendment(identity(OWNER), run.run_id, number, 10 + number, path, value), 3)

    with pytest.raises(LedgerError, match="a decay takes decay_steps, which must be above 0 before"):
        amended(run, "inner.decay_from", "40")
    ending = amended(amended(run, "inner.decay_steps", "8"), "inner.decay_from", "40")
    assert [ending.at(round_).inner.decay_from for round_ in (11, 12, 99)] == [0, 40, 40]
    endless = amended(ending, "inner.decay_from", "0")
    assert endless.at(12).inner.decay_from == 40
    assert endless.at(13).inner.decay_from == 0


def test_only_the_owner_amends() -> None:
    with pytest.raises(LedgerError, match="signed by the run's owner"):
        HISTORY.adopt(amendment(by="alice"), 3)


LEADERS = [identity(f"validator-{i}").hotkey for i in range(3)]


def leaders(value: object, round_: int = 10) -> SpecHistory:
    return HISTORY.adopt(amendment(round_, "genesis.leaders", json.dumps(value)), 3)


def test_the_list_of_leaders_grows_and_the_run_is_still_the_run() -> None:
    grown = leaders([run_spec().genesis.leaders[0], *LEADERS])
    assert grown.at(9) == run_spec()
    assert grown.at(10).genesis.leaders == (run_spec().genesis.leaders[0], *LEADERS)
    assert grown.run_id == run_spec().run_id()
    assert grown.at(10).genesis.model_copy(update={"leaders": run_spec().genesis.leaders}) == run_spec().genesis


OTHER_FORM = ss58_encode(identity("validator-0").public, 0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "genesis.leaders"),
        ("", "genesis.leaders"),
        (LEADERS[0], "genesis.leaders"),
        ({"0": LEADERS[0]}, "genesis.leaders"),
        ([LEADERS[0], LEADERS[0]], "each hotkey once"),
        ([LEADERS[0], OTHER_FORM], "written for another network"),
        (["nobody"], "not a hotkey address"),
        ([7], "genesis.leaders"),
        ([identity(f"many-{i}").hotkey for i in range(MAX_LEADERS + 1)], "genesis.leaders"),
    ],
)
def test_a_list_that_nobody_could_lead_by_is_refused(value: object, message: str) -> None:
    with pytest.raises(LedgerError, match=message):
        leaders(value)


def test_the_longest_list_fits_an_amendment() -> None:
    assert len(leaders([identity(f"many-{i}").hotkey for i in range(MAX_LEADERS)]).at(10).genesis.leaders) == 64


@pytest.mark.parametrize("carries", [True, False])
def test_others_amend_where_they_carry_it(carries: bool) -> None:
    """All else an amendment must be is asked of theirs, too."""
    asked: list[frozenset[bytes]] = []

    def carried(signers: frozenset[bytes]) -> bool:
        asked.append(signers)
        return carries

    theirs = cosign_amendment(identity("bob"), HISTORY.run_id, amendment(by="alice"))
    if carries:
        assert HISTORY.adopt(theirs, 3, carried).at(10).sparse.k == 32
        with pytest.raises(LedgerError, match="number 1 is due"):
            HISTORY.adopt(amendment(by="alice", number=2), 3, carried)
        with pytest.raises(LedgerError, match="cannot be amended"):
            HISTORY.adopt(amendment(path="model.hidden", by="alice"), 3, carried)
    else:
        with pytest.raises(LedgerError, match="more than half of its validators with more than half of the stake"):
            HISTORY.adopt(theirs, 3, carried)
    assert asked[0] == {identity("alice").public, identity("bob").public}


def test_the_owner_needs_nobody_first_or_last() -> None:
    for data in (amendment(), cosign_amendment(identity(OWNER), HISTORY.run_id, amendment(by="alice"))):
        assert HISTORY.adopt(data, 3).at(10).sparse.k == 32


def every_path() -> list[str]:
    document = run_spec(outer={"age_weights": (0.5,)}).model_dump()  # which is left out where it is empty
    return [f"{section}.{key}" for section, fields in document.items() if isinstance(fields, dict) for key in fields]


def test_the_whitelist_is_of_real_fields() -> None:
    assert set(every_path()) >= AMENDABLE


@pytest.mark.parametrize(
    "path", sorted({*every_path(), "name", "protocol", "", "genesis", "outer.alpha.0"} - AMENDABLE)
)
def test_no_other_field_can_be_amended(path: str) -> None:
    with pytest.raises(LedgerError, match="cannot be amended"):
        HISTORY.adopt(amendment(path=path), 3)


@pytest.mark.parametrize("path", sorted(NOT_YET))
def test_what_this_release_cannot_follow_is_refused_in_words_of_its_own(path: str) -> None:
    assert path == "genesis.chain"
    value = run_spec().genesis.chain.model_dump_json()
    with pytest.raises(LedgerError, match=f"an amendment of {path} needs a newer release"):
        HISTORY.adopt(amendment(path=path, value=value), 3)


def test_delay() -> None:
    assert HISTORY.adopt(amendment(3 + DELAY), 3).at(3 + DELAY).sparse.k == 32
    with pytest.raises(LedgerError, match=f"too soon .*: at the soonest in round {3 + DELAY}"):
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
    changed = HISTORY.adopt(amendment(20, "clock.deadline", "5"), 3)
    with pytest.raises(LedgerError, match="min_blocks must not exceed deadline"):
        changed.adopt(amendment(10, "clock.min_blocks", "8", number=2), 4)


def test_only_signed_bytes_of_this_run_are_adopted() -> None:
    good = amendment()
    adopted = HISTORY.adopt(good, 3).adopted
    assert [(each.data, each.recorded_in, each.amendment.value) for each in adopted] == [(good, 3, "32")]
    foreign = encode_amendment(identity(OWNER), hash32("another run"), 1, 10, "sparse.k", "32")
    for data in (foreign, good[:-1], b"", good[:-1] + bytes([good[-1] ^ 1])):
        with pytest.raises(LedgerError, match="an amendment is not readable"):
            HISTORY.adopt(data, 3)
