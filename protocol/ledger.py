"""The rules of the ledger: what makes a record valid, and where the ledger stands after it.

`Tip` is all that is needed to judge the next record; `verify` judges one and gives the next tip. The leader composes
its record from the same functions, so a record its leader would not accept itself is never signed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from blake3 import blake3

from muster.kernels import SparseUpdate
from muster.protocol import wire
from muster.protocol.admission import HEADER_REASONS, KEY_EARLY, RoundFacts, admit
from muster.protocol.attendance import MEMORY, NULL_ROUND, Attendance, attendance, before_genesis, expected
from muster.protocol.bundle import bundle_size, read_bundle
from muster.protocol.errors import LedgerError, WireError
from muster.protocol.history import SpecHistory
from muster.protocol.identity import public_of
from muster.protocol.layout import Layout, layout_of
from muster.protocol.selection import NOT_SELECTED, select
from muster.protocol.spec import RunSpec
from muster.protocol.weighing import Weights, cap_scales, weigh
from muster.protocol.wire import Beacon, Kind, Opening, Record, Seal, Signed

NO_CHECKPOINT = bytes(32)
Possession = Callable[[bytes], bytes]


@lru_cache(8)
def spec_digest(spec: RunSpec) -> bytes:
    """BLAKE3 of a spec's canonical bytes, as every opening names the spec in force."""
    return blake3(b"muster/spec/v1" + spec.canonical()).digest()


def head_digest(head: bytes) -> bytes:
    """How a seal names a submission: the digest of its header, or of the bytes themselves if they are not one."""
    try:
        prefix = wire.read_prefix(head, wire.Type.SUBMISSION)
    except WireError:
        prefix = None
    if prefix is None or prefix.head_bytes != len(head):
        return blake3(b"muster/unreadable/v1" + head).digest()
    return wire.digest_of(head)


@dataclass(frozen=True, slots=True)
class Tip:
    """Where the ledger stands: the round that is open and everything its record will be judged by.

    `parent` is the digest of the newest record (the run id before the first one), `outer_step` counts the records
    that changed θ, `past` is what the last records say about who was there. A closed ledger has no open round.
    """

    history: SpecHistory
    layout: Layout
    opening: Opening
    parent: bytes
    outer_step: int
    past: tuple[Attendance, ...]
    closed: bool = False

    @property
    def run_id(self) -> bytes:
        """The run."""
        return self.history.run_id

    @property
    def round(self) -> int:
        """The open round."""
        return self.opening.round

    @property
    def spec(self) -> RunSpec:
        """The spec in force in the open round."""
        return self.history.at(self.round)

    def leader(self, turn: int) -> bytes:
        """Whose turn it is to close the round."""
        leaders = self.history.genesis.genesis.leaders
        return public_of(leaders[turn % len(leaders)])

    def facts(self, possession: Possession, peers: dict[bytes, int] | None = None) -> RoundFacts:
        """What submissions of the open round are judged against."""
        return RoundFacts(self.run_id, self.spec, self.layout, self.opening, possession, peers)


def genesis_tip(history: SpecHistory, assign: Beacon, possess: Beacon) -> Tip:
    """Where every run begins: round 0 is open and A_0 is expected."""
    past = before_genesis([public_of(hotkey) for hotkey in history.genesis.genesis.miners])
    opening = next_opening(history, 0, past, assign, possess)
    return Tip(history, layout_of(history.genesis.model), opening, history.run_id, 0, past)


def next_opening(
    history: SpecHistory, round_: int, past: Sequence[Attendance], assign: Beacon, possess: Beacon
) -> Opening:
    """What a record fixes for the round after it; the round opens at the block of its possession beacon."""
    spec = history.at(round_)
    deadline = possess.block.number + spec.clock.deadline
    return Opening(
        round=round_,
        open=possess.block,
        min_block=possess.block.number + spec.clock.min_blocks,
        deadline=deadline,
        anchor_by=deadline + spec.clock.reveal + spec.gauntlet.score_wait + spec.clock.anchor,
        expected=expected(past),
        base_round=round_,
        spec_digest=spec_digest(spec),
        assign=assign,
        possess=possess,
    )


def adopt_amendments(history: SpecHistory, amendments: Sequence[bytes], recorded_in: int) -> SpecHistory:
    """The history with a record's amendments.

    Raises:
        LedgerError: one of them is not valid.
    """
    for data in amendments:
        try:
            history = history.adopt(wire.decode_amendment(data, history.run_id), recorded_in)
        except WireError as error:
            raise LedgerError(f"an amendment is not readable: {error}") from error
    return history


