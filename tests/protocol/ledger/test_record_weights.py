"""What a record says of its accepted updates' worth is what their payloads and their heads give, or it is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from builders import MINERS, identity, update
from closed_rounds import Closed, Taken, changed, close, open_tip, taken_in

from muster.kernels import SparseUpdate
from muster.protocol.errors import LedgerError
from muster.protocol.ledger import Tip, prepare
from muster.protocol.rules.assignment import assigned, data_digest


def declaring(tip: Tip, name: str, uid: int, windows: int) -> Taken:
    """A submission that was made of fewer windows than a whole round's, and says so."""
    spec = tip.spec
    return taken_in(
        tip,
        name,
        uid,
        windows=windows,
        tokens=windows * spec.data.window,
        data_digest=data_digest(assigned(tip.opening.assign.value, uid, spec.data, windows)),
    )


@cache
def uneven() -> Closed:
    """Round 0, where the second miner did one window of its round."""
    tip = open_tip()
    return close(tip, [taken_in(tip, MINERS[0], 0), declaring(tip, MINERS[1], 1, 1)])


def silent(work: SparseUpdate, *tensors: int) -> SparseUpdate:
    """`work` with zeros for some tensors."""
    scales, codes = work.scales.clone(), work.codes.clone()
    for tensor in tensors:
        scales[slice(*work.grid.tensor_tiles[tensor])] = 0
        codes[work.grid.entries(tensor, work.k)] = 0
    return replace(work, scales=scales, codes=codes)


def test_weights_go_by_the_windows_that_heads_declare() -> None:
    made = uneven()
    weights = made.verify().weights
    row = [entry.public for entry in made.record.accepted].index(identity(MINERS[1]).public)
    assert (weights[row] < 1).any(), "a whole round's norm from one window is clipped"
    assert (weights[1 - row] == 1).all()


def test_weights_as_if_all_had_done_the_same_are_refused() -> None:
    made = uneven()
    updates = made.verify().updates
    same = prepare([replace(each, scale_limit=None) for each in updates], [6, 6], made.tip.spec)
    assert not np.array_equal(same.weights, made.record.weights)
    with pytest.raises(LedgerError, match="the weights are not what the accepted submissions give"):
        changed(made, weights=same.weights).verify()


def test_a_list_of_tensors_left_alone_that_the_submissions_do_not_give_is_refused() -> None:
    made = uneven()
    assert made.record.unmoved == ()
    with pytest.raises(LedgerError, match="the tensors it leaves alone are not what"):
        changed(made, unmoved=(0,)).verify()


def test_a_tensor_of_one_owner_is_said_to_be_left_alone() -> None:
    """The record of whom one brings nothing for a tensor lists it, and to leave that out is refused."""
    made = close(open_tip(), _owners_of(open_tip()))
    assert made.record.unmoved == (2,)
    assert not made.record.weights[:, 2].any()
    assert made.verify().weights[:, :2].all()
    with pytest.raises(LedgerError, match="the tensors it leaves alone are not what"):
        changed(made, unmoved=()).verify()
    with pytest.raises(LedgerError, match="the weights are not what"):
        changed(made, weights=np.ones_like(made.record.weights)).verify()


def _owners_of(tip: Tip) -> list[Taken]:
    """Two submissions, of which the second brings nothing for tensor 2."""
    whole = taken_in(tip, MINERS[0], 0)
    return [whole, taken_in(tip, MINERS[1], 1, work=silent(update(2), 2))]
