"""A validator's signed judgement of one round: the only thing the Gauntlet and the aggregator exchange.

The file is RFC 8785 JSON {"body": …, "hotkey": ss58, "signature": hex}, in canonical form and no other; the
signature covers "muster/scores/v1" ‖ run id ‖ canonical body, the digest is BLAKE3 of the same bytes without
the run id.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import rfc8785
from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from muster.protocol.errors import IdentityError, WireError
from muster.protocol.identity import Identity, public_of, verify
from muster.protocol.spec import HEX32, Natural, Rate, Share
from muster.protocol.wire import ScoreRow, ScoresUsed

_ROW_BYTES = 512
"""A row takes at most 400 bytes, with every number as long as numbers get."""

_FRAME_BYTES = 1024
"""Room for the rest of the file."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
_DOMAIN = b"muster/scores/v1"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PeerScores(_Part):
    """One peer as judged in one round; losses in nat/token as (before, after), None where it was not evaluated."""

    hotkey: str
    uid: Natural
    assigned: tuple[Finite, Finite] | None
    unassigned: tuple[Finite, Finite] | None
    mu: Annotated[float, Field(ge=-1, le=1)]
    rating: tuple[Finite, Finite]
    positive: bool
    peer_score: Rate
    incentive: Share


class ScoresBody(_Part):
    """Everything one validator says of one round; `heldout` is the loss of θ before the round's record."""

    round: Natural
    record: Annotated[str, Field(pattern=f"^{HEX32}$")]
    heldout: Finite
    peers: tuple[PeerScores, ...]


class _File(_Part):
    body: ScoresBody
    hotkey: str
    signature: Annotated[str, Field(pattern="^[0-9a-f]{128}$")]


def _signed_bytes(body: ScoresBody) -> bytes:
    return rfc8785.dumps(body.model_dump(mode="json"))


def encode_scores(body: ScoresBody, identity: Identity, run_id: bytes) -> bytes:
    """The signed file."""
    signature = identity.sign(_DOMAIN + run_id + _signed_bytes(body))
    return _canonical(_File(body=body, hotkey=identity.hotkey, signature=signature.hex()))


def _canonical(file: _File) -> bytes:
    return rfc8785.dumps(file.model_dump(mode="json"))


def decode_scores(data: bytes, run_id: bytes, hotkey: str, round_: int) -> tuple[ScoresBody, bytes]:
    """The body and its digest.

    Raises:
        WireError: `scores_format`, `scores_signer`, `scores_round`, `signature`, `scores_duplicate`.
    """
    try:
        file = _File.model_validate_json(data)
    except ValidationError as error:
        raise WireError("scores_format", str(error.errors(include_url=False)[0]["msg"])) from error
    if _canonical(file) != data:
        raise WireError("scores_format", "not in canonical form (RFC 8785)")
    if file.hotkey != hotkey:
        raise WireError("scores_signer", file.hotkey)
    if file.body.round != round_:
        raise WireError("scores_round", f"round {file.body.round}")
    signed = _signed_bytes(file.body)
    if not verify(public_of(hotkey), _DOMAIN + run_id + signed, bytes.fromhex(file.signature)):
        raise WireError("signature", f"not signed by {hotkey}")
    try:
        judged = {public_of(peer.hotkey) for peer in file.body.peers}
    except IdentityError as error:
        raise WireError("scores_format", str(error)) from error
    if len(judged) != len(file.body.peers):
        raise WireError("scores_duplicate", "a peer is judged twice")
    return file.body, blake3(_DOMAIN + signed).digest()


def max_scores_bytes(slots: int) -> int:
    """Cap of a score file in a run of so many slots (`data.slots`): a row for each, and the frame."""
    return _FRAME_BYTES + _ROW_BYTES * slots


def used(body: ScoresBody, digest: bytes, hotkey: str, stake: int, known: Collection[bytes]) -> ScoresUsed:
    """The part of a score file that a record carries, rows in key order.

    `known` are the peers that may have rows: those registered now, and those with an entry in the records remembered.
    Others are dropped, so that a validator who invents peers adds nothing to a record.
    """
    rows = (ScoreRow(public_of(p.hotkey), p.peer_score, p.positive) for p in body.peers)
    kept = sorted((row for row in rows if row.public in known), key=lambda row: row.public)
    return ScoresUsed(public_of(hotkey), stake, body.round, digest, tuple(kept))
