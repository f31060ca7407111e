"""Leading anchors back only as far as it matters gives what leading all of them back gives."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from builders import LEADER, hash32, identity
from closed_rounds import open_tip
from hypothesis import given
from hypothesis import strategies as st

from muster.node.ledger.ballot import Ballot
from muster.node.ledger.mirrors import Mirrors, Places
from muster.node.ledger.reader import Reader
from muster.protocol.errors import ObjectMissing
from muster.protocol.ledger import Tip
from muster.protocol.ledger.forkchoice import Vote, claims
from muster.protocol.ledger.lineage import Lineage
from muster.protocol.types import Anchor
from muster.protocol.wire import Record

ROUND, DEPTH = 5, 3
LIST = (identity(LEADER), identity("second"), identity("third"))
START = open_tip(genesis={"leaders": tuple(one.hotkey for one in LIST)})
TIP = replace(START, opening=replace(START.opening, round=ROUND))
FOREIGN = "none of this ledger"
BRANCHES = ("one", "other", FOREIGN)


def record_of(branch: str, round_: int) -> bytes:
    """The digest of a branch's record of a round."""
    return hash32(branch, round_)


@dataclass
class Shelf:
    """Stands for a reader whose buckets hold the records of some branches; counts what it is asked for."""

    held: frozenset[str]
    lineage: Lineage = field(default_factory=Lineage)
    refused: frozenset[Anchor] = frozenset()
    read: int = 0

    async def traced(self, newest: Anchor, tip: Tip, places: Places) -> Anchor:
        at = self.lineage.trace(newest, tip.round)
        while at.round > tip.round:
            await self.learn(at, tip, places)
            at = self.lineage.trace(at, tip.round)
        return at

    async def learn(self, at: Anchor, tip: Tip, places: Places) -> None:
        self.read += 1
        branch = next((name for name in BRANCHES if record_of(name, at.round) == at.digest), None)
        if branch is None or branch not in self.held:
            raise ObjectMissing("there is no such record")
        first = hash32("another") if branch == FOREIGN else tip.parent
        parent = first if at.round == tip.round else record_of(branch, at.round - 1)
        self.lineage.take(at, cast(Record, _Named(at.round, parent)), at.digest)


@dataclass(frozen=True)
class _Named:
    """What lineage takes of a record."""

    round: int
    parent: bytes
    turn: int = 0


histories = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(ROUND - 1, ROUND + DEPTH), st.sampled_from(BRANCHES)),
    min_size=1,
    max_size=10,
).map(lambda some: sorted(some, key=lambda one: one[1]))
"""Who anchored in which block which round of which branch, in chain order."""


@given(histories, st.frozensets(st.sampled_from(BRANCHES)), st.integers(0, 500))
def test_it_is_as_if_every_anchor_had_been_led_back(
    history: list[tuple[int, int, int, str]], held: frozenset[str], final: int
) -> None:
    seen = [
        (LIST[who].public, block, Anchor(round_, record_of(branch, round_))) for who, block, round_, branch in history
    ]
    whole = [
        Vote(
            LIST[who].public,
            block,
            record_of(branch, ROUND) if round_ >= ROUND and branch in held and branch != FOREIGN else None,
        )
        for who, block, round_, branch in history
    ]
    shelf = Shelf(held)
    votes = asyncio.run(Ballot(cast(Reader, shelf), TIP, Mirrors(()), {}).votes(seen))

    def final_ones(votes: list[Vote]) -> list[bytes]:
        return [claim.digest for claim in claims(votes, TIP.roll, final) if claim.final]

    assert final_ones(votes) == final_ones(whole)
    first, expected = (claims(some, TIP.roll, final)[:1] for some in (votes, whole))
    assert [claim.digest for claim in first] == [claim.digest for claim in expected]


@pytest.mark.parametrize("later", [0, 40])
def test_whoever_is_far_behind_reads_nothing_of_what_came_later(later: int) -> None:
    seen = [(one.public, 3 + i, Anchor(ROUND, record_of("one", ROUND))) for i, one in enumerate(LIST)]
    seen += [(LIST[i % 3].public, 10 + i, Anchor(ROUND + 1 + i, record_of("one", ROUND + 1 + i))) for i in range(later)]
    shelf = Shelf(frozenset(("one",)))
    asyncio.run(Ballot(cast(Reader, shelf), TIP, Mirrors(()), {}).votes(seen))
    assert shelf.read == 1
