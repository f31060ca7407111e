"""What silences a validator: more than half of the others' stake, two of them at least, on one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from builders import hash32, identity
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import LedgerError
from muster.protocol.identity import Identity
from muster.protocol.rules.disputes import carried, enough, silenced_by
from muster.protocol.wire import MAX_PROOFS, Dispute, ScoresUsed, decode_dispute, encode_dispute

RUN, ROUND = hash32("run"), 9
VALIDATORS: dict[bytes, Identity] = {one.public: one for one in (identity(f"validator-{i}") for i in range(5))}
KEYS = sorted(VALIDATORS)
FILE = hash32("file")
Stakes = Mapping[bytes, int]


def dispute(signer: bytes, accused: bytes, round_: int = 7, file: bytes = FILE) -> bytes:
    return encode_dispute(VALIDATORS[signer], RUN, round_, accused, file, hash32("peer"), "it lies")


def used(stakes: Stakes) -> list[ScoresUsed]:
    return [ScoresUsed(public, stakes[public], 8, hash32("used"), ()) for public in sorted(stakes)]


def silenced(
    proofs: Sequence[bytes], stakes: Stakes, before: Sequence[bytes] = (), leaders: Sequence[bytes] = ()
) -> frozenset[bytes]:
    """Of a run whose validators are `leaders`; unless told, those whose scores the record uses."""
    return silenced_by(proofs, RUN, ROUND, leaders or sorted(stakes), before, used(stakes))


EQUAL = dict.fromkeys(KEYS, 10)
TWO, THREE = dict.fromkeys(KEYS[:2], 10), dict.fromkeys(KEYS[:3], 10)


def test_both_others_silence_the_third() -> None:
    assert silenced([dispute(KEYS[1], KEYS[0]), dispute(KEYS[2], KEYS[0])], THREE) == {KEYS[0]}


def test_whom_a_leader_leaves_out_is_counted_all_the_same() -> None:
    """Two accomplices of a leader that uses no other validator's scores are not more than half of the others."""
    proofs = [dispute(KEYS[1], KEYS[0]), dispute(KEYS[2], KEYS[0])]
    with pytest.raises(LedgerError, match="does not stand behind"):
        silenced(proofs, THREE, leaders=KEYS)
    assert silenced(proofs, THREE, before=[KEYS[4]], leaders=KEYS[:3] + KEYS[4:]) == {KEYS[0]}


def test_nothing_silences_nobody() -> None:
    assert silenced([], EQUAL) == frozenset()


@pytest.mark.parametrize(
    ("proofs", "stakes", "sentence"),
    [
        ([b"x"], EQUAL, "not one that this release takes"),
        ([dispute(KEYS[1], KEYS[0])], THREE, "does not stand behind"),
        ([dispute(KEYS[1], KEYS[0])], TWO, "does not stand behind"),
        ([dispute(KEYS[i], KEYS[0]) for i in (1, 2)], EQUAL, "does not stand behind"),
        ([dispute(KEYS[i], KEYS[0]) for i in (2, 1)], THREE, "in key order"),
        ([dispute(KEYS[1], KEYS[0])] * 2, THREE, "in key order"),
        ([dispute(KEYS[1], KEYS[0], 9), dispute(KEYS[2], KEYS[0], 9)], THREE, "of no earlier round"),
        ([dispute(KEYS[1], KEYS[0]), dispute(KEYS[4], KEYS[0])], THREE, "scores it did not use"),
        ([dispute(KEYS[0], KEYS[0]), dispute(KEYS[1], KEYS[0])], THREE, "cannot be silenced by it"),
        ([dispute(KEYS[i], hash32("stranger")) for i in (0, 1)], THREE, "cannot be silenced by it"),
        ([dispute(KEYS[1], KEYS[0]), dispute(KEYS[2], KEYS[0], 6)], THREE, "more than one file"),
        ([dispute(KEYS[1], KEYS[0]), dispute(KEYS[2], KEYS[0], file=hash32("x"))], THREE, "more than one file"),
    ],
)
def test_what_a_record_may_not_carry(proofs: list[bytes], stakes: Stakes, sentence: str) -> None:
    with pytest.raises(LedgerError, match=sentence):
        silenced(proofs, stakes)


def test_who_is_silenced_already_is_not_silenced_again() -> None:
    with pytest.raises(LedgerError, match="cannot be silenced by it"):
        silenced([dispute(KEYS[1], KEYS[0]), dispute(KEYS[2], KEYS[0])], THREE, before=[KEYS[0]])


PAIRS = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS), st.integers(6, 8)), max_size=25, unique_by=lambda p: p[:3]
)
STAKES = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 5), min_size=1)


def found(pairs: Sequence[tuple[bytes, bytes, int]]) -> list[tuple[Dispute, bytes]]:
    datas = [dispute(signer, accused, round_) for signer, accused, round_ in pairs]
    return [(decode_dispute(data, RUN)[0], data) for data in datas]


@given(PAIRS, STAKES, st.sets(st.sampled_from(KEYS)))
def test_what_a_leader_carries_is_valid_and_a_majority_stands_behind_it(
    pairs: list[tuple[bytes, bytes, int]], stakes: dict[bytes, int], before: set[bytes]
) -> None:
    heard = {public: stake for public, stake in stakes.items() if public not in before}
    proofs = carried(found(pairs), before, used(heard), len(KEYS))
    assert len(proofs) <= MAX_PROOFS
    accused, left = silenced(proofs, heard, sorted(before), KEYS), len(KEYS) - len(before)
    assert not accused & before
    for validator in KEYS:
        against = [
            {signer for signer, whom, at in pairs if whom == validator != signer and at == round_ and signer in heard}
            for round_ in (6, 7, 8)
        ]
        others = sum(stake for public, stake in heard.items() if public != validator)
        most = any(
            len(who) > 1 and 2 * len(who) > left - 1 and 2 * sum(heard[one] for one in who) > others for who in against
        )
        assert (validator in accused) <= most
        if most and validator not in before:
            assert any(enough(sorted(who), validator, heard, left) for who in against)


def test_as_few_as_are_enough_are_carried() -> None:
    stakes = dict(zip(KEYS, (10, 1, 30, 20, 5), strict=True))
    proofs = carried(found([(signer, KEYS[0], 7) for signer in KEYS[1:]]), (), used(stakes), len(KEYS))
    assert [decode_dispute(data, RUN)[0].signer for data in proofs] == sorted([KEYS[2], KEYS[3], KEYS[4]])
