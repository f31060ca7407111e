"""What two signatures where there may be one cost: no turn, no vote and no say in scores, for the rest of the run.

It begins with the round after the first record that carries the proof. No honest key is ever struck: it signs one
object, or the same one again. That the key's scores count no more has the same reason as the rest: the medians of a
round are right for as long as most of those they are taken over are honest, and of this one it is known that it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from muster.protocol.errors import LedgerError, WireError
from muster.protocol.wire import TWO_SIGNATURES, decode_equivocation, proof_kind


@dataclass(frozen=True, slots=True)
class Strike:
    """`leader` (32 public bytes) is struck from the list: the record of `round` carries the proof with that digest."""

    leader: bytes
    round: int
    proof: bytes


def parted(proofs: Sequence[bytes]) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """A record's proofs of two signatures, which come first in it, and the others.

    Raises:
        LedgerError: one of them does not say what it is.
    """
    try:
        kinds = [proof_kind(data) for data in proofs]
    except WireError as error:
        raise LedgerError(f"a proof is not one that this release takes: {error}") from error
    count = next((i for i, kind in enumerate(kinds) if kind != TWO_SIGNATURES), len(kinds))
    return proofs[:count], proofs[count:]


def struck_by(proofs: Sequence[bytes], run_id: bytes, round_: int, leaders: Sequence[bytes]) -> tuple[Strike, ...]:
    """Whom the proofs of two signatures strike that the record of a round carries; `leaders` is the list in force then.

    One record has one at most: it is as large as two records may be.

    Raises:
        LedgerError: there are several, it is none, of a later round, or against one who is not on the list or is alone
            on it.
    """
    if not proofs:
        return ()
    if len(proofs) > 1:
        raise LedgerError("it carries more than one proof of two signatures")
    try:
        shown, digest = decode_equivocation(proofs[0], run_id)
    except WireError as error:
        raise LedgerError(f"a proof of two signatures shows nothing: {error}") from error
    if shown.once.round > round_:
        raise LedgerError("a proof of two signatures is of a later round than its record")
    if not strikeable(shown.once.signer, leaders):
        raise LedgerError("a proof of two signatures is against one who cannot be struck by it")
    return (Strike(shown.once.signer, round_, digest),)


def strikeable(leader: bytes, leaders: Sequence[bytes]) -> bool:
    """Whether a proof strikes a leader.

    The last one on the list stays: without it nobody could make another record, and whoever might name a successor (the
    owner, by an amendment) needs a record for that as well.
    """
    return leader in leaders and len(leaders) > 1