@dataclass(frozen=True, slots=True)
class Applied:
    """A verified record: what to apply (capped updates and their weights, in record order) and the tip after it."""

    record: Record
    digest: bytes
    updates: tuple[SparseUpdate, ...]
    weights: Weights
    tip: Tip


def verify(tip: Tip, record: Record, digest: bytes, seal: tuple[Seal, bytes], bundle: bytes, root: bytes,
           possession: Possession) -> Applied:  # fmt: skip
    """Judge the record of the open round; `root` and `possession` are the judge's own, of its θ.

    Whoever applies a record has called this first. Blocks and beacons are checked against the chain by the caller.

    Raises:
        LedgerError: the first rule it breaks.
    """
    check_link(tip, record, root)
    check_seal(tip, record, *seal)
    admitted = _check_entries(tip, record, seal[0], possession)
    updates = _open_bundle(tip, record, bundle, [admitted[entry.public] for entry in record.accepted])
    capped, weights = prepare(updates, tip.spec)
    if not np.array_equal(weights.view(np.uint32), record.weights.view(np.uint32)):
        raise LedgerError("the weights are not what the accepted submissions give")
    return Applied(record, digest, tuple(capped), weights, advance(tip, record, digest))


def advance(tip: Tip, record: Record, digest: bytes) -> Tip:
    """The tip after a record that continues this ledger, without looking at θ or at submissions.

    Raises:
        LedgerError: an amendment or the next opening breaks a rule.
    """
    check_link(tip, record, None)
    history = adopt_amendments(tip.history, record.amendments, record.round)
    past = (*tip.past, attendance(record))[-MEMORY:]
    opening = record.opening
    if opening is None:
        return replace(tip, history=history, parent=digest, past=past, closed=True)
    if opening != next_opening(history, record.round + 1, past, opening.assign, opening.possess):
        raise LedgerError("the opening of the next round is not what the rules give")
    if opening.assign.block != tip.opening.open:
        raise LedgerError("the next round's assignment is not drawn at this round's opening")
    if record.evaluate.block.number > opening.open.number:
        raise LedgerError("the next round opens before this one's evaluation beacon")
    step = tip.outer_step + (record.kind is Kind.ROUND)
    return replace(tip, history=history, parent=digest, past=past, opening=opening, outer_step=step)


def check_link(tip: Tip, record: Record, root: bytes | None) -> None:
    """The record continues this ledger; with `root`, from this very θ.

    Raises:
        LedgerError: it does not.
    """
    checks = (
        (not tip.closed, "the run is closed"),
        (record.round == tip.round, f"round {record.round} follows {tip.round - 1}"),
        (record.parent == tip.parent, "its parent is another record"),
        (record.leader == tip.leader(record.turn), "it is not its signer's turn"),
        (record.spec_digest == tip.opening.spec_digest, "it was made under another spec"),
        (record.outer_step == tip.outer_step, f"outer step {record.outer_step} instead of {tip.outer_step}"),
        (root is None or record.root == root, "its state root is not the root of this θ"),
    )
    for holds, problem in checks:
        if not holds:
            raise LedgerError(problem)


def check_seal(tip: Tip, record: Record, seal: Seal, digest: bytes) -> None:
    """The seal is the one the record names, made for this round, and covers exactly the record's entries.

    Raises:
        LedgerError: it is not.
    """
    checks = (
        (record.seal == digest, "the seal is not the one the record names"),
        (seal.round == record.round and seal.parent == tip.parent, "the seal is of another round"),
        (seal.leader == record.leader and seal.turn == record.turn, "the seal is another aggregator's"),
        (seal.block.number >= tip.opening.open.number, "the round was sealed before it opened"),
        (record.evaluate.block.number > seal.block.number, "the evaluation beacon was known before the seal"),
        (
            tuple((e.public, head_digest(e.head)) for e in record.entries) == seal.headers,
            "the record does not list exactly the sealed submissions",
        ),
        (record.kind is Kind.CLOSE or _in_time(tip.opening, seal), "the round was sealed before it was time"),
    )
    for holds, problem in checks:
        if not holds:
            raise LedgerError(problem)


def _in_time(opening: Opening, seal: Seal) -> bool:
    """At the deadline, or early with every expected peer in; the machine that says when is `protocol.round`."""
    peers = {public for public, _ in seal.headers}
    early = bool(opening.expected) and peers.issuperset(opening.expected) and seal.block.number >= opening.min_block
    return early or seal.block.number >= opening.deadline


