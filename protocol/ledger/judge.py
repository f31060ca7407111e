"""The rules of the ledger: what makes a record valid, and where the ledger stands after it.

`verify` judges the record that comes after a `Tip` and gives the next one. The leader composes its record from the same
functions, so a record its leader would not accept itself is never signed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from muster.kernels import SparseUpdate
from muster.protocol import wire
from muster.protocol.errors import LedgerError, WireError
from muster.protocol.ledger.bundle import Opened, check_bundle, read_bundle
from muster.protocol.ledger.rescue import check_rescue, check_rescue_seal
from muster.protocol.ledger.tip import RESCUE, Tip, next_opening
from muster.protocol.reasons import HEAD_REASONS, KEY_SEAL, LATE, REASONS
from muster.protocol.rules.attendance import remember
from muster.protocol.rules.disputes import silenced_by
from muster.protocol.rules.equivocation import parted, struck_by
from muster.protocol.rules.late import place_of, still_open
from muster.protocol.rules.majority import carried_by
from muster.protocol.rules.weighing import Weighed, Weights, weigh
from muster.protocol.spec import RunSpec
from muster.protocol.spec.history import SpecHistory
from muster.protocol.spec.layout import layout_of
from muster.protocol.types import Block
from muster.protocol.wire import Kind, Record, Seal, Signed

NO_CHECKPOINT = bytes(32)

Admit = Callable[[bytes, bytes], Signed]
"""Judges a head by its owner's key and its bytes, as `admission.admit` does: WireError with the reason."""

OpenAccepted = Callable[[Sequence[Signed]], Sequence[SparseUpdate]]
"""Gives the updates of a record's accepted submissions, in its order; LedgerError where one of them is not good."""


Held = Callable[[bytes], bytes]
"""Gives the digest of the tiles of the judge's own θ that a beacon chooses (`roots.held_digest`)."""


def adopt_amendments(tip: Tip, record: Record) -> SpecHistory:
    """The history with a record's amendments.

    Raises:
        LedgerError: one of them is not valid.
    """
    history, carried = tip.history, carried_by(tip.validators - tip.silenced, record.scores)
    for data in record.amendments:
        history = history.adopt(data, record.round, carried, rescue=record.turn == RESCUE)
    return history


def adopt_proofs(tip: Tip, record: Record) -> Tip:
    """The tip with a record's proofs: whom they silence or strike has no say from the next record on.

    Proofs of two signatures come first, then disputes; both are judged by the tip before the record.

    Raises:
        LedgerError: one of them is not valid.
    """
    if not record.proofs:
        return tip
    twice, disputes = parted(record.proofs)
    listed = [public for public in tip.leaders if public not in tip.struck]
    strikes = struck_by(twice, tip.run_id, record.round, listed)
    silenced = silenced_by(disputes, tip.run_id, record.round, tip.validators, tip.silenced, record.scores)
    return replace(
        tip,
        proofs=(*tip.proofs, *disputes),
        silenced=tip.silenced | silenced | {strike.leader for strike in strikes},
        strikes=(*tip.strikes, *strikes),
    )


@dataclass(frozen=True, slots=True)
class Applied:
    """A verified record: what to apply (capped updates and their weights, in record order) and the tip after it.

    `sealed` is the block that its seal names.
    """

    record: Record
    digest: bytes
    sealed: Block
    updates: tuple[SparseUpdate, ...]
    weights: Weights
    tip: Tip


def verify(
    tip: Tip,
    record: Record,
    digest: bytes,
    seal: tuple[Seal, bytes],
    root: bytes,
    admit: Admit,
    open_accepted: OpenAccepted,
    held: Held,
) -> Applied:
    """Judge the record of the open round; `seal` with its digest, `root` and `held` the judge's own, of its θ.

    `admit` judges heads by the judge's own θ (`admission.admit` with `tip.facts`), `open_accepted` gives the accepted
    updates (`open_bundle`); who holds heads and payloads judged before hands them over here, and nothing is done twice.
    Whoever applies a record has called this first. Blocks and beacons are checked against the chain by the caller.

    Raises:
        LedgerError: the first rule it breaks.
    """
    check_link(tip, record, root)
    check_seal(tip, record, *seal)
    admitted = _check_entries(tip, record, admit)
    _check_scores(tip, record)
    _check_choice(tip, record)
    late = _check_late(tip, record)
    accepted = [*(admitted[entry.public] for entry in record.seated), *late]
    ages = [record.round - signed.header.round for signed in late]
    weighed = prepare(open_accepted(accepted), [signed.header.windows for signed in accepted], tip.spec, ages)
    if not np.array_equal(weighed.weights.view(np.uint32), record.weights.view(np.uint32)):
        raise LedgerError("the weights are not what the accepted submissions give")
    if weighed.unmoved != record.unmoved:
        raise LedgerError("the tensors it leaves alone are not what the accepted submissions give")
    after = advance(tip, record, digest)
    if after.opening.base_round == tip.round < after.round:
        after = replace(after, held=held(after.opening.possess.value))
    return Applied(record, digest, seal[0].block, tuple(weighed.updates), weighed.weights, after)


