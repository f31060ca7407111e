"""A checkpoint's manifest brings a newcomer to the very tip that everybody else has, or is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import rfc8785
from builders import LEADER, MINERS, OWNER, block, hash32, identity
from closed_rounds import Taken, close, open_tip, taken_in
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol import wire
from muster.protocol.errors import LedgerError, ObjectDamaged
from muster.protocol.ledger import Tip, advance, resume, tip_info
from muster.protocol.ledger.resume import past_of
from muster.protocol.reasons import UNAVAILABLE
from muster.protocol.rules.attendance import MEMORY, Attendance
from muster.protocol.wire import Record, ScoresUsed, Seal, decode_equivocation
from muster.protocol.wire.manifest import Manifest, TipInfo, decode_manifest, manifest_digest

PEERS = [hash32("peer", i) for i in range(5)]
Step = tuple[Tip, Record, bytes]


def manifest(tip: Tip, **changes: Any) -> Manifest:
    """Of a checkpoint at this tip; θ's files are not what is asked here. `changes` are to what it says of the tip."""
    info = TipInfo.model_validate(tip_info(tip).model_dump() | changes)
    fields = {"run": tip.run_id, "root": hash32("root"), "layout": tip.layout.digest}
    named = {name: value.hex() for name, value in fields.items()}
    return Manifest(**named, round=tip.round, outer_step=tip.outer_step, shards=(), tip=info)


VALIDATORS = sorted((identity(name) for name in (LEADER, "second", "third")), key=lambda one: one.public)
ACCUSED, *SIGNERS = VALIDATORS


def silencing(tip: Tip) -> dict[str, Any]:
    """What a record takes that silences one of three validators."""
    said = (hash32("file"), hash32("peer"), "it lies")
    proofs = tuple(wire.encode_dispute(one, tip.run_id, 1, ACCUSED.public, *said) for one in SIGNERS)
    scores = tuple(ScoresUsed(one.public, 1, tip.round - 1, hash32("used"), ()) for one in VALIDATORS)
    return {"proofs": proofs, "scores": scores}


def striking(tip: Tip) -> bytes:
    """The proof that one of them has sealed the open round twice."""
    liar = next(one for one in SIGNERS if one != identity(LEADER))
    seals = (Seal(tip.run_id, liar.public, tip.round, tip.parent, 1, block(number), ()) for number in (1, 2))
    return wire.encode_equivocation(ACCUSED, tip.run_id, *(wire.encode_seal(seal, liar) for seal in seals))


def ledger() -> tuple[Tip, list[Step]]:
    """A run of a round with work in it, of null rounds, of two amendments, of a validator that is silenced and of a
    leader that is struck: each tip with the record before it."""
    leaders = (identity(LEADER).hotkey, *(one.hotkey for one in VALIDATORS if one.hotkey != identity(LEADER).hotkey))
    start = tip = open_tip(clock={"amend_delay": 1}, genesis={"leaders": leaders})
    steps: list[Step] = []
    wishes = {
        1: wire.encode_amendment(identity(OWNER), start.run_id, 1, 3, "clock.deadline", "12"),
        2: wire.encode_amendment(identity(OWNER), start.run_id, 2, 4, "sparse.k", "32"),
    }
    for round_ in range(20):
        taken = [taken_in(tip, name, uid) for uid, name in enumerate(MINERS)] if round_ == 0 else []
        more = silencing(tip) if round_ == 4 else {"proofs": (striking(tip),)} if round_ == 7 else {}
        record = close(tip, taken, amendments=(wishes[round_],) if round_ in wishes else (), **more).record
        digest = hash32("record", round_)
        tip = advance(tip, record, digest)
        steps.append((tip, record, digest))
    return start, steps


START, STEPS = ledger()


def test_a_silenced_validator_is_in_the_tip_from_the_next_record_on() -> None:
    assert [len(tip.silenced) for tip, _, _ in STEPS] == [0] * 4 + [1] * 3 + [2] * 13
    assert STEPS[5][0].silenced == {ACCUSED.public}
    tip = STEPS[5][0]
    (used, *_) = silencing(tip)["scores"]
    with pytest.raises(LedgerError, match="of a validator that is silenced"):
        close(tip, [], scores=(used,)).verify()


