"""What chain, wire and rules all speak of: values without behaviour, which import nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAX_LOCATION = 512
"""Bytes of a committed location (what one commitment field on Bittensor holds at most)."""

WEIGHT_MAX = 65_535
"""Weights on chain are 16-bit: the largest of a validator's weights is scaled to this."""


class Role(Enum):
    """What a process is in a run; the values are its names in commands, locks, journals and hellos."""

    MINER = "miner"
    VALIDATOR = "validator"
    AGGREGATOR = "aggregator"


@dataclass(frozen=True, slots=True)
class Block:
    """One tick of the clock: its height and its 32-byte hash."""

    number: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Origin:
    """Which chain, and which subnet on it: what no other chain and no later subnet of the same number has.

    `kind` is whose rules it follows ("local" or "bittensor"), `genesis` the hash of its block 0 (32 bytes),
    `registered` the block in which subnet `netuid` was registered: a number is given again when a subnet is dissolved.
    A local chain has one subnet, 0, from block 0 on.
    """

    kind: str
    genesis: bytes
    netuid: int = 0
    registered: int = 0


@dataclass(frozen=True, slots=True)
class Anchor:
    """A claim that `digest` (32 bytes) is the record of `round`.

    `seal` may name the seal of the round after it (32 bytes): an anchored seal has a block of its own.
    """

    round: int
    digest: bytes
    seal: bytes | None = None


@dataclass(frozen=True, slots=True)
class Beacon:
    """32 random bytes, with the block they come from."""

    block: Block
    value: bytes
