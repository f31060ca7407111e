"""From a tip to what a checkpoint's manifest says of it, and back: how a newcomer stands where the run stands.

Nothing here is believed because a manifest says it: its digest is pinned by the record after it, the opening is that of
the record before it, and both must be what the rules make of the tip.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

from muster.protocol.errors import LedgerError, WireError
from muster.protocol.identity import public_of
from muster.protocol.ledger.tip import Tip, next_opening
from muster.protocol.rules.attendance import MEMORY, Attendance, attendance
from muster.protocol.rules.equivocation import Strike
from muster.protocol.rules.late import Late, still_open
from muster.protocol.rules.majority import are_enough
from muster.protocol.spec import RunSpec
from muster.protocol.spec.history import Carried, SpecHistory
from muster.protocol.wire import Dispute, Kind, Record, decode_dispute
from muster.protocol.wire.manifest import AmendmentInfo, LateInfo, Manifest, StrikeInfo, TipInfo

ROUND, NULL = "r", "n"
GOOD, FAILED, OTHER, ABSENT = "g", "f", "a", "-"


def tip_info(tip: Tip) -> TipInfo:
    """What a manifest says of a tip."""
    peers = sorted(tip.remembered)
    return TipInfo(
        amendments=tuple(AmendmentInfo(round=each.recorded_in, object=each.data.hex()) for each in tip.history.adopted),
        leaders=tip.spec.genesis.leaders,
        proofs=tuple(data.hex() for data in tip.proofs),
        struck=tuple(StrikeInfo(leader=s.leader.hex(), round=s.round, proof=s.proof.hex()) for s in tip.strikes),
        late=tuple(
            LateInfo(round=one.round, peer=one.public.hex(), slot=one.uid, head=one.head.hex(), seal=one.seal.hex())
            for one in tip.late
        ),
        past="".join(NULL if seen.null else ROUND for seen in tip.past),
        held=tip.held.hex() or None,
        peers={peer.hex(): "".join(_mark(peer, seen) for seen in tip.past) for peer in peers},
    )


def resume(start: Tip, manifest: Manifest, before: tuple[Record, bytes] | None) -> Tip:
    """The tip of a checkpoint; `start` is the run's first, `before` the record before the checkpoint and its digest.

    Raises:
        LedgerError: the manifest's tip is not one that the record before it can lead to.
    """
    if before is None:
        if manifest.round or manifest.outer_step or manifest.tip != tip_info(start):
            raise LedgerError("the checkpoint's tip is not the one the run begins with")
        return start
    record, digest = before
    opening, step = record.opening, record.outer_step + (record.kind is Kind.ROUND)
    if opening is None or (record.round + 1, step) != (manifest.round, manifest.outer_step):
        raise LedgerError("the checkpoint is not of the round after the record before it")
    disputes, strikes = _disputes(start, manifest), _strikes(manifest)
    struck = frozenset(strike.leader for strike in strikes)
    silenced = struck.union(one.validator for one in disputes)
    history, past = _history(start, manifest, silenced), past_of(manifest.tip)
    if not past or past[-1] != attendance(record):
        raise LedgerError("the checkpoint's tip remembers another record than the one before it")
    if opening != next_opening(history, manifest.round, past, opening.assign, opening.possess):
        raise LedgerError("the checkpoint's tip is not one that the record before it opens the round for")
    begun = (spec for start_, spec in zip(history.starts, history.specs, strict=True) if start_ < manifest.round)
    listed = frozenset(public_of(hotkey) for spec in begun for hotkey in spec.genesis.leaders)
    if any(not {one.validator, one.signer} <= listed or one.round >= manifest.round for one in disputes):
        raise LedgerError("the checkpoint's tip has disputes that nothing before it gives")
    if strikes and not struck < listed:
        raise LedgerError("the checkpoint's tip has struck leaders that nothing before it gives")
    proofs = tuple(bytes.fromhex(proof) for proof in manifest.tip.proofs)
    late = _late(manifest, record, history)
    tip = Tip(history, start.layout, opening, digest, step, past, record.leader, False, proofs, silenced, strikes, late)
    tip = with_held(tip, manifest)
    if manifest.tip.leaders != tip.spec.genesis.leaders:
        raise LedgerError("the checkpoint's tip has leaders that nothing before it gives")
    return tip


def with_held(tip: Tip, manifest: Manifest) -> Tip:
    """A tip made without θ, with what a checkpoint made there says of the θ before.

    What it is worth, whoever judged the record that pins it has seen: all make the same checkpoint.

    Raises:
        LedgerError: the checkpoint says nothing of it and must, or the other way round.
    """
    if (manifest.tip.held is not None) != (tip.opening.base_round != tip.round):
        raise LedgerError("the checkpoint's tip does not say of the θ before what the round's base asks for")
    return replace(tip, held=bytes.fromhex(manifest.tip.held or ""))


def _mark(peer: bytes, seen: Attendance) -> str:
    if peer not in seen.present:
        return ABSENT
    return GOOD if peer in seen.accepted else FAILED if peer in seen.failed else OTHER


def _disputes(start: Tip, manifest: Manifest) -> list[Dispute]:
    """The disputes that were recorded, signed as they must be. Whose stake stood behind them, the records before that
    carried them say; here it is the pinned manifest's word."""
    try:
        return [decode_dispute(bytes.fromhex(proof), start.run_id)[0] for proof in manifest.tip.proofs]
    except WireError as error:
        raise LedgerError(f"the checkpoint's tip has a proof that is none: {error}") from error


