"""What a hotkey commits on Bittensor: where its bucket is, and after that the newest anchor it made.

    field 0   the location, UTF-8
    field 1   absent, or 0x02 ‖ round (8 bytes, LE) ‖ digest of its record (32) [‖ digest of a seal (32)]

A hotkey has one commitment per subnet and each write replaces it whole, so both are always written together, and so
many bytes may be written in so many blocks: `blocks_a_write` says how often that lets a leader anchor. Fields come from
strangers: whatever does not fit reads as nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from muster.protocol.errors import ChainError, RateLimited
from muster.protocol.types import MAX_LOCATION, Anchor

MAX_RAW = 128
"""Bytes of a `Raw` field; longer ones are `BigRaw`, of which a commitment may have one."""

MAX_FIELDS = 3
"""Fields of a commitment on Bittensor."""

ANCHOR_VERSION = b"\x02"
"""Of the protocol whose records it names: an anchor that a hotkey made in a run of an earlier one reads as nothing."""

ROUND_BYTES = 8
DIGEST_BYTES = 32
ANCHOR_BYTES = len(ANCHOR_VERSION) + ROUND_BYTES + DIGEST_BYTES

MIN_SPACE = 100
"""Bytes that the chain counts for a commitment at least."""

CHEAP_LOCATION = MIN_SPACE - ANCHOR_BYTES
"""The longest location, 59 bytes, that with an anchor costs no more than the least a commitment can cost."""

SPARE_WRITES = 1
"""Writes of an epoch that no round is counted for: of a new location of either of an operator's two processes, of a
vote that goes over to another record of its round, or for an epoch that the chain ends some blocks late."""

_RAW = re.compile(r"Raw\d{1,3}|BigRaw")

# Existing subnets commit a Cloudflare R2 bucket as 128 characters: account (also the bucket's name), key, secret.
_R2 = re.compile(r"([0-9a-z]{32})([0-9A-Za-z]{32})([0-9A-Za-z]{64})")


@dataclass(frozen=True, slots=True)
class Commitment:
    """What one hotkey has committed."""

    location: str | None = None
    anchor: Anchor | None = None


@dataclass(frozen=True, slots=True)
class CommitSpace:
    """What a chain takes of one hotkey's commitments: so many bytes in each so many blocks (its tempo)."""

    bytes: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Room:
    """What one hotkey has left of an epoch.

    `space.bytes` is 0 where the chain sets no limit, `used` the bytes committed by all processes of the hotkey, `again`
    the block from which the next epoch is due (a chain may begin it some blocks later).
    """

    space: CommitSpace
    used: int
    again: int

    def check(self, needed: int, *, before_anchor: bool) -> None:
        """Refuse a commitment that costs `needed` bytes where they are not left; with `before_anchor` it carries no new
        anchor and is refused too where it would not leave as much again: the next record goes first.

        Raises:
            ChainError: no epoch has so many.
            RateLimited: this one has not.
        """
        limit = self.space.bytes
        if limit and needed > limit:
            raise ChainError(
                f"a commitment of {needed} bytes is more than the {limit} of this chain; shorten the location"
            )
        kept = needed if before_anchor else 0
        if limit and self.used + needed + kept > limit:
            reserve = ", and as many are kept for the next anchor" if kept else ""
            raise RateLimited(
                f"{self.used} of the {limit} bytes that a hotkey may commit in {self.space.blocks} blocks are used and "
                f"this needs {needed}{reserve}; it can be committed from about block {self.again} on, or use a shorter "
                "location"
            )


