"""From a tip to what a checkpoint's manifest says of it, and back: how a newcomer stands where the run stands.

Nothing here is believed because a manifest says it: its digest is pinned by the record after it, the opening is that of
the record before it, and both must be what the rules make of the tip.
"""

from __future__ import annotations

from itertools import pairwise

from muster.protocol.errors import LedgerError, WireError
from muster.protocol.ledger.tip import Tip, next_opening
from muster.protocol.rules.attendance import MEMORY, Attendance, attendance
from muster.protocol.rules.equivocation import Strike
from muster.protocol.spec.history import SpecHistory
from muster.protocol.wire import Kind, Record, decode_dispute
from muster.protocol.wire.manifest import AmendmentInfo, Manifest, StrikeInfo, TipInfo

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
        past="".join(NULL if seen.null else ROUND for seen in tip.past),
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
    history, past = _history(start, manifest), past_of(manifest.tip)
    if not past or past[-1] != attendance(record):
        raise LedgerError("the checkpoint's tip remembers another record than the one before it")
    if opening != next_opening(history, manifest.round, past, opening.assign, opening.possess):
        raise LedgerError("the checkpoint's tip is not one that the record before it opens the round for")
    proofs, silenced = _silenced(start, manifest)
    strikes = _struck(start, manifest)
    silenced |= {strike.leader for strike in strikes}
    tip = Tip(history, start.layout, opening, digest, step, past, record.leader, False, proofs, silenced, strikes)
    if manifest.tip.leaders != tip.spec.genesis.leaders:
        raise LedgerError("the checkpoint's tip has leaders that nothing before it gives")
    return tip


def _mark(peer: bytes, seen: Attendance) -> str:
    if peer not in seen.present:
        return ABSENT
    return GOOD if peer in seen.accepted else FAILED if peer in seen.failed else OTHER


def _silenced(start: Tip, manifest: Manifest) -> tuple[tuple[bytes, ...], frozenset[bytes]]:
    """The disputes that were recorded, and whom they silenced: signed as they must be. Whose stake stood behind them,
    the records before that carried them say; here it is the pinned manifest's word."""
    proofs = tuple(bytes.fromhex(proof) for proof in manifest.tip.proofs)
    try:
        disputes = [decode_dispute(data, start.run_id)[0] for data in proofs]
    except WireError as error:
        raise LedgerError(f"the checkpoint's tip has a proof that is none: {error}") from error
    if any(not {one.validator, one.signer} <= start.validators or one.round >= manifest.round for one in disputes):
        raise LedgerError("the checkpoint's tip has disputes that nothing before it gives")
    return proofs, frozenset(one.validator for one in disputes)


def _struck(start: Tip, manifest: Manifest) -> tuple[Strike, ...]:
    """Who was struck from the list, by the pinned manifest's word: what can be checked without the records that carry
    the proofs is that it was one a record, of the run's leaders, each once, and not all of them."""
    strikes = tuple(
        Strike(bytes.fromhex(info.leader), info.round, bytes.fromhex(info.proof)) for info in manifest.tip.struck
    )
    rounds, struck = [strike.round for strike in strikes], {strike.leader for strike in strikes}
    ascending = all(one < other for one, other in pairwise((*rounds, manifest.round)))
    if not ascending or len(struck) < len(strikes) or (strikes and not struck < start.validators):
        raise LedgerError("the checkpoint's tip has struck leaders that nothing before it gives")
    return strikes


def _history(start: Tip, manifest: Manifest) -> SpecHistory:
    history, last = start.history, 0
    for info in manifest.tip.amendments:
        if not last <= info.round < manifest.round:
            raise LedgerError("the checkpoint's amendments are not in the order of the records before it")
        history, last = history.adopt(bytes.fromhex(info.object), info.round), info.round
    return history


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
