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
class Anchor:
    """A claim that `digest` (32 bytes) is the record of `round`."""

    round: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Beacon:
    """32 random bytes, with the block they come from."""

    block: Block
    value: bytes