def blocks_a_write(location: int, space: CommitSpace, *, seal: bool = False) -> int:
    """The fewest blocks between two anchors of a hotkey that makes one a round, as its leader's or as a vote, for ever.

    How many others are on the list is nothing to it: each hotkey has its own room, and its two processes share that.

    Args:
        location: bytes of the location that is written with each anchor.
        space: what the chain takes.
        seal: whether the anchor names a seal too.

    Raises:
        ChainError: not even one such commitment and the spare ones fit.
    """
    size = max(MIN_SPACE, location + ANCHOR_BYTES + (DIGEST_BYTES if seal else 0))
    writes = space.bytes // size - SPARE_WRITES
    if writes < 1:
        raise ChainError(
            f"a commitment of {size} bytes does not go {1 + SPARE_WRITES} times into the {space.bytes} that this chain "
            f"takes in {space.blocks} blocks, once a round and {SPARE_WRITES} to spare"
        )
    return -(-space.blocks // writes)


def longest_location(space: CommitSpace, every: int, *, seal: bool = False) -> int | None:
    """The longest location, in bytes, with which a leader can anchor every so many blocks; None where none is.

    The inverse of `blocks_a_write`, whose arguments the others are.
    """
    size = space.bytes // (-(-space.blocks // every) + SPARE_WRITES)
    length = size - ANCHOR_BYTES - (DIGEST_BYTES if seal else 0)
    return min(length, MAX_LOCATION) if size >= MIN_SPACE and length > 0 else None


def encode(commitment: Commitment) -> tuple[bytes, ...]:
    """The fields of a commitment.

    Raises:
        ChainError: no location, one over `MAX_LOCATION` bytes, or something that is not an anchor.
    """
    try:
        location = (commitment.location or "").encode()
    except UnicodeEncodeError as error:
        raise ChainError("the committed location is not valid Unicode text") from error
    if not location:
        raise ChainError("a commitment needs the location of a bucket")
    if len(location) > MAX_LOCATION:
        raise ChainError(f"the committed location has {len(location)} bytes, over {MAX_LOCATION}; use a shorter prefix")
    if commitment.anchor is None:
        return (location,)
    round_, digest, seal = commitment.anchor.round, commitment.anchor.digest, commitment.anchor.seal
    sizes = {len(part) for part in (digest, seal) if part is not None}
    if not 0 <= round_ < 2 ** (8 * ROUND_BYTES) or sizes != {DIGEST_BYTES}:
        raise ChainError(f"an anchor is a round from 0 to 2^64 - 1 and one or two {DIGEST_BYTES}-byte digests")
    return location, ANCHOR_VERSION + round_.to_bytes(ROUND_BYTES, "little") + digest + (seal or b"")


def decode(fields: Sequence[bytes]) -> Commitment:
    """What a stranger's fields say; anything else than the two parts above is as if it were absent."""
    location = _location(fields[0]) if fields else None
    anchor = _anchor(fields[1]) if len(fields) > 1 else None
    return Commitment(location, anchor)


def _location(data: bytes) -> str | None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if not text or len(data) > MAX_LOCATION or not text.isprintable():
        return None
    legacy = _R2.fullmatch(text)
    if legacy is None:
        return text
    account, access, secret = legacy.groups()
    return f"s3://{access}:{secret}@{account}.r2.cloudflarestorage.com/{account}?region=auto"


def _anchor(data: bytes) -> Anchor | None:
    if len(data) not in (ANCHOR_BYTES, ANCHOR_BYTES + DIGEST_BYTES) or data[:1] != ANCHOR_VERSION:
        return None
    round_, digests = int.from_bytes(data[1 : 1 + ROUND_BYTES], "little"), data[1 + ROUND_BYTES :]
    return Anchor(round_, digests[:DIGEST_BYTES], digests[DIGEST_BYTES:] or None)


def to_info(fields: Sequence[bytes]) -> dict[str, list[list[dict[str, str]]]]:
    """Fields as the argument `info` of the chain's call `set_commitment`."""
    named = [("BigRaw" if len(field) > MAX_RAW else f"Raw{len(field)}", field) for field in fields]
    return {"fields": [[{name: "0x" + field.hex()} for name, field in named]]}


def from_info(info: object) -> tuple[bytes, ...]:
    """The fields of a commitment as it is read from the chain; a field that is no bytes (a hash, sealed) is empty."""
    fields = info.get("fields") if isinstance(info, Mapping) else None
    # The chain's bounded list decodes as a list in a list; of a text the first character is a text again, for ever.
    while _is_list(fields) and len(fields) == 1 and _is_list(fields[0]):
        fields = fields[0]
    if not _is_list(fields):
        return ()
    return tuple(_field(field) for field in fields[:MAX_FIELDS])


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _field(field: object) -> bytes:
    if not isinstance(field, Mapping) or len(field) != 1:
        return b""
    ((name, value),) = field.items()
    if not isinstance(name, str) or not _RAW.fullmatch(name):
        return b""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        return b""
    try:
        return bytes.fromhex(value.removeprefix("0x")) if value.startswith("0x") else value.encode()
    except (ValueError, UnicodeEncodeError):
        return b""


def space(fields: Sequence[bytes]) -> int:
    """Bytes that the chain charges a commitment against its limit per epoch."""
    return max(MIN_SPACE, sum(len(field) for field in fields))