def _check_entries(tip: Tip, record: Record, seal: Seal, possession: Possession) -> dict[bytes, Signed]:
    """Every reason that can be recomputed is; returns the admitted headers by peer."""
    facts = tip.facts(possession)
    admitted: dict[bytes, Signed] = {}
    for entry in record.entries:
        try:
            admitted[entry.public] = admit(facts, entry.public, entry.head)
        except WireError as error:
            if entry.reason != error.reason:
                claim = entry.reason or "accepted"
                raise LedgerError(f"a submission is recorded as {claim} but is {error.reason}") from error
            continue
        if entry.reason in HEADER_REASONS:
            raise LedgerError(f"a submission is recorded as {entry.reason} without being so")
        if (entry.reason == KEY_EARLY) != (entry.public in seal.early):
            raise LedgerError("the record and its seal disagree about who showed his key early")
    uids = [admitted[entry.public].header.uid for entry in record.accepted]
    if len(set(uids)) != len(uids):
        raise LedgerError("two accepted submissions claim the same slot")
    _check_scores(tip, record)
    _check_selection(tip, record)
    return admitted


def _check_scores(tip: Tip, record: Record) -> None:
    """The scores are of the round that steers this one, each by one validator of the run."""
    validators = [scores.validator for scores in record.scores]
    allowed = {public_of(hotkey) for hotkey in tip.history.genesis.genesis.leaders}
    steering = tip.round - tip.spec.gauntlet.lag
    if not wire.strictly_ascending(validators) or not allowed.issuperset(validators):
        raise LedgerError("the scores are not by validators of the run, each once and in key order")
    if any(scores.round != steering for scores in record.scores):
        raise LedgerError(f"the scores are not those of round {steering}")
    if not all(wire.strictly_ascending([row.public for row in scores.rows]) for scores in record.scores):
        raise LedgerError("the rows of a validator's scores are not each peer once, in key order")


def _check_selection(tip: Tip, record: Record) -> None:
    valid = [e.public for e in record.entries if e.reason in ("", NOT_SELECTED, NULL_ROUND)]
    kind, accepted = decide(tip, valid, record)
    if record.kind is Kind.CLOSE:
        if record.entries:
            raise LedgerError("a closing record has no submissions")
    elif record.kind is not kind:
        raise LedgerError(f"{len(valid)} valid submissions make it a {kind.name.lower()} record")
    if tuple(entry.public for entry in record.accepted) != accepted:
        raise LedgerError("the selection is not what the rules give")
    # The two differ in what they mean for attendance, so a leader must not choose between them.
    refusal, other = (NOT_SELECTED, NULL_ROUND) if kind is Kind.ROUND else (NULL_ROUND, NOT_SELECTED)
    if any(entry.reason == other for entry in record.entries):
        raise LedgerError(f"a valid submission that is not applied is {refusal} in this record, not {other}")


def decide(tip: Tip, valid: Sequence[bytes], record: Record) -> tuple[Kind, tuple[bytes, ...]]:
    """Whether θ moves this round, and by whose work."""
    if len(valid) < tip.spec.clock.min_submissions or record.kind is Kind.CLOSE:
        return Kind.NULL, ()
    return Kind.ROUND, select(valid, record.scores, record.evaluate.value, tip.spec.gauntlet)


def check_bundle(record: Record, bundle: bytes) -> None:
    """The bundle's bytes are the ones the record names.

    Raises:
        LedgerError: they are not.
    """
    if blake3(bundle).digest() != record.bundle or len(bundle) != record.bundle_bytes:
        raise LedgerError("the bundle is not the one the record names")


def _open_bundle(tip: Tip, record: Record, bundle: bytes, accepted: list[Signed]) -> list[SparseUpdate]:
    check_bundle(record, bundle)
    updates = []
    for opened in read_bundle(bundle, accepted):
        try:
            header = opened.signed.header
            updates.append(wire.open(header, opened.ciphertext, opened.key, tip.layout, tip.spec.sparse.k))
        except WireError as error:
            raise LedgerError(f"an accepted submission of {header.hotkey} is {error.reason}") from error
    return updates


def check_bundle_size(record: Record, run_id: bytes) -> int:
    """The exact size a record's bundle must have, from its heads alone: what to cap a download at.

    Raises:
        LedgerError: the record's own figure is another.
    """
    try:
        size = bundle_size(wire.decode_head(entry.head, run_id) for entry in record.accepted)
    except WireError as error:
        raise LedgerError(f"an accepted header is not readable: {error.reason}") from error
    if size != record.bundle_bytes:
        raise LedgerError(f"the record claims a bundle of {record.bundle_bytes} bytes, its heads make {size}")
    return size


def prepare(updates: Sequence[SparseUpdate], spec: RunSpec) -> tuple[list[SparseUpdate], Weights]:
    """Capped updates and their weights; no updates give no weights."""
    if not updates:
        return [], np.zeros((0, len(layout_of(spec.model).shapes)), dtype=np.float32)
    capped = cap_scales(updates, spec.outer)
    return capped, weigh(capped, spec.outer)
