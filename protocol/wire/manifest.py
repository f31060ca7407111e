"""A checkpoint's manifest: θ's files by size and digest, and the tip, so that a newcomer reads nothing before it.

JSON (RFC 8785) beside the safetensors files, as people know them from elsewhere. It is not signed: the record that
follows from the same θ pins its digest.
"""

from __future__ import annotations

from typing import Annotated, Any

import rfc8785
from blake3 import blake3
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from muster.protocol.errors import LedgerError, ObjectDamaged
from muster.protocol.spec import HEX32, Natural
from muster.protocol.wire.amendment import MAX_AMENDMENT_BYTES
from muster.protocol.wire.dispute import MAX_DISPUTE_BYTES

MAX_MANIFEST_BYTES = 16 * 2**20
"""Cap of a manifest: about 90 bytes for everybody who had an entry in the records that a tip remembers, and 270 for
each late work that may still be taken in."""

Hex32 = Annotated[str, Field(pattern=f"^{HEX32}$")]
_Amendment = Annotated[str, Field(pattern="^([0-9a-f]{2})+$", max_length=2 * MAX_AMENDMENT_BYTES)]
_Proof = Annotated[str, Field(pattern="^([0-9a-f]{2})+$", max_length=2 * MAX_DISPUTE_BYTES)]
_Marks = Annotated[str, Field(pattern="^[-agf]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ShardInfo(_Part):
    """One file of a checkpoint."""

    name: str
    bytes: Natural
    blake3: Hex32


class AmendmentInfo(_Part):
    """An adopted amendment: the round of the record it stands in, and its bytes as they stand there (hexadecimal)."""

    round: Natural
    object: _Amendment


class StrikeInfo(_Part):
    """Who was struck from the list: its public key, the round of the record that carries the proof, and the digest of
    that. The proof itself can be as large as two records."""

    leader: Hex32
    round: Natural
    proof: Hex32


class LateInfo(_Part):
    """Late work that may still be taken in: the round it was sealed in, its peer's public key, the slot it was made
    for, the digest of its head and that of its round's seal."""

    round: Natural
    peer: Hex32
    slot: Natural
    head: Hex32
    seal: Hex32


class TipInfo(_Part):
    """What of a tip no single record says; the rest is in the record before the checkpoint.

    `amendments` are all that were recorded, in order; `leaders` the list in force; `proofs` all disputes that were
    recorded, in order, each as it stands there (hexadecimal); `struck` who was struck from the list, in the order of
    the records, and left out where nobody was; `late` the late work that may still be taken in, by round and peer, left
    out where there is none. `past` has a letter for each record remembered, oldest
    first: `r` or, for a null record, `n`. `peers` has a letter for each of these for everybody (public key,
    hexadecimal) who has an entry in one: `g` good, `f` failed with a reason of the payload's class, `a` another entry,
    `-` none. `held` is the digest of the tiles of the θ before that proofs of possession are made of, and left out
    where the round's base is that round itself.
    """

    amendments: tuple[AmendmentInfo, ...]
    leaders: tuple[str, ...]
    proofs: tuple[_Proof, ...]
    struck: tuple[StrikeInfo, ...] = ()
    late: tuple[LateInfo, ...] = ()
    past: Annotated[str, Field(pattern="^[rn]*$")]
    peers: dict[Hex32, _Marks]
    held: Hex32 | None = None

    @model_serializer(mode="wrap")
    def _without_what_there_is_not(self, made: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = made(self)
        nobody = {name for name in ("struck", "late", "held") if not fields[name]}
        return {name: value for name, value in fields.items() if name not in nobody}


class Manifest(_Part):
    """What a checkpoint holds: θ before the record of `round`, after `outer_step` outer steps, and the tip there."""

    run: Hex32
    round: Natural
    outer_step: Natural
    root: Hex32
    layout: Hex32
    shards: tuple[ShardInfo, ...]
    tip: TipInfo

    def encode(self) -> bytes:
        """RFC 8785 JSON."""
        return rfc8785.dumps(self.model_dump(mode="json"))


def manifest_digest(data: bytes) -> bytes:
    """What a record pins: BLAKE3 of a manifest's bytes."""
    return blake3(b"muster/checkpoint/v2" + data).digest()


def decode_manifest(data: bytes, digest: bytes) -> Manifest:
    """Parse a manifest whose digest a record pins.

    Raises:
        ObjectDamaged: its digest is another.
        LedgerError: it is none, or not in canonical form.
    """
    if manifest_digest(data) != digest:
        raise ObjectDamaged("the checkpoint's manifest is not the one the record pins")
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise LedgerError("the checkpoint's manifest is not readable") from error
    if manifest.encode() != data:
        raise LedgerError("the checkpoint's manifest is not in canonical form")
    return manifest