def test_a_struck_leader_is_off_the_list_from_the_next_record_on() -> None:
    assert [len(tip.leaders) for tip, _, _ in STEPS] == [3] * 7 + [2] * 13
    (info,) = tip_info(STEPS[-1][0]).struck
    assert info.round == 7
    assert bytes.fromhex(info.leader) not in STEPS[-1][0].leaders
    without = tip_info(STEPS[6][0]).model_dump(mode="json")
    assert "struck" not in without, "the manifest of a run in which nobody was is as it always was"


def amended_by_validators() -> tuple[Tip, Tip, Record, bytes]:
    """Three validators: two of them amend the list of leaders, one of whom is silenced later; the newcomer disputes."""
    start = tip = open_tip(
        clock={"amend_delay": 1},
        genesis={"leaders": (identity(LEADER).hotkey, *(v.hotkey for v in VALIDATORS if v != identity(LEADER)))},
    )
    grown = json.dumps([*start.spec.genesis.leaders, identity("newcomer").hotkey])
    wish = wire.encode_amendment(ACCUSED, start.run_id, 1, 2, "genesis.leaders", grown)
    wish = wire.cosign_amendment(SIGNERS[0], start.run_id, wish)
    said = (hash32("file"), hash32("peer"), "it lies")
    by = sorted([*SIGNERS, identity("newcomer")], key=lambda one: one.public)
    proofs = tuple(wire.encode_dispute(one, start.run_id, 1, ACCUSED.public, *said) for one in by)
    for round_ in range(6):
        voters = sorted([*VALIDATORS, *([identity("newcomer")] if round_ > 1 else [])], key=lambda one: one.public)
        scores = tuple(ScoresUsed(one.public, 1, 0, hash32("used"), ()) for one in voters)
        more = {1: {"amendments": (wish,)}, 3: {"proofs": proofs}}.get(round_, {})
        record = close(tip, [], scores=scores if round_ < 4 else (), **more).record
        digest = hash32("record", round_)
        tip = advance(tip, record, digest)
    return start, tip, record, digest


def test_a_newcomer_learns_what_validators_amended_after_one_of_them_was_struck() -> None:
    """Two of the three that are left are more than half of them, and not of all four."""
    validators = [*VALIDATORS, identity("fourth")]
    others = tuple(one.hotkey for one in validators if one != identity(LEADER))
    start = tip = open_tip(clock={"amend_delay": 1}, genesis={"leaders": (identity(LEADER).hotkey, *others)})
    struck = decode_equivocation(striking(tip), tip.run_id)[0].once.signer
    left = sorted((one for one in validators if one.public != struck), key=lambda one: one.public)
    wish = wire.encode_amendment(left[0], start.run_id, 1, 4, "clock.deadline", "12")
    wish = wire.cosign_amendment(left[1], start.run_id, wish)
    scores = tuple(ScoresUsed(one.public, 1, 1, hash32("used"), ()) for one in left)
    for more in ({"proofs": (striking(tip),)}, {}, {"amendments": (wish,), "scores": scores}):
        record = close(tip, [], **more).record
        digest = hash32("record", tip.round)
        tip = advance(tip, record, digest)
    assert tip.history.adopted
    assert tip.struck == tip.silenced == {struck}
    assert resume(start, Manifest.model_validate_json(manifest(tip).encode()), (record, digest)) == tip


def test_a_newcomer_learns_what_validators_amended_though_one_of_them_is_silenced_since() -> None:
    start, tip, record, digest = amended_by_validators()
    assert identity("newcomer").hotkey in tip.spec.genesis.leaders
    assert tip.silenced == {ACCUSED.public}
    read = Manifest.model_validate_json(manifest(tip).encode())
    assert resume(start, read, (record, digest)) == tip
    (info,) = tip_info(tip).amendments
    alone = bytes.fromhex(info.object)[: -32 - 64].hex()
    lie = manifest(tip, amendments=({"round": 1, "object": alone},))
    with pytest.raises(LedgerError, match="more than half of its validators"):
        resume(start, lie, (record, digest))


@pytest.mark.parametrize("at", range(20))
def test_whoever_resumes_stands_where_those_stand_who_were_there(at: int) -> None:
    tip, record, digest = STEPS[at]
    read = Manifest.model_validate_json(manifest(tip).encode())
    assert resume(START, read, (record, digest)) == tip