def _strikes(manifest: Manifest) -> tuple[Strike, ...]:
    """Who was struck from the list, by the pinned manifest's word: what can be checked without the records that carry
    the proofs is that it was one a record, each once, of the run's leaders and not all of them."""
    strikes = tuple(
        Strike(bytes.fromhex(info.leader), info.round, bytes.fromhex(info.proof)) for info in manifest.tip.struck
    )
    rounds = (*(strike.round for strike in strikes), manifest.round)
    ascending = all(one < other for one, other in pairwise(rounds))
    if not ascending or len({strike.leader for strike in strikes}) < len(strikes):
        raise LedgerError("the checkpoint's tip has struck leaders that nothing before it gives")
    return strikes


def _late(manifest: Manifest, record: Record, history: SpecHistory) -> tuple[Late, ...]:
    """The late work that may still be taken in. What the record before the checkpoint leaves open it says itself; of
    earlier rounds' it is the pinned manifest's word, and can only be of rounds that are young enough, each once."""
    late = tuple(
        Late(one.round, bytes.fromhex(one.peer), one.slot, bytes.fromhex(one.head), bytes.fromhex(one.seal))
        for one in manifest.tip.late
    )
    earlier = [one for one in late if one.round < record.round]
    if still_open(earlier, record, history) != late or len({one.place for one in late}) < len(late):
        raise LedgerError("the checkpoint's tip has late work that the record before it does not leave open")
    return late


def _history(start: Tip, manifest: Manifest, silenced: frozenset[bytes]) -> SpecHistory:
    """The spec over time. Of an amendment without the owner's signature, stake and who was silenced when are the
    manifest's word as well; that enough validators of the list in force signed it is seen here too."""
    history, last = start.history, 0
    for info in manifest.tip.amendments:
        if not last <= info.round < manifest.round:
            raise LedgerError("the checkpoint's amendments are not in the order of the records before it")
        carried = _carried_by(history.at(info.round), silenced)
        history, last = _adopted(history, bytes.fromhex(info.object), info.round, carried), info.round
    return history


def _adopted(history: SpecHistory, data: bytes, round_: int, carried: Carried) -> SpecHistory:
    """With one more amendment; the record that holds it may be a rescue, where it counts sooner (`ledger.rescue`)."""
    try:
        return history.adopt(data, round_, carried)
    except LedgerError as error:
        with suppress(LedgerError):
            return history.adopt(data, round_, rescue=True)
        raise error


def _carried_by(spec: RunSpec, silenced: frozenset[bytes]) -> Carried:
    """Whether signers are as many of the list's validators as they were at least who were not silenced then."""
    listed = frozenset(public_of(hotkey) for hotkey in spec.genesis.leaders)
    return lambda signers: are_enough(len(signers & listed), len(listed - (silenced - signers)))


def past_of(info: TipInfo) -> tuple[Attendance, ...]:
    """What the records remembered say of who was there, as the manifest has it.

    Raises:
        LedgerError: more of them than a tip remembers, or a peer without a letter for each.
    """
    peers = {bytes.fromhex(peer): marks for peer, marks in info.peers.items()}
    if len(info.past) > MEMORY or any(
        len(marks) != len(info.past) or set(marks) == {ABSENT} for marks in peers.values()
    ):
        raise LedgerError("the checkpoint's tip does not say of each peer it names who was there when")

    def those(i: int, marks: str) -> frozenset[bytes]:
        return frozenset(peer for peer, marked in peers.items() if marked[i] in marks)

    return tuple(
        Attendance(those(i, GOOD), those(i, GOOD + FAILED + OTHER), those(i, FAILED), null=kind == NULL)
        for i, kind in enumerate(info.past)
    )
