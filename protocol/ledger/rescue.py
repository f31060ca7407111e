"""Rescue: a run whose whole list is gone, or at odds for good, goes on under leaders that its owner names.

Nobody but the owner can do it, and only where a round has been late for `clock.silent` blocks, by the blocks that the
record itself names. It is a null record, so it decides nothing about anybody's work: it closes the round that hangs,
carries the amendment that makes its signer the first of the list, and from the next round on all is as ever. Whichever
the chain shows first counts, that record or one that the old list decides (`forkchoice`).
"""

from __future__ import annotations

from blake3 import blake3

from muster.protocol.errors import LedgerError
from muster.protocol.identity import public_of
from muster.protocol.ledger.tip import RESCUE, Tip
from muster.protocol.wire import Kind, Record, Seal


def rescuer(tip: Tip, amendment: bytes, round_: int | None = None) -> bytes:
    """The key of who may close a round (None: the open one) because of an amendment: the first of the list in it.

    Raises:
        LedgerError: it is not the owner's, not the next one, or does not name another list from the next round on.
    """
    at = tip.round if round_ is None else round_
    return public_of(tip.history.adopt(amendment, at, rescue=True).at(at + 1).genesis.leaders[0])


def kept_under(parent: bytes, turn: int) -> bytes:
    """The digest under which a leader keeps what it signs in a turn after this parent, so that it signs it once.

    It is the parent's, whatever the turn: no leader closes a round twice. But who rescues a run may have had a turn in
    the round that hangs.
    """
    return blake3(b"muster/rescue" + parent).digest() if turn == RESCUE else parent


def check_rescue(tip: Tip, record: Record) -> None:
    """A record of the turn `RESCUE` is by who its one amendment names; whether it was time says `check_seal`.

    Raises:
        LedgerError: it is not.
    """
    if len(record.amendments) != 1 or record.proofs or record.scores or record.kind is not Kind.NULL:
        raise LedgerError("a rescue is a null record with one amendment, and no scores or proofs")
    if record.leader != rescuer(tip, record.amendments[0]):
        raise LedgerError("a rescue is signed by who its amendment names first")


def check_rescue_seal(record: Record, seal: Seal) -> None:
    """A rescue takes nothing in: its seal is its signer's own, of the same turn, and lists nobody.

    Raises:
        LedgerError: it is another one.
    """
    if (seal.leader, seal.turn, seal.headers) != (record.leader, RESCUE, ()):
        raise LedgerError("the seal of a rescue is its signer's own, and lists nobody")