def advance(tip: Tip, record: Record, digest: bytes) -> Tip:
    """The tip after a record that continues this ledger, without looking at θ or at submissions.

    It lacks `held`, which is of θ.

    Raises:
        LedgerError: an amendment, a proof or the next opening breaks a rule.
    """
    check_link(tip, record, None)
    history = adopt_amendments(tip, record)
    tip = adopt_proofs(tip, record)
    past = remember(tip.past, record)
    opening = record.opening
    if opening is None:
        closed = replace(tip, history=history, parent=digest, past=past, author=record.leader)
        return replace(closed, closed=True, late=(), held=b"")
    if opening != next_opening(history, record.round + 1, past, opening.assign, opening.possess):
        raise LedgerError("the opening of the next round is not what the rules give")
    if opening.assign.block != tip.opening.open:
        raise LedgerError("the next round's assignment is not drawn at this round's opening")
    step = tip.outer_step + (record.kind is Kind.ROUND)
    after = replace(tip, history=history, parent=digest, past=past, author=record.leader, held=b"")
    return replace(after, opening=opening, outer_step=step, late=still_open(tip.late, record, history))


def check_link(tip: Tip, record: Record, root: bytes | None) -> None:
    """The record continues this ledger; with `root`, from this very θ.

    Raises:
        LedgerError: it does not.
    """
    checks = (
        (not tip.closed, "the run is closed"),
        (record.round == tip.round, f"round {record.round} follows {tip.round - 1}"),
        (record.parent == tip.parent, "its parent is another record"),
        (record.turn == RESCUE or record.leader == tip.leader(record.turn), "it is not its signer's turn"),
        (record.spec_digest == tip.opening.spec_digest, "it was made under another spec"),
        (record.outer_step == tip.outer_step, f"outer step {record.outer_step} instead of {tip.outer_step}"),
        (root is None or record.root == root, "its state root is not the root of this θ"),
    )
    for holds, problem in checks:
        if not holds:
            raise LedgerError(problem)
    if record.turn == RESCUE:
        check_rescue(tip, record)


def check_seal(tip: Tip, record: Record, seal: Seal, digest: bytes) -> None:
    """The seal is the one the record names, made for this round, and covers exactly the record's entries.

    Both were made when it was their makers' turn. Who takes over may go on with the seal of an earlier turn.

    Raises:
        LedgerError: it is not.
    """
    rescue = record.turn == RESCUE
    if rescue:
        check_rescue_seal(record, seal)
    checks = (
        (record.seal == digest, "the seal is not the one the record names"),
        (seal.round == record.round and seal.parent == tip.parent, "the seal is of another round"),
        (rescue or seal.leader == tip.leader(seal.turn), "the seal is by an aggregator whose turn it was not"),
        (seal.turn <= record.turn, "the seal is of a later turn than the record"),
        (record.kind is not Kind.CLOSE or seal.turn == record.turn, "a closing record goes on with no other's seal"),
        (seal.block.number >= tip.opening.open.number, "the round was sealed before it opened"),
        (seal.block.number >= tip.turn_begins(seal.turn), "the round was sealed before its signer's turn"),
        (
            record.opening is None or record.opening.open.number >= tip.turn_begins(record.turn),
            "the record was made before its signer's turn",
        ),
        (
            record.opening is None or record.opening.open.number > seal.block.number,
            "the next round opens before this one was sealed",
        ),
        (
            tuple((e.public, wire.head_digest(e.head)) for e in record.sealed) == seal.headers,
            "the record does not list exactly the sealed submissions",
        ),
        (record.kind is Kind.CLOSE or _in_time(tip, seal), "the round was sealed before it was time"),
    )
    for holds, problem in checks:
        if not holds:
            raise LedgerError(problem)


def _in_time(tip: Tip, seal: Seal) -> bool:
    """At the deadline, or early with every expected peer and enough heads for a round; see `round.py`."""
    opening, peers = tip.opening, {public for public, _ in seal.headers}
    complete = bool(opening.expected) and peers.issuperset(opening.expected)
    enough = len(peers) >= tip.spec.clock.min_submissions
    early = complete and enough and seal.block.number >= opening.min_block
    return early or seal.block.number >= opening.deadline


def _check_entries(tip: Tip, record: Record, admit: Admit) -> dict[bytes, Signed]:
    """Every reason that can be recomputed from a head is; returns the admitted headers of the round's work by peer."""
    admitted: dict[bytes, Signed] = {}
    for entry in record.sealed:
        if entry.reason and entry.reason not in REASONS:
            raise LedgerError(f"{entry.reason} is not a reason of this protocol")
        if entry.reason == LATE and not tip.spec.outer.max_age:
            raise LedgerError("a submission is recorded as late, and this run takes no late work")
        try:
            admitted[entry.public] = admit(entry.public, entry.head)
        except WireError as error:
            if entry.reason != error.reason:
                claim = entry.reason or "accepted"
                raise LedgerError(f"a submission is recorded as {claim} but is {error.reason}") from error
            continue
        if entry.reason in HEAD_REASONS:
            raise LedgerError(f"a submission is recorded as {entry.reason} without being so")
    uids = [admitted[entry.public].header.uid for entry in record.seated]
    if len(set(uids)) != len(uids):
        raise LedgerError("two accepted submissions claim the same slot")
    return admitted


