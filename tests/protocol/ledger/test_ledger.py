"""A record that breaks any rule is refused by everybody, with a sentence that names the rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from builders import (
    LEADER,
    MINERS,
    beacon,
    block,
    hash32,
    identity,
    layout,
    peers,
    theta,
)
from closed_rounds import (
    ALICE,
    BOB,
    LEAD,
    Closed,
    changed,
    close,
    good,
    open_tip,
    taken_in,
    with_entry,
    with_opening,
    with_seal,
)

from muster.kernels import aggregate_
from muster.protocol import wire
from muster.protocol.errors import LedgerError
from muster.protocol.identity import Identity
from muster.protocol.ledger import (
    advance,
    check_bundle_size,
)
from muster.protocol.ledger.bundle import Opened, read_bundle, write_bundle
from muster.protocol.ledger.roots import state_root
from muster.protocol.reasons import KEY_MISSING, KEY_SEAL, NOT_SELECTED, NULL_ROUND
from muster.protocol.rules.admission import MAX_KEY_BYTES
from muster.protocol.wire import Kind, ScoresUsed, UsedScore


def scores(validator: Identity = LEAD, round_: int = -1, rows: tuple[UsedScore, ...] = ()) -> ScoresUsed:
    return ScoresUsed(validator.public, 1, max(round_, 0), hash32("file"), rows)


def test_an_honest_record_is_valid() -> None:
    closed = good()
    applied = closed.verify()
    assert [entry.public for entry in applied.record.accepted] == sorted([ALICE, BOB])
    tip = applied.tip
    assert (tip.round, tip.outer_step, tip.parent, tip.closed) == (1, 1, applied.digest, False)
    assert tip.opening == closed.record.opening
    assert tip.opening.expected == tuple(sorted([ALICE, BOB]))
    assert tip.opening.assign.block == closed.tip.opening.open
    after = [tensor.clone() for tensor in theta()]
    aggregate_(after, applied.updates, applied.weights, 1.0, tip.spec.outer.rule)
    assert state_root(after, layout(), tip.run_id, 1) != closed.record.root


MUTATIONS: dict[str, tuple[Callable[[Closed], Closed], str]] = {
    "round": (lambda c: changed(c, round=1), "round 1 follows -1"),
    "parent": (lambda c: changed(c, parent=hash32("x")), "its parent is another record"),
    "leader": (lambda c: changed(c, leader=ALICE), "it is not its signer's turn"),
    "spec": (lambda c: changed(c, spec_digest=hash32("x")), "made under another spec"),
    "outer step": (lambda c: changed(c, outer_step=7), "outer step 7 instead of 0"),
    "root": (lambda c: changed(c, root=hash32("x")), "not the root of this θ"),
    "seal digest": (lambda c: changed(c, seal=hash32("x")), "the seal is not the one the record names"),
    "seal round": (lambda c: with_seal(c, round=1), "the seal is of another round"),
    "seal parent": (lambda c: with_seal(c, parent=hash32("x")), "the seal is of another round"),
    "seal leader": (lambda c: with_seal(c, leader=BOB), "the seal is by an aggregator whose turn it was not"),
    "seal turn": (lambda c: with_seal(c, turn=1), "the seal is of a later turn than the record"),
    "seal before its turn": (
        lambda c: changed(with_seal(c, turn=1), turn=1),
        "the round was sealed before its signer's turn",
    ),
    "record before its turn": (lambda c: changed(c, turn=1), "the record was made before its signer's turn"),
    "next round opened before the seal": (
        lambda c: with_opening(c, open=block(5)),
        "the next round opens before this one was sealed",
    ),
    "another head sealed": (
        lambda c: with_seal(c, headers=tuple((peer, hash32("head")) for peer, _ in c.seal.headers)),
        "does not list exactly the sealed submissions",
    ),
    "late work": (
        lambda c: with_entry(c, 0, round=7),
        "does not list exactly the sealed submissions",
    ),
    "entry left out": (
        lambda c: changed(c, entries=c.record.entries[1:], weights=c.record.weights[1:]),
        "does not list exactly the sealed submissions",
    ),
    "entries reordered": (
        lambda c: changed(c, entries=c.record.entries[::-1]),
        "does not list exactly the sealed submissions",
    ),
    "unsealed entry": (lambda c: with_seal(c, headers=c.seal.headers[:1]), "list exactly the sealed"),
    "good head rejected": (
        lambda c: with_entry(c, 0, reason="possession"),
        "is recorded as possession without being so",
    ),
    "another seal with the same list": (
        lambda c: with_seal(c, block=block(6)),
        "its key answers another seal than the record names",
    ),
    "seat withheld": (
        lambda c: with_entry(c, 0, reason=NOT_SELECTED),
        "recorded as not_selected where the rules make it accepted",
    ),
    "attendance given away": (
        lambda c: with_entry(c, 0, reason=NULL_ROUND),
        "recorded as null_round where the rules make it accepted",
    ),
    "reason made up": (lambda c: with_entry(c, 0, reason="ugly"), "ugly is not a reason of this protocol"),
    "null record": (lambda c: changed(c, kind=Kind.NULL), "its submissions make it a round record"),
    "closing with work": (
        lambda c: changed(c, kind=Kind.CLOSE, opening=None),
        "a closing record has no submissions",
    ),
    "bundle": (lambda c: replace(c, bundle=c.bundle[:-1]), "the bundle is not the one the record names"),
    "bundle size": (lambda c: changed(c, bundle_bytes=len(c.bundle) + 1), "the bundle is not the one the record names"),
    "weights": (
        lambda c: changed(c, weights=c.record.weights * np.float32(0.5)),
        "the weights are not what the accepted submissions give",
    ),
    "one bit of a weight": (
        lambda c: changed(c, weights=np.nextafter(c.record.weights, np.float32(2))),
        "the weights are not what the accepted submissions give",
    ),
    "no number for a weight": (
        lambda c: changed(c, weights=c.record.weights * np.float32(np.nan)),
        "the weights are not what the accepted submissions give",
    ),
    "next round": (lambda c: with_opening(c, round=2), "not what the rules give"),
    "next expected": (lambda c: with_opening(c, expected=()), "not what the rules give"),
    "next deadline": (lambda c: with_opening(c, deadline=1000), "not what the rules give"),
    "next earliest": (lambda c: with_opening(c, min_block=0), "not what the rules give"),
    "next base": (lambda c: with_opening(c, base_round=0), "not what the rules give"),
    "next spec": (lambda c: with_opening(c, spec_digest=hash32("x")), "not what the rules give"),
    "next open": (lambda c: with_opening(c, open=block(8)), "not what the rules give"),
    "next assignment": (
        lambda c: with_opening(c, assign=beacon("assign", 1, 6)),
        "assignment is not drawn at this round's opening",
    ),
    "scores of a stranger": (
        lambda c: changed(c, scores=(scores(identity("somebody")),)),
        "not by validators of the run",
    ),
    "scores twice": (lambda c: changed(c, scores=(scores(), scores())), "each once and in key order"),
    "scores of the wrong round": (lambda c: changed(c, scores=(scores(),)), "scores of round 0 cannot steer"),
    "unreadable amendment": (lambda c: changed(c, amendments=(b"x",)), "an amendment is not readable"),
    "unreadable proof": (lambda c: changed(c, proofs=(b"x",)), "a proof is not one that this release takes"),
    "proof": (
        lambda c: changed(c, proofs=(wire.encode_proof(LEAD, c.tip.run_id, 0, 1, (b"seal", b"seal"), "two seals"),)),
        "a proof of two signatures shows nothing: signed_type",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_breaking_one_rule(name: str) -> None:
    mutate, sentence = MUTATIONS[name]
    with pytest.raises(LedgerError) as caught:
        mutate(good()).verify()
    assert sentence in str(caught.value)


def test_sealed_before_the_round_opened() -> None:
    tip = replace(open_tip(), opening=replace(open_tip().opening, open=block(6)))
    closed = close(tip, [], assign=beacon("assign", 1, 6))
    with pytest.raises(LedgerError, match="sealed before it opened"):
        with_seal(closed, block=block(5)).verify()


def test_the_judges_own_theta_decides() -> None:
    with pytest.raises(LedgerError, match="not the root of this θ"):
        good().verify(root=hash32("another θ"))
    with pytest.raises(LedgerError, match="recorded as accepted but is possession"):
        good().verify(possession=hash32)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"possession": hash32("x")}, "possession"),
        ({"round": 1}, "wrong_round"),
        ({"base_round": 9}, "wrong_base"),
        ({"layout": hash32("x")}, "wrong_layout"),
        ({"data_digest": hash32("x")}, "data_digest"),
        ({"windows": 0}, "windows_range"),
        ({"tokens": 1}, "tokens"),
    ],
)
def test_a_bad_head_is_recorded_with_its_own_reason_only(changes: dict[str, Any], reason: str) -> None:
    tip = open_tip()
    alice = taken_in(tip, "alice", 0, **changes)
    bad = replace(alice, head=replace(alice.head, reason=reason, signed=None))
    honest = close(tip, [bad, taken_in(tip, "bob", 1)])
    assert {e.public: e.reason for e in honest.record.entries} == {ALICE: reason, BOB: ""}
    assert len(honest.verify().updates) == 1
    for other in ("", "signature", KEY_MISSING):
        claim = other or "accepted"
        at = sorted([ALICE, BOB]).index(ALICE)
        with pytest.raises(LedgerError, match=f"recorded as {claim} but is {reason}"):
            with_entry(honest, at, reason=other).verify()


def test_what_only_the_leader_saw_is_taken_on_his_word() -> None:
    tip = open_tip()
    both = [taken_in(tip, "alice", 0), taken_in(tip, "bob", 1)]
    applied = close(tip, both, {ALICE: KEY_MISSING}).verify()
    assert [entry.public for entry in applied.record.accepted] == [BOB]
    applied = close(tip, both, {ALICE: "uid_mismatch"}).verify()
    assert applied.tip.past[-1].accepted == {BOB}
    assert applied.tip.past[-1].present == {ALICE, BOB}


def test_a_slot_is_claimed_once() -> None:
    tip = open_tip()
    closed = close(tip, [taken_in(tip, "alice", 0), taken_in(tip, "bob", 0)])
    with pytest.raises(LedgerError, match="two accepted submissions claim the same slot"):
        closed.verify()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda opened: replace(opened, key=opened.key[:-1] + bytes((opened.key[-1] ^ 1,))), "key_signature"),
        (lambda opened: replace(opened, ciphertext=bytes(len(opened.ciphertext))), "ciphertext_digest"),
    ],
)
def test_a_payload_that_does_not_open(spoil: Callable[[Opened], Opened], reason: str) -> None:
    closed = good()
    heads = [wire.decode_head(entry.head, closed.tip.run_id) for entry in closed.record.accepted]
    first, *others = read_bundle(closed.bundle, heads)
    bundle = write_bundle([spoil(first), *others])
    with pytest.raises(LedgerError, match=f"an accepted submission of {first.signed.header.hotkey} is {reason}"):
        replace(changed(closed, bundle=blake3(bundle).digest()), bundle=bundle).verify()


def test_null_record() -> None:
    tip = open_tip(clock={"min_submissions": 3})
    both = [taken_in(tip, "alice", 0), taken_in(tip, "bob", 1)]
    closed = close(tip, both)
    assert closed.record.kind is Kind.NULL
    assert {entry.reason for entry in closed.record.entries} == {NULL_ROUND}
    applied = closed.verify()
    assert (applied.tip.round, applied.tip.outer_step, applied.updates) == (1, 0, ())
    assert applied.tip.opening.expected == tuple(sorted([ALICE, BOB]))
    with pytest.raises(LedgerError, match="make it a null record"):
        changed(closed, kind=Kind.ROUND).verify()
    with pytest.raises(LedgerError, match="recorded as not_selected where the rules make it null_round"):
        with_entry(closed, 0, reason=NOT_SELECTED).verify()


def test_a_round_is_not_sealed_before_it_is_time() -> None:
    tip = open_tip()
    closed = close(tip, [taken_in(tip, MINERS[0], 0)])
    assert closed.seal.block.number == tip.opening.deadline
    assert closed.verify().record.accepted
    with pytest.raises(LedgerError, match="sealed before it was time"):
        with_seal(closed, block=block(tip.opening.deadline - 1)).verify()
    with pytest.raises(LedgerError, match="sealed before it was time"):
        with_seal(good(), block=block(good().tip.opening.min_block - 1)).verify()
    alone = open_tip(clock={"min_submissions": 2}, genesis={"miners": (identity(MINERS[0]).hotkey,)})
    with pytest.raises(LedgerError, match="sealed before it was time"):
        with_seal(close(alone, [taken_in(alone, MINERS[0], 0)]), block=block(5)).verify()


@pytest.mark.parametrize("order", [1, -1])
def test_rows_of_scores_stand_in_key_order(order: int) -> None:
    genesis = open_tip(gauntlet={"lag": 2})
    tip = replace(genesis, opening=replace(genesis.opening, round=3, base_round=3))
    rows = tuple(UsedScore(public, 1.0, True) for public in sorted(peers())[::order])
    closed = close(tip, [], scores=(scores(LEAD, 1, rows),))
    if order == 1:
        assert closed.verify().tip.round == 4
    else:
        with pytest.raises(LedgerError, match="each peer once, in key order"):
            closed.verify()


def test_closing_record() -> None:
    closed = close(open_tip(), [], closing=True)
    tip = closed.verify().tip
    assert tip.closed
    assert tip.outer_step == 0
    with pytest.raises(LedgerError, match="the run is closed"):
        replace(closed, tip=tip).verify()


def test_a_ledger_can_be_followed_without_theta() -> None:
    closed = good()
    assert advance(closed.tip, closed.record, hash32("d")) == replace(closed.verify().tip, parent=hash32("d"))


def test_bundle_size_is_known_from_the_heads() -> None:
    closed = good()
    assert check_bundle_size(closed.record, closed.tip.run_id) == len(closed.bundle)
    more = 2 * MAX_KEY_BYTES
    with pytest.raises(LedgerError, match=f"claims a bundle of {len(closed.bundle) + more} bytes"):
        check_bundle_size(replace(closed.record, bundle_bytes=len(closed.bundle) + more), closed.tip.run_id)
    with pytest.raises(LedgerError, match="claims a bundle of 1 bytes"):
        check_bundle_size(replace(closed.record, bundle_bytes=1), closed.tip.run_id)
    with pytest.raises(LedgerError, match="not readable: wrong_run"):
        check_bundle_size(closed.record, hash32("another run"))


def test_how_a_seal_names_what_is_no_header() -> None:
    """By all of its bytes, as it names a head."""
    head = good().record.entries[0].head
    for data in (head, b"", b"junk", head[:-1], head + b"\0"):
        assert wire.head_digest(data) == blake3(b"muster/head/v2" + data).digest()


def test_a_flipped_signature_bit_in_a_recorded_head_takes_nobodys_pay() -> None:
    """The seal lists every byte of a head, so a leader cannot record one as badly signed that it sealed as good."""
    closed = good()
    head = closed.record.entries[0].head
    flipped = head[:-1] + bytes((head[-1] ^ 1,))
    robbed = with_entry(closed, 0, head=flipped, reason="signature")
    with pytest.raises(LedgerError, match="does not list exactly the sealed submissions"):
        robbed.verify()


def test_of_two_seals_of_a_round_the_keys_make_one_count() -> None:
    """A leader that has seen its accomplice's work too late seals again with it: no honest key answers that seal."""
    tip = open_tip()
    honest, late = [taken_in(tip, "alice", 0), taken_in(tip, "bob", 1)], taken_in(tip, "mallory", 2)
    first = close(tip, honest)
    assert first.verify().record.accepted
    claimed = close(tip, [*honest, late], answering=first.record.seal)
    with pytest.raises(LedgerError, match="key_seal: its key answers another seal than the record names"):
        claimed.verify()
    admitted = close(tip, [*honest, late], {ALICE: KEY_SEAL, BOB: KEY_SEAL}).verify()
    assert [entry.public for entry in admitted.record.accepted] == [identity("mallory").public]
    assert admitted.tip.opening.expected == (), "who takes the keys' word away is left alone with its accomplice"


def test_leaders_take_turns() -> None:
    leaders = [identity(LEADER).hotkey, identity("second").hotkey]
    tip = open_tip(genesis={"leaders": tuple(leaders)})
    assert [tip.leader(turn) for turn in range(3)] == [LEAD.public, identity("second").public, LEAD.public]
    assert tip.leader_in_turn == LEAD.public
