"""When a validator's scores stop counting: more than half of the other validators' stake disputes one of its files.

Nobody is silenced by a single other validator: word against word decides nothing (`majority`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

from muster.protocol.errors import LedgerError, WireError
from muster.protocol.rules.majority import outweigh
from muster.protocol.wire import MAX_PROOFS, Dispute, ScoresUsed, decode_dispute

DISPUTED_ROUNDS = 4
"""How old, in rounds, a disputed file may be for a leader to look for disputes of it: θ of older rounds is nowhere."""


def silenced_by(
    proofs: Sequence[bytes],
    run_id: bytes,
    round_: int,
    leaders: Collection[bytes],
    silenced: Collection[bytes],
    scores: Sequence[ScoresUsed],
) -> frozenset[bytes]:
    """Whom the proofs of the record of a round, which used these scores, silence beside those `silenced` before.

    `leaders` are the validators of the run.

    Raises:
        LedgerError: a proof is none, not by one whose scores the record used, of a later round or against who cannot be
            silenced any more; they are not in key order of (accused, signer); those against one do not name one file,
            or are not enough.
    """
    disputes: list[Dispute] = []
    for data in proofs:
        try:
            disputes.append(decode_dispute(data, run_id)[0])
        except WireError as error:
            raise LedgerError(f"a proof is not one that this release takes: {error}") from error
    stakes = {used.validator: used.stake for used in scores}
    order = [(dispute.validator, dispute.signer) for dispute in disputes]
    if any(one >= other for one, other in pairwise(order)):
        raise LedgerError("its disputes are not each signer's once, in key order")
    for dispute in disputes:
        if dispute.round >= round_ or dispute.signer not in stakes:
            raise LedgerError("a dispute is of no earlier round, or by one whose scores it did not use")
        if dispute.validator not in leaders or dispute.validator in silenced or dispute.validator == dispute.signer:
            raise LedgerError("a dispute is against one who cannot be silenced by it")
    accused = frozenset(dispute.validator for dispute in disputes)
    for validator in accused:
        claims = [dispute for dispute in disputes if dispute.validator == validator]
        if len({dispute.claim for dispute in claims}) > 1:
            raise LedgerError("disputes of one validator name more than one file")
        if not enough([dispute.signer for dispute in claims], validator, stakes, len(set(leaders) - set(silenced))):
            raise LedgerError("it carries disputes that half of the other validators' stake does not stand behind")
    return accused


def enough(signers: Collection[bytes], accused: bytes, stakes: Mapping[bytes, int], heard: int) -> bool:
    """Whether these are a majority of all others but the accused, by the stakes of the validators whose scores a record
    used and by the number of validators that are heard (`heard`, the accused among them)."""
    others = {public: stake for public, stake in stakes.items() if public != accused}
    return outweigh(signers, others, heard - 1)


def carried(
    found: Iterable[tuple[Dispute, bytes]],
    silenced: Collection[bytes],
    scores: Sequence[ScoresUsed],
    validators: int,
    most: int = MAX_PROOFS,
) -> tuple[bytes, ...]:
    """The objects that a record with these scores carries of the disputes that were found, each given with its object.

    Of each validator that enough stand against, those of the claim that most do; at most `most`, as many as a record
    has room for. The run has so many `validators`.
    """
    heard = validators - len(silenced)
    stakes = {used.validator: used.stake for used in scores}
    claims: dict[tuple[bytes, int, bytes], dict[bytes, bytes]] = {}
    for dispute, data in found:
        if dispute.signer in stakes and dispute.validator not in silenced and dispute.validator != dispute.signer:
            claims.setdefault(dispute.claim, {})[dispute.signer] = data
    chosen: dict[bytes, dict[bytes, bytes]] = {}
    for (validator, _, _), signed in sorted(claims.items(), key=lambda claim: (-len(claim[1]), claim[0])):
        if validator not in chosen and enough(signed, validator, stakes, heard):
            chosen[validator] = signed
    objects: list[bytes] = []
    for validator in sorted(chosen):
        signed = _fewest(chosen[validator], validator, stakes, heard)
        if len(objects) + len(signed) <= most:
            objects += [signed[signer] for signer in sorted(signed)]
    return tuple(objects)


def _fewest(
    signed: Mapping[bytes, bytes], accused: bytes, stakes: Mapping[bytes, int], heard: int
) -> dict[bytes, bytes]:
    """As many disputes as are enough, of the largest stakes."""
    ranked = sorted(signed, key=lambda signer: (-stakes[signer], signer))
    count = next(count for count in range(1, len(ranked) + 1) if enough(ranked[:count], accused, stakes, heard))
    return {signer: signed[signer] for signer in ranked[:count]}