def _check_scores(tip: Tip, record: Record) -> None:
    """The scores are of rounds that may steer this one, one file of a validator, with rows for possible peers only."""
    validators = [scores.validator for scores in record.scores]
    if not wire.strictly_ascending(validators) or not tip.validators.issuperset(validators):
        raise LedgerError("the scores are not by validators of the run, each once and in key order")
    if tip.silenced.intersection(validators):
        raise LedgerError("it uses scores of a validator that is silenced")
    most = tip.spec.data.slots + len(tip.remembered)
    for scores in record.scores:
        if scores.round not in tip.score_rounds:
            raise LedgerError(f"scores of round {scores.round} cannot steer round {tip.round}")
        if len(scores.rows) > most:
            raise LedgerError(f"a validator's scores have {len(scores.rows)} rows where {most} peers are possible")
        if not wire.strictly_ascending([row.public for row in scores.rows]):
            raise LedgerError("the rows of a validator's scores are not each peer once, in key order")


def _check_choice(tip: Tip, record: Record) -> None:
    """Kind and reasons are what the rules make of them: a leader has nothing to choose."""
    if record.kind is Kind.CLOSE:
        if record.entries:
            raise LedgerError("a closing record has no submissions")
        return
    choice = tip.choose({entry.public: entry.reason for entry in record.sealed}, record.scores)
    if record.kind is not choice.kind:
        raise LedgerError(f"its submissions make it a {choice.kind.name.lower()} record")
    for entry in record.sealed:
        right = choice.reasons[entry.public]
        if entry.reason != right:
            claim = entry.reason or "accepted"
            raise LedgerError(f"a submission is recorded as {claim} where the rules make it {right or 'accepted'}")


def _check_late(tip: Tip, record: Record) -> list[Signed]:
    """The late work that a record takes in is what it may take; returns its heads, in record order.

    Which of it was at hand is its leader's word.

    Raises:
        LedgerError: it is not.
    """
    if not record.late:
        return []
    if record.kind is not Kind.ROUND:
        raise LedgerError("a record that applies nothing takes late work in")
    if record.entries[: len(record.sealed)] != record.sealed:
        raise LedgerError("late work stands before the round's own")
    places = [place_of(entry) for entry in record.late]
    if any(one >= other for one, other in pairwise(places)):
        raise LedgerError("late work is not each once, by round and hotkey")
    if len(record.accepted) > tip.spec.gauntlet.seats:
        raise LedgerError("late work takes more seats than the round's own leaves free")
    open_, slots, found = {one.place: one for one in tip.admissible(record.scores)}, set[tuple[int, int]](), []
    for entry in record.late:
        if entry.reason:
            raise LedgerError(f"late work of round {entry.round} is recorded as {entry.reason}: it is taken in or left")
        one = open_.get(place_of(entry))
        if one is None or wire.head_digest(entry.head) != one.head:
            raise LedgerError(f"an entry names work of round {entry.round} that may not be taken in any more, or never")
        if one.slot in slots:
            raise LedgerError(f"two entries are of one slot's work of round {entry.round}")
        slots.add(one.slot)
        found.append(wire.decode_head(entry.head, tip.run_id))
    return found


def open_bundle(tip: Tip, record: Record, bundle: bytes) -> OpenAccepted:
    """How everybody but the record's leader gets at the accepted updates: by decrypting the record's bundle.

    What is returned raises LedgerError where the bundle is not the one the record names, a key in it answers another
    seal than the record's (of late work: than that of its own round), or a submission in it is not good.
    """

    def opened(accepted: Sequence[Signed]) -> list[SparseUpdate]:
        check_bundle(record, bundle)
        return [_open(tip, record, submission) for submission in read_bundle(bundle, accepted)]

    return opened


def _open(tip: Tip, record: Record, submission: Opened) -> SparseUpdate:
    header = submission.signed.header
    try:
        key = wire.decode_key(submission.key, tip.run_id, header.round, header.public)
        late = header.round != record.round
        if key.seal != (tip.sealed_late(header) if late else record.seal):
            named = "that of its round" if late else "the record names"
            raise WireError(KEY_SEAL, f"its key answers another seal than {named}")
        return wire.open_payload(header, submission.ciphertext, key.payload_key, tip.codec)
    except WireError as error:
        raise LedgerError(f"an accepted submission of {header.hotkey} is {error}") from error


def prepare(
    updates: Sequence[SparseUpdate], windows: Sequence[int], spec: RunSpec, ages: Sequence[int] = ()
) -> Weighed:
    """What a record with these accepted updates, of so many declared windows each, applies; the last of them are late
    by `ages` rounds. See `weighing.weigh`."""
    if not updates:
        return Weighed([], np.zeros((0, len(layout_of(spec.model).shapes)), dtype=np.float32), ())
    return weigh(updates, windows, spec.outer, ages)