def test_the_run_may_begin_with_a_checkpoint() -> None:
    assert resume(START, manifest(START), None) == START
    with pytest.raises(LedgerError, match="not the one the run begins with"):
        resume(START, manifest(START, peers={}, past=""), None)


def changed(**fields: Any) -> Manifest:
    """Of the checkpoint after the second amendment, with something else."""
    return manifest(STEPS[5][0], **fields)


TRUE = tip_info(STEPS[5][0])
FIRST, SECOND = (info.model_dump() for info in TRUE.amendments)
OTHER = wire.encode_amendment(identity(OWNER), START.run_id, 2, 4, "sparse.k", "16").hex()
LATER = wire.encode_dispute(SIGNERS[0], START.run_id, 6, ACCUSED.public, bytes(32), bytes(32), "").hex()
STRANGER = wire.encode_dispute(SIGNERS[0], START.run_id, 1, bytes(32), bytes(32), bytes(32), "").hex()


def strike(**changes: Any) -> dict[str, Any]:
    """One that could have been."""
    return {"leader": ACCUSED.public.hex(), "round": 2, "proof": "00" * 32} | changes


LIES: dict[str, tuple[Manifest, str]] = {
    "an amendment left out": (changed(amendments=TRUE.amendments[:1]), "opens the round for"),
    "all amendments left out": (changed(amendments=()), "opens the round for"),
    "another amendment": (
        changed(amendments=(FIRST, SECOND | {"object": OTHER})),
        "opens the round for",
    ),
    "an amendment twice": (changed(amendments=(*TRUE.amendments, TRUE.amendments[1])), "recorded once"),
    "amendments in another order": (changed(amendments=TRUE.amendments[::-1]), "number 1 is due"),
    "an amendment of an earlier record": (changed(amendments=(FIRST, SECOND | {"round": 0})), "order of the records"),
    "an amendment of the open round": (changed(amendments=(FIRST, SECOND | {"round": 6})), "order of the records"),
    "other leaders": (changed(leaders=(identity("bob").hotkey,)), "leaders that nothing"),
    "a proof that is none": (changed(proofs=("00",)), "a proof that is none"),
    "a dispute of a later round": (changed(proofs=(LATER,)), "disputes that nothing before it gives"),
    "a dispute against a stranger": (changed(proofs=(STRANGER,)), "disputes that nothing before it gives"),
    "a strike of a later round": (changed(struck=(strike(round=6),)), "struck leaders that nothing before it gives"),
    "a strike against a stranger": (changed(struck=(strike(leader="00" * 32),)), "struck leaders that nothing"),
    "a strike twice": (changed(struck=(strike(round=2), strike(round=3))), "struck leaders that nothing"),
    "strikes of one record": (
        changed(struck=tuple(strike(leader=one.public.hex()) for one in SIGNERS)),
        "struck leaders that nothing",
    ),
    "everybody struck": (
        changed(struck=tuple(strike(leader=one.public.hex(), round=i) for i, one in enumerate(VALIDATORS))),
        "struck leaders that nothing",
    ),
    "nobody remembered": (changed(past="", peers={}), "remembers another record"),
    "another past": (changed(past="r" * len(TRUE.past)), "remembers another record"),
    "everybody always good": (
        changed(peers=dict.fromkeys(TRUE.peers, "g" * len(TRUE.past))),
        "remembers another",
    ),
    "letters missing": (changed(peers=dict.fromkeys(TRUE.peers, "g")), "who was there when"),
    "a peer without an entry": (changed(peers={hash32("x").hex(): "-" * len(TRUE.past)}), "who was there when"),
    "more records than a tip remembers": (changed(past="n" * 17, peers={}), "who was there when"),
    "another round": (manifest(STEPS[6][0]), "round after the record before"),
    "another outer step": (manifest(replace(STEPS[5][0], outer_step=2)), "round after the record before"),
}


@pytest.mark.parametrize("what", LIES)
def test_a_tip_that_the_record_before_does_not_lead_to_is_refused(what: str) -> None:
    """Whoever pins a manifest may have written anything into it."""
    lie, says = LIES[what]
    _, record, digest = STEPS[5]
    with pytest.raises(LedgerError, match=says):
        resume(START, lie, (record, digest))


