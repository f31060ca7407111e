"""A replica goes back to an older θ and forth again, to the bit, in whatever order it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from builders import MODEL, hash32, layout, run_spec, theta, update
from hypothesis import given
from hypothesis import strategies as st

from muster.node.ledger.participant import Step
from muster.node.ledger.rewind import Rewind
from muster.node.replica import Replica
from muster.protocol.wire import Kind

STEPS = 4
NULL = 2
"""The round whose record moves nothing."""


@dataclass
class Walk:
    """A replica that has taken steps, and its root before each and after the last."""

    replica: Replica
    rewind: Rewind
    steps: list[Step]
    roots: list[bytes]

    @classmethod
    def of(cls, count: int) -> Walk:
        replica = Replica(MODEL, hash32("run"), [tensor.clone() for tensor in theta()], 0)
        walk = cls(replica, Rewind(replica), [], [replica.root()])
        for round_ in range(count):
            applied: Any = SimpleNamespace(
                record=SimpleNamespace(kind=Kind.NULL if round_ == NULL else Kind.ROUND),
                updates=(update(round_), update(round_ + 1)),
                weights=np.ones((2, len(layout().shapes)), np.float32),
            )
            before: Any = SimpleNamespace(round=round_, spec=run_spec())
            walk.steps.append(Step(before, applied, replica.step(applied, before.spec)))
            walk.rewind.add(walk.steps[-1])
            walk.roots.append(replica.root())
        return walk

    def root(self) -> bytes:
        return self.replica.root()


@given(st.lists(st.integers(0, STEPS), max_size=12))
def test_every_theta_is_found_again(places: list[int]) -> None:
    walk = Walk.of(STEPS)
    for place in places:
        walk.rewind.to(place)
        assert walk.root() == walk.roots[place]
    walk.rewind.to_newest()
    assert walk.root() == walk.roots[STEPS]


@given(st.integers(0, STEPS), st.integers(0, STEPS))
def test_what_is_forgotten_is_not_needed_for_what_is_not(before: int, place: int) -> None:
    walk = Walk.of(STEPS)
    walk.rewind.to(place)
    walk.rewind.forget(before)
    for kept in range(before, STEPS + 1):
        walk.rewind.to(kept)
        assert walk.root() == walk.roots[kept]


def test_a_step_that_is_taken_back_for_good_is_dropped() -> None:
    walk = Walk.of(STEPS)
    walk.rewind.to(1)
    walk.rewind.to_newest()
    last = walk.steps[-1]
    assert last.log is not None
    walk.replica.undo(last.applied, last.log)
    walk.rewind.drop()
    assert walk.root() == walk.roots[STEPS - 1]
    walk.rewind.to(0)
    walk.rewind.to_newest()
    assert walk.root() == walk.roots[STEPS - 1]
