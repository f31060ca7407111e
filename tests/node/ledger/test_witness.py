"""Coming upon two signatures: in what is read, and in what buckets show; and never where there is one."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from builders import block, hash32, identity
from hypothesis import given
from hypothesis import strategies as st

from muster.node.ledger.witness import KEPT, WITNESSED_ROUNDS, Witness
from muster.protocol import paths
from muster.protocol.identity import Identity
from muster.protocol.storage.memory import MemoryStore
from muster.protocol.wire import Seal, Type, decode_equivocation, digest_of, encode_equivocation, encode_seal

RUN = hash32("run")
LEADERS = [identity(f"leader-{i}") for i in range(3)]
SIGNERS = frozenset(one.public for one in LEADERS)
LIAR = LEADERS[0]


def seal(leader: Identity = LIAR, round_: int = 3, turn: int = 0, parent: str = "parent", number: int = 5) -> bytes:
    return encode_seal(Seal(RUN, leader.public, round_, hash32(parent), turn, block(number), ()), leader)


ONE, OTHER = seal(number=5), seal(number=6)

histories = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 2), st.sampled_from(("a", "b"))), max_size=30
)


@given(histories)
def test_no_history_of_honest_signatures_shows_anything(signed: list[tuple[int, int, int, str]]) -> None:
    """Honest is who signs one object for a round, a turn and a parent, and shows that as often as it likes."""
    witness = Witness(RUN)
    for leader, round_, turn, parent in signed:
        number = 1000 * round_ + 10 * turn + len(parent)  # which block it names is settled by what it is signed for
        assert witness.take(seal(LEADERS[leader], round_, turn, parent, number), SIGNERS)
    assert witness.caught == {}


@given(histories, st.integers(0, 29))
def test_one_more_for_the_same_shows_it(signed: list[tuple[int, int, int, str]], at: int) -> None:
    """Whichever of the last was signed twice, in whatever order they are seen."""
    witness = Witness(RUN)
    seen = [seal(LEADERS[leader], *rest, number=7) for leader, *rest in signed]  # type: ignore[arg-type]
    for data in seen:
        witness.take(data, SIGNERS)
    assert witness.caught == {}
    if not signed:
        return
    leader, *rest = signed[at % len(signed)]
    kept = list(dict.fromkeys((one, *more) for one, *more in signed if one == leader))[-KEPT:]
    witness.take(seal(LEADERS[leader], *rest, number=8), SIGNERS)  # type: ignore[arg-type]
    if (leader, *rest) in kept:
        ((signer, (once, first, second)),) = witness.caught.items()
        assert (signer, once.type) == (LEADERS[leader].public, Type.SEAL)
        shown, _ = decode_equivocation(encode_equivocation(LEADERS[1], RUN, first, second), RUN)
        assert shown.once == once


def test_of_others_than_the_list_nothing_is_kept() -> None:
    witness = Witness(RUN)
    stranger = identity("stranger")
    assert witness.take(seal(stranger), SIGNERS)
    assert witness.take(seal(stranger, number=6), SIGNERS)
    assert witness.caught == {}


@pytest.mark.parametrize("data", [b"", b"x" * 90, ONE[:-1], ONE[:-1] + bytes([ONE[-1] ^ 1]), ONE + b"\0"])
def test_what_is_not_signed_shows_nothing(data: bytes) -> None:
    witness = Witness(RUN)
    assert not witness.take(data, SIGNERS)
    assert witness.take(ONE, SIGNERS)
    assert witness.caught == {}


class Bucket(MemoryStore):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: Counter[str] = Counter()

    async def get(self, key: str, *, max_bytes: int, deadline: float = 30.0) -> bytes:
        self.read[key] += 1
        return await super().get(key, max_bytes=max_bytes, deadline=deadline)


def buckets(*held: tuple[int, str, bytes]) -> dict[bytes, Bucket]:
    """A bucket for each leader, with these objects in them."""
    made = {one.public: Bucket() for one in LEADERS}

    async def put() -> None:
        for owner, key, data in held:
            await made[LEADERS[owner].public].put(key, data)

    asyncio.run(put())
    return made


def named(data: bytes, round_: int = 3) -> str:
    return paths.seal(RUN, round_, digest_of(data))


def test_two_names_for_a_round_are_compared_wherever_they_lie() -> None:
    """One in the liar's bucket, the other only in a mirror."""
    stores = buckets((0, named(ONE), ONE), (1, named(OTHER), OTHER))
    witness = Witness(RUN)
    asyncio.run(witness.look(stores, 3))
    assert set(witness.caught) == {LIAR.public}


def test_where_there_is_one_name_nothing_is_read() -> None:
    stores = buckets((0, named(ONE), ONE), (1, named(ONE), ONE))
    witness = Witness(RUN)
    asyncio.run(witness.look(stores, 5))
    assert not any(store.read for store in stores.values())


def test_two_leaders_seals_are_read_once_and_show_nothing() -> None:
    taken_over = seal(LEADERS[1], turn=1)
    stores = buckets((0, named(ONE), ONE), (1, named(taken_over), taken_over))
    witness = Witness(RUN)
    for round_ in (3, 4, 5):
        asyncio.run(witness.look(stores, round_))
    assert sum((store.read for store in stores.values()), Counter()) == {named(ONE): 1, named(taken_over): 1}
    assert witness.caught == {}


def test_a_bucket_that_serves_rubbish_is_done_without() -> None:
    stores = buckets((0, named(ONE), b"rubbish"), (1, named(ONE), ONE), (0, named(OTHER), OTHER))
    witness = Witness(RUN)
    asyncio.run(witness.look(stores, 3))
    assert set(witness.caught) == {LIAR.public}


def test_rounds_that_are_long_past_are_not_looked_at() -> None:
    stores = buckets((0, named(ONE), ONE), (1, named(OTHER), OTHER))
    witness = Witness(RUN)
    asyncio.run(witness.look(stores, 3 + WITNESSED_ROUNDS + 1))
    assert witness.caught == {}
    asyncio.run(witness.look(stores, 3 + WITNESSED_ROUNDS))
    assert set(witness.caught) == {LIAR.public}