def attendances(max_size: int) -> st.SearchStrategy[tuple[Attendance, ...]]:
    def of(marks: list[str], null: bool) -> Attendance:
        def those(letters: str) -> frozenset[bytes]:
            return frozenset(peer for peer, mark in zip(PEERS, marks, strict=True) if mark in letters)

        return Attendance(those("g"), those("gfa"), those("f"), null)

    one = st.builds(of, st.lists(st.sampled_from("gfa-"), min_size=len(PEERS), max_size=len(PEERS)), st.booleans())
    return st.lists(one, max_size=max_size).map(tuple)


@given(attendances(MEMORY))
def test_every_past_reads_back(past: tuple[Attendance, ...]) -> None:
    info = tip_info(replace(START, past=past))
    assert past_of(TipInfo.model_validate_json(info.model_dump_json())) == past


@pytest.mark.parametrize(
    "change",
    [
        {"peers": {"xyz": "g"}},
        {"peers": {hash32("x").hex(): "q"}},
        {"past": "x"},
        {"amendments": [{"round": 1, "object": "0"}]},
        {"amendments": [{"round": 1, "object": "00" * (wire.MAX_AMENDMENT_BYTES + 1)}]},
    ],
)
def test_what_no_manifest_can_say_is_not_read(change: dict[str, Any]) -> None:
    document = json.loads(manifest(START).encode())
    document["tip"] |= change
    data = rfc8785.dumps(document)
    with pytest.raises(LedgerError, match="not readable"):
        decode_manifest(data, manifest_digest(data))
    with pytest.raises(ObjectDamaged):
        decode_manifest(data, manifest_digest(data + b" "))


def late_ledger() -> tuple[Tip, list[Step]]:
    """A run that takes late work: of three rounds Bob's payload comes too late, and the first of it is taken in."""
    start = tip = open_tip(outer={"age_weights": (0.5, 0.25, 0.125)})
    steps: list[Step] = []
    sent: list[tuple[Taken, bytes]] = []
    for round_ in range(4):
        alice, bob = (taken_in(tip, name, uid) for uid, name in enumerate(MINERS))
        record = close(tip, [alice, bob], {bob.head.public: UNAVAILABLE}, late=sent[:1] if round_ == 2 else ()).record
        sent.append((bob, record.seal))
        digest = hash32("late record", round_)
        tip = advance(tip, record, digest)
        steps.append((tip, record, digest))
    return start, steps


LATE_START, LATE_STEPS = late_ledger()


@pytest.mark.parametrize("at", range(4))
def test_a_newcomer_knows_what_may_still_be_taken_in(at: int) -> None:
    tip, record, digest = LATE_STEPS[at]
    read = Manifest.model_validate_json(manifest(tip).encode())
    assert [one.round for one in read.tip.late] == [[0], [0, 1], [1, 2], [1, 2, 3]][at]
    assert resume(LATE_START, read, (record, digest)) == tip
    assert "late" not in tip_info(LATE_START).model_dump(mode="json")


def late_info(at: int = 0, **changes: Any) -> dict[str, Any]:
    return tip_info(LATE_STEPS[3][0]).late[at].model_dump() | changes


LATE_LIES = {
    "what the record before leaves open is left out": (late_info(0), late_info(1)),
    "what it leaves open is another": (late_info(0), late_info(1), late_info(2, slot=7)),
    "too old": (late_info(0, round=0), late_info(0), late_info(1), late_info(2)),
    "of a round to come": (late_info(0), late_info(1), late_info(2), late_info(2, round=4)),
    "twice": (late_info(0), late_info(0), late_info(1), late_info(2)),
    "another order": (late_info(1), late_info(0), late_info(2)),
}


@pytest.mark.parametrize("lie", LATE_LIES)
def test_late_work_that_nothing_leaves_open_is_refused(lie: str) -> None:
    tip, record, digest = LATE_STEPS[3]
    with pytest.raises(LedgerError, match="late work that the record before it does not leave open"):
        resume(LATE_START, manifest(tip, late=LATE_LIES[lie]), (record, digest))
